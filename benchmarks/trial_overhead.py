"""What a trial costs beside its training: a search of ours, stock Tune around a TorchTrainer, and a plain Optuna loop.

All train the same trivial trials (the thesis' CNN for three epochs of three batches on 28×28 images) one after the
other in this process; the first two on one Ray session, two trials at a time.

- Ours is `run_search` from its call to its return: data, workers, Optuna study in SQLite, journal, a checkpoint per
  epoch, MLflow and the leaderboard, all of which are counted. `ours_marginal` is one more trial of a running search:
  the time between the ends of two trials in its journal, once both workers are at work.
- The peer is a Tune function that runs a one-worker TorchTrainer for each trial and reports through Ray Train. No
  trial warms the next, so a few tell the cost of each.
- The Optuna loop calls the same training in this process, with a study in SQLite and torch's own number of threads;
  events in memory and torch imported before the clock starts, one trial run before; no checkpoint, no journal.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hep_ray import Choice, LogUniform, Preset, Search, SearchOptions, Space, prepare, run_search
from hep_ray.cluster import connect
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.stream import EventData, load_resident
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop

EPOCHS = 3
ROOTS = (1, 3, 4, 5, 6, 7, 8, 9)
RATES = (1e-4, 1e-3)  # range, logarithmic
FIXED: dict[str, Any] = {"model": "cnn", "loss": "root_softmax", "optimizer": "adam", "batch_size": 32}
SPACE = Space(root_index=Choice(*ROOTS), learning_rate=LogUniform(*RATES), **FIXED)
BOTH_AT_WORK = 4
"""Trials that have ended before the cost of one more is taken."""


def write_dataset(folder: Path) -> Path:
    """128 separable 28×28 images."""
    random = np.random.default_rng(0)
    labels = np.arange(128) % 2
    images = random.random((128, 28, 28, 3), dtype=np.float32) + labels[:, None, None, None].astype(
        np.float32
    )
    columns = (Column(name="image", shape=(28, 28, 3), unit="GeV"),)
    schema = EventSchema(task="trivial", columns=columns, classes=("a", "b"))
    with ShardWriter(folder, schema, source={"benchmark": "trial_overhead"}) as writer:
        writer.write({"event_id": [f"{row}" for row in range(128)], "label": labels, "image": images})
    return folder


def ours(data: Path, storage: Path, name: str, trials: int) -> tuple[float, float | None]:
    """Seconds for a whole search of this many trials, and for one more of them where there are enough to tell."""
    preset = Preset(epochs=EPOCHS, trials=trials, sampler="random", scheduler="none")
    search = Search(name=name, task="trivial", title="", space=SPACE, presets={"bench": preset})
    plan = prepare(search, SearchOptions(data=data, storage=storage, preset="bench"))
    start = time.perf_counter()
    result = run_search(plan, console=Console(quiet=True))
    seconds = time.perf_counter() - start
    ends = sorted(trial.finished.time for trial in result.state.trials.values() if trial.finished)[
        BOTH_AT_WORK - 1 :
    ]
    return seconds, (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else None


def train(params: dict[str, Any], schema: EventSchema, resident: EventData) -> TrialLoop:
    """The trial of both peers, before its first epoch."""
    parts = resident.events("train"), resident.events("val")
    return TrialLoop(TrialConfig.from_params({**FIXED, **params}), schema, *parts, epochs=EPOCHS, seed=0)


def tune_and_train(schema: EventSchema, resident: EventData, storage: Path, trials: int) -> float:
    """Seconds for trials of a Tune function that runs a TorchTrainer with one worker."""
    from ray import train as ray_train
    from ray import tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    def train_function(config: dict[str, Any]) -> None:
        loop = train(config, schema, resident)
        for _ in range(EPOCHS):
            ray_train.report(loop.run_epoch())

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            train_function,
            train_loop_config=config,
            scaling_config=ray_train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
            run_config=ray_train.RunConfig(
                name=tune.get_context().get_trial_id(),
                storage_path=str(storage),
                callbacks=[TuneReportCallback()],  # type: ignore[no-untyped-call, list-item]
            ),
        ).fit()

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.5}),
        param_space={"root_index": tune.choice(list(ROOTS)), "learning_rate": tune.loguniform(*RATES)},
        tune_config=tune.TuneConfig(
            num_samples=trials, max_concurrent_trials=2, metric="val_loss", mode="min"
        ),
        run_config=tune.RunConfig(storage_path=str(storage), verbose=0),
    )
    start = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - start
    if results.num_errors:
        raise RuntimeError(
            f"the peer's trials must succeed; {results.num_errors} of {trials} failed: {results.errors[0]}"
        )
    return seconds


def optuna_loop(schema: EventSchema, resident: EventData, database: Path, trials: int) -> float:
    """Seconds for trials of an Optuna study that trains in this process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        params = {
            "root_index": trial.suggest_categorical("root_index", ROOTS),
            "learning_rate": trial.suggest_float("learning_rate", *RATES, log=True),
        }
        loop = train(params, schema, resident)
        best = 0.0
        for epoch in range(EPOCHS):
            best = max(best, loop.run_epoch()["val_accuracy"])
            trial.report(best, epoch)
        return best

    start = time.perf_counter()
    study = optuna.create_study(
        storage=f"sqlite:///{database}",
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    study.optimize(objective, n_trials=trials)
    return time.perf_counter() - start


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=32, help="of ours, and of the Optuna loop")
    parser.add_argument("--peer-trials", type=int, default=4, help="of Tune with TorchTrainer")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    connect()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_dataset(folder / "data")
        ours(data, folder, "warm_up", 2)  # Ray, MLflow's tables and the page cache
        own, marginal = ours(data, folder, "trivial", options.trials)
        dataset = Dataset.open(data)
        events = dataset.schema, load_resident(dataset)
        optuna_loop(*events, folder / "warm_up.db", 1)
        plain = optuna_loop(*events, folder / "plain.db", options.trials) / options.trials
        other = tune_and_train(*events, folder / "peer", options.peer_trials) / options.peer_trials
    own /= options.trials
    line = {
        "what": "trial_overhead: wall seconds per trivial trial of a whole search, start included, two at a time",
        "ours": round(own, 3),
        "peer": round(other, 3),
        "ratio": round(other / own, 1),
        "peer_is": "Tune function around a one-worker TorchTrainer",
        "optuna_loop": round(plain, 3),
        "more_than_optuna_loop": round(own - plain, 3),
        "ours_marginal": marginal and round(marginal, 3),
        "trials": options.trials,
        "peer_trials": options.peer_trials,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
