"""Events per second on an NVIDIA GPU: against a hand-written loop, from the device or the host, and shared by trials.

Run by `make bench-gpu`. For each of the thesis' CNN and ResNet34, on images of 50×50×3 with 3 % of the bins filled:

- an epoch of a trial, validation included, whose events live on the GPU, beside a hand-written PyTorch loop on tensors
  that live there; then the same of ours and by hand with the events in the host's memory. The four take turns, epoch by
  epoch; the first of each does not count; medians are compared. `resident_over_host_fed` is ours against ours.
- 1, 2, 4 and 8 trials at once, as a search runs them: each a worker process with its part of the GPU, a checkpoint per
  epoch. Events per second of all together, against those of one.

`--device cpu` runs the same code without a GPU at whatever size is asked for; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from epoch_overhead import ByHand, take_turns

from hep_ray.cluster import connect
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import HepRayError, Infeasible
from hep_ray.loading.batches import Events
from hep_ray.loading.on_device import DeviceEvents
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop

OCCUPANCY = 0.03
SCHEMA = EventSchema(
    task="gpu", columns=(Column(name="image", shape=(50, 50, 3), unit="GeV"),), classes=("a", "b")
)
VALIDATION = 4
"""Training events for each validation event."""


def make_images(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sparse images of two classes, of which one is brighter, and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    shape = (number, *SCHEMA.columns[0].shape)
    images = np.where(random.random(shape, np.float32) < OCCUPANCY, random.exponential(30, shape), 0)
    return (images * (1 + labels[:, None, None, None])).astype(np.float32), labels


def params(model: str, batch_size: int) -> dict[str, Any]:
    """Of a trial."""
    fixed = {"input_transform": "log1p", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    return {"model": model, "batch_size": batch_size, **fixed}


def check(device: str) -> None:
    """Refuse to measure a GPU that is not there.

    Raises:
        Infeasible: torch sees none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise Infeasible(
            f"a benchmark of a GPU needs an NVIDIA GPU; torch {torch.__version__} sees none on this machine: run it "
            "where `nvidia-smi` and `hep-ray doctor` name one"
        )


def name_of(device: str) -> str:
    """The GPU as its maker calls it."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def one_trial(model: str, events: int, batch_size: int, rounds: int, device: str) -> None:
    """Print the line of an epoch."""
    config = TrialConfig.from_params(params(model, batch_size))
    arrays = [make_images(number, seed) for seed, number in enumerate((events, max(events // VALIDATION, 2)))]
    train, val = (Events.from_arrays({"image": images}, labels) for images, labels in arrays)

    def trial(train: Any, val: Any) -> TrialLoop:
        return TrialLoop(config, SCHEMA, train, val, epochs=rounds + 1, seed=0, device=device)

    resident = trial(DeviceEvents.of(train, device), DeviceEvents.of(val, device))
    host_fed = trial(train, val)
    on_host = [[torch.from_numpy(images), torch.from_numpy(labels)] for images, labels in arrays]
    on_device = [[values.to(device) for values in split] for split in on_host]
    by_hand = ByHand(copy.deepcopy(resident.model), *on_device, batch_size=batch_size)
    by_hand_fed = ByHand(copy.deepcopy(resident.model), *on_host, batch_size=batch_size, device=device)
    seconds = take_turns(
        {
            "ours": resident.run_epoch,
            "peer": by_hand.run_epoch,
            "ours_host_fed": host_fed.run_epoch,
            "peer_host_fed": by_hand_fed.run_epoch,
        },
        rounds,
    )
    rates = {name: events / statistics.median(times[0]) for name, times in seconds.items()}
    line = {
        "what": f"gpu: training events per second of one trial, {model}, batch {batch_size}, {name_of(device)}",
        **{name: round(rate) for name, rate in rates.items()},
        "ratio": round(rates["ours"] / rates["peer"], 3),
        "peer_is": "hand-written loop on tensors on the device",
        "ratio_host_fed": round(rates["ours_host_fed"] / rates["peer_host_fed"], 3),
        "resident_over_host_fed": round(rates["ours"] / rates["ours_host_fed"], 3),
        "events": events,
        "rounds": rounds,
    }
    print(json.dumps(line), flush=True)


def sharing(
    model: str, events: int, batch_size: int, rounds: int, device: str, together: list[int], folder: Path
) -> None:
    """Print a line for each number of trials that share the device."""
    import ray
    from ray import tune

    from hep_ray.loading.stream import load_resident
    from hep_ray.search.trial import TrialActor, TrialJob

    if not (folder / "data").exists():
        images, labels = make_images(events, 0)
        with ShardWriter(folder / "data", SCHEMA, source={"benchmark": "gpu"}) as writer:
            ids = [f"{row}" for row in range(events)]
            writer.write({"event_id": ids, "label": labels, "image": images})
    dataset = Dataset.open(folder / "data")
    resident = load_resident(dataset)
    train_events = dataset.rows("train")
    alone = 0.0
    for trials in together:
        job = TrialJob(
            trials_folder=str(folder / f"{model}_{trials}"),
            schema=dataset.schema,
            data=resident,
            epochs=rounds + 1,
            metric="val_loss",
            mode="min",
            cpus=1,
            gpu=device == "cuda",
            gpu_share=1 / trials,
        )
        build: Any = tune.with_parameters(TrialActor, job=job)
        share = 1 / trials if device == "cuda" else 0
        actors = [
            ray.remote(num_cpus=0, num_gpus=share)(build).remote(
                config={"trial_id": f"t{number}", "params": params(model, batch_size), "seed": number}
            )
            for number in range(trials)
        ]
        results = ray.get([actor.train.remote() for actor in actors])
        start = time.perf_counter()
        results += ray.get([actor.train.remote() for actor in actors for _ in range(rounds)])
        rate = trials * rounds * train_events / (time.perf_counter() - start)
        for actor in actors:
            ray.kill(actor)
        failures = [result["failure"] for result in results if "failure" in result]
        if failures:
            raise RuntimeError(f"every trial must train; {len(failures)} epochs failed: {failures[0]}")
        alone = alone or rate / trials
        line = {
            "what": f"gpu: training events per second of {trials} trials that share a {name_of(device)}, {model}",
            "ours": round(rate),
            "peer": round(alone),
            "ratio": round(rate / alone, 3),
            "peer_is": f"{together[0]} at a time, per trial",
            "trials": trials,
        }
        print(json.dumps(line), flush=True)


def main() -> int:
    """Print a JSON line for each measurement; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=20_000, help="training events of one trial")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="epochs that count")
    parser.add_argument("--models", nargs="+", default=["cnn", "resnet34"])
    parser.add_argument("--together", nargs="+", type=int, default=[1, 2, 4, 8], help="trials at once")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    try:
        check(options.device)
    except HepRayError as fault:
        print(f"error: {type(fault).__name__}: {fault}", file=sys.stderr)
        return fault.exit_code
    sizes = options.events, options.batch_size, options.rounds, options.device
    for model in options.models:
        one_trial(model, *sizes)
    connect()
    with tempfile.TemporaryDirectory() as name:
        for model in options.models:
            sharing(model, *sizes, options.together, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
