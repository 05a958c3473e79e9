"""Events per second from shards to torch batches, beside a raw pyarrow scan and a DataLoader with workers.

200,704 images of 50×50×3 with 3 % of the values not zero lie in shards of 4096, row groups of 512, once whole (what one
would otherwise write) and once without their zeros (what hep_ray writes of such images), both zstd. Of each form are
measured, one after the other in this process run and in batches of 512:

- `scan`: one process reads the shards with pyarrow, in one thread, makes the images whole in numpy and does nothing
  with them;
- `first_load` into memory, `resident` shuffled epochs from there;
- `streaming` through Ray Data with one reading task, once steady.

`ratio` is that of streaming whole images over the scan of the same shards; `over_scan` has all ratios of each form over
the scan of its own shards, `over_whole_scan` those without zeros over the scan of whole images. The DataLoader reads
the whole images in two workers, a row group per batch.
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
from hep_ray.dataset.dataset import Dataset

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
    parser.add_argument("--budget", type=float, default=2.0, help="GB that a stream may hold")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        print(json.dumps(measure(folder, options.events, options.budget)))
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, events: int, budget: float) -> dict[str, Any]:
    """All rates, of passes over one dataset in both forms."""
    torch.set_num_threads(1)
    connect()
    forms = {
        "whole": Dataset.open(write_dataset(folder / "whole", events, "dense"), verify=False),
        "without_zeros": Dataset.open(write_dataset(folder / "without_zeros", events), verify=False),
    }
    whole = forms["whole"]
    loader: Any = DataLoader(RowGroups(whole.paths("train")), batch_size=None, num_workers=2)
    found = {name: rates(dataset, budget) for name, dataset in forms.items()}
    dataloader = rate(loader)
    limit = found["whole"]["scan"]
    over_scan = {name: _over(one, one["scan"]) for name, one in found.items()}
    return {
        "what": "ingest_to_batches: events per second of streaming whole images, against a pyarrow scan of them",
        "events": whole.rows("train"),
        "ours": round(found["whole"]["streaming"]),
        "peer": round(limit),
        "ratio": over_scan["whole"]["streaming"],
        "over_scan": over_scan,
        "over_whole_scan": _over(found["without_zeros"], limit),
        "over_dataloader": {name: _over(one, dataloader)["streaming"] for name, one in found.items()},
        "events_per_s": {
            **{name: {key: round(value) for key, value in one.items()} for name, one in found.items()},
            "dataloader": round(dataloader),
        },
        "bytes_per_event": {
            name: round(sum(path.stat().st_size for path in one.paths("train")) / one.rows("train"))
            for name, one in forms.items()
        },
    }


def _over(rates: dict[str, float], peer: float) -> dict[str, float]:
    return {name: round(rates[name] / peer, 2) for name in ("first_load", "resident", "streaming")}


def rates(dataset: Dataset, budget: float) -> dict[str, float]:
    """Events per second of each way to read one dataset."""
    from hep_ray.loading.batches import BatchRequest
    from hep_ray.loading.stream import load_resident

    found = {"scan": rate(scan(dataset.paths("train")))}
    start = time.perf_counter()
    data = load_resident(dataset, ["train"])
    found["first_load"] = dataset.rows("train") / (time.perf_counter() - start)
    resident = data.events("train")
    found["resident"] = best(
        rate(resident.batches(BatchRequest(BATCH, epoch=epoch, shuffle=True))) for epoch in range(2)
    )
    del resident, data
    found["streaming_first"], found["streaming"] = stream_rates(dataset, budget)
    return found


def stream_rates(dataset: Dataset, budget: float) -> tuple[float, float]:
    """Events per second of the first streamed pass and of the best of the next two."""
    from hep_ray.cluster import nodes
    from hep_ray.loading.batches import BatchRequest
    from hep_ray.loading.stream import open_events, plan_ingest, with_streams

    ingest = with_streams(plan_ingest(dataset.manifest, nodes(), "streaming", budget), 1)
    stream = open_events(dataset, dataclasses.replace(ingest, readers=1), ["train"]).events("train")
    first, *later = (
        rate(stream.batches(BatchRequest(BATCH, epoch=epoch, shuffle=True))) for epoch in range(3)
    )
    return first, best(later)


if __name__ == "__main__":
    main()
