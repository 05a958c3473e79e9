"""Finalists against the baseline on the test split."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from hep_ray.confirm.confirmation import Estimate
from hep_ray.confirm.table import of_difference
from hep_ray.drawing.style import colour
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label, metric_words
from hep_ray.report.plotting import MARKERS, panels, tag
from hep_ray.report.report_data import ReportData


@figure("confirmed", "confirmation", 10, "Results on the test split")
def confirmed(data: ReportData) -> Drawn | str | None:
    """The metric of every contender, and its difference from the baseline, with intervals."""
    found = data.confirmation
    if found is None:
        return None
    contenders = (*found.finalists, found.baseline)
    drawing, (left, right) = panels(1, 2, 1.5 + 0.42 * len(contenders))
    for row, one in enumerate(contenders):
        estimate = one.estimates[found.metric]
        values = [run.metrics[found.metric] for run in one.runs]
        left.plot(values, np.full(len(values), row + 0.22), "|", color=colour(3), markersize=6)
        _interval(left, estimate, row)
    rows = {one.name: row for row, one in enumerate(contenders)}
    for against in found.comparisons:
        if against.metric == found.metric:
            _interval(right, against.difference, rows[against.contender])
    right.axvline(0, color="#717581", linewidth=0.8, linestyle=":")
    for axes in (left, right):
        axes.margins(x=0.08)
        axes.set_ylim(len(contenders) - 0.5, -0.5)
        axes.tick_params(axis="y", which="both", left=False, right=False)
    left.set_yticks(range(len(contenders)), [one.name for one in contenders])
    right.set_yticks([])
    left.set_xlabel(axis_label(found.metric))
    right.set_xlabel("Difference from the baseline, paired")
    tag(left, f"{found.task}, test split")
    return Drawn(
        drawing,
        f"Left: {metric_words(found.metric)} of every contender, mean over {len(found.seeds)} seeds with its "
        f"{found.level:.0%} interval; ticks: single seeds. Right: finalist minus baseline with its "
        f"{found.level:.0%} interval. {of_difference(found)}.",
    )


def _interval(axes: Axes, value: Estimate, row: int) -> None:
    ends = [[value.mean - value.low], [value.high - value.mean]]
    marker = MARKERS[row % len(MARKERS)]
    axes.errorbar(value.mean, row, xerr=ends, fmt=marker, color=colour(row), capsize=3, markersize=5)
