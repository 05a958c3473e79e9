"""Draws our simulated events beside the reference sample and prints the table of means.

    python docs/scripts/simulation_reference.py data/mbh_sph ../shared/data/black_holes

The first argument is a dataset made by `hep-ray data simulate mbh_sph`, the second the folder with the
reference's `event_variables/*.csv`. Writes docs/images/simulation_reference.png and docs/images/events.png.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import mplhep
import numpy as np
import pyarrow.parquet as pq
from matplotlib.colors import LogNorm

from hep_ray.dataset.dataset import Manifest

mpl.use("Agg")
IMAGES = Path(__file__).parents[1] / "images"
CLASSES = {"black_hole": ("BH_n4_M10.csv", "Black hole"), "sphaleron": ("SPH_THR9_NSUBPALL.csv", "Sphaleron")}
VARIABLES = {  # ours: (reference's, label, factor, bins)
    "n_objects": ("stuff_amount", "objects per event, with missing momentum", 1.0, np.arange(0.5, 24.5)),
    "ht": ("HT", r"$H_T$ [TeV]", 1e-3, np.linspace(0, 14, 57)),
    "leading_pt": ("ptmax", r"leading $p_T$ [TeV]", 1e-3, np.linspace(0, 7, 57)),
    "met": ("met", r"missing $p_T$ [TeV]", 1e-3, np.linspace(0, 5, 51)),
}
ENTRIES_MIN = 5  # in a bin of the ratio
COLOURS = {"black_hole": "#3f51b5", "sphaleron": "#e45f2b"}


def ours(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Columns of our events by class."""
    manifest = Manifest.load(folder)
    table = pq.ParquetDataset([folder / shard.file for shard in manifest.shards]).read().combine_chunks()
    events = manifest.event_schema.decode(table.to_batches()[0])
    return {
        name: {column: events[column][events["label"] == label] for column in (*VARIABLES, "image")}
        for label, name in enumerate(manifest.event_schema.classes)
    }


def reference(folder: Path, file: str) -> dict[str, np.ndarray]:
    """Columns of the reference's events under our names."""
    with (folder / "event_variables" / file).open() as lines:
        rows = list(csv.DictReader(lines))
    return {name: np.array([float(row[theirs]) for row in rows]) for name, (theirs, *_) in VARIABLES.items()}


def compare(simulated: dict[str, dict[str, np.ndarray]], measured: dict[str, dict[str, np.ndarray]]) -> None:
    """The picture of all distributions, and the table."""
    mplhep.style.use(mplhep.style.ATLAS)
    plt.rcParams.update({"font.size": 11, "axes.labelsize": 11, "legend.fontsize": 10, "axes.titlesize": 12})
    figure, axes = plt.subplots(
        4, 4, figsize=(16, 9.5), height_ratios=(3, 1, 3, 1), constrained_layout=True, sharex="col"
    )
    print("| class | variable | ours | reference | ours / reference |\n|---|---|---|---|---|")
    for row, (name, (_, title)) in enumerate(CLASSES.items()):
        for column, (variable, (_, label, factor, bins)) in enumerate(VARIABLES.items()):
            here, there = simulated[name][variable] * factor, measured[name][variable] * factor
            top, bottom = axes[2 * row, column], axes[2 * row + 1, column]
            counts = [np.histogram(values, bins)[0] for values in (here, there)]
            density = [count / count.sum() / np.diff(bins) for count in counts]
            errors = [
                value / np.sqrt(np.maximum(count, 1)) for value, count in zip(density, counts, strict=True)
            ]
            mplhep.histplot(density[1], bins, ax=top, histtype="fill", color="0.8", label="reference")
            mplhep.histplot(
                density[0],
                bins,
                yerr=errors[0],
                ax=top,
                histtype="errorbar",
                color=COLOURS[name],
                markersize=4,
                label="hep_ray",
            )
            top.set_ylim(0, 1.25 * max(map(np.max, density)))
            top.legend(title=title, loc="upper right", frameon=False)
            enough = np.minimum(*counts) >= ENTRIES_MIN
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(enough, density[0] / density[1], np.nan)
                spread = ratio * np.hypot(errors[0] / density[0], errors[1] / density[1])
            bottom.errorbar(
                (bins[1:] + bins[:-1]) / 2, ratio, spread, fmt="o", color=COLOURS[name], markersize=3
            )
            bottom.axhline(1, color="0.5", linewidth=1)
            bottom.set_ylim(0, 2)
            if row == 1:
                bottom.set_xlabel(label)
            if column == 0:
                top.set_ylabel("density")
                bottom.set_ylabel("ratio")
            digits = 1 if factor == 1 else 2
            print(
                f"| {title} | {label.replace('$', '').replace('_T', '~T~')} | "
                f"{here.mean():.{digits}f} ± {here.std():.{digits}f} | "
                f"{there.mean():.{digits}f} ± {there.std():.{digits}f} | {here.mean() / there.mean():.2f} |"
            )
    figure.savefig(IMAGES / "simulation_reference.png", dpi=100)


def draw_images(simulated: dict[str, dict[str, np.ndarray]]) -> None:
    """Average image of each class, and three single events, summed over channels."""
    figure, axes = plt.subplots(2, 4, figsize=(15, 7.2), constrained_layout=True, sharex=True, sharey=True)
    extent = (-5, 5, -np.pi, np.pi)
    for row, (name, (_, title)) in enumerate(CLASSES.items()):
        images = simulated[name]["image"].sum(axis=-1)
        average = axes[row, 0].imshow(
            images.mean(axis=0), origin="lower", extent=extent, aspect="auto", cmap="magma_r"
        )
        figure.colorbar(average, ax=axes[row, 0], label="mean energy [GeV]")
        axes[row, 0].set_title(f"{title}: mean of {len(images):,}")
        axes[row, 0].set_ylabel(r"$\phi$")
        for event in range(3):
            single = axes[row, event + 1].imshow(
                np.where(images[event] > 0, images[event], np.nan),
                origin="lower",
                extent=extent,
                aspect="auto",
                cmap="viridis_r",
                norm=LogNorm(10, 5000),
            )
            axes[row, event + 1].set_title(f"{title}: one event")
        figure.colorbar(single, ax=axes[row, 3], label="energy [GeV]")
    for axis in axes[1]:
        axis.set_xlabel(r"$\eta$")
    figure.savefig(IMAGES / "events.png", dpi=100)


def main() -> None:
    """Draw both pictures."""
    dataset, folder = map(Path, sys.argv[1:3])
    simulated = ours(dataset)
    compare(simulated, {name: reference(folder, file) for name, (file, _) in CLASSES.items()})
    draw_images(simulated)


if __name__ == "__main__":
    main()
