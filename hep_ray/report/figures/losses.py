"""The root softmax of a search's losses: what a logit becomes, and what it costs."""

from __future__ import annotations

import torch

from hep_ray.drawing.style import colour, line
from hep_ray.losses.root_softmax import signed_root
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.plotting import legend_inside, panels
from hep_ray.report.report_data import ReportData

MOST_ROOTS = 8
FURTHEST = 8.0
"""Logit to which the curves are drawn, and its negative from which."""


@figure("root_softmax", "training", 60, "Root softmax")
def root_softmax(data: ReportData) -> Drawn | str | None:
    """Probability of the true class of two, and its negative logarithm, against the difference of logits."""
    roots = sorted(
        {float(trial.started.params["root_index"]) for trial in data.ranked if _is_root(trial.started.params)}
    )
    if not roots:
        return None
    logits = torch.linspace(-FURTHEST, FURTHEST, 481, dtype=torch.float64)
    drawing, (left, right) = panels(1, 2, 3.6)
    for place, root in enumerate(roots[:MOST_ROOTS]):
        cost = root_loss(logits, root)
        for axes, values in ((left, torch.exp(-cost)), (right, cost)):
            name = "cross-entropy" if root == 1 else f"root {root:g}"
            axes.plot(logits, values, color=colour(place), linestyle=line(place), label=name)
    left.set_ylabel("Probability of the true class")
    right.set_ylabel("Loss, −ln of that")
    for axes in (left, right):
        axes.set_xlim(-FURTHEST, FURTHEST)
        axes.set_xlabel("Logit of the true class")
    left.set_ylim(0, 1)
    right.set_ylim(0, FURTHEST / 2)
    legend_inside(drawing, left)
    return Drawn(
        drawing,
        "Root softmax of the root indices of this search, for two classes of which the other has the logit 0, and the "
        "loss that it makes: no data.",
    )


def _is_root(params: object) -> bool:
    return isinstance(params, dict) and params.get("loss") == "root_softmax" and "root_index" in params


def root_loss(logits: torch.Tensor, root_index: float) -> torch.Tensor:
    """−ln of the probability of the true class, (N,), whose logits are given; the other class has the logit 0."""
    return torch.nn.functional.softplus(-signed_root(logits, root_index))
