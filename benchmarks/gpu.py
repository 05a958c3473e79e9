"""Events per second on an NVIDIA GPU: each habit of ours beside a hand-written loop with it, and trials that share one.

Run by `make bench-gpu`, in under eight minutes by construction: `--minutes` is shared out, epochs end when a share is
spent, and what found no time says so. For each network, of images of 50×50×3 with 3 % of the bins filled:

- an epoch of a trial, validation included, whose events live on the GPU, beside a hand-written PyTorch loop on tensors
  that live there; the same in bfloat16, with compiled steps, with compiled steps as CUDA graphs (by hand: torch.compile
  of mode `reduce-overhead`), and with events in the host's memory (ours: pinned and not waited for, made ready by a
  thread; by hand: rows of a tensor, copied). All take turns, epoch by epoch; the first of each, which compiles, does
  not count; medians are compared, and each of ours with ours without the habit.
- 1, 2, 4 and 8 trials at once, as a search runs them: each a worker process with its part of the GPU, a checkpoint per
  epoch. Events per second of all together, against those of one.

`--device cpu` runs the same code without a GPU at whatever size is asked for; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from epoch_overhead import ByHand
from torch import Tensor, nn

from hep_ray.cluster import connect
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import HepRayError, Infeasible
from hep_ray.loading.batches import Events
from hep_ray.loading.on_device import DeviceEvents
from hep_ray.training.compiled import CompiledForward
from hep_ray.training.config import TrialConfig
from hep_ray.training.evaluation import BATCH
from hep_ray.training.loop import TrialLoop

OCCUPANCY = 0.03
SCHEMA = EventSchema(
    task="gpu", columns=(Column(name="image", shape=(50, 50, 3), unit="GeV"),), classes=("a", "b")
)
VALIDATION = 4
"""Training events for each validation event."""
HABITS = ("plain", "bfloat16", "compiled", "graphs", "host_fed")
OF_SHARING = 0.4
"""Share of the time in which trials share the GPU."""


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


class InBfloat16(nn.Module):
    """A network whose products are in bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, values: Tensor) -> Tensor:
        """Return logits in float32."""
        with torch.autocast(values.device.type, torch.bfloat16):
            logits: Tensor = self.network(values)
        return logits.float()


def rates_of(
    loops: dict[str, Callable[[], object]], events: int, rounds: int, seconds: float
) -> dict[str, float | None]:
    """Let loops take turns until their rounds or seconds are over; return the median events/s of each that had time."""
    ends, times = time.perf_counter() + seconds, {name: list[float]() for name in loops}
    for turn, (name, run) in itertools.product(range(rounds + 1), loops.items()):
        start = time.perf_counter()
        if start > ends:
            break
        run()
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        if turn:
            times[name].append(time.perf_counter() - start)
    return {name: events / statistics.median(found) if found else None for name, found in times.items()}


def one_trial(
    model: str, events: int, batch_size: int, rounds: int, device: str, habits: list[str], seconds: float
) -> None:
    """Print a line for each habit."""
    held_out = max(events // VALIDATION, 2)
    numbers = (
        events,
        held_out - held_out % BATCH or held_out,
    )  # one shape of batches, so that by hand compiles once
    arrays = [make_images(number, seed) for seed, number in enumerate(numbers)]
    train, val = (Events.from_arrays({"image": images}, labels) for images, labels in arrays)
    on_device = DeviceEvents.of(train, device), DeviceEvents.of(val, device)
    host = [[torch.from_numpy(images), torch.from_numpy(labels)] for images, labels in arrays]
    there = [[values.to(device) for values in split] for split in host]

    def trial(habit: str) -> TrialLoop:
        precision = "bfloat16" if habit == "bfloat16" else "float32"
        config = TrialConfig.from_params({**params(model, batch_size), "precision": precision})
        source = (train, val) if habit == "host_fed" else on_device
        loop = TrialLoop(config, SCHEMA, *source, epochs=rounds + 1, seed=0, device=device)
        if habit in ("compiled", "graphs"):
            loop._forward = CompiledForward(loop.model, batch_size, graphs=habit == "graphs", must=True)  # noqa: SLF001
        return loop

    def by_hand(habit: str, network: nn.Module) -> ByHand:
        whole: dict[str, Callable[[], Any]] = {
            "bfloat16": lambda: InBfloat16(network),
            "compiled": lambda: torch.compile(network),
            "graphs": lambda: torch.compile(network, mode="reduce-overhead"),
        }
        made: nn.Module = whole.get(habit, lambda: network)()
        events_of = host if habit == "host_fed" else there
        return ByHand(made, *events_of, batch_size=batch_size, device=device)

    loops: dict[str, Callable[[], object]] = {}
    for habit in habits:
        ours = trial(habit)
        peer = by_hand(habit, copy.deepcopy(ours.model))
        loops |= {habit: ours.run_epoch, f"{habit} by hand": peer.run_epoch}
    rates = rates_of(loops, events, rounds, seconds)
    for habit in habits:
        ours_rate, peer_rate, plain = rates[habit], rates[f"{habit} by hand"], rates.get("plain")
        line = {"what": f"gpu: training events per second of one trial, {model}, {habit}, {name_of(device)}"}
        if ours_rate is None or peer_rate is None:
            print(
                json.dumps(line | {"left_out": f"no time: {seconds:.0f} s for {len(loops)} loops"}),
                flush=True,
            )
            continue
        figures = {
            "ours": round(ours_rate),
            "peer": round(peer_rate),
            "ratio": round(ours_rate / peer_rate, 3),
            "peer_is": "hand-written loop with the same habit",
            "over_ours_plain": round(ours_rate / plain, 3) if plain else None,
            "batch_size": batch_size,
            "events": events,
        }
        print(json.dumps(line | figures), flush=True)


def sharing(
    model: str,
    events: int,
    batch_size: int,
    rounds: int,
    device: str,
    together: list[int],
    folder: Path,
    seconds: float,
) -> None:
    """Print a line for each number of trials that share the device."""
    ends = time.perf_counter() + seconds
    import ray
    from ray import tune

    from hep_ray.loading.stream import load_resident
    from hep_ray.search.trial import TrialJob
    from hep_ray.search.worker_group import TrialActor

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
        what = f"gpu: training events per second of {trials} trials that share a {name_of(device)}, {model}"
        # At worst they take turns, and an epoch goes before those that count.
        needed = trials * (rounds + 1) * train_events / alone if alone else 0.0
        if time.perf_counter() + needed > ends:
            print(json.dumps({"what": what, "left_out": f"no time for about {needed:.0f} s"}), flush=True)
            continue
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
            "what": what,
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
    parser.add_argument("--habits", nargs="+", choices=HABITS, default=list(HABITS))
    parser.add_argument("--minutes", type=float, default=7.0, help="for all of it, but for the start of Ray")
    options = parser.parse_args()
    try:
        check(options.device)
    except HepRayError as fault:
        print(f"error: {type(fault).__name__}: {fault}", file=sys.stderr)
        return fault.exit_code
    sizes = options.events, options.batch_size, options.rounds, options.device
    each = 60 * options.minutes / len(options.models)
    for model in options.models:
        one_trial(model, *sizes, options.habits, (1 - OF_SHARING) * each)
    connect()
    with tempfile.TemporaryDirectory() as name:
        for model in options.models:
            sharing(model, *sizes, options.together, Path(name), OF_SHARING * each)
    return 0


if __name__ == "__main__":
    sys.exit(main())
