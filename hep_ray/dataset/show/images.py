"""Pictures of image columns: mean per class and channel, single events."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from hep_ray.dataset.schema import Column
from hep_ray.dataset.show.sample import Sample
from hep_ray.drawing.style import COLOUR_MAP

DECADES = 4
"""Powers of ten that a logarithmic colour scale spans at most."""
PANEL = 2.1
"""Width of a panel in inches."""
IMAGE_AXES = 3
AXIS_SIGNS = {"phi": "φ", "eta": "η", "delta_phi": "Δφ", "delta_eta": "Δη"}

Image = npt.NDArray[Any]


def channels(column: Column) -> list[tuple[str, str]]:
    """Name and unit of each channel of an image column."""
    if column.elements:
        return [(element, column.unit_of(element)) for element in column.elements]
    count = column.shape[-1] if len(column.shape) == IMAGE_AXES else 1
    names = [column.name] if count == 1 else [f"channel {number}" for number in range(count)]
    return [(name, column.unit) for name in names]


def mean_images(sample: Sample, column: Column) -> Figure:
    """Draw one row per class, one column per channel; the colours of a channel mean the same in all rows."""
    means = _with_channels(sample.means[column.name], column)
    classes, counts = sample.manifest.event_schema.classes, sample.class_counts.tolist()
    rows = [f"{name}\nmean of {count}" for name, count in zip(classes, counts, strict=True)]
    return _grid(means, rows, column, "mean ")


def single_events(sample: Sample, column: Column, label: int) -> Figure:
    """Draw events of one class: one row per event, one column per channel."""
    events = _with_channels(sample.singles[column.name][label], column)
    name = sample.manifest.event_schema.classes[label]
    return _grid(events, [f"{name}\nevent {number + 1}" for number in range(len(events))], column, "")


def _with_channels(images: Image, column: Column) -> Image:
    return images if len(column.shape) == IMAGE_AXES else images[..., None]


def _grid(images: Image, rows: list[str], column: Column, prefix: str) -> Figure:
    names = channels(column)
    first, second = (AXIS_SIGNS.get(axis, axis) for axis in column.axes or ("phi", "eta"))
    height, width = column.shape[:2]
    panel_height = PANEL * float(np.clip(height / width, 0.5, 2.0))
    figure = Figure(figsize=(0.9 + (PANEL + 0.75) * len(names), 0.5 + (panel_height + 0.2) * len(rows)))
    axes = figure.subplots(len(rows), len(names), squeeze=False, sharex=True, sharey=True)
    for place, (name, unit) in enumerate(names):
        norm = _norm(images[..., place])
        for row, label in enumerate(rows):
            _draw(axes[row, place], images[row, :, :, place], norm)
            if place == 0:
                axes[row, 0].set_ylabel(f"{first} bin", loc="center")
                beside = {"rotation": 90, "ha": "right", "va": "center", "multialignment": "center"}
                axes[row, 0].text(-0.2, 0.5, label, transform=axes[row, 0].transAxes, **beside)
        axes[0, place].set_title(name)
        axes[-1, place].set_xlabel(f"{second} bin", loc="center")
        bar = figure.colorbar(
            ScalarMappable(norm, COLOUR_MAP), ax=axes[:, place].tolist(), pad=0.02, aspect=18 * len(rows)
        )
        bar.set_label(f"{prefix}{name}" + (f" [{unit}]" if unit else ""), loc="center")
    return figure


def _norm(images: Image) -> Normalize:
    """Logarithmic over at most four decades; linear where there are negative or no values."""
    highest = float(images.max(initial=0.0))
    if images.min(initial=0.0) < 0 or highest <= 0:
        return Normalize(float(images.min(initial=0.0)), highest or 1.0)
    lowest = max(float(images[images > 0].min()), highest / 10**DECADES)
    return LogNorm(lowest if lowest < highest else highest / 10, highest)


def _draw(axes: Axes, image: Image, norm: Normalize) -> None:
    shown = np.ma.masked_equal(image, 0) if isinstance(norm, LogNorm) else image
    if isinstance(norm, LogNorm):
        shown = np.ma.clip(shown, norm.vmin, None)
    edges = (-0.5, image.shape[1] - 0.5, -0.5, image.shape[0] - 0.5)
    axes.minorticks_off()
    axes.imshow(
        shown,
        norm=norm,
        cmap=COLOUR_MAP,
        origin="lower",
        extent=edges,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_facecolor("#f2f2f2")
