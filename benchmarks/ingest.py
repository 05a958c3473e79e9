"""Events per second from HDF5 and from ROOT to a dataset, on one and on two workers, beside a plain reader loop.

The plain loop reads the same file with h5py or uproot in batches and does nothing with the events: it is the limit
of the format, not a rival that makes a dataset. All three run one after the other in this process. `--large` makes
an HDF5 file of a few GB first and tells the peak memory of its conversion in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import uproot

from hep_ray.cluster import connected
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import parse_schema

LABELLED = 'reader = "{}"\nclasses = ["background", "signal"]\n[label]\nfrom = "field"\nfield = "label"\n'
BATCH = 4096
SIDE = 50


def write_hdf5(path: Path, events: int) -> None:
    """Images (50, 50, 3) with 3 % of the bins filled, and a label array; written piece by piece."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        images = file.create_dataset("image", (events, SIDE, SIDE, 3), "f4", chunks=(64, SIDE, SIDE, 3))
        labels = file.create_dataset("label", (events,), "i8")
        for start in range(0, events, BATCH):
            shape = (min(BATCH, events - start), SIDE, SIDE, 3)
            filled = random.random(shape, dtype=np.float32) < 0.03  # noqa: PLR2004
            images[start : start + shape[0]] = filled * random.exponential(30, shape).astype(np.float32)
            labels[start : start + shape[0]] = np.arange(start, start + shape[0]) % 2


def write_root(path: Path, events: int) -> None:
    """Eighteen flat branches and a label."""
    random = np.random.default_rng(0)
    columns = {f"x{number}": random.normal(size=events).astype(np.float32) for number in range(18)}
    columns["label"] = (np.arange(events) % 2).astype(np.float32)
    with uproot.recreate(path) as file:
        tree = file.mktree("events", {name: values.dtype for name, values in columns.items()})
        for start in range(0, events, 100_000):
            tree.extend({name: values[start : start + 100_000] for name, values in columns.items()})


def plain_hdf5(path: Path) -> None:
    """The reader loop that makes nothing."""
    with h5py.File(path) as file:
        for start in range(0, len(file["label"]), BATCH):
            file["image"][start : start + BATCH]
            file["label"][start : start + BATCH]


def plain_root(path: Path) -> None:
    """The reader loop that makes nothing."""
    for _ in uproot.iterate(f"{path}:events", step_size="16 MB", library="np"):
        pass


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(reader: str, path: Path, events: int, plain: Callable[[Path], None], out: Path) -> None:
    """Print the line of one format."""
    schema = parse_schema(LABELLED.format(reader), reader)
    rates = {"plain_loop": events / seconds(lambda: plain(path))}
    with connected():
        # The first two-worker conversion also starts two worker processes; it is not counted.
        for label, workers in (("start", 2), ("one_worker", 1), ("two_workers", 2)):
            taken = seconds(
                lambda workers=workers: convert(  # type: ignore[misc]
                    [path], None, None, out, schema=schema, workers=workers, overwrite=True
                )
            )
            rates[label] = events / taken
    del rates["start"]
    print(
        json.dumps(
            {
                "what": f"ingest: events per second, {reader} to dataset",
                "events": events,
                "ours": round(rates["two_workers"]),
                "peer": round(rates["plain_loop"]),
                "ratio": round(rates["two_workers"] / rates["plain_loop"], 3),
                "one_worker": round(rates["one_worker"]),
                "two_over_one": round(rates["two_workers"] / rates["one_worker"], 2),
            }
        ),
        flush=True,
    )


def peak_memory(path: Path, out: Path) -> float:
    """Convert in this process and give its peak resident memory in MB."""
    convert([path], None, None, out, schema=parse_schema(LABELLED.format("hdf5"), "hdf5"), overwrite=True)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=20_000, help="events of the HDF5 file")
    parser.add_argument("--rows", type=int, default=500_000, help="events of the ROOT file")
    parser.add_argument(
        "--large", type=int, default=0, help="events of the large HDF5 file; 110000 are 3.3 GB"
    )
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(peak_memory(options.peak_of, options.peak_of.with_suffix(".dataset")))
        return
    folder = Path(tempfile.mkdtemp())
    try:
        write_hdf5(folder / "events.h5", options.images)
        measure("hdf5", folder / "events.h5", options.images, plain_hdf5, folder / "out")
        write_root(folder / "events.root", options.rows)
        measure("root", folder / "events.root", options.rows, plain_root, folder / "out")
        if options.large:
            path = folder / "large.h5"
            write_hdf5(path, options.large)
            command = [sys.executable, __file__, "--peak-of", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            size = path.stat().st_size / 2**20
            peak = float(done.stdout)
            line = {
                "what": "ingest: peak resident MB of converting an HDF5 file",
                "file_mb": round(size),
                "ours": round(peak),
            }
            print(json.dumps({**line, "peer": round(size), "ratio": round(size / peak, 2)}))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
