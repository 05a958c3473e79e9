"""Draws the picture of the README from the leaderboard of a search.

    python docs/scripts/readme_figure.py runs/cnn_loss/leaderboard.json

Writes docs/images/readme_search.png: validation accuracy per epoch of every trial, and each trial's best
epoch against its learning rate, on an axis of its own so that errors are seen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import mplhep
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

mpl.use("Agg")
OUT = Path(__file__).parents[1] / "images" / "readme_search.png"
ROOTS = (1, 3, 4, 5, 6, 7, 8, 9)
# Cross-entropy, which the roots are compared with, stands out; no root is as pale as the paper.
VIRIDIS = plt.get_cmap("viridis")
COLOURS = {1: "#c1272d", **{root: VIRIDIS(0.13 * step) for step, root in enumerate(ROOTS[1:])}}
MARKERS = {"adam": "o", "adamw": "s", "rmsprop": "^", "sgd": "D"}
BEST_WIDTH = 3.5
LABEL = "validation accuracy"


def draw(board: dict[str, Any]) -> None:
    """Write the picture of one leaderboard."""
    trials = [trial for trial in board["trials"] if trial["history"]]
    with plt.style.context(mplhep.style.ROOT), plt.rc_context({"font.size": 13}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
        _histories(left, trials)
        _best_epochs(right, trials)
        figure.savefig(OUT, dpi=110)


def _histories(axes: Axes, trials: list[dict[str, Any]]) -> None:
    for trial in trials:
        epochs = [metrics["epoch"] for metrics in trial["history"]]
        accuracy = [metrics["val_accuracy"] for metrics in trial["history"]]
        colour = COLOURS[trial["params"]["root_index"]]
        best = trial is trials[0]
        axes.plot(epochs, accuracy, color=colour, lw=BEST_WIDTH if best else 1.5, zorder=3 if best else 2)
        if trial["status"] == "stopped":
            axes.plot(epochs[-1], accuracy[-1], "x", color=colour, ms=8, mew=2)
    seen = sorted(metrics["val_accuracy"] for trial in trials for metrics in trial["history"])
    # One epoch at chance would flatten all others: the axis leaves out the lowest twentieth and says so.
    lowest = seen[len(seen) // 20] - 0.02
    axes.set_ylim(bottom=lowest)
    below = sum(value < lowest for value in seen)
    axes.set_xlabel("epoch")
    axes.set_ylabel(LABEL)
    axes.legend(
        handles=[
            Line2D([], [], color="0.3", lw=BEST_WIDTH, label="best trial (by AUC)"),
            Line2D([], [], color="0.3", lw=1.5, label="other trials"),
            Line2D([], [], color="0.3", marker="x", ls="", mew=2, label="stopped early"),
            *(
                [Line2D([], [], ls="", label=f"{below} of {len(seen)} epochs below the axis")]
                if below
                else []
            ),
        ],
        loc="lower right",
    )


def _loss_name(root: int) -> str:
    """What the thesis calls a loss: root 1 is cross-entropy."""
    return f"root {root}" if root > 1 else "cross-entropy"


def _best_epochs(axes: Axes, trials: list[dict[str, Any]]) -> None:
    for trial in trials:
        params, best = trial["params"], trial["metrics"]
        axes.errorbar(
            params["learning_rate"],
            best["val_accuracy"],
            best["val_accuracy_error"],
            fmt=MARKERS[params["optimizer"]],
            color=COLOURS[params["root_index"]],
            ms=7,
            elinewidth=2,
            capsize=4,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"{LABEL}, best epoch")
    used = {trial["params"]["root_index"] for trial in trials}
    optimizers = sorted({trial["params"]["optimizer"] for trial in trials})
    handles = [Line2D([], [], color=COLOURS[root], lw=4, label=_loss_name(root)) for root in sorted(used)]
    handles += [Line2D([], [], color="0.3", marker=MARKERS[name], ls="", label=name) for name in optimizers]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()))
