"""Trials of one architecture trained as one stacked network, beside the same trials one by one.

Two measurements, each one process run, with the same trials both ways:

- `epoch`: epochs of so many trials, together and one by one, in this process and on one core; they take turns, so that
  other work on the machine meets both alike, and medians of their processor seconds are compared. Validation counts.
- `confirm` (with `--confirm`): a confirmation, as by `hep-ray confirm`, of finalists that differ in learning rate,
  with `--fuse auto` and with `--fuse off`, on all cores. Compared are the processor seconds of the trainings, as the
  journal has them, and the wall seconds from the first training's start to the last one's end, checkpoints included. It
  says whether every metric of every epoch is the same, and by how much the summed ones differ.
- `search` (with `--search`): a search at random over the learning rate, with `--fuse auto` and with
  `--fuse off`, in turns, on all cores. Compared are medians of the same seconds and of those of the whole search, from
  before its processes start until its leaderboard is written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.batches import Events
from hep_ray.training.config import TrialConfig
from hep_ray.training.fused import FusedTrial, OwnRandom, run_epoch_together
from hep_ray.training.loop import TrialLoop

FEATURES = 18
VALIDATION = 4
"""Training events for each validation event."""
SCHEMA = EventSchema(
    task="fused", columns=(Column(name="x", shape=(FEATURES,), unit="GeV"),), classes=("a", "b")
)
RATES = (1e-3, 2e-3, 3e-3, 5e-3)
"""Of the finalists, and of the baseline."""
SHAPES = {"2x16": (2, 16, 128), "2x64": (2, 64, 128), "3x128": (3, 128, 512)}
"""Hidden layers, their features, and events of a batch."""


def parameters(shape: str) -> dict[str, Any]:
    """Parameters of a trial but for its learning rate."""
    layers, features, batch = SHAPES[shape]
    return {
        "model": "mlp",
        "hidden_layers": layers,
        "hidden_features": features,
        "loss": "cross_entropy",
        "optimizer": "adam",
        "batch_size": batch,
        "scalar_scaling": "standardize",
    }


def arrays(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of two overlapping classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    return random.normal(size=(number, FEATURES)).astype(np.float32) + 0.3 * labels[:, None].astype(
        np.float32
    ), labels


def epochs(shape: str, trials: int, events: int, rounds: int) -> dict[str, Any]:
    """Processor seconds of an epoch of all trials, together and one by one."""
    train, val = (
        Events.from_arrays({"x": values}, labels)
        for values, labels in (arrays(events, 0), arrays(events // VALIDATION, 1))
    )

    def made(seed: int) -> TrialLoop:
        rate = RATES[seed % len(RATES)]
        config = TrialConfig.from_params({**parameters(shape), "learning_rate": rate})
        return TrialLoop(config, SCHEMA, train, val, epochs=rounds + 1, seed=seed)

    alone = [made(seed) for seed in range(trials)]
    together = [FusedTrial(made(seed), OwnRandom()) for seed in range(trials)]
    seconds: list[tuple[float, float]] = []
    same, apart = True, 0.0
    for _ in range(rounds + 1):
        start = time.process_time()
        stacked = run_epoch_together(together)
        middle = time.process_time()
        one_by_one = [loop.run_epoch() for loop in alone]
        seconds.append((middle - start, time.process_time() - middle))
        for report, expected in zip(stacked, one_by_one, strict=True):
            assert isinstance(report, dict)
            same &= report["val_loss"] == expected["val_loss"]
            apart = max(apart, abs(report["train_loss"] - expected["train_loss"]))
    ours, peer = (statistics.median(both[place] for both in seconds[1:]) for place in (0, 1))
    return {
        "what": f"fused_trials: processor seconds of an epoch, {trials} MLPs {shape}, batch {SHAPES[shape][2]}, "
        f"{events} events",
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(peer / ours, 2),
        "peer_is": "the same trials one by one",
        "validation_losses_equal": same,
        "largest_difference_of_train_loss": apart,
        "rounds": rounds,
    }


def write_dataset(folder: Path, events: int) -> Path:
    """Write a dataset of the same events, in shards."""
    from hep_ray.conversion.shards import ShardWriter

    values, labels = arrays(events, 0)
    with ShardWriter(folder, SCHEMA, source={"benchmark": "fused_trials"}) as writer:
        writer.write({"event_id": [f"{row}" for row in range(events)], "label": labels, "x": values})
    return folder


def confirmations(shape: str, seeds: int, events: int, length: int) -> dict[str, Any]:
    """Processor and wall seconds of the trainings of two confirmations, stacked and not."""
    from hep_ray import Choice, Preset, Search, SearchOptions, Space, prepare, run_search
    from hep_ray.cluster import connect
    from hep_ray.confirm.plan import prepare_confirmation
    from hep_ray.confirm.run import run_confirmation
    from hep_ray.search.options import ConfirmOptions

    connect()
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_dataset(folder / "data", events)
        space = Space(learning_rate=Choice(*RATES), **parameters(shape))
        preset = Preset(epochs=length, sampler="grid", scheduler="none")
        search = Search(name="fused", task="fused", title="", space=space, presets={"bench": preset})
        run_search(prepare(search, SearchOptions(data=data, storage=folder, preset="bench")), console=quiet)
        found: dict[str, Trained] = {}
        for fuse in ("off", "auto"):
            options = ConfirmOptions(
                "fused", storage=folder, top=3, seeds=seeds, baseline="learning_rate=0.001", fuse=fuse
            )
            run_confirmation(prepare_confirmation(options), again=fuse == "auto", console=quiet)
            found[fuse] = trained(folder / "fused" / "confirm")
    return {
        "what": f"fused_trials: processor seconds of the trainings of a confirmation, {len(RATES)} × {seeds} MLPs "
        f"{shape}, batch {SHAPES[shape][2]}, {length} epochs, {events} events",
        **compared([found["auto"]], [found["off"]]),
    }


def searches(shape: str, trials: int, events: int, length: int, rounds: int) -> dict[str, Any]:
    """Processor and wall seconds of a search at random, its trials stacked and not, in turns."""
    from hep_ray import LogUniform, Preset, Search, SearchOptions, Space, prepare, run_search
    from hep_ray.cluster import connect

    connect()
    found: dict[str, list[Trained]] = {"off": [], "auto": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_dataset(folder / "data", events)
        space = Space(learning_rate=LogUniform(1e-4, 1e-2), **parameters(shape))
        preset = Preset(epochs=length, trials=trials, sampler="random", scheduler="none")
        search = Search(name="fused", task="fused", title="", space=space, presets={"bench": preset})
        for number in range(rounds):
            for fuse in ("off", "auto") if number % 2 else ("auto", "off"):
                storage = folder / f"{fuse}_{number}"
                start = time.perf_counter()
                options = SearchOptions(data=data, storage=storage, preset="bench", fuse=fuse)
                run_search(prepare(search, options), console=Console(quiet=True))
                whole = time.perf_counter() - start
                found[fuse].append(dataclasses.replace(trained(storage / "fused"), whole=whole))
    ours, peer = (statistics.median(one.whole for one in found[fuse]) for fuse in ("auto", "off"))
    return {
        "what": f"fused_trials: processor seconds of the trainings of a search at random, {trials} MLPs {shape}, batch "
        f"{SHAPES[shape][2]}, {length} epochs, {events} events",
        **compared(found["auto"], found["off"]),
        "ours_whole_search_wall": round(ours, 2),
        "peer_whole_search_wall": round(peer, 2),
        "ratio_of_whole_searches": round(peer / ours, 2),
        "rounds": rounds,
    }


@dataclasses.dataclass(frozen=True)
class Trained:
    """Trainings of a journal.

    Attributes:
        cpu: processor seconds of their epochs.
        wall: seconds from the start of the first to the end of the last.
        metrics: training and epoch → report.
        gains: that were measured before.
        whole: seconds from before the processes start.
    """

    cpu: float
    wall: float
    metrics: dict[tuple[str, int], dict[str, float]]
    gains: list[float]
    whole: float = 0.0


def trained(folder: Path) -> Trained:
    """Read the trainings of the journal in a folder."""
    from hep_ray.tracking.journal import read_records

    records = read_records(folder)
    done = [one for one in records if one.kind == "epoch_finished"]
    begun = min(one.time for one in records if one.kind == "trial_started")
    ended = max(one.time for one in records if one.kind == "trial_finished")
    return Trained(
        cpu=sum(one.cpu_seconds or 0.0 for one in done),
        wall=ended - begun,
        metrics={(one.trial_id, one.epoch): one.metrics for one in done},
        gains=[one.gain or 0.0 for one in records if one.kind == "trials_fused"],
    )


def compared(together: list[Trained], one_by_one: list[Trained]) -> dict[str, Any]:
    """Compare trainings together with the same ones one by one, each done several times."""
    ours, peer = (statistics.median(one.cpu for one in several) for several in (together, one_by_one))
    wall, peer_wall = (statistics.median(one.wall for one in several) for several in (together, one_by_one))
    expected = one_by_one[0].metrics
    return {
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "ratio": round(peer / ours, 2),
        "peer_is": "--fuse off",
        "ratio_of_wall_seconds": round(peer_wall / wall, 2),
        "measured_before": [round(gain, 1) for one in together for gain in one.gains],
        "validation_losses_equal": all(
            one.metrics[key]["val_loss"] == own["val_loss"]
            for one in together
            for key, own in expected.items()
        ),
        "largest_difference_of_train_loss": max(
            abs(one.metrics[key]["train_loss"] - own["train_loss"])
            for one in together
            for key, own in expected.items()
        ),
    }


def main() -> None:
    """Print one JSON line for each measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[*SHAPES], action="append", help="which networks [default: all]")
    parser.add_argument("--trials", type=int, default=16, help="that are trained together")
    parser.add_argument("--events", type=int, default=20_000, help="of the training split")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each that count")
    parser.add_argument("--confirm", action="store_true", help="confirm a search too, which starts Ray")
    parser.add_argument("--seeds", type=int, default=8, help="of the confirmation")
    parser.add_argument("--search", action="store_true", help="run searches too, which starts Ray")
    parser.add_argument("--drawn", type=int, default=32, help="trials of these")
    parser.add_argument("--epochs", type=int, default=4, help="of the trainings of confirmation and searches")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    shapes = options.shape or [*SHAPES]
    torch.set_num_threads(1)
    for shape in shapes:
        print(json.dumps(epochs(shape, options.trials, options.events, options.rounds)), flush=True)
    if options.search:
        settings = (shapes[0], options.drawn, options.events, options.epochs, options.rounds)
        print(json.dumps(searches(*settings)), flush=True)
    if options.confirm:
        print(json.dumps(confirmations(shapes[0], options.seeds, options.events, options.epochs)), flush=True)


if __name__ == "__main__":
    main()
