"""Peak memory of a trial that streams ten times its memory budget.

The set is stored and held whole (no column without its zeros), so that its size in memory is that of plain arrays. A
warm actor, as a search starts it, trains a small network for one epoch and validates. Meanwhile the driver samples,
every 0.1 s, the private memory of itself and of the actor (USS, from Linux' /proc): what they alone would give back.
The blocks that wait in Ray's object store are shared memory; how far it was ever filled is told beside it, from
/dev/shm where there is one and nobody else uses it.

`ours` is the sum of both peaks, `peer` what the events would take in memory; `within` says whether the sum is at most
the budget and 500 MB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from dataset import SHAPE, write_dataset

from hep_ray.cluster import connect, nodes
from hep_ray.dataset.dataset import Dataset

MB = 10**6
SLACK = 500 * MB
PARAMS = {
    "model": "mlp",
    "inputs": "image",
    "hidden_features": 8,
    "loss": "cross_entropy",
    "optimizer": "sgd",
    "learning_rate": 1e-4,
    "batch_size": 100,
}


def private(pid: int) -> int:
    """Bytes of memory that a process shares with no other, its USS."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return 1024 * sum(int(line[1]) for line in lines if line[0] in {"Private_Clean:", "Private_Dirty:"})


class Sampler(threading.Thread):
    """Peak private memory of processes, in bytes.

    Attributes:
        peaks: process → bytes.
        shared: most bytes in /dev/shm.
    """

    def __init__(self, processes: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self._processes = processes
        self._done = threading.Event()
        self.peaks = dict.fromkeys(processes, 0)
        self.shared = 0

    def run(self) -> None:
        """Sample until the end."""
        while not self._done.wait(0.1):
            for name, pid in self._processes.items():
                self.peaks[name] = max(self.peaks[name], private(pid))
            if Path("/dev/shm").is_dir():
                self.shared = max(self.shared, shutil.disk_usage("/dev/shm").used)

    def end(self) -> None:
        """Take no more samples."""
        self._done.set()
        self.join()


class Trial:
    """The actor: one trial, as `TrialActor` runs it."""

    def __init__(self, job: Any) -> None:
        import torch

        from hep_ray.search.trial import TrialRun

        torch.set_num_threads(1)
        self._run = TrialRun(job, {"trial_id": "one", "params": PARAMS, "seed": 0}, "cpu")

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    def epoch(self) -> dict[str, float]:
        """Train and validate."""
        from hep_ray.search.trial import METRICS

        metrics: dict[str, float] = dict(self._run.report()[METRICS])
        return metrics


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=300_000, help="training events, to the next 4096")
    parser.add_argument("--times", type=float, default=10, help="the budget that they take")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        print(json.dumps(measure(folder, options.events, options.times)))
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, events: int, times: float) -> dict[str, Any]:
    """One epoch of a streaming trial, watched."""
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn")
    ) as aside:  # its memory is not the driver's
        aside.submit(write_dataset, folder / "data", events, "dense").result()
    dataset = Dataset.open(folder / "data", verify=False)
    decoded = dataset.rows("train") * int(np.prod(SHAPE)) * 4
    budget = decoded / times
    connect()
    import ray

    from hep_ray.loading.stream import open_events, plan_ingest
    from hep_ray.search.resources import plan_resources
    from hep_ray.search.trial import TrialJob

    ingest = plan_ingest(dataset.manifest, nodes(), "auto", budget / 1e9)
    plan = plan_resources(nodes(), 1, 1, 0, ingest=ingest)
    data = open_events(dataset, plan.ingest)
    job = TrialJob(str(folder / "trials"), dataset.schema, data, 1, "val_loss", "min", cpus=1, gpu=False)
    before = shutil.disk_usage("/dev/shm").used if Path("/dev/shm").is_dir() else 0
    actor: Any = ray.remote(num_cpus=1)(Trial).remote(job)
    sampler = Sampler({"driver": os.getpid(), "trial": ray.get(actor.pid.remote())})
    sampler.start()
    metrics = ray.get(actor.epoch.remote())
    sampler.end()
    peak = sum(sampler.peaks.values())
    return {
        "what": "memory: peak private memory of driver and trial while streaming, MB, against the events in memory",
        "events": dataset.rows("train"),
        "ours": round(peak / MB),
        "peer": round(decoded / MB),
        "ratio": round(decoded / peak, 2),
        "within": peak <= budget + SLACK,
        "budget_mb": round(budget / MB),
        "limit_mb": round((budget + SLACK) / MB),
        "driver_mb": round(sampler.peaks["driver"] / MB),
        "trial_mb": round(sampler.peaks["trial"] / MB),
        "object_store_mb": round((sampler.shared - before) / MB),
        "cache": plan.ingest.cache,
        "training_events_per_s": round(dataset.rows("train") / metrics["epoch_seconds"]),
    }


if __name__ == "__main__":
    main()
