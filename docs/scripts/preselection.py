"""Shares of events that pass each cut of study 4.1's preselection, of ours and of the reference's own files.

    python docs/scripts/preselection.py ../shared/data/black_holes M8=data/m8 M10=data/mbh_sph M12=data/m12

Datasets are those of `hep-ray data simulate mbh_sph --set images=objects`, so that the objects of both are read off
images of the same kind: a bin holds one object, its p_T is that of the track channel, else its energy over cosh η. The
reference's missing momentum stands in tables of more events than the images; the script finds which row is whose.
Prints a table in Markdown.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from hep_ray.dataset.dataset import Manifest

Array = npt.NDArray[np.float64]
PT_MIN, ETA_MAX, OBJECTS_MIN, ST_MIN = 70.0, 2.4, 5, 7000.0  # GeV
TRACKS_MIN = (
    0.05  # of an object's p_T in the track channel; the underlying event gives every jet of ours some
)
PUBLISHED = {"sphaleron": 0.18, "M8": 0.17, "M10": 0.49, "M12": 0.65}
AGREEMENT = 3.0  # GeV between two sums of p_T of the same event
AHEAD = 12  # events by which a shift is told


@dataclass(frozen=True)
class Objects:
    """Objects of events, by the bins of their images, and missing momentum.

    Attributes:
        pt: in GeV, (events, 50, 50); 0 is no object.
        photon: which bins hold electromagnetic energy alone, (events, 50, 50).
        met: in GeV, (events,).
    """

    pt: Array
    photon: npt.NDArray[np.bool_]
    met: Array

    @classmethod
    def of(cls, electromagnetic: Array, hadronic: Array, tracks: Array, met: Array) -> Objects:
        """Read them off the channels, each (events, φ, η)."""
        eta = -5 + 0.2 * (np.arange(electromagnetic.shape[2]) + 0.5)
        energy = (electromagnetic + hadronic) / np.cosh(eta)
        pt = np.where(tracks > 0, tracks, energy) * (np.abs(eta) < ETA_MAX)
        photon = (electromagnetic > 0) & (hadronic <= 0) & (tracks <= TRACKS_MIN * energy)
        return cls(np.where(pt > PT_MIN, pt, 0.0), photon, met)

    def shares(self) -> dict[str, float]:
        """Share of the events that pass each cut."""
        met = np.where(self.met > PT_MIN, self.met, 0.0)
        found: dict[str, float] = {}
        for name, pt in (("", self.pt), (", no photons", np.where(self.photon, 0.0, self.pt))):
            enough = (pt > 0).sum(axis=(1, 2)) >= OBJECTS_MIN
            high = pt.sum(axis=(1, 2)) + met >= ST_MIN
            if not name:
                found |= {"N ≥ 5": float(enough.mean()), "S~T~ ≥ 7 TeV": float(high.mean())}
            found[f"both{name}"] = float((enough & high).mean())
        found["both, one object more"] = float(
            (
                ((self.pt > 0).sum(axis=(1, 2)) > OBJECTS_MIN) & (self.pt.sum(axis=(1, 2)) + met >= ST_MIN)
            ).mean()
        )
        return found


def rows_of(sums: Array, listed: Array) -> npt.NDArray[np.intp]:
    """Return the row of a table of each event, both in the same order, where the table has rows that no event has.

    Args:
        sums: p_T of an event's objects as its image has them, which may miss those that share a bin.
        listed: the same of the table's rows.
    """

    def alike(event: int, shift: int) -> int:
        count = min(AHEAD, len(sums) - event, len(listed) - event - shift)
        here, there = sums[event : event + count], listed[event + shift : event + shift + count]
        return int((np.abs(here - there) < AGREEMENT).sum())

    shift, rows = 0, np.zeros(len(sums), dtype=np.intp)
    for event in range(len(sums)):
        own = event + shift < len(listed) and abs(sums[event] - listed[event + shift]) < AGREEMENT
        if not own and alike(event, shift) < alike(event, shift + 1):
            shift += 1
        rows[event] = event + shift
    return rows


def reference(folder: Path, name: str) -> Objects:
    """Read the reference's black holes of a least mass (M8, M10, M12)."""
    with h5py.File(folder / f"BH_n4_{name}_res50_3000_events.h5") as file:
        images = np.stack([file[event]["data"][...] for event in sorted(file)]).astype(np.float64)
    with (folder / "event_variables" / f"BH_n4_{name}.csv").open() as lines:
        table = [(float(row["HT"]), float(row["met"])) for row in csv.DictReader(lines)]
    ht, met = np.array(table).T
    electromagnetic, tracks, hadronic = np.moveaxis(images, -1, 0)
    eta = -5 + 0.2 * (np.arange(images.shape[2]) + 0.5)
    pt = np.where(tracks > 0, tracks, (electromagnetic + hadronic) / np.cosh(eta))
    rows = rows_of(pt.sum(axis=(1, 2)), ht - met)
    return Objects.of(electromagnetic, hadronic, tracks, met[rows])


def ours(folder: Path) -> dict[str, Objects]:
    """Read the events of a dataset by class."""
    manifest = Manifest.load(folder)
    table = pq.ParquetDataset([folder / shard.file for shard in manifest.shards]).read().combine_chunks()
    events = manifest.event_schema.decode(table.to_batches()[0])
    found: dict[str, Objects] = {}
    for label, name in enumerate(manifest.event_schema.classes):
        chosen = events["label"] == label
        channels = np.moveaxis(np.asarray(events["image"])[chosen].astype(np.float64), -1, 0)
        found[name] = Objects.of(*channels, np.asarray(events["met"])[chosen].astype(np.float64))
    return found


def lines(folder: Path, datasets: dict[str, Path]) -> Iterator[str]:
    """Yield the table."""
    read = {name: ours(path) for name, path in datasets.items()}
    last = list(read)[-1]
    tabled = {"sphaleron": (None, read[last]["sphaleron"])}
    tabled |= {name: (reference(folder, name), of["black_hole"]) for name, of in read.items()}
    head = list(tabled[last][1].shares())
    yield f"| | events | {' | '.join(head)} | published |\n|{'---|' * (len(head) + 3)}"
    for name, (theirs, mine) in tabled.items():
        for who, objects in (("reference", theirs), ("ours", mine)):
            if objects is not None:
                shares = " | ".join(f"{value:.3f}" for value in objects.shares().values())
                yield f"| {name}, {who} | {len(objects.met):,} | {shares} | {PUBLISHED[name]} |"


if __name__ == "__main__":
    print(
        "\n".join(
            lines(
                Path(sys.argv[1]),
                {name: Path(path) for name, path in (one.split("=") for one in sys.argv[2:])},
            )
        )
    )
