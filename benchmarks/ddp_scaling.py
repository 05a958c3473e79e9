"""Events per second of one trial on one and on two workers, and whether they tell the same.

The same training loop runs in this process alone, then in a worker group under Ray Train, with one core per worker
and the same batch of the whole trial. Epochs after the first count, so neither side pays for its start. On a machine
without two idle cores the ratio says more about its other work than about us.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hep_ray.cluster import connect
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema

PARAMS = {
    "model": "cnn",
    "dropout": 0.0,
    "loss": "cross_entropy",
    "optimizer": "sgd",
    "learning_rate": 1e-3,
}


def write_dataset(folder: Path, events: int) -> Path:
    """Separable 50×50×3 images."""
    random = np.random.default_rng(0)
    labels = np.arange(events) % 2
    images = random.random((events, 50, 50, 3), dtype=np.float32) * (
        1 + labels[:, None, None, None].astype(np.float32)
    )
    columns = (Column(name="image", shape=(50, 50, 3), unit="GeV"),)
    schema = EventSchema(task="scaling", columns=columns, classes=("a", "b"))
    with ShardWriter(folder, schema, source={"benchmark": "ddp_scaling"}) as writer:
        writer.write({"event_id": [f"{row}" for row in range(events)], "label": labels, "image": images})
    return folder


def alone(job: Any, trial: dict[str, Any]) -> list[dict[str, float]]:
    """Metrics of every epoch in this process."""
    from hep_ray.search.trial import METRICS, TrialRun

    torch.set_num_threads(1)
    run = TrialRun(job, {**trial, "trial_id": "alone"}, "cpu")
    return [dict(run.report()[METRICS]) for _ in range(job.epochs)]


def together(job: Any, trial: dict[str, Any], scratch: Path) -> list[dict[str, float]]:
    """Metrics of every epoch of two workers."""
    import ray
    from ray import tune

    from hep_ray.search.trial import METRICS
    from hep_ray.search.worker_group import GroupResources, PlacementGroups, WorkerGroup

    placements = PlacementGroups(str(scratch / "held"))
    group = GroupResources(workers=2, least=2, cpus=1, gpus=0, scratch=str(scratch))
    build: Any = tune.with_parameters(WorkerGroup, job=job, group=group, placements=placements)
    actor: Any = ray.remote(num_cpus=0)(build).remote(config={**trial, "trial_id": "together"})
    metrics = [dict(ray.get(actor.train.remote())[METRICS]) for _ in range(job.epochs)]
    ray.get(actor.stop.remote())
    return metrics


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=6000, help="simulated events, of which 60 % train")
    parser.add_argument("--epochs", type=int, default=4, help="of which the first is not counted")
    parser.add_argument("--batch-size", type=int, default=100, help="of the whole trial")
    options = parser.parse_args()
    connect()
    from hep_ray.loading.stream import load_resident
    from hep_ray.search.trial import TrialJob

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = Dataset.open(write_dataset(folder / "data", options.events))
        job = TrialJob(
            str(folder / "trials"),
            dataset.schema,
            load_resident(dataset),
            options.epochs,
            "val_loss",
            "min",
            cpus=1,
            gpu=False,
        )
        trial = {"params": {**PARAMS, "batch_size": options.batch_size}, "seed": 0}
        one, two = alone(job, trial), together(job, trial, folder / "train")
    train_events = dataset.rows("train")
    rates = [
        train_events * (options.epochs - 1) / sum(epoch["epoch_seconds"] for epoch in epochs[1:])
        for epochs in (two, one)
    ]
    keys = [key for key in one[0] if key != "epoch_seconds"]
    print(
        json.dumps(
            {
                "what": "ddp_scaling: training events per second of one trial, two workers against one",
                "train_events": train_events,
                "left_out_per_epoch": train_events % 2,
                "ours": round(rates[0]),
                "peer": round(rates[1]),
                "ratio": round(rates[0] / rates[1], 2),
                "largest_difference_of_val_loss": max(
                    abs(a["val_loss"] - b["val_loss"]) for a, b in zip(one, two, strict=True)
                ),
                "largest_difference_of_a_metric": max(
                    abs(a[key] - b[key]) for a, b in zip(one, two, strict=True) for key in keys
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
