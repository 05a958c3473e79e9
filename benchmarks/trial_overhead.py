"""What a trial costs beside its training: our warm trials against stock Tune wrapping a one-worker TorchTrainer.

Both run the same trivial trials (the thesis' CNN for three epochs of two batches on 28×28 images) side by side in
this process, on the same Ray session, two at a time. Ours writes journal, checkpoints, Optuna study and MLflow;
the peer trains the same loop and reports through Ray Train, without any of these.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hep_ray import Choice, Preset, Search, SearchOptions, Space, prepare, run_search
from hep_ray.cluster import connect
from hep_ray.data.dataset import Dataset
from hep_ray.data.events import Column, EventSchema
from hep_ray.data.shards import ShardWriter

EPOCHS = 3
SPACE = Space(
    model="cnn",
    loss="root_softmax",
    root_index=Choice(1, 3, 4, 5, 6, 7, 8, 9),
    optimizer="adam",
    learning_rate=Choice(1e-4, 1e-3),
    batch_size=32,
)


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


def ours(data: Path, storage: Path, trials: int) -> float:
    """Seconds for a whole search of this many trials."""
    preset = Preset(epochs=EPOCHS, trials=trials, sampler="random", scheduler="none")
    search = Search(name="trivial", task="trivial", title="", space=SPACE, presets={"bench": preset})
    plan = prepare(search, SearchOptions(data=data, storage=storage, preset="bench"))
    start = time.perf_counter()
    run_search(plan, console=Console(quiet=True))
    return time.perf_counter() - start


def peer(data: Path, storage: Path, trials: int) -> float:
    """Seconds for as many trials of a Tune function that runs a TorchTrainer with one worker."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from hep_ray.data.stream import load_resident

    dataset = Dataset.open(data)
    schema, resident = dataset.schema, load_resident(dataset)

    def train_function(config: dict[str, Any]) -> None:
        from hep_ray.training.config import TrialConfig
        from hep_ray.training.loop import TrialLoop

        parts = resident.events("train"), resident.events("val")
        loop = TrialLoop(TrialConfig.from_params(config), schema, *parts, epochs=EPOCHS, seed=0)
        for _ in range(EPOCHS):
            train.report(loop.run_epoch())

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            train_function,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
            run_config=train.RunConfig(
                name=tune.get_context().get_trial_id(),
                storage_path=str(storage),
                callbacks=[TuneReportCallback()],  # type: ignore[no-untyped-call, list-item]
            ),
        ).fit()

    params = {
        "model": "cnn",
        "loss": "root_softmax",
        "optimizer": "adam",
        "batch_size": 32,
        "learning_rate": 1e-3,
    }
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.5}),
        param_space={**params, "root_index": tune.choice([1, 3, 4, 5, 6, 7, 8, 9])},
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


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16, help="of ours; the peer runs a quarter of them")
    trials = parser.parse_args().trials
    connect()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_dataset(folder / "data")
        ours(data, folder / "first", 2)  # Ray, MLflow's tables and the page cache: both sides find them warm
        own = ours(data, folder / "ours", trials) / trials
        other = peer(data, folder / "peer", max(2, trials // 4)) / max(2, trials // 4)
    line = {
        "what": "trial_overhead: wall seconds per trivial trial, two at a time",
        "ours": round(own, 3),
        "peer": round(other, 3),
        "ratio": round(other / own, 2),
        "peer_is": "Tune function around a one-worker TorchTrainer",
        "trials": trials,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
