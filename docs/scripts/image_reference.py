"""Draws our simulated images beside the thesis' PNG files, and prints filled bins and energies per channel.

    python docs/scripts/image_reference.py data/mbh_sph ../shared/data/thesis_png

The first argument is a dataset made by `hep-ray data simulate mbh_sph`. The PNG files hold whole GeV modulo 256, so the
bins of ours are cut in the same way before they are compared. Writes docs/images/image_reference.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
from matplotlib.colors import LogNorm
from PIL import Image

from hep_ray.dataset.dataset import Manifest

mpl.use("Agg")
TARGET = Path(__file__).parents[1] / "images" / "image_reference.png"
CLASSES = {"black_hole": "black_holes", "sphaleron": "sphalerons"}
CHANNELS = ("electromagnetic", "hadronic", "tracks")
WRAP = 256
EDGES = np.linspace(-5, 5, 51)
OURS, THEIRS = "#3f51b5", "#e45f2b"


def ours(folder: Path) -> dict[str, np.ndarray]:
    """Images of our events by class, in GeV."""
    manifest = Manifest.load(folder)
    table = pq.ParquetDataset([folder / shard.file for shard in manifest.shards]).read().combine_chunks()
    events = manifest.event_schema.decode(table.to_batches()[0])
    classes = manifest.event_schema.classes
    return {name: events["image"][events["label"] == classes.index(name)] for name in CLASSES}


def thesis(folder: Path) -> dict[str, np.ndarray]:
    """Images of the thesis by class, in GeV modulo 256."""
    return {
        name: np.stack([np.array(Image.open(file)) for file in sorted((folder / theirs).glob("*.png"))])
        for name, theirs in CLASSES.items()
    }


def main(dataset: Path, pictures: Path) -> None:
    """Print the tables and draw the figure."""
    made, reference = ours(dataset), thesis(pictures)
    figure, axes = plt.subplots(2, 5, figsize=(15, 5.6), layout="constrained")
    for row, name in enumerate(CLASSES):
        cut = made[name].astype(np.int64) % WRAP
        for who, images in (("ours", cut), ("thesis", reference[name])):
            filled = [(images[..., channel] > 0).sum(axis=(1, 2)).mean() for channel in range(3)]
            anywhere = (images > 0).any(axis=-1).sum(axis=(1, 2)).mean()
            print(f"| {name} | {who} | {anywhere:.0f} | " + " | ".join(f"{one:.0f}" for one in filled) + " |")
        energy = made[name].sum(axis=(1, 2), dtype=np.float64).mean(axis=0) / 1000
        whole = (made[name] > 0).any(axis=-1).sum(axis=(1, 2)).mean()
        print(f"  sum of ours in TeV: {energy.round(2).tolist()}; filled without the cut: {whole:.0f}")
        for channel, title in enumerate(CHANNELS):
            axis = axes[row, channel]
            for label, images, colour in (("thesis", reference[name], THEIRS), ("ours", cut, OURS)):
                profile = (images[..., channel] > 0).sum(axis=1).mean(axis=0)
                axis.stairs(profile, EDGES, color=colour, label=label)
            axis.set(xlabel="η", ylabel="filled bins per event", title=f"{name}, {title}", ylim=(0, None))
            axis.legend(frameon=False)
        for place, (label, image) in enumerate((("thesis", reference[name][0]), ("ours", cut[0]))):
            axis = axes[row, 3 + place]
            shown = np.ma.masked_equal(image.astype(np.float64).sum(axis=-1), 0)
            axis.imshow(
                shown, norm=LogNorm(1, 3 * WRAP), extent=(-5, 5, np.pi, -np.pi), aspect="auto", cmap="viridis"
            )
            axis.set(xlabel="η", ylabel="φ", title=f"{name}, one event, {label}")
    figure.savefig(TARGET, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
