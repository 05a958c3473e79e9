"""Groups side by side at chosen epochs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hep_ray.drawing.style import colour
from hep_ray.metrics.labels import metric_words
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label, capital
from hep_ray.report.groups import Group
from hep_ray.report.plotting import panels, spread, tag
from hep_ray.report.report_data import ReportData

MOST_GROUPS = 12
HATCHES = ("", "///", "...", "xxx")
QUARTERS = 4
HEADROOM = 0.12
"""Share of the axis above the bars, in which the legend stands."""


@dataclass(frozen=True)
class Bar:
    """A group at an epoch.

    Attributes:
        mean: over the trials that reached the epoch.
        error: their sample s.d.; of a single trial its statistical error, NaN where that is not known.
        trials: that reached it.
    """

    mean: float
    error: float
    trials: int


def epochs_of(data: ReportData) -> list[int]:
    """The epochs of the study's tables; without them a quarter, half and all of a full trial."""
    stated = sorted({epoch for table in data.search.tables for epoch in table.epochs})
    full = data.started.epochs
    reached = max(len(trial.history) for trial in data.ranked)
    chosen = stated or sorted({max(1, full * part // QUARTERS) for part in (1, 2, QUARTERS)})
    return [epoch for epoch in chosen if epoch <= reached] or [reached]


def bars(group: Group, metric: str, epochs: Sequence[int]) -> list[Bar | None]:
    """A bar for each epoch; None where no trial reached it."""
    found: list[Bar | None] = []
    for epoch in epochs:
        values = group.values_at(metric, epoch)
        if not values:
            found.append(None)
        elif len(values) == 1:
            errors = group.values_at(f"{metric}_error", epoch)
            found.append(Bar(values[0], errors[0] if errors else math.nan, 1))
        else:
            found.append(Bar(statistics.fmean(values), statistics.stdev(values), len(values)))
    return found


@figure("bars_at_epochs", "training", 50, "Groups at chosen epochs")
def bars_at_epochs(data: ReportData) -> Drawn | str | None:
    """The ranking metric of every group, with errors."""
    metric, epochs = data.started.metric, epochs_of(data)
    groups = data.groups
    reached = [group for group in groups.leading(MOST_GROUPS) if any(bars(group, metric, epochs))]
    shown = reached or groups.leading(MOST_GROUPS)
    heights = [bars(group, metric, epochs) for group in shown]
    drawing, (axes,) = panels(1, 1, 4.2)
    width = 0.8 / len(epochs)
    ends: list[float] = []
    for place, epoch in enumerate(epochs):
        present = [(row, bar) for row, own in enumerate(heights) if (bar := own[place])]
        at = [row + (place - (len(epochs) - 1) / 2) * width for row, _ in present]
        means, errors = [bar.mean for _, bar in present], [bar.error for _, bar in present]
        known = [0.0 if math.isnan(error) else error for error in errors]
        ends += [mean + error for mean, error in zip(means, known, strict=True)]
        ends += [mean - error for mean, error in zip(means, known, strict=True)]
        axes.bar(
            at,
            means,
            0.92 * width,
            yerr=errors,
            color=colour(place),
            hatch=HATCHES[place % len(HATCHES)],
            edgecolor="white",
            linewidth=0.5,
            error_kw={"elinewidth": 1.2, "capsize": 2.5},
            label=f"epoch {epoch}",
        )
    low, high = spread(ends, 0.15)
    axes.set_ylim(low, high + HEADROOM * (high - low))
    axes.set_xlim(-0.6, len(shown) - 0.4)
    long = max(len(group.name) for group in shown) > 14 or len(shown) > 8  # noqa: PLR2004 - characters, groups
    names = [group.name.partition(":")[0] if group.kind == "trial" else group.name for group in shown]
    axes.set_xticks(
        np.arange(len(shown)), names, rotation=25 if long else 0, ha="right" if long else "center"
    )
    axes.tick_params(axis="x", which="both", top=False, bottom=False)
    axes.set_ylabel(axis_label(metric))
    tag(axes, f"{data.started.task}, validation split")
    axes.legend(loc="upper left", ncols=len(epochs), fontsize=8)
    left_out = len(groups.members) - len(shown)
    statistical = any(f"{metric}_error" in metrics for metrics in data.best.history)
    alone = "statistical, from the number of events" if statistical else "none, the metric comes without"
    if any(group.kind != "trial" for group in shown):
        alone = f"s.d. over those, and where there is one trial: {alone}"
    return Drawn(
        drawing,
        f"{capital(metric_words(metric))} after chosen epochs; {groups.words(shown)}; error bars: {alone}. "
        "The vertical axis does not start at zero."
        + (f" The best {len(shown)} of {len(groups.members)} groups." if left_out else ""),
    )
