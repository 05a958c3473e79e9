"""Table and picture of study 4.1 on simulated events, from the leaderboards of both of its searches.

    python docs/scripts/loss_study.py runs/cnn_loss/leaderboard.json runs/resnet_loss/leaderboard.json

Prints the table in Markdown: accuracy after the last epoch, so that no epoch is picked, mean ± sample standard
deviation over seeds, and the difference to cross-entropy, paired by seed, with the p-value of a paired t-test and its
correction for the number of root indices (Holm). Writes docs/images/loss_study.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from hep_ray.drawing.style import COLOURS, house_style
from hep_ray.metrics.inference import holm, paired_t

mpl.use("Agg")
OUT = Path(__file__).parents[1] / "images" / "loss_study.png"
PUBLISHED = {
    "cnn": {1: (0.867, 0.887), 5: (0.891, 0.905)},
    "resnet34": {1: (0.888, 0.911), 3: (0.910, 0.919)},
}
TITLES = {"cnn": "CNN", "resnet34": "ResNet34"}
Curves = dict[int, npt.NDArray[np.float64]]


def curves(board: dict[str, Any], metric: str) -> Curves:
    """Root index → metric, (seeds, epochs), seeds in ascending order."""
    found: dict[int, dict[int, list[float]]] = {}
    for trial in board["trials"]:
        if trial["status"] == "completed":
            history = [metrics[metric] for metrics in trial["history"]]
            found.setdefault(trial["params"]["root_index"], {})[trial["params"]["seed"]] = history
    return {
        root: np.array([of_seed[seed] for seed in sorted(of_seed)]) for root, of_seed in sorted(found.items())
    }


def table(board: dict[str, Any]) -> str:
    """The table of one model in Markdown."""
    accuracy, auc = (
        {root: values[:, -1] for root, values in curves(board, metric).items()}
        for metric in ("val_accuracy", "val_auc")
    )
    others = [root for root in accuracy if root != 1]
    p_values = [paired_t(accuracy[root].tolist(), accuracy[1].tolist()).p_value for root in others]
    tested = dict(zip(others, zip(p_values, holm(p_values), strict=True), strict=True))
    lines = [
        "| root index | accuracy | AUC | accuracy minus cross-entropy's | p | p, corrected |",
        "|---|---|---|---|---|---|",
    ]
    for root, values in accuracy.items():
        ours = f"| {root} | {spread(values)} | {spread(auc[root])} "
        if root == 1:
            lines.append(ours + "| | | |")
        else:
            p_value, corrected = tested[root]
            lines.append(ours + f"| {spread(values - accuracy[1])} | {p_value:.3f} | {corrected:.2f} |")
    return "\n".join(lines)


def spread(values: npt.NDArray[np.float64]) -> str:
    """Mean ± sample standard deviation."""
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


def draw(boards: dict[str, dict[str, Any]]) -> None:
    """Write the picture: accuracy per epoch, and after the last one by root index."""
    with house_style():
        figure, rows = plt.subplots(len(boards), 2, figsize=(10, 3.4 * len(boards)), squeeze=False)
        for (left, right), (model, board) in zip(rows, boards.items(), strict=True):
            found = curves(board, "val_accuracy")
            _per_epoch(left, found)
            _last(right, found, model)
            left.set_title(f"{TITLES[model]}: mean over seeds; band: s.d. of cross-entropy and root 3")
            right.set_title(f"{TITLES[model]}: after the last epoch, mean ± s.d.")
        figure.savefig(OUT, dpi=100)


def _per_epoch(axes: Axes, found: Curves) -> None:
    for (root, values), colour in zip(found.items(), COLOURS, strict=False):
        epochs = np.arange(1, values.shape[1] + 1)
        mean, deviation = values.mean(0), values.std(0, ddof=1)
        axes.plot(epochs, mean, color=colour, label="cross-entropy" if root == 1 else f"root {root}")
        if root in {1, 3}:  # bands of all eight would hide each other
            axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)
    axes.set_xticks(epochs)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy")
    axes.legend(ncols=2, fontsize=8, loc="lower right")


def _last(axes: Axes, found: Curves, model: str) -> None:
    places = np.arange(len(found))
    for place, (root, values), colour in zip(places, found.items(), COLOURS, strict=False):
        last = values[:, -1]
        axes.errorbar(place, last.mean(), last.std(ddof=1), fmt="o", ms=5, color=colour, capsize=3)
        axes.plot(np.full(len(last), place + 0.15), last, ".", color=colour, ms=4)
        if root in PUBLISHED[model]:
            low, high = PUBLISHED[model][root]
            axes.fill_between([place - 0.35, place + 0.35], low, high, color="0.75", lw=0, zorder=0)
    axes.fill_between([], [], [], color="0.75", label="thesis, epoch 40, its own events")
    axes.set_xticks(places, ["cross-\nentropy" if root == 1 else str(root) for root in found])
    axes.set_xlabel("root index")
    axes.set_ylabel("validation accuracy")
    axes.legend(loc="lower left", fontsize=8)


if __name__ == "__main__":
    given = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
    by_model = {board["trials"][0]["params"]["model"]: board for board in given}
    for model_name, its_board in by_model.items():
        print(f"\n**{TITLES[model_name]}**\n\n{table(its_board)}")
    draw(by_model)
