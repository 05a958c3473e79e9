"""Ways to store sparse images: bytes per event, and events per second from a shard to whole images in numpy.

One reader, one thread, row groups of 512, 50×50×3 images of which 3 % of the values are not zero. `ours` is the form
that hep_ray writes, `peer` whole float32 images under zstd. Half precision and 16-bit integers with a scale lose bits
(a relative 5e-4, and 1/65535 of the largest value); the others lose none. `speed_by_occupancy` and
`size_by_occupancy` say when leaving zeros out pays: ours over the peer at other occupancies.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from dataset import SCHEMA, images

ROW_GROUP = 512
IMAGE = SCHEMA.column("image")
SIZE = int(np.prod(IMAGE.shape))
Images = npt.NDArray[Any]


@dataclass(frozen=True)
class Way:
    """One way to store images.

    Attributes:
        store: images to Arrow columns.
        load: a batch of them to whole images.
        compression: of Parquet.
    """

    store: Callable[[Images], pa.Table]
    load: Callable[[pa.RecordBatch], Images]
    compression: str = "zstd"


def whole(values: Images) -> pa.Table:
    """Fixed-size lists."""
    return pa.table({"image": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), SIZE)})


def load_whole(batch: pa.RecordBatch) -> Images:
    """Without a copy."""
    found: Images = batch.column("image").flatten().to_numpy().reshape(-1, SIZE)
    return found


def lists(values: Images) -> pa.Table:
    """Lists of places and of values, Arrow's own."""
    flat = values.reshape(len(values), SIZE)
    rows, places = np.nonzero(flat)
    offsets = pa.array(
        np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(flat)))]).astype(np.int32)
    )
    columns = {"index": places.astype(np.uint16), "value": flat[rows, places]}
    return pa.table({name: pa.ListArray.from_arrays(offsets, pa.array(one)) for name, one in columns.items()})


def load_lists(batch: pa.RecordBatch) -> Images:
    """Made whole."""
    index, value = batch.column("index"), batch.column("value").flatten().to_numpy()
    dense = np.zeros(len(index) * SIZE, np.float32)
    first = np.repeat(np.arange(0, len(dense), SIZE), np.diff(index.offsets.to_numpy()))
    dense[first + index.flatten().to_numpy()] = value
    return dense.reshape(-1, SIZE)


def scaled(values: Images) -> pa.Table:
    """16-bit integers in units of the largest value."""
    return whole(np.round(values / values.max() * 65535).astype(np.uint16))


WAYS = {
    "zstd whole": Way(whole, load_whole),
    "snappy whole": Way(whole, load_whole, "snappy"),
    "float16 zstd whole": Way(
        lambda values: whole(values.astype(np.float16)), lambda batch: load_whole(batch).astype(np.float32)
    ),
    "uint16 with scale zstd whole": Way(scaled, lambda batch: load_whole(batch) * np.float32(0.01)),
    "lists zstd": Way(lists, load_lists),
    "ours": Way(
        lambda values: pa.table({"image": IMAGE.sparse_type.encode(values)}),
        lambda batch: IMAGE.to_numpy(batch.column("image")),
    ),
}


def measured(way: Way, values: Images, path: Path) -> tuple[float, float]:
    """Bytes per event, and the most events per second of three passes."""
    pq.write_table(
        way.store(values),
        path,
        row_group_size=ROW_GROUP,
        use_dictionary=False,
        write_statistics=False,
        compression=way.compression,
    )
    return path.stat().st_size / len(values), max(_passes(way, len(values), path))


def _passes(way: Way, events: int, path: Path) -> Iterator[float]:
    for _ in range(3):
        start = time.perf_counter()
        with pq.ParquetFile(path) as parquet:
            for number in range(parquet.num_row_groups):
                for batch in parquet.read_row_group(number, use_threads=False).to_batches():
                    way.load(batch)
        yield events / (time.perf_counter() - start)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=8192)
    parser.add_argument("--occupancies", type=float, nargs="*", default=[0.1, 0.17, 0.3])
    options = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "events.parquet"
        values = images(random, options.events)
        found = {name: measured(way, values, path) for name, way in WAYS.items()}
        others = {}
        for occupancy in options.occupancies:
            values = images(random, options.events // 2, occupancy)
            others[occupancy] = [measured(WAYS[name], values, path) for name in ("ours", "zstd whole")]
    ours, peer = found["ours"], found["zstd whole"]
    print(
        json.dumps(
            {
                "what": "sparse_images: events per second from a shard to whole images, without zeros against whole",
                "events": options.events,
                "ours": round(ours[1]),
                "peer": round(peer[1]),
                "ratio": round(ours[1] / peer[1], 2),
                "bytes_per_event": {name: round(size) for name, (size, _) in found.items()},
                "events_per_s": {name: round(speed) for name, (_, speed) in found.items()},
                "speed_by_occupancy": {key: round(a[1] / b[1], 2) for key, (a, b) in others.items()},
                "size_by_occupancy": {key: round(a[0] / b[0], 2) for key, (a, b) in others.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
