"""Events per second of `hep-ray predict`, beside a hand-written loop over the same Parquet files and the same model.

The loop is what one writes without hep_ray: read a shard with pyarrow, run the torch model on batches under
`inference_mode`, write a Parquet file of scores. It uses all cores by torch's threads; hep_ray by a thread for each, or
by one worker each. All run in this process one after the other, several times, and the medians are compared.

`ratio` is that of whole predictions as `hep-ray predict` does them unless told otherwise. With `--workers` asked for,
what is paid once per prediction, the start of the workers with their imports, is told apart: `workers_ratio` is that of
their rate once each has finished a piece, `workers_start_s` the seconds before the first piece, and
`workers_whole_ratio` compares the whole times.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hep_ray.cluster import connected
from hep_ray.conversion.shards import ShardWriter
from hep_ray.cores import usable_cores
from hep_ray.dataset.schema import EVENT_ID, Column, EventSchema
from hep_ray.predict.run import Crew, predict
from hep_ray.promote.package import Description, Package
from hep_ray.training.config import TrialConfig

SIDE = 50
BATCH = 512


def make_package(schema: EventSchema, model: str) -> Package:
    """A model with random weights."""
    config = TrialConfig.from_params(
        {"model": model, "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    )
    torch.manual_seed(0)
    description = Description(event_schema=schema, params=config.resolved(), dataset_fingerprint="0" * 64)
    return Package.create(description, config.build_model(schema).state_dict())


def write_dataset(folder: Path, schema: EventSchema, events: int, shard: int) -> None:
    """Images of which 3 % is not zero, stored whole, as others write them."""
    random = np.random.default_rng(0)
    with ShardWriter(folder, schema, rows_per_shard=shard, encoding="dense") as writer:
        for start in range(0, events, BATCH):
            number = min(BATCH, events - start)
            filled = random.random((number, SIDE, SIDE, 3), dtype=np.float32) < 0.03  # noqa: PLR2004
            writer.write(
                {
                    "event_id": [f"e{row}" for row in range(start, start + number)],
                    "label": np.arange(start, start + number) % 2,
                    "image": filled * random.exponential(30, filled.shape).astype(np.float32),
                }
            )


def plain_loop(package: Package, data: Path, out: Path) -> None:
    """Read, score, write, as one would by hand."""
    classifier = package.build()
    model = classifier.model
    out.mkdir()
    for path in sorted(data.glob("*.parquet")):
        table = pq.read_table(path).combine_chunks()
        images = table["image"].chunk(0).to_numpy_ndarray()
        scores = []
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = torch.from_numpy(np.array(images[start : start + BATCH]))
                scores.append(model(batch).softmax(1).numpy())
        columns = np.concatenate(scores).T
        names = ["score_background", "score_signal"]
        pq.write_table(
            pa.table({EVENT_ID: table[EVENT_ID], **dict(zip(names, columns, strict=True))}), out / path.name
        )


def predicted(package: Package, data: Path, out: Path, crew: Crew) -> list[float]:
    """The clock at the start of a prediction, and whenever a piece was done."""
    ticks = [time.perf_counter()]
    predict(package, [data], out, crew=crew, progress=partial(tick, ticks))
    return ticks


def tick(ticks: list[float], _done: int, _total: int) -> None:
    """Note when a piece is done."""
    ticks.append(time.perf_counter())


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=16_384)
    parser.add_argument("--shard", type=int, default=1024, help="events in a shard")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=usable_cores(), help="0 leaves that part out")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    schema = EventSchema(
        task="speed",
        columns=(Column(name="image", shape=(SIDE, SIDE, 3), unit="GeV"),),
        classes=("background", "signal"),
    )
    try:
        write_dataset(folder / "data", schema, options.events, options.shard)
        package = make_package(schema, options.model)
        times: dict[str, list[float]] = {}
        with connected() if options.workers else nullcontext():
            for number in range(options.repeats):
                peer = seconds(partial(plain_loop, package, folder / "data", folder / f"peer-{number}"))
                ticks = predicted(package, folder / "data", folder / f"ours-{number}", Crew(batch=BATCH))
                measured = {"peer": peer, "ours": ticks[-1] - ticks[0]}
                if options.workers:
                    crew = Crew(workers=options.workers, batch=BATCH)
                    ticks = predicted(package, folder / "data", folder / f"workers-{number}", crew)
                    pieces, first = len(ticks) - 1, options.workers
                    measured["whole"] = ticks[-1] - ticks[0]
                    measured["start"] = ticks[1] - ticks[0]
                    measured["running"] = (ticks[-1] - ticks[first]) * pieces / (pieces - first)
                for name, value in measured.items():
                    times.setdefault(name, []).append(value)
        median = {name: statistics.median(values) for name, values in times.items()}
        result = {
            "what": f"predict: events per second, {options.model} on {SIDE}x{SIDE}x3 images, dataset to scores",
            "events": options.events,
            "ours": round(options.events / median["ours"]),
            "peer": round(options.events / median["peer"]),
            "ratio": round(median["peer"] / median["ours"], 3),
            "repeats": options.repeats,
        }
        if options.workers:
            result |= {
                "workers_ratio": round(median["peer"] / median["running"], 3),
                "workers_whole_ratio": round(median["peer"] / median["whole"], 3),
                "workers_start_s": round(median["start"], 1),
            }
        print(json.dumps(result))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
