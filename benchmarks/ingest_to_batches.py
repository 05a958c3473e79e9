"""Events per second from shards to torch batches, beside a raw pyarrow scan and a DataLoader with workers.

200,704 images of 50×50×3 with 3 % of the values not zero lie in shards of 4096, row groups of 512, once without their
zeros (what hep_ray writes) and once whole (what one would otherwise write), both zstd. The scan decodes the whole
images to numpy in one process and does nothing with them: the peer of `ratio`. The DataLoader reads the same shards in
two workers, a row group per batch. All run one after the other in this process run, on batches of 512.

`ratio` is that of steady streaming; `first_load_ratio` and `resident_ratio` are those of the first load into memory and
of shuffled epochs in memory. `own_scan` scans the shards without zeros and makes the images whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from dataset import SCHEMA, write_dataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hep_ray.cluster import connect
from hep_ray.data.dataset import Dataset

BATCH = 512
IMAGE = SCHEMA.column("image")


def scan(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """Whole images of every row group, in one process and one thread."""
    for path in paths:
        with pq.ParquetFile(path) as parquet:
            for number in range(parquet.num_row_groups):
                table = parquet.read_row_group(number, ["label", "image"], use_threads=False)
                for batch in table.to_batches():
                    yield IMAGE.to_numpy(batch.column("image"))


class RowGroups(IterableDataset):  # type: ignore[type-arg]
    """What one would hand to a DataLoader: shards dealt out to its workers, a row group per batch."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Batches (512, 50, 50, 3)."""
        worker = get_worker_info()
        assert worker is not None
        for images in scan(self.paths[worker.id :: worker.num_workers]):
            yield torch.tensor(images)


def rate(batches: Iterable[Any]) -> float:
    """Events per second of a pass."""
    start, events = time.perf_counter(), 0
    for batch in batches:
        events += len(batch)
    return events / (time.perf_counter() - start)


def best(passes: Iterable[float]) -> float:
    """The fastest pass."""
    return max(passes)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=200_000, help="training events, to the next 4096")
    parser.add_argument("--whole", type=int, default=40_000, help="events that are also streamed whole")
    parser.add_argument("--budget", type=float, default=2.0, help="GB that a stream may hold")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        print(json.dumps(measure(folder, options.events, options.whole, options.budget)))
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, events: int, whole_events: int, budget: float) -> dict[str, Any]:
    """All rates, of passes over one dataset in both forms."""
    torch.set_num_threads(1)
    connect()
    own = Dataset.open(write_dataset(folder / "own", events), verify=False)
    plain = Dataset.open(write_dataset(folder / "plain", events, "dense"), verify=False)
    few = Dataset.open(write_dataset(folder / "few", whole_events, "dense"), verify=False)
    rates = {"scan": rate(scan(plain.paths("train"))), "own_scan": rate(scan(own.paths("train")))}

    from hep_ray.data.stream import load_resident

    start = time.perf_counter()
    data = load_resident(own, ["train"])
    rates["first_load"] = own.rows("train") / (time.perf_counter() - start)
    resident = data.events("train")
    rates["resident"] = best(rate(resident.batches(BATCH, epoch=epoch, shuffle=True)) for epoch in range(2))
    held = resident.nbytes / len(resident)
    del resident, data
    rates["streaming_first"], rates["streaming"] = stream_rates(own, budget)
    _, rates["streaming_whole"] = stream_rates(few, budget)
    loader: Any = DataLoader(RowGroups(plain.paths("train")), batch_size=None, num_workers=2)
    rates["dataloader"] = rate(loader)
    scanned = rates["scan"]
    size = {
        name: sum(path.stat().st_size for path in one.paths("train")) / one.rows("train")
        for name, one in (("own", own), ("plain", plain))
    }
    return {
        "what": "events per second from shards to batches, streaming against a pyarrow scan of whole images",
        "events": own.rows("train"),
        "ours": round(rates["streaming"]),
        "peer": round(scanned),
        "ratio": round(rates["streaming"] / scanned, 2),
        "first_load_ratio": round(rates["first_load"] / scanned, 2),
        "resident_ratio": round(rates["resident"] / scanned, 2),
        "streaming_whole_ratio": round(rates["streaming_whole"] / scanned, 2),
        "over_own_scan": {
            name: round(rates[name] / rates["own_scan"], 2)
            for name in ("first_load", "resident", "streaming")
        },
        "over_dataloader": round(rates["streaming"] / rates["dataloader"], 2),
        "events_per_s": {name: round(value) for name, value in rates.items()},
        "bytes_per_event": {"own": round(size["own"]), "plain": round(size["plain"]), "memory": round(held)},
    }


def stream_rates(dataset: Dataset, budget: float) -> tuple[float, float]:
    """Events per second of the first streamed pass and of the best of the next two."""
    from hep_ray.cluster import nodes
    from hep_ray.data.cache import plan_ingest, with_streams
    from hep_ray.data.stream import open_events

    ingest = with_streams(plan_ingest(dataset.manifest, nodes(), "streaming", budget), 1)
    stream = open_events(dataset, dataclasses.replace(ingest, readers=1), ["train"]).events("train")
    first, *later = (rate(stream.batches(BATCH, epoch=epoch, shuffle=True)) for epoch in range(3))
    return first, best(later)


if __name__ == "__main__":
    main()
