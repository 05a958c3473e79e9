"""Which inputs the best model looks at: permutation importance and integrated gradients on the validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hep_ray.dataset.show.pictures import image_grid
from hep_ray.drawing.style import colour
from hep_ray.errors import HepRayError, InvalidConfig
from hep_ray.loading.augment import is_image
from hep_ray.metrics import larger_is_better
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label
from hep_ray.report.plotting import panels, tag
from hep_ray.report.report_data import MOST_FLOPS, ReportData
from hep_ray.search.naming import count_words
from hep_ray.training.attribution import Attributions
from hep_ray.training.importance import REPEATS, Importance, inputs_of, permutation_importance
from hep_ray.training.testing import metric_keys

MOST_EVENTS = 5000
FEWEST_EVENTS = 500
MOST_SHOWN = 20


@dataclass(frozen=True)
class InputImportance:
    """Importance of the inputs of a search's best model.

    Attributes:
        trial: whose model it is.
        metric: of the validation split, the search's own where it follows from scores, else the AUC.
        value: of the metric with all inputs.
        inputs: the largest loss first.
        events: of the validation split that were asked for.
        repeats: permutations of each input.
    """

    trial: str
    metric: str
    value: float
    inputs: tuple[Importance, ...]
    events: int
    repeats: int = REPEATS

    @property
    def numbers(self) -> dict[str, Any]:
        """Return all of it as values of JSON."""
        return dataclasses.asdict(self)


def input_importance(data: ReportData, *, patient: bool = True) -> InputImportance:
    """Return the importance of each input of the best model that is kept, by the first validation events.

    Args:
        data: of the report.
        patient: ask for `FEWEST_EVENTS` events of a model so large that these take more than about a minute of two
            cores.

    Raises:
        StorageError, CorruptCheckpoint: see `ReportData.kept_best`.
        InvalidConfig: they would, and that is not to be.
    """
    trial, trained, dataset = data.kept_best
    schema = dataset.schema
    stated = data.started.metric.removeprefix("val_")
    follows = f"test_{stated}" in metric_keys(schema) and not trained.config.trainer.decorrelate
    metric = stated if follows else "auc"
    asked = 1 + REPEATS * len(inputs_of([schema.column(name) for name in trained.model.columns]))
    most = data.affordable(asked)
    fewest = min(FEWEST_EVENTS, dataset.rows("val"))
    if most < fewest and not patient:
        raise InvalidConfig(
            f"{fewest} events or more are asked for, within {MOST_FLOPS:.0e} FLOPs, about a minute of two cores; of "
            f"this model that is {most}: `hep-ray report {data.search.name} --importance` takes longer and prints it"
        )
    events = data.validation_events(min(MOST_EVENTS, max(fewest, most)))
    value, found = permutation_importance(
        trained.model, trained.loss, events, schema, metric, half=trained.half
    )
    return InputImportance(trial, metric, value, tuple(found), len(events))


@figure("inputs", "classifier", 60, "Importance of inputs")
def inputs(data: ReportData) -> Drawn | str | None:
    """Bars of `input_importance`."""
    try:
        found = input_importance(data, patient=False)
    except HepRayError as exc:
        return f"The importance of inputs is left out: {exc}."
    what = axis_label(f"val_{found.metric}")
    worse = "Rise" if larger_is_better(f"val_{found.metric}") is False else "Loss"
    rows = [(one.name, one.loss, one.error) for one in found.inputs]
    rest = len(rows) - MOST_SHOWN
    more = f" Not shown: {count_words(rest, 'less important input')}." if rest > 0 else ""
    return Drawn(
        _bars(rows, f"{worse} of {what} without the input", f"{data.started.task}, validation split"),
        f"How much worse {what} ({found.value:.4g}) of trial {found.trial} is where one input is another event's "
        f"(permutation importance, {found.repeats} permutations, {found.events:,} validation events, by which the "
        "trial was chosen); error bars: statistical. Of inputs that tell the same each stands for the other, and none "
        f"looks important.{_of_the_mean(data)}{more}",
        found.numbers,
    )


def _bars(rows: Sequence[tuple[str, float, float]], words: str, events: str) -> Figure:
    """Draw a bar of each input, of the first `MOST_SHOWN`, the first on top.

    Args:
        rows: name, value and its error.
        words: of the axis.
        events: above the panel.
    """
    shown = rows[:MOST_SHOWN][::-1]
    names, values, errors = zip(*shown, strict=True)
    drawing, (axes,) = panels(1, 1, 1.2 + 0.3 * len(shown), width=6.4)
    places = np.arange(len(shown))
    axes.barh(places, values, 0.7, color=colour(0))
    axes.errorbar(values, places, xerr=errors, fmt="none", ecolor="black")
    if min(values) < 0:
        axes.axvline(0, color="#717581", linewidth=0.8)
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", which="both", left=False, right=False)
    axes.set_xlabel(words)
    tag(axes, events)
    return drawing


def _attributed(data: ReportData, found: Attributions) -> str:
    """Say in a caption whose gradients they are, of what, how far they add up, and what they leave out."""
    trial, trained, dataset = data.kept_best
    schema = dataset.schema
    what = f"of '{schema.signal}'" if len(schema.classes) == 2 else "of each event's own class"  # noqa: PLR2004
    images = [is_image(schema.column(name)) for name in trained.model.columns]
    rest = "the mean of each value" if not any(images) else "the mean of any other value"
    baseline = " and ".join([*(["empty images"] if any(images) else []), *([] if all(images) else [rest])])
    sums = (
        f"The contributions of an event add up to its log-odds less the baseline's, {found.moved:.3g} on average "
        f"without its sign, within {found.missed:.1g}."
        if found.adds_up
        else f"They do not add up: their sum misses {found.missed:.2g} of the {found.moved:.2g} that the log-odds "
        "move on average, and they are not to be trusted as they stand."
    )
    weights = " Events count alike, whatever they weigh." if schema.weight is not None else ""
    half = " The model, which answers in bfloat16, is asked in float32." if trained.half else ""
    return (
        f"trial {trial}, first {found.events:,} validation events; in units of the log-odds {what}, against a baseline "
        f"of {baseline} (integrated gradients, arXiv:1703.01365). {sums}{weights}{half}{_of_the_mean(data)}"
    )


def attribution_numbers(data: ReportData, found: Attributions) -> dict[str, Any]:
    """Return integrated gradients as values of JSON: what each input contributes, and how far that adds up."""
    trial, _, dataset = data.kept_best
    schema = dataset.schema
    return {
        "trial": trial,
        "log_odds_of": schema.signal if len(schema.classes) == 2 else "each event's own class",  # noqa: PLR2004
        "events": found.events,
        "contributions": [dataclasses.asdict(one) for one in found.contributions],
        "moved": found.moved,
        "missed": found.missed,
        "adds_up": found.adds_up,
    }


def _of_the_mean(data: ReportData) -> str:
    """Say that a confirmation's ensemble is not what is shown, where it has one."""
    finalists = data.confirmation.finalists if data.confirmation is not None else ()
    means = [one.words for one in finalists if one.members]
    return f" Of the {means[0]} it is this model alone." if means else ""


@figure("integrated_gradients", "classifier", 61, "What moves the network's answer")
def gradients(data: ReportData) -> Drawn | str | None:
    """Draw how much each input contributes to the log-odds, on average without its sign."""
    try:
        found = data.attributions
    except HepRayError as exc:
        return f"What moves the network's answer is left out: {exc}."
    if found is None or (len(found.contributions) == 1 and found.maps):
        return None
    if len(found.contributions) == 1:
        only = found.contributions[0].name
        return f"What moves the network's answer is left out: it reads '{only}' alone, to which all of it is due."
    rows = [(one.name, one.size, one.error) for one in found.contributions]
    rest = len(rows) - MOST_SHOWN
    more = f" Not shown: {count_words(rest, 'input')} that contribute less." if rest > 0 else ""
    return Drawn(
        _bars(rows, "Mean absolute contribution to the log-odds", f"{data.started.task}, validation split"),
        "How much each input contributes, without its sign; error bars: statistical; "
        f"{_attributed(data, found)}{more}",
        attribution_numbers(data, found),
    )


@figure("image_attributions", "classifier", 62, "Where an image moves the network's answer")
def image_attributions(data: ReportData) -> Drawn | str | None:
    """Draw the mean contribution of each bin of an image, of the events of each class."""
    if data.dataset is not None and not any(map(is_image, data.dataset.schema.columns)):
        return None
    try:
        found = data.attributions
    except HepRayError as exc:
        return f"Where an image moves the network's answer is left out: {exc}."
    if found is None or not found.maps:
        return None
    _, _, dataset = data.kept_best
    schema = dataset.schema
    sizes = {one.name: one.size for one in found.contributions}
    name = max(found.maps, key=lambda image: sizes[image])
    drawing = image_grid(found.maps[name], list(schema.classes), schema.column(name), "", signed="log-odds")
    others = [f"'{image}' {sizes[image]:.3g}" for image in found.maps if image != name]
    beside = (
        f" It is the image that contributes most, {sizes[name]:.3g}; {', '.join(others)}." if others else ""
    )
    return Drawn(
        drawing,
        f"Mean contribution of each bin of '{name}' over the events of each class, red where it speaks for, blue where "
        f"against; {_attributed(data, found)}{beside}",
        {
            **attribution_numbers(data, found),
            "maps": {image: values.tolist() for image, values in found.maps.items()},
        },
    )
