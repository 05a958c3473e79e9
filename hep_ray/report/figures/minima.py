"""How flat the minima are that optimizers found: the loss around the kept models, and their sharpness."""

from __future__ import annotations

from hep_ray.drawing.style import colour, line
from hep_ray.report.figures import Drawn, figure
from hep_ray.report.plotting import bulk, legend_inside, outside, panels, tag
from hep_ray.report.report_data import ReportData
from hep_ray.report.scores import validation_batches
from hep_ray.training.checkpoint import BEST, restore_model
from hep_ray.training.flatness import BOX, DIRECTIONS, DISTANCES, along_random_directions, sharpness

WIDE = ("entropy_sgd", "replicated_sgd")
"""Optimizers that look for wide minima: a search that has one is asked how wide those that it found are."""
MOST_EVENTS = 1024
MOST_GROUPS = 4


@figure("flatness", "training", 50, "Flatness of the minima")
def flatness(data: ReportData) -> Drawn | str | None:
    """Loss of the best model of each group along random directions; None where no optimizer looks for wide minima."""
    if not any(trial.started.params.get("optimizer") in WIDE for trial in data.ranked):
        return None
    if data.dataset is None:
        return "The flatness of the minima is left out, for want of the dataset."
    drawing, (axes,) = panels(1, 1, 4.0)
    told, lost, values = [], [], []
    for place, group in enumerate(data.groups.leading(MOST_GROUPS)):
        ranked = [trial for trial in data.ranked if trial in group.trials]
        kept = [
            path for trial in ranked if (path := data.folder / "trials" / trial.trial_id / BEST).is_file()
        ]
        if not kept:
            lost.append(group.name)
            continue
        trained = restore_model(kept[0], data.dataset.schema)
        if trained.config.fitted:
            continue
        batches = list(validation_batches(data.dataset, trained.model.columns, MOST_EVENTS))
        curves = along_random_directions(trained.model, trained.loss, batches)
        mean = curves.mean(axis=0)
        values += mean.tolist()
        axes.plot(DISTANCES, mean, color=colour(place), linestyle=line(place), label=group.name)
        axes.fill_between(
            DISTANCES, curves.min(axis=0), curves.max(axis=0), color=colour(place), alpha=0.15, linewidth=0
        )
        sharp = sharpness(trained.model, trained.loss, batches)
        told.append(
            f"{group.name} {sharp:.3g} %, and {mean[0] / 2 + mean[-1] / 2 - mean.min():.3g} more at ±0.5"
        )
    if not told:
        return "The flatness of the minima is left out: no model of these trials is kept any more."
    limits = bulk(values)
    axes.set_ylim(*limits)
    axes.set_xlabel("Step along a random direction, in norms of each filter")
    axes.set_ylabel("Validation loss")
    tag(axes, f"{data.started.task}, validation split")
    legend_inside(drawing, axes)
    left = f" No model is kept of {', '.join(lost)}." if lost else ""
    return Drawn(
        drawing,
        f"Loss of the best model of each group on the first {MOST_EVENTS:,} validation events, unweighted, along "
        f"{DIRECTIONS} random directions scaled to the norm of each filter (arXiv:1712.09913): mean and range. "
        f"ε-sharpness (arXiv:1609.04836, ε = {BOX:g}; a lower bound, by steps along the gradient's signs), and loss "
        f"above the lowest: {'; '.join(told)}. One training each.{outside(values, limits)}{left}",
    )
