"""Which inputs the best model looks at: permutation importance on the validation split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hep_ray.confirm.confirmation import FOLDER
from hep_ray.drawing.style import colour
from hep_ray.errors import HepRayError, StorageError
from hep_ray.loading.batches import metric_weights
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.metrics import larger_is_better
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label
from hep_ray.report.plotting import panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.training.checkpoint import BEST, restore_model
from hep_ray.training.importance import REPEATS, Importance, inputs_of, permutation_importance
from hep_ray.training.testing import metric_keys

MOST_EVENTS = 5000
FEWEST_EVENTS = 500
MOST_FLOPS = 2e12
"""Of the figure, about a minute of two cores: of a large model fewer events are asked for."""
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


def input_importance(data: ReportData) -> InputImportance:
    """Return the importance of each input of the best model that is kept, by the first validation events.

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
    schema, trained = dataset.schema, restore_model(path, dataset.schema)
    stated = data.started.metric.removeprefix("val_")
    follows = f"test_{stated}" in metric_keys(schema) and not trained.config.trainer.decorrelate
    metric = stated if follows else "auc"
    columns = trained.model.columns
    asked = 1 + REPEATS * len(inputs_of([schema.column(name) for name in columns]))
    affordable = int(MOST_FLOPS / max(1.0, trained.metrics.get("flops", 1.0)) / asked)
    stream = ShardStream(schema, RowGroups.of(dataset, "val"), columns, class_sums(dataset, "val"))
    chosen = stream.select(columns, metric_weights(stream, schema))
    events = chosen.head(min(MOST_EVENTS, max(FEWEST_EVENTS, affordable)))
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
