"""Which inputs the best model looks at: permutation importance and integrated gradients on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hep_ray.confirm.confirmation import FOLDER
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.show.pictures import image_grid
from hep_ray.drawing.style import colour
from hep_ray.errors import HepRayError, StorageError
from hep_ray.loading.batches import Events, metric_weights
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.metrics import larger_is_better
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label
from hep_ray.report.plotting import panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.training.attribution import STEPS, Attributions, integrated_gradients, is_image
from hep_ray.training.checkpoint import BEST, TrainedModel, restore_model
from hep_ray.training.importance import REPEATS, Importance, inputs_of, permutation_importance
from hep_ray.training.testing import metric_keys

MOST_EVENTS = 5000
FEWEST_EVENTS = 500
MOST_FLOPS = 2e12
"""Of the figure, about a minute of two cores: of a large model fewer events are asked for."""
MOST_ATTRIBUTED, FEWEST_ATTRIBUTED = 1000, 50
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


def best_model(data: ReportData) -> tuple[str, TrainedModel, Dataset]:
    """Return the best model that is kept, by the name of its trial, and the dataset.

    That is the first finalist's of a confirmation, else the best trial's.

    Raises:
        StorageError: the dataset or the model is not there.
        CorruptCheckpoint: the model cannot be read back.
    """
    dataset = data.dataset
    if dataset is None:
        raise StorageError("the dataset of the search cannot be read: name it with --data")
    named = [(trial.trial_id, data.folder / "trials" / trial.trial_id / BEST) for trial in data.ranked]
    if data.confirmation is not None:
        first = data.confirmation.finalists[0]
        if (checkpoint := first.runs[0].checkpoint) is not None:
            named.insert(0, (first.name, data.folder / FOLDER / checkpoint))
    kept = [(name, path) for name, path in named if path.is_file()]
    if not kept:
        raise StorageError(f"no model of the trials in {data.folder} is kept any more")
    trial, path = kept[0]
    return trial, restore_model(path, dataset.schema), dataset


def _validation_events(
    dataset: Dataset, trained: TrainedModel, passes: int, most: int, fewest: int
) -> Events:
    """Return the first validation events, fewer of a large model; each passes through it so often."""
    columns, schema = trained.model.columns, dataset.schema
    affordable = int(MOST_FLOPS / max(1.0, trained.metrics.get("flops", 1.0)) / passes)
    stream = ShardStream(schema, RowGroups.of(dataset, "val"), columns, class_sums(dataset, "val"))
    chosen = stream.select(columns, metric_weights(stream, schema))
    return chosen.head(min(most, max(fewest, affordable)))


def input_importance(data: ReportData) -> InputImportance:
    """Return the importance of each input of the best model that is kept, by the first validation events.

    Raises:
        StorageError, CorruptCheckpoint: see `best_model`.
    """
    trial, trained, dataset = best_model(data)
    schema = dataset.schema
    stated = data.started.metric.removeprefix("val_")
    follows = f"test_{stated}" in metric_keys(schema) and not trained.config.trainer.decorrelate
    metric = stated if follows else "auc"
    asked = 1 + REPEATS * len(inputs_of([schema.column(name) for name in trained.model.columns]))
    events = _validation_events(dataset, trained, asked, MOST_EVENTS, FEWEST_EVENTS)
    value, found = permutation_importance(
        trained.model, trained.loss, events, schema, metric, half=trained.half
    )
    return InputImportance(trial, metric, value, tuple(found), len(events))


@figure("inputs", "classifier", 60, "Importance of inputs")
def inputs(data: ReportData) -> Drawn | str | None:
    """Bars of `input_importance`."""
    try:
        found = input_importance(data)
    except HepRayError as exc:
        return f"The importance of inputs is left out: {exc}."
    shown = found.inputs[:MOST_SHOWN][::-1]
    drawing, (axes,) = panels(1, 1, 1.2 + 0.3 * len(shown), width=6.4)
    places = np.arange(len(shown))
    axes.barh(places, [one.loss for one in shown], 0.7, color=colour(0))
    axes.errorbar(
        [one.loss for one in shown], places, xerr=[one.error for one in shown], fmt="none", ecolor="black"
    )
    axes.axvline(0, color="#717581", linewidth=0.8)
    axes.set_yticks(places, [one.name for one in shown])
    axes.tick_params(axis="y", which="both", left=False, right=False)
    what = axis_label(f"val_{found.metric}")
    worse = "Rise" if larger_is_better(f"val_{found.metric}") is False else "Loss"
    axes.set_xlabel(f"{worse} of {what} without the input")
    tag(axes, f"{data.started.task}, validation split")
    rest = len(found.inputs) - len(shown)
    return Drawn(
        drawing,
        f"How much worse {what} ({found.value:.4g}) of trial {found.trial} is where one input is another event's "
        f"(permutation importance, {found.repeats} permutations, {found.events:,} validation events, by which the "
        "trial was chosen); error bars: statistical. Of inputs that tell the same each stands for the other, and none "
        f"looks important.{f' {rest} less important inputs are not shown.' if rest else ''}",
    )


def attributions(
    data: ReportData, wanted: Callable[[Sequence[Column]], bool]
) -> tuple[str, Attributions, EventSchema] | None:
    """Return the integrated gradients of the best network that is kept, with its trial.

    Args:
        data: of the report.
        wanted: says of the columns that the network reads whether they are asked for.

    Returns:
        None also of a fitted model.

    Raises:
        StorageError, CorruptCheckpoint: see `best_model`.
        InvalidConfig, InvalidEvents: see `integrated_gradients`.
    """
    trial, trained, dataset = best_model(data)
    columns = [dataset.schema.column(name) for name in trained.model.columns]
    if trained.config.fitted or not wanted(columns):
        return None
    # Forwards, and backwards, which takes twice as long; twice, since there may be two figures.
    events = _validation_events(dataset, trained, 2 * 3 * STEPS, MOST_ATTRIBUTED, FEWEST_ATTRIBUTED)
    return trial, integrated_gradients(trained.model, trained.loss, events, dataset.schema), dataset.schema


def _attributed(trial: str, found: Attributions, schema: EventSchema) -> str:
    """Say in a caption whose gradients they are, of what, and how far they add up."""
    what = f"of '{schema.signal}'" if schema.signal else "of each event's own class"
    return (
        f"trial {trial}, first {found.events:,} validation events; in units of the log-odds {what}, against a baseline "
        "of empty images and the mean of any other value (integrated gradients, arXiv:1703.01365). The contributions "
        f"of an event add up to its log-odds less the baseline's, {found.moved:.3g} on average without its sign, "
        f"within {found.missed:.1g}."
    )


@figure("integrated_gradients", "classifier", 61, "What moves the network's answer")
def gradients(data: ReportData) -> Drawn | str | None:
    """Draw how much each input contributes to the log-odds, on average without its sign."""
    try:
        asked = attributions(data, lambda columns: len(inputs_of(columns)) > 1)
    except HepRayError as exc:
        return f"What moves the network's answer is left out: {exc}."
    if asked is None:
        return None
    trial, found, schema = asked
    shown = found.contributions[:MOST_SHOWN][::-1]
    drawing, (axes,) = panels(1, 1, 1.2 + 0.3 * len(shown), width=6.4)
    places, sizes = np.arange(len(shown)), [one.size for one in shown]
    axes.barh(places, sizes, 0.7, color=colour(0))
    axes.errorbar(sizes, places, xerr=[one.error for one in shown], fmt="none", ecolor="black")
    axes.set_yticks(places, [one.name for one in shown])
    axes.tick_params(axis="y", which="both", left=False, right=False)
    axes.set_xlabel("Mean absolute contribution to the log-odds")
    tag(axes, f"{data.started.task}, validation split")
    rest = len(found.contributions) - len(shown)
    more = f" {rest} inputs that contribute less are not shown." if rest else ""
    return Drawn(
        drawing,
        "How much each input contributes, without its sign; error bars: statistical; "
        f"{_attributed(trial, found, schema)}{more}",
    )


@figure("image_attributions", "classifier", 62, "Where an image moves the network's answer")
def image_attributions(data: ReportData) -> Drawn | str | None:
    """Draw the mean contribution of each bin of an image, of the events of each class."""
    if data.dataset is not None and not any(map(is_image, data.dataset.schema.columns)):
        return None
    try:
        asked = attributions(data, lambda columns: any(map(is_image, columns)))
    except HepRayError as exc:
        return f"Where an image moves the network's answer is left out: {exc}."
    if asked is None:
        return None
    trial, found, schema = asked
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
        f"against; {_attributed(trial, found, schema)}{beside}",
    )
