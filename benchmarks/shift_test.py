"""How often `hep-ray predict` warns of a shift where there is none, and how small a shift of one feature it finds.

    hep-ray data simulate susy --events 24000 --out data/susy
    python benchmarks/shift_test.py --data data/susy --samples 200

Reference and new events are drawn at random, without replacement, from the same dataset (without --data, from events
of eight normal features that are made here); of the new ones, one feature is then moved by a part of its standard
deviation. Each pseudo-sample is a new draw. Prints one line of JSON for each shift: the share of pseudo-samples with
any warning, its binomial error, and how often the feature that was moved is among those named.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hep_ray.dataset.dataset import Dataset
from hep_ray.predict.shift import ALL_FEATURES, ShiftSettings, shift_test
from hep_ray.promote.reference import Features, Reference, features_of

FEATURES = 8


def made_here(events: int) -> tuple[tuple[str, ...], Features]:
    """Return names and values (N, 8) of normal features, three times as many events as are drawn at once."""
    values = np.random.default_rng(0).normal(size=(3 * events, FEATURES))
    return tuple(f"x{number}" for number in range(FEATURES)), values.astype(np.float32)


def read(folder: Path) -> tuple[tuple[str, ...], Features]:
    """Return names and values (N, F) of the features of a dataset's training and validation events."""
    dataset = Dataset.open(folder)
    tables = [pq.read_table(path) for split in ("train", "val") for path in dataset.paths(split)]
    batches = [batch for table in tables for batch in table.combine_chunks().to_batches()]
    parts = [features_of(dataset.schema.inputs, dataset.schema.decode(batch)) for batch in batches]
    return parts[0][0], np.concatenate([features for _, features in parts])


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="dataset folder, of twice --events or more")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--events", type=int, default=10_000, help="of the reference, and of the new ones")
    parser.add_argument("--feature", type=int, default=0, help="number of the one that is moved")
    parser.add_argument("--shifts", default="0,0.02,0.04,0.06,0.1", help="in standard deviations")
    parser.add_argument("--method", choices=("columns", "classifier"), default="columns")
    parser.add_argument("--level", type=float, default=0.05)
    given = parser.parse_args()
    names, values = made_here(given.events) if given.data is None else read(given.data)
    if len(values) < 2 * given.events:
        parser.error(
            f"{given.data} has {len(values)} events of training and validation; {2 * given.events} are drawn"
        )
    gc.collect = lambda *_: 0  # statsmodels does it in every correction: 0.1 s
    settings = ShiftSettings(given.method, given.level)
    for part in map(float, given.shifts.split(",")):
        warned = named = 0
        for sample in range(given.samples):
            drawn = values[np.random.default_rng(sample).permutation(len(values))[: 2 * given.events]]
            reference, new = drawn[: given.events], drawn[given.events :].copy()
            new[:, given.feature] += part * values[:, given.feature].std()
            labels = np.zeros(len(reference), np.int64)
            found = [
                one.name for one in shift_test(new, Reference(names, reference, labels), settings).shifted
            ]
            warned += bool(found)
            named += bool({names[given.feature], ALL_FEATURES} & set(found))
        share = warned / given.samples
        error = (share * (1 - share) / given.samples) ** 0.5
        line = {
            "what": "shift_test",
            "shift": part,
            "warned": share,
            "error": error,
            "named": named / given.samples,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
