"""Train every configuration of a grid in full and keep its learning curve: the table that `search_cost.py` replays.

The events are simulated charginos against WW; the networks are those of `searches/susy.py` at a size at which a grid
of 216 can be paid: 3,000 training events, all of the validation split, 16 epochs, batches of 128, seed 0, one thread.
Each line of the table is a configuration: its parameters, the mean CPU seconds of an epoch, and the area under the ROC
curve of the validation split after each epoch. Typed again after an interruption, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from hep_ray import Choice, Space
from hep_ray.cluster import connect
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EventSchema
from hep_ray.loading.batches import Events
from hep_ray.loading.stream import load_resident
from hep_ray.search.parameters import Value
from hep_ray.simulate.run import simulate
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop

TABLE = Path(__file__).with_name("learning_curves.csv")
EPOCHS = 16
METRIC = "val_auc"
SPACE = Space(
    model="mlp",
    inputs="low_level+high_level",
    scalar_scaling="standardize",
    loss="cross_entropy",
    batch_size=128,
    hidden_layers=Choice(1, 2, 4),
    hidden_features=Choice(16, 64, 128),
    dropout=Choice(0.0, 0.25),
    optimizer=Choice("adam", "rmsprop", "sgd"),
    learning_rate=Choice(3e-4, 1e-3, 3e-3, 1e-2),
)
VARIED = ("hidden_layers", "hidden_features", "dropout", "optimizer", "learning_rate")


def make_events(simulated: int, train_events: int) -> tuple[EventSchema, Events, Events]:
    """The first so many training events of a simulated dataset, and its validation split."""
    connect()
    with tempfile.TemporaryDirectory() as name:
        simulate("susy", simulated, seed=1, out=Path(name) / "susy", progress=True)
        dataset = Dataset.open(Path(name) / "susy")
        resident = load_resident(dataset)
        train = resident.events("train").head(train_events)
        val = resident.events("val").head(dataset.rows("val"))
    some = {column: np.array(values) for column, values in train.inputs.items()}
    return dataset.schema, Events(some, train.labels.copy()), val


def curve(
    params: dict[str, Value], schema: EventSchema, train: Events, val: Events
) -> tuple[float, list[float]]:
    """Mean CPU seconds of an epoch, and the metric after each."""
    loop = TrialLoop(TrialConfig.from_params(params), schema, train, val, epochs=EPOCHS, seed=0)
    start = time.process_time()
    values = [loop.run_epoch()[METRIC] for _ in range(EPOCHS)]
    return (time.process_time() - start) / EPOCHS, values


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulated", type=int, default=32_000, help="events that are simulated")
    parser.add_argument("--train-events", type=int, default=3000, help="of them, that are learnt from")
    parser.add_argument("--points", type=int, default=None, help="of the grid; all unless given")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()
    schema, train, val = make_events(options.simulated, options.train_events)
    torch.set_num_threads(1)
    counts = np.bincount(val.labels)
    made = {
        "made_by": "benchmarks/grid/make_learning_curves.py",
        "simulated_events": options.simulated,
        "training_events": len(train),
        "validation_events": {name: int(count) for name, count in zip(schema.classes, counts, strict=True)},
        "metric": METRIC,
        "versions": {name: version(name) for name in ("hep_ray", "torch", "pythia8mc")},
        "space": {name: str(parameter) for name, parameter in SPACE.parameters.items()},
    }
    options.out.with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n")
    header = [*VARIED, "cpu_seconds", *(f"epoch_{epoch}" for epoch in range(1, EPOCHS + 1))]
    if not options.out.exists():
        options.out.write_text(",".join(header) + "\n")
    done = len(options.out.read_text().splitlines()) - 1
    with options.out.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for point in track(SPACE.grid()[done : options.points], description="training"):
            seconds, values = curve(point, schema, train, val)
            writer.writerow(
                [*(point[name] for name in VARIED), f"{seconds:.4f}", *(f"{value:.5f}" for value in values)]
            )
            file.flush()


if __name__ == "__main__":
    main()
