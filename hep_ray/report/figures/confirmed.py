"""Finalists against the baseline on the test split."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from hep_ray.confirm.confirmation import Contender, Estimate
from hep_ray.confirm.table import of_difference
from hep_ray.drawing.style import colour
from hep_ray.metrics.labels import metric_words
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.formatting import axis_label
from hep_ray.report.plotting import MARKERS, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.search.naming import Naming

LONGEST_NAME = 40
"""Characters of parameters beside a contender's row."""


@figure("confirmed", "confirmation", 10, "Results on the test split")
def confirmed(data: ReportData) -> Drawn | str | None:
    """The metric of every contender, and its difference from the baseline, with intervals."""
    found = data.confirmation
    if found is None:
        return None
    contenders = (*found.finalists, found.baseline)
    naming = Naming.among([one.params for one in contenders if not one.members])
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
    left.set_yticks(range(len(contenders)), [_row_name(one, naming) for one in contenders])
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


def _row_name(one: Contender, naming: Naming) -> str:
    """The contender, and what it is where that is short."""
    words = one.words or naming.words(one.params)
    return f"{one.name}\n{words}" if words and len(words) <= LONGEST_NAME else one.name


def _interval(axes: Axes, value: Estimate, row: int) -> None:
    ends = [[value.mean - value.low], [value.high - value.mean]]
    marker = MARKERS[row % len(MARKERS)]
    axes.errorbar(value.mean, row, xerr=ends, fmt=marker, color=colour(row), capsize=3, markersize=5)
