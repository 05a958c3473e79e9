"""Curves over epochs, and training against validation."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes

from hep_ray.drawing.style import colour
from hep_ray.metrics.labels import SPLITS, metric_words
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label, capital
from hep_ray.report.groups import Group
from hep_ray.report.plotting import (
    GREY,
    bulk,
    curve,
    epoch_axis,
    legend_inside,
    outside,
    panels,
    tag,
)
from hep_ray.report.report_data import ReportData

COLOURED = 8
"""Groups in colour; the others are grey."""
OVERLAID = 4
"""Groups of several runs whose bands are drawn in one panel; of more each has its own."""
ACROSS = 4
"""Panels in a row."""
SIDE_BY_SIDE = 3
"""Groups whose training and validation are compared."""
TITLE = 34
"""Letters in a line of the title above a panel."""
NARROW = 27
"""The same where panels stand four in a row."""


@figure("accuracy_by_epoch", "training", 10, "Accuracy per epoch")
def accuracy(data: ReportData) -> Drawn | str | None:
    """Validation accuracy of every group."""
    return by_epoch(data, "val_accuracy")


@figure("loss_by_epoch", "training", 20, "Loss per epoch")
def loss(data: ReportData) -> Drawn | str | None:
    """Validation loss of every group."""
    drawn = by_epoch(data, "val_loss")
    params = [trial.started.params for trial in data.ranked]
    losses = {own["loss"] for own in params if "loss" in own}
    indices = {own["root_index"] for own in params if "root_index" in own}
    if isinstance(drawn, Drawn) and (len(losses) > 1 or len(indices) > 1):
        words = " The groups have different losses, whose values are not comparable with each other; their shapes are."
        return Drawn(drawn.figure, drawn.caption + words)
    return drawn


@figure("metric_by_epoch", "training", 30, "The metric that ranks, per epoch")
def ranking_metric(data: ReportData) -> Drawn | str | None:
    """The search's metric, where it is neither accuracy nor loss."""
    metric = data.started.metric
    return None if metric in {"val_accuracy", "val_loss"} else by_epoch(data, metric)


def by_epoch(data: ReportData, metric: str) -> Drawn | str | None:
    """A metric of every group after each epoch: in one panel, or where bands would hide each other one for each."""
    groups = data.groups
    reporting = [group for group in groups.members if len(group.band(metric).epochs)]
    if not reporting:
        return f"No trial reports {metric}."
    leading = [group for group in groups.leading(COLOURED) if group in reporting] or reporting[:COLOURED]
    if len(leading) > OVERLAID and any(len(group.trials) > 1 for group in leading):
        return _apart(data, metric, leading, len(reporting) - len(leading))
    drawing, (axes,) = panels(1, 1, 4.0)
    rest = [group for group in reporting if group not in leading]
    for group in rest:
        band = group.band(metric)
        marker = "." if len(band.epochs) == 1 else None
        axes.plot(band.epochs, band.mean, color=GREY, linewidth=0.7, alpha=0.7, marker=marker)
    for place, group in enumerate(leading):
        band = group.band(metric)
        marked = " (baseline)" if group is groups.to_beat else ""
        _level(axes, group, metric, data.started.epochs, place)
        curve(axes, band, place, group.name + marked)
    epoch_axis(axes)
    ends = _ends(leading, metric)
    limits = bulk(ends)
    axes.set_ylim(*limits)
    axes.set_xlim(0.8, max(len(trial.history) for trial in data.ranked) + 0.2)
    axes.set_ylabel(axis_label(metric))
    tag(axes, f"{data.started.task}, validation split")
    legend_inside(drawing, axes)
    others = (
        f" The {len(leading)} best are coloured and set the range, {len(rest)} others grey." if rest else ""
    )
    return Drawn(
        drawing,
        f"{capital(metric_words(metric))} after each epoch; {groups.words(reporting)}, at each epoch over the "
        f"trials that reached it.{others}{outside(ends, limits)}",
    )


def _level(axes: Axes, group: Group, metric: str, epochs: int, place: int = 0) -> None:
    """Draw the value of a group that was fitted at once across all epochs, dotted; nothing of any other."""
    band = group.band(metric)
    if len(band.epochs) == 1 and band.epochs[0] < epochs and group.finished:
        axes.axhline(band.mean[0], color=colour(place), linewidth=0.7, linestyle=":")


def _title(axes: Axes, name: str, letters: int = TITLE) -> None:
    """Write the name of a group above its panel, in as many lines as its width asks for."""
    lines = [
        textwrap.fill(line, letters, break_long_words=False, break_on_hyphens=False)
        for line in name.replace(": ", ":\n").splitlines()
    ]
    axes.set_title("\n".join(lines), loc="left", fontsize=8, color="#444444")


def _ends(groups: Sequence[Group], metric: str) -> list[float]:
    """Return the ends of the bands of groups, after every epoch."""
    bands = [group.band(metric) for group in groups]
    return [float(end) for band in bands for end in (*(band.mean - band.sd), *(band.mean + band.sd))]


def _apart(data: ReportData, metric: str, chosen: Sequence[Group], left_out: int) -> Drawn:
    """Draw a panel for each group: every run, their mean, and that of the baseline."""
    to_beat = data.groups.to_beat
    rows = -(-len(chosen) // ACROSS)
    drawing, axes = panels(rows, ACROSS, 0.6 + 2.0 * rows, share_x=True, share_y=True)
    values = [
        trial[metric] for group in chosen for one in group.trials for trial in one.history if metric in trial
    ]
    limits = bulk(values)
    for unused in axes[len(chosen) :]:
        unused.set_axis_off()
    for place, (own, group) in enumerate(zip(axes, chosen, strict=False)):
        for trial in group.trials:
            told = [(metrics["epoch"], metrics[metric]) for metrics in trial.history if metric in metrics]
            marker = "." if len(told) == 1 else None
            own.plot(*zip(*told, strict=True), color=colour(0), linewidth=0.7, alpha=0.45, marker=marker)
        if to_beat is not None and group is not to_beat:
            band = to_beat.band(metric)
            own.plot(
                band.epochs, band.mean, color=colour(2), linestyle="--", linewidth=1.1, label=to_beat.name
            )
        band = group.band(metric)
        _level(own, group, metric, data.started.epochs)
        own.plot(band.epochs, band.mean, color=colour(0), label="mean of the runs")
        _title(own, group.name + (" (baseline)" if group is to_beat else ""), NARROW)
        own.set_ylim(*limits)
        if place % ACROSS == 0:
            own.set_ylabel(axis_label(metric))
        if place + ACROSS >= len(chosen):
            epoch_axis(own)
            own.tick_params(axis="x", labelbottom=True)
    shown = next((own for own, group in zip(axes, chosen, strict=False) if group is not to_beat), axes[0])
    legend_inside(drawing, shown)
    runs = sorted({len(group.trials) for group in chosen})
    many = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    beside = f", and dashed the mean of {to_beat.name}" if to_beat is not None else ""
    return Drawn(
        drawing,
        f"{capital(metric_words(metric))} after each epoch, validation split of {data.started.task}: each of {many} "
        f"runs (thin) and their mean{beside}."
        + (f" {left_out} more groups are not shown." if left_out else "")
        + outside(values, limits),
    )


@figure("watched", "training", 35, "Validation against watched events per epoch")
def watched(data: ReportData) -> Drawn | str | None:
    """Accuracy on validation and on the watched events, of the best groups and the baseline; None where none are."""
    groups = data.groups
    reporting = [one for one in groups.leading(SIDE_BY_SIDE + 1) if len(one.band("watched_accuracy").epochs)]
    if not reporting:
        return None
    drawing, axes = panels(
        1, len(reporting), 3.4, width=2.4 + 1.9 * len(reporting), share_x=True, share_y=True
    )
    for own, group in zip(axes, reporting, strict=True):
        for place, split in enumerate(("val", "watched")):
            curve(own, group.band(f"{split}_accuracy"), place, SPLITS[split])
        _title(own, group.name)
        epoch_axis(own)
    axes[0].set_ylabel("Accuracy")
    legend_inside(drawing, axes[0])
    last = [[one.band(f"{split}_accuracy").mean[-1] for split in ("val", "watched")] for one in reporting]
    told = "; ".join(
        f"{group.name} {own:.4f} and {other:.4f}" for group, (own, other) in zip(reporting, last, strict=True)
    )
    return Drawn(
        drawing,
        "Accuracy on the validation split (solid), which ranks trials, and on the events of --watch (dashed), which "
        f"rank nothing; {groups.words(reporting)}. After the last epoch: {told}.",
    )


@figure("overfitting", "training", 40, "Training against validation")
def overfitting(data: ReportData) -> Drawn | str | None:
    """Accuracy, loss and, where trials report it, AUC of both splits, for the best groups and the baseline."""
    groups = data.groups
    curved = tuple(one for one in groups.members if any(len(trial.history) > 1 for trial in one.trials))
    groups = replace(groups, members=curved or groups.members)  # what was fitted at once has no curve
    chosen = groups.leading(SIDE_BY_SIDE)
    columns, quantities = len(chosen), {"accuracy": "Accuracy", "loss": "Loss"}
    if any(len(group.band("train_auc").epochs) for group in chosen):
        quantities["auc"] = "AUC"
    rows = len(quantities)
    drawing, axes = panels(rows, columns, 2.6 * rows, width=2.4 + 2.3 * columns, share_x=True, share_y=True)
    ends: list[list[float]] = [[] for _ in quantities]
    for column, group in enumerate(chosen):
        for row, (quantity, words) in enumerate(quantities.items()):
            own = axes[row * columns + column]
            for place, split in enumerate(("train", "val")):
                band = group.band(f"{split}_{quantity}")
                curve(own, band, place, SPLITS[split])
                ends[row] += [*(band.mean - band.sd), *(band.mean + band.sd)]
            if column == 0:
                own.set_ylabel(words)
        top = axes[column]
        _title(top, group.name + (" (baseline)" if group is groups.to_beat else ""))
        below = axes[(rows - 1) * columns + column]
        epoch_axis(below)
        below.margins(x=0.03)
        best = [trial.best(data.started.metric, data.started.mode) for trial in group.trials]
        epochs = [metrics["epoch"] for metrics in best if metrics]
        for own in axes[column::columns]:
            own.axvline(sum(epochs) / len(epochs), color=colour(8), linestyle=":", linewidth=1)
    limits = [bulk(values) for values in ends]
    for row, own_limits in enumerate(limits):
        axes[row * columns].set_ylim(*own_limits)
    legend_inside(drawing, axes[0])
    return Drawn(
        drawing,
        f"Training (solid) and validation (dashed); {groups.words(chosen)}. The dotted line is the epoch of the best "
        f"{metric_words(data.started.metric)}, whose model is kept (mean over trials). Training values are taken "
        "while the weights move, with dropout and augmentation on, so that early on they may be worse than those of "
        "validation; a validation loss that rises while the training loss falls is overfitting."
        + "".join(outside(values, own) for values, own in zip(ends, limits, strict=True)),
    )
