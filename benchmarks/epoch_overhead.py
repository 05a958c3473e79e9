"""Seconds of one epoch of a trial, beside a hand-written PyTorch loop on the same tensors and beside DataLoader.

All three train the same model from the same weights on the same events in batches of the same size, with the same
optimizer and loss, and validate after every epoch. The hand-written loop permutes the rows of two tensors, takes a
batch, steps, adds up loss and hits, and takes loss and accuracy of the validation split; ours also reports the loss
of every step, ROC curves, calibration and confusion. The DataLoader loop is the same with `TensorDataset`, `shuffle`
and two workers that stay. Epochs take turns, ours, by hand, DataLoader, ours …, so that other work on the machine
meets all alike; the first of each is not counted, and medians are compared. Torch has as many threads as it takes by
itself, one per core, in all three. `ratio_of_cpu_seconds`, of this process alone, is what holds where other work shares
the cores; with `--threads 1` it is the more exact.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.batches import Events
from hep_ray.training.config import TrialConfig
from hep_ray.training.evaluation import BATCH
from hep_ray.training.loop import TrialLoop

VALIDATION = 4
"""Training events for each validation event."""
WORKERS = 2
MODELS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "cnn": ((50, 50, 3), {"model": "cnn", "batch_size": 100}),
    "mlp": ((18,), {"model": "mlp", "hidden_layers": 3, "hidden_features": 128, "batch_size": 512}),
}
"""Shape of an event, and the parameters: the thesis' CNN, and the network of the SUSY study."""


def make_events(number: int, shape: tuple[int, ...], seed: int) -> Events:
    """Events of two classes that differ by their mean."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    shift = labels.reshape(-1, *(1 for _ in shape)).astype(np.float32)
    return Events.from_arrays({"x": random.random((number, *shape), dtype=np.float32) + shift}, labels)


class ByHand:
    """The loop that one writes without hep_ray.

    Args:
        model: its own copy, on its device.
        train: inputs and labels.
        val: inputs and labels.
        batch_size: events per step.
        workers: of a DataLoader; 0 takes rows of the tensors instead.
        device: of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        train: list[Tensor],
        val: list[Tensor],
        *,
        batch_size: int,
        workers: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        self.model, self.train, self.val, self.batch_size = model, train, val, batch_size
        self.device = train[0].device if device is None else torch.device(device)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.loader: Iterable[list[Tensor]] | None = None
        if workers:
            self.loader = DataLoader(
                TensorDataset(*train),
                batch_size=batch_size,
                shuffle=True,
                num_workers=workers,
                persistent_workers=True,
            )

    def batches(self) -> Iterable[list[Tensor]]:
        """An epoch's batches in a new order."""
        inputs, labels = self.train
        order = torch.randperm(len(labels), device=labels.device)
        for start in range(0, len(labels), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield [inputs[rows], labels[rows]]

    def run_epoch(self) -> dict[str, float]:
        """Train, then validate."""
        self.model.train()
        loss_sum, correct = (torch.zeros((), device=self.device) for _ in range(2))
        for batch in self.loader or self.batches():
            inputs, labels = (values.to(self.device) for values in batch)
            self.optimizer.zero_grad()
            logits = self.model(inputs)
            loss = functional.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss_sum += loss.detach() * len(labels)
            correct += (logits.argmax(1) == labels).sum()
        self.model.eval()
        val_loss, val_correct = (torch.zeros((), device=self.device) for _ in range(2))
        with torch.no_grad():
            for start in range(0, len(self.val[1]), BATCH):
                inputs, labels = (values[start : start + BATCH].to(self.device) for values in self.val)
                logits = self.model(inputs)
                val_loss += functional.cross_entropy(logits, labels, reduction="sum")
                val_correct += (logits.argmax(1) == labels).sum()
        events, val_events = len(self.train[1]), len(self.val[1])
        return {
            "train_loss": float(loss_sum) / events,
            "train_accuracy": float(correct) / events,
            "val_loss": float(val_loss) / val_events,
            "val_accuracy": float(val_correct) / val_events,
        }


def take_turns(
    loops: dict[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Wall and CPU seconds of this process for every call but the first of each loop."""
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in loops}
    for turn, (name, run) in itertools.product(range(rounds + 1), loops.items()):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        if turn:
            seconds[name][0].append(time.perf_counter() - wall)
            seconds[name][1].append(time.process_time() - cpu)
    return seconds


def measure(name: str, events: int, rounds: int) -> None:
    """Print the line of one model."""
    shape, params = MODELS[name]
    config = TrialConfig.from_params(
        {**params, "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    )
    columns = (Column(name="x", shape=shape, unit="GeV"),)
    schema = EventSchema(task="epoch", columns=columns, classes=("a", "b"))
    train_events = make_events(events, shape, 0)
    val_events = make_events(max(events // VALIDATION, 2), shape, 1)
    loop = TrialLoop(config, schema, train_events, val_events, epochs=rounds + 1, seed=0)
    train, val = (
        [torch.from_numpy(part.inputs["x"]), torch.from_numpy(part.labels)]
        for part in (train_events, val_events)
    )
    batch_size = config.training.batch_size
    by_hand = ByHand(copy.deepcopy(loop.model), train, val, batch_size=batch_size)
    loader = ByHand(copy.deepcopy(loop.model), train, val, batch_size=batch_size, workers=WORKERS)
    seconds = take_turns(
        {"ours": loop.run_epoch, "by_hand": by_hand.run_epoch, "loader": loader.run_epoch}, rounds
    )
    wall, cpu = ({one: statistics.median(times[clock]) for one, times in seconds.items()} for clock in (0, 1))
    line = {
        "what": f"epoch_overhead: seconds of one epoch, {name}, {events} events, batch {batch_size}",
        "ours": round(wall["ours"], 4),
        "peer": round(wall["by_hand"], 4),
        "ratio": round(wall["by_hand"] / wall["ours"], 3),
        "peer_is": "hand-written loop on the same tensors",
        "ratio_of_cpu_seconds": round(cpu["by_hand"] / cpu["ours"], 3),
        "data_loader": round(wall["loader"], 4),
        "ratio_to_data_loader": round(wall["loader"] / wall["ours"], 3),
        "rounds": rounds,
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """Print one JSON line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="training events of the CNN")
    parser.add_argument("--rows", type=int, default=100_000, help="training events of the MLP")
    parser.add_argument("--rounds", type=int, default=9, help="epochs of each that count")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measure("cnn", options.images, options.rounds)
    measure("mlp", options.rows, options.rounds)


if __name__ == "__main__":
    main()
