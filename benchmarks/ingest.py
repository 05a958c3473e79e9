"""Events per processor second from HDF5, ROOT and CSV to a dataset, beside the same file rewritten as one Parquet.

By hand nothing is checked, named, split, shuffled or hashed: it is the limit, not a rival. The two take turns, three
times, medians count. `--growth 100000 1000000 10000000` converts ROOT files of these sizes, each in a process of its
own, and tells time, peak memory and open files; `--large` makes an HDF5 file of a few GB first and tells the peak
memory of its conversion.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import uproot

from hep_ray.cluster import connected
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import parse_schema
from hep_ray.drawing.style import colour, house_style

mpl.use("Agg")
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


def write_text(path: Path, source: Path) -> None:
    """The same rows as a ROOT file's, as CSV."""
    columns = uproot.open(source)["events"].arrays(library="np")
    pa_csv.write_csv(pa.table({**columns, "label": columns["label"].astype(np.int64)}), path)


def read_hdf5(path: Path) -> Iterator[pa.Table]:
    """Batches of the file, by h5py."""
    with h5py.File(path) as file:
        for start in range(0, len(file["label"]), BATCH):
            images = file["image"][start : start + BATCH]
            kind = pa.fixed_shape_tensor(pa.float32(), images.shape[1:])
            storage = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), SIDE * SIDE * 3)
            labels = file["label"][start : start + BATCH]
            yield pa.table({"image": pa.ExtensionArray.from_storage(kind, storage), "label": labels})


def read_root(path: Path) -> Iterator[pa.Table]:
    """Batches of the tree, by uproot."""
    for arrays in uproot.iterate(f"{path}:events", step_size="16 MB", library="np"):
        yield pa.table(arrays)


def read_text(path: Path) -> Iterator[pa.Table]:
    """Batches of the rows, by pyarrow."""
    with pa_csv.open_csv(path) as batches:
        for batch in batches:
            yield pa.Table.from_batches([batch])


READ = {"hdf5": read_hdf5, "root": read_root, "text": read_text}


def by_hand(reader: str, path: Path, out: Path) -> None:
    """Read a file and write it as one Parquet file: no ids, splits, shuffle, checks or hashes."""
    writer = None
    for table in READ[reader](path):
        writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd")
        writer.write_table(table)
    if writer:
        writer.close()


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call; of the processor only what this process takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(reader: str, path: Path, events: int, out: Path) -> None:
    """Print the line of one format."""
    schema = parse_schema(LABELLED.format(reader), reader)

    def ours(workers: int) -> None:
        convert([path], None, None, out, schema=schema, workers=workers, overwrite=True)

    hand: list[tuple[float, float]] = []
    own: list[tuple[float, float]] = []
    ours(1)  # which imports what it needs
    for _ in range(3):
        hand.append(seconds(lambda: by_hand(reader, path, out.with_suffix(".parquet"))))
        own.append(seconds(lambda: ours(1)))
    with connected():
        ours(2)  # which starts two worker processes
        two = seconds(lambda: ours(2))
        one = seconds(lambda: ours(1))
    hand_cpu, own_cpu = (statistics.median(cpu for _, cpu in times) for times in (hand, own))
    hand_wall, own_wall = (statistics.median(wall for wall, _ in times) for times in (hand, own))
    print(
        json.dumps(
            {
                "what": f"ingest: events per processor second, {reader} to dataset on one worker; by hand to Parquet",
                "events": events,
                "ours": round(events / own_cpu),
                "peer": round(events / hand_cpu),
                "ratio": round(hand_cpu / own_cpu, 2),
                "wall_s": round(own_wall, 2),
                "wall_s_by_hand": round(hand_wall, 2),
                "two_over_one": round(one[0] / two[0], 2),
            }
        ),
        flush=True,
    )


def most_files_open(work: Callable[[], object]) -> int:
    """Return how many files are open at once in this process during a call, looked at every 10 ms."""
    most, done = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.01):
            most = max(most, len(list(Path("/proc/self/fd").iterdir())))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most


def peak_mb() -> int:
    """Return the peak of this program's resident memory, without that of the process which started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024)


def growth_of(path: Path, events: int) -> None:
    """Print a line of one size; a process of its own tells the peak of its memory."""
    out = path.with_suffix(".dataset")
    schema = parse_schema(LABELLED.format("root"), "root")
    start = peak_mb()
    cpu, files = time.process_time(), 0

    def work() -> None:
        convert([path], None, None, out, schema=schema, overwrite=True)

    wall, files = time.perf_counter(), most_files_open(work)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        json.dumps(
            {
                "what": "ingest: growth, ROOT to dataset on one worker",
                "events": events,
                "ours": round(events / cpu),
                "cpu_s": round(cpu, 1),
                "wall_s": round(wall, 1),
                "peak_mb": peak_mb(),
                "start_mb": start,
                "files_open": files,
                "shards": len(list(out.glob("*.parquet"))),
            }
        ),
        flush=True,
    )
    shutil.rmtree(out)


def peak_memory(path: Path, out: Path) -> float:
    """Convert in this process and give its peak resident memory in MB."""
    convert([path], None, None, out, schema=parse_schema(LABELLED.format("hdf5"), "hdf5"), overwrite=True)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw_growth(found: list[dict[str, float]], file: Path) -> None:
    """Write processor seconds and peak memory against the events, with the line of the largest size's pace."""
    events = np.array([line["events"] for line in found])
    used = np.array([line["cpu_s"] for line in found])
    with house_style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        left.plot(events, used, "o", color=colour(0), label="measured")
        left.plot(
            events, used[-1] / events[-1] * events, color="0.5", lw=1, label="in proportion to the events"
        )
        left.set_yscale("log")
        left.set_ylim(used.min() / 2, used.max() * 2)
        left.set_ylabel("Processor seconds")
        left.legend()
        right.plot(events, [line["peak_mb"] for line in found], "o-", color=colour(0))
        right.set_ylim(0, 1.1 * max(line["peak_mb"] for line in found))
        right.set_ylabel("Peak memory [MB]")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlim(events.min() / 1.5, events.max() * 1.5)
            axes.set_xlabel("Events, ROOT to dataset on one worker")
        figure.savefig(file, dpi=150)
        plt.close(figure)


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
    parser.add_argument(
        "--growth", type=int, nargs="*", default=[], help="sizes to convert from ROOT, events"
    )
    parser.add_argument("--figure", type=Path, help="PNG of what --growth measures")
    parser.add_argument("--growth-of", help=argparse.SUPPRESS)
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(peak_memory(options.peak_of, options.peak_of.with_suffix(".dataset")))
        return
    if options.growth_of:
        path, events = options.growth_of.split("=")
        growth_of(Path(path), int(events))
        return
    if options.figure and not options.growth:
        parser.error("--figure draws what --growth measures: give sizes with --growth")
    folder = Path(tempfile.mkdtemp())
    found: list[dict[str, float]] = []
    try:
        for events in options.growth:
            path = folder / f"{events}.root"
            write_root(path, events)
            command = [sys.executable, __file__, "--growth-of", f"{path}={events}"]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(told, end="", flush=True)
            found.append(json.loads(told.splitlines()[-1]))
            path.unlink()
        if options.growth:
            if options.figure:
                draw_growth(found, options.figure)
            return
        write_hdf5(folder / "events.h5", options.images)
        measure("hdf5", folder / "events.h5", options.images, folder / "out")
        write_root(folder / "events.root", options.rows)
        measure("root", folder / "events.root", options.rows, folder / "out")
        write_text(folder / "events.csv", folder / "events.root")
        measure("text", folder / "events.csv", options.rows, folder / "out")
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
