"""Draws our simulated images beside the thesis' PNG files, and prints their filled bins and values per channel.

    python docs/scripts/image_reference.py data/mbh_sph ../shared/data/thesis_png
    python docs/scripts/image_reference.py data/mbh_sph ../shared/data/thesis_png --events 3000

The first argument is a dataset made by `hep-ray data simulate mbh_sph`; all of its events are read, batch by batch, or
the first that `--events` asks for. The values of the PNG files are 255 times the energy in GeV, cast to a byte: the
whole part modulo 256. Ours go through the same map before they are compared. Writes docs/images/image_reference.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from hep_ray.dataset.dataset import Manifest

mpl.use("Agg")
TARGET = Path(__file__).parents[1] / "images" / "image_reference.png"
CLASSES = {"black_hole": "black_holes", "sphaleron": "sphalerons"}
CHANNELS = ("electromagnetic", "hadronic", "tracks")
FACTOR, WRAP = 255, 256
OTHER_FACTORS = (1, 128, 254, 256, 1000)
COARSE = 8
ETA = np.linspace(-5, 5, 51)
REGIONS = ((0, 1), (1, 2), (2, 3), (3, 5))
OURS, THESIS = "#3f51b5", "#e45f2b"
Array = np.ndarray[Any, Any]


def wrapped(image: Array, factor: int = FACTOR) -> Array:
    """Return bytes as the thesis' pictures hold them of energies in GeV."""
    return (image * np.float32(factor)).astype(np.int64).astype(np.uint8)


class Summary:
    """Sums over the images of one class, (N, φ, η, channel) of bytes, one batch at a time."""

    def __init__(self) -> None:
        self.events = 0
        self.first: Array | None = None
        self.filled: list[Array] = []  # (N, 4) of each batch: bins filled in any channel, and in each
        self.profile = np.zeros((len(ETA) - 1, 3))
        self.values = np.zeros((3, WRAP))
        self.energy = np.zeros(3)
        self.other = {factor: np.zeros((3, WRAP)) for factor in OTHER_FACTORS}

    def add(self, images: Array, energies: Array | None = None) -> None:
        """Add images, and the energies in GeV they are made of where those are known."""
        if not len(images):
            return
        self.first = images[0] if self.first is None else self.first
        self.events += len(images)
        hit = images > 0
        self.filled.append(np.column_stack((hit.any(axis=-1).sum(axis=(1, 2)), hit.sum(axis=(1, 2)))))
        self.profile += hit.sum(axis=(0, 1))
        _count(self.values, images)
        if energies is not None:
            self.energy += energies.sum(axis=(0, 1, 2), dtype=np.float64)
            for factor, values in self.other.items():
                _count(values, wrapped(energies, factor))

    def bins(self) -> tuple[Array, Array]:
        """Return the mean number of filled bins, any and each channel (4,), and its standard error."""
        filled = np.concatenate(self.filled)
        return filled.mean(axis=0), filled.std(axis=0, ddof=1) / np.sqrt(len(filled))

    def regions(self) -> Array:
        """Return filled bins per event in each region of |η|, (4, 3)."""
        centres = np.abs(ETA[:-1] + ETA[1:]) / 2
        rows = [self.profile[(low < centres) & (centres < high)].sum(axis=0) for low, high in REGIONS]
        return np.stack(rows) / self.events


def _count(values: Array, images: Array) -> None:
    for channel in range(3):
        values[channel] += np.bincount(images[..., channel].ravel(), minlength=WRAP)


def coarse(values: Array) -> Array:
    """Return the share of filled bins in each of eight ranges of the value, (3, 8)."""
    filled = np.concatenate((np.zeros((3, 1)), values[:, 1:]), axis=1).reshape(3, COARSE, -1).sum(axis=-1)
    return np.asarray(filled / filled.sum(axis=1, keepdims=True))


def median(values: Array) -> list[int]:
    """Return the median value of the filled bins of each channel."""
    grown = np.cumsum(values[:, 1:], axis=1)
    return [int(np.searchsorted(one, one[-1] / 2)) + 1 for one in grown]


def batches(folder: Path, most: int | None) -> Iterator[dict[str, Array]]:
    """Yield our events, 500 or fewer at a time."""
    manifest = Manifest.load(folder)
    left = most if most is not None else sum(shard.rows for shard in manifest.shards)
    for shard in manifest.shards:
        for batch in pq.ParquetFile(folder / shard.file).iter_batches(batch_size=500):
            if left <= 0:
                return
            yield manifest.event_schema.decode(batch[:left])
            left -= len(batch)


def ours(folder: Path, most: int | None) -> dict[str, Summary]:
    """Our images by class, through the thesis' map."""
    classes = Manifest.load(folder).event_schema.classes
    made = {name: Summary() for name in CLASSES}
    for events in batches(folder, most):
        for name, summary in made.items():
            energies = events["image"][events["label"] == classes.index(name)]
            summary.add(wrapped(energies), energies)
    return made


def thesis(folder: Path) -> dict[str, Summary]:
    """The thesis' images by class."""
    found = {name: Summary() for name in CLASSES}
    for name, theirs in CLASSES.items():
        found[name].add(
            np.stack([np.array(Image.open(file)) for file in sorted((folder / theirs).glob("*.png"))])
        )
    return found


def tables(name: str, made: Summary, reference: Summary) -> None:
    """Print the figures of one class."""
    for who, one in (("thesis", reference), ("ours", made)):
        mean, error = one.bins()
        cells = " | ".join(f"{value:.0f} ± {wrong:.0f}" for value, wrong in zip(mean, error, strict=True))
        print(f"| {name} | {who}, {one.events} events | {cells} |")
    print(f"  sum of ours per event [TeV]: {(made.energy / made.events / 1000).round(2).tolist()}")
    there = reference.regions()
    ratio = np.divide(made.regions(), there, out=np.full(there.shape, np.nan), where=there > 0)
    for (low, high), row in zip(REGIONS, ratio, strict=True):
        print(f"  filled, ours / thesis, {low} < |eta| < {high}: {row.round(2).tolist()}")
    print(f"  median value: thesis {median(reference.values)}, ours {median(made.values)}")
    there, here = coarse(reference.values), coarse(made.values)
    for channel, title in enumerate(CHANNELS):
        for who, row in (("thesis", there), ("ours", here)):
            print(
                f"| {name} | {title} | {who} | "
                + " | ".join(f"{100 * one:.1f}" for one in row[channel])
                + " |"
            )
    print(
        f"  largest difference of a share, factor {FACTOR}: {np.abs(here - there).max(axis=1).round(3).tolist()}"
    )
    for factor, values in made.other.items():
        far = np.abs(coarse(values) - there).max(axis=1)
        print(f"  factor {factor}: {far.round(3).tolist()}, median value {median(values)}")


def draw(made: dict[str, Summary], reference: dict[str, Summary]) -> None:
    """Write the picture: profiles, values and one event of each class."""
    figure, axes = plt.subplots(4, 4, figsize=(14, 11), layout="constrained")
    for row, name in enumerate(CLASSES):
        for place, (label, one, colour) in enumerate(
            (("thesis", reference[name], THESIS), ("ours", made[name], OURS))
        ):
            for channel, title in enumerate(CHANNELS):
                profile, values = axes[2 * row, channel], axes[2 * row + 1, channel]
                profile.stairs(one.profile[:, channel] / one.events, ETA, color=colour, label=label)
                profile.set(xlabel="η", ylabel="filled bins per event", title=f"{name}, {title}")
                values.stairs(
                    coarse(one.values)[channel], np.linspace(0, WRAP, COARSE + 1), color=colour, label=label
                )
                values.set(xlabel="⌊255 · GeV⌋ modulo 256", ylabel="share of filled bins", ylim=(0, 0.2))
                profile.legend(frameon=False)
                profile.set_ylim(bottom=0, auto=True)
            axis = axes[2 * row + place, 3]
            axis.imshow(one.first, extent=(-5, 5, np.pi, -np.pi), aspect="auto", interpolation="nearest")
            axis.set(xlabel="η", ylabel="φ", title=f"{name}, one event, {label}")
    figure.savefig(TARGET, dpi=74)


def main(dataset: Path, pictures: Path, events: int | None) -> None:
    """Print the tables and draw the figure."""
    made, reference = ours(dataset, events), thesis(pictures)
    for name in CLASSES:
        tables(name, made[name], reference[name])
    draw(made, reference)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--events", type=int, help="read the first so many only")
    given = parser.parse_args()
    main(given.dataset, given.pictures, given.events)
