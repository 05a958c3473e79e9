"""Curves over epochs, and training against validation."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from hep_ray.drawing.style import colour
from hep_ray.metrics.labels import SPLITS, metric_words
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label, capital
from hep_ray.report.plotting import GREY, curve, epoch_axis, legend_below, panels, spread, tag
from hep_ray.report.report_data import ReportData

COLOURED = 8
"""Groups in colour; the others are grey."""
SIDE_BY_SIDE = 3
"""Groups whose training and validation are compared."""
_WRAPPER = textwrap.TextWrapper(34, break_long_words=False, break_on_hyphens=False)
"""Of the title above a panel."""


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
    """A metric of every group after each epoch."""
    groups = data.groups
    reporting = [group for group in groups.members if len(group.band(metric).epochs)]
    if not reporting:
        return f"No trial reports {metric}."
    leading = [group for group in groups.leading(COLOURED) if group in reporting] or reporting[:COLOURED]
    drawing, (axes,) = panels(1, 1, 4.0)
    rest = [group for group in reporting if group not in leading]
    for group in rest:
        band = group.band(metric)
        marker = "." if len(band.epochs) == 1 else None
        axes.plot(band.epochs, band.mean, color=GREY, linewidth=0.7, alpha=0.7, marker=marker)
    for place, group in enumerate(leading):
        band = group.band(metric)
        marked = " (baseline)" if group is groups.to_beat else ""
        if len(band.epochs) == 1 and band.epochs[0] < data.started.epochs and group.finished:
            axes.axhline(band.mean[0], color=colour(place), linewidth=0.7, linestyle=":")
        curve(axes, band, place, group.name + marked)
    epoch_axis(axes)
    bands = [group.band(metric) for group in leading]
    axes.set_ylim(
        *spread([end for band in bands for end in (*(band.mean - band.sd), *(band.mean + band.sd))])
    )
    axes.set_xlim(0.8, max(len(trial.history) for trial in data.ranked) + 0.2)
    axes.set_ylabel(axis_label(metric))
    tag(axes, f"{data.started.task}, validation split")
    legend_below(drawing, axes)
    others = (
        f" The {len(leading)} best are coloured and set the range, {len(rest)} others grey." if rest else ""
    )
    return Drawn(
        drawing,
        f"{capital(metric_words(metric))} after each epoch; {groups.words(reporting)}, at each epoch over the "
        f"trials that reached it.{others}",
    )


@figure("overfitting", "training", 40, "Training against validation")
def overfitting(data: ReportData) -> Drawn | str | None:
    """Accuracy and loss of both splits, for the best groups and the baseline."""
    groups = data.groups
    curved = tuple(one for one in groups.members if any(len(trial.history) > 1 for trial in one.trials))
    groups = replace(groups, members=curved or groups.members)  # what was fitted at once has no curve
    chosen = groups.leading(SIDE_BY_SIDE)
    columns = len(chosen)
    drawing, axes = panels(2, columns, 5.2, width=2.4 + 2.3 * columns, share_x=True, share_y=True)
    for column, group in enumerate(chosen):
        for row, quantity in enumerate(("accuracy", "loss")):
            own = axes[row * columns + column]
            for place, split in enumerate(("train", "val")):
                band = group.band(f"{split}_{quantity}")
                curve(own, band, place, SPLITS[split])
            if column == 0:
                own.set_ylabel(quantity.capitalize())
        top = axes[column]
        title = group.name.replace(": ", ":\n") + (" (baseline)" if group is groups.to_beat else "")
        lines = [_WRAPPER.fill(line) for line in title.splitlines()]
        top.set_title("\n".join(lines), loc="left", fontsize=8, color="#444444")
        epoch_axis(axes[columns + column])
        axes[columns + column].margins(x=0.03)
        best = [trial.best(data.started.metric, data.started.mode) for trial in group.trials]
        epochs = [metrics["epoch"] for metrics in best if metrics]
        for own in (axes[column], axes[columns + column]):
            own.axvline(sum(epochs) / len(epochs), color=colour(8), linestyle=":", linewidth=1)
    legend_below(drawing, axes[0])
    return Drawn(
        drawing,
        f"Training (solid) and validation (dashed); {groups.words(chosen)}. The dotted line is the epoch of the best "
        f"{metric_words(data.started.metric)}, whose model is kept (mean over trials). Training values are taken "
        "while the weights move, with dropout and augmentation on, so that early on they may be worse than those of "
        "validation; a validation loss that rises while the training loss falls is overfitting.",
    )
