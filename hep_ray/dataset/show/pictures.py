"""Pictures of a dataset: images by class and channel, single events, distributions, means of sequences, balance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import Column
from hep_ray.dataset.show.sample import Sample
from hep_ray.dataset.splits import SPLITS
from hep_ray.drawing.style import COLOUR_MAP, SIGNED_MAP, colour, line

DECADES = 4
"""Powers of ten that a logarithmic colour scale spans at most."""
PANEL = 2.1
"""Width of a panel in inches."""
IMAGE_AXES = 3
AXIS_SIGNS = {"phi": "φ", "eta": "η", "delta_phi": "Δφ", "delta_eta": "Δη"}
FEWEST_BINS, MOST_BINS = 12, 50
QUANTILES = (0.001, 0.999)
"""Range of an axis; what lies beyond is in the outer bins."""
ACROSS = 3
"""Panels side by side."""
PANELS = 12
"""Panels in one figure."""
WIDTH, HEIGHT = 9.6, 2.3  # inches: a figure, a row of panels
LOG_RATIO = 200.0
"""Highest over median filled bin from which the vertical axis is logarithmic."""

Values = npt.NDArray[Any]


def channels(column: Column) -> list[tuple[str, str]]:
    """Name and unit of each channel of an image column."""
    if column.elements:
        return [(element, column.unit_of(element)) for element in column.elements]
    count = column.shape[-1] if len(column.shape) == IMAGE_AXES else 1
    names = [column.name] if count == 1 else [f"channel {number}" for number in range(count)]
    return [(name, column.unit) for name in names]


def mean_images(sample: Sample, column: Column) -> Figure:
    """Draw one row per class, one column per channel; the colours of a channel mean the same in all rows."""
    means = sample.means[column.name]
    classes, counts = sample.manifest.event_schema.classes, sample.class_counts.tolist()
    rows = [f"{name}\nmean of {count}" for name, count in zip(classes, counts, strict=True)]
    return image_grid(means, rows, column, "mean ")


def single_events(sample: Sample, column: Column, label: int) -> Figure:
    """Draw events of one class: one row per event, one column per channel."""
    events = sample.singles[column.name][label]
    name = sample.manifest.event_schema.classes[label]
    return image_grid(events, [f"{name}\nevent {number + 1}" for number in range(len(events))], column, "")


def image_grid(
    images: Values, rows: list[str], column: Column, prefix: str, *, signed: str | None = None
) -> Figure:
    """Draw one row per image, one column per channel; the colours of a channel mean the same in all rows.

    Args:
        images: (rows, *shape) of the column.
        rows: what stands beside each.
        column: whose values, or something of each of whose values, they are.
        prefix: before the name of a channel, at its scale.
        signed: unit of values on both sides of zero, which stays white; None draws values in the column's unit.
    """
    images = images if len(column.shape) == IMAGE_AXES else images[..., None]
    names = channels(column)
    first, second = (AXIS_SIGNS.get(axis, axis) for axis in column.axes or ("phi", "eta"))
    height, width = column.shape[:2]
    panel_height = PANEL * float(np.clip(height / width, 0.5, 2.0))
    figure = Figure(figsize=(0.9 + (PANEL + 0.75) * len(names), 0.5 + (panel_height + 0.2) * len(rows)))
    axes = figure.subplots(len(rows), len(names), squeeze=False, sharex=True, sharey=True)
    for place, (name, own) in enumerate(names):
        unit = own if signed is None else signed
        top = float(np.nanmax(np.abs(images[..., place]), initial=0.0)) or 1.0
        norm = _norm(images[..., place]) if signed is None else Normalize(-top, top)
        colours = COLOUR_MAP if signed is None else SIGNED_MAP
        for row, label in enumerate(rows):
            _draw(axes[row, place], images[row, :, :, place], norm, colours)
            if place == 0:
                axes[row, 0].set_ylabel(f"{first} bin", loc="center")
                beside = {"rotation": 90, "ha": "right", "va": "center", "multialignment": "center"}
                axes[row, 0].text(-0.2, 0.5, label, transform=axes[row, 0].transAxes, **beside)
        axes[0, place].set_title(name)
        axes[-1, place].set_xlabel(f"{second} bin", loc="center")
        bar = figure.colorbar(
            ScalarMappable(norm, colours), ax=axes[:, place].tolist(), pad=0.02, aspect=18 * len(rows)
        )
        bar.set_label(f"{prefix}{name}" + (f" [{unit}]" if unit else ""), loc="center")
    return figure


def _norm(images: Values) -> Normalize:
    """Logarithmic over at most four decades; linear where there are negative or no values."""
    highest = float(images.max(initial=0.0))
    if images.min(initial=0.0) < 0 or highest <= 0:
        return Normalize(float(images.min(initial=0.0)), highest or 1.0)
    lowest = max(float(images[images > 0].min()), highest / 10**DECADES)
    return LogNorm(lowest if lowest < highest else highest / 10, highest)


def _draw(axes: Axes, image: Values, norm: Normalize, colours: str) -> None:
    shown = np.ma.masked_equal(image, 0) if isinstance(norm, LogNorm) else image
    if isinstance(norm, LogNorm):
        shown = np.ma.clip(shown, norm.vmin, None)
    edges = (-0.5, image.shape[1] - 0.5, -0.5, image.shape[0] - 0.5)
    axes.minorticks_off()
    axes.imshow(
        shown,
        norm=norm,
        cmap=colours,
        origin="lower",
        extent=edges,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_facecolor("#f2f2f2")


@dataclass(frozen=True)
class Feature:
    """One number of N events: a scalar column, or an element of a vector."""

    name: str
    unit: str
    values: Values


def features_of(sample: Sample, column: Column) -> Iterator[Feature]:
    """List the numbers of a scalar or vector column."""
    values = sample.features[column.name].reshape(len(sample.labels), -1)
    places = (
        [f"{column.name}[{place}]" for place in range(values.shape[1])] if column.shape else [column.name]
    )
    for place, name in enumerate(column.elements or places):
        yield Feature(name, column.unit_of(name), values[:, place])


def distributions(sample: Sample, features: list[Feature]) -> Iterator[Figure]:
    """Draw the densities of every class with statistical errors, twelve features to a figure."""
    for start in range(0, len(features), PANELS):
        some = features[start : start + PANELS]
        figure, panels = _panels(sample, len(some))
        for axes, feature in zip(panels, some, strict=True):
            _distribution(axes, feature, sample)
        yield figure


def sequences(sample: Sample, column: Column) -> Iterator[Figure]:
    """Draw the mean of every class by place in a sequence or long vector, with the error of the mean."""
    names = column.elements if len(column.shape) > 1 else (column.name,)
    both = (sample.means[column.name], sample.errors[column.name])
    means, errors = (values.reshape(*values.shape[:2], -1) for values in both)
    for start in range(0, len(names), PANELS):
        some = names[start : start + PANELS]
        figure, panels = _panels(sample, len(some))
        for place, (axes, name) in enumerate(zip(panels, some, strict=True), start):
            for label in range(len(means)):
                axes.errorbar(
                    np.arange(means.shape[1]),
                    means[label, :, place],
                    errors[label, :, place],
                    color=colour(label),
                    linestyle=line(label),
                    marker="o",
                    markersize=2.5,
                )
            unit = column.unit_of(name)
            axes.set_xlabel(f"place in {column.name}")
            axes.set_ylabel(f"mean {name}" + (f" [{unit}]" if unit else ""))
        yield figure


def balance(manifest: Manifest) -> Figure:
    """Draw the share of every class in every split, by the manifest's counts."""
    classes = manifest.event_schema.classes
    figure = Figure(figsize=(WIDTH, 0.9 + 0.32 * len(classes)))
    axes = figure.subplots()
    height = 0.8 / len(SPLITS)
    for place, split in enumerate(SPLITS):
        counts = np.array(list(manifest.class_counts(split).values()), dtype=float)
        total = max(counts.sum(), 1)
        shares = counts / total
        axes.barh(
            np.arange(len(classes)) + (place - 1) * height,
            100 * shares,
            height,
            xerr=100 * np.sqrt(shares * (1 - shares) / total),
            color=colour(place),
            error_kw={"elinewidth": 1, "capsize": 0},
            label=f"{split} ({int(counts.sum())} events)",
        )
    axes.set_yticks(np.arange(len(classes)), classes)
    axes.tick_params(axis="y", which="both", left=False, right=False)
    axes.invert_yaxis()
    axes.set_xlabel("share of the split [%]")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _panels(sample: Sample, count: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, three in a row, under one legend of the classes."""
    rows = -(-count // ACROSS)
    figure = Figure(figsize=(WIDTH, 0.4 + HEIGHT * rows))
    axes = list(figure.subplots(rows, ACROSS, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_axis_off()
    classes = sample.manifest.event_schema.classes
    marks = [Line2D([], [], color=colour(label), linestyle=line(label)) for label in range(len(classes))]
    figure.legend(marks, classes, loc="outside upper left", ncols=min(len(classes), 6))
    return figure, axes[:count]


def _distribution(axes: Axes, feature: Feature, sample: Sample) -> None:
    known = ~np.isnan(feature.values)  # a value may be missing
    edges = bin_edges(feature.values[known], bins_for(sample))
    clipped = np.clip(feature.values, edges[0], np.nextafter(edges[-1], edges[0]))
    width = np.diff(edges)
    filled: list[float] = []
    for label in range(len(sample.class_counts)):
        counts, _ = np.histogram(clipped[known & (sample.labels == label)], edges)
        scale = max(counts.sum(), 1) * width
        axes.stairs(counts / scale, edges, color=colour(label), linestyle=line(label), linewidth=1.2)
        centres = (edges[1:] + edges[:-1]) / 2
        axes.errorbar(
            centres,
            counts / scale,
            np.sqrt(counts) / scale,
            fmt="none",
            ecolor=colour(label),
            elinewidth=0.8,
            alpha=0.7,
        )
        filled += (counts / scale)[counts > 0].tolist()
    if max(filled) > LOG_RATIO * float(np.median(filled)):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    outside = np.mean((feature.values < edges[0]) | (feature.values > edges[-1]))
    if outside:
        axes.set_title(
            f"{outside:.2%} beyond, in the outer bins", fontsize=7, loc="right", color="#666666", pad=3
        )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(feature.name + (f" [{feature.unit}]" if feature.unit else ""))
    axes.set_ylabel("density" + (f" [1/{feature.unit}]" if feature.unit else ""))


def bins_for(sample: Sample) -> int:
    """Return twice the cube root of the events in the smallest class (Rice's rule), within bounds."""
    present = sample.class_counts[sample.class_counts > 0]
    return int(np.clip(2 * np.cbrt(present.min()), FEWEST_BINS, MOST_BINS))


def bin_edges(values: Values, bins: int) -> npt.NDArray[np.float64]:
    """Return edges from the 0.1 % to the 99.9 % quantile; whole numbers stand in the middle of bins of whole width.

    Args:
        values: of all classes.
        bins: at most so many.
    """
    low, high = (float(edge) for edge in np.quantile(values, QUANTILES))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if (values == np.round(values)).all():
        low, high = np.floor(low), np.ceil(high)
        step = np.ceil((high - low + 1) / MOST_BINS)
        return np.arange(low - 0.5, high + step, step)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)
