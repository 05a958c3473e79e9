"""One rank of `test_distributed.py`: trains every case over gloo and saves what it saw. `rank.py RANK WORLD FOLDER`.

The network with batch normalisation runs in float64: its gradients magnify the rounding of sums in another order.
"""

from __future__ import annotations

import copy
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hep_ray.config import Config
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import NonFiniteLoss
from hep_ray.loading.batches import Events
from hep_ray.metrics import metric
from hep_ray.models import Model, SchemaLike, model
from hep_ray.training.config import TrialConfig
from hep_ray.training.distributed import ALONE, Communicator
from hep_ray.training.loop import TrialLoop


@model("normalised", Config)
class Normalised(Model):
    """Batch normalisation of images and of features, without a cast to float32."""

    columns = ("image",)

    def __init__(self, config: Config, schema: SchemaLike) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            *(nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8, momentum=None), nn.Tanh()),
            nn.Linear(8, 2),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 2) of images (N, 8, 8, 1)."""
        logits: Tensor = self.layers(images.permute(0, 3, 1, 2))
        return logits


@model("dropped", Config)
class Dropped(Normalised):
    """The same with dropout before the second normalisation."""

    def __init__(self, config: Config, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.layers.insert(5, nn.Dropout(0.5))


@metric("own_gap", larger_is_better=True)
def own_gap(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """What no mean of the workers' own values is: medians, and the sum of all weights."""
    of_signal, of_background = (float(np.median(scores[labels == label, 1])) for label in (1, 0))
    return {"own_gap": of_signal - of_background, "own_gap_weights": float(weights.sum())}


FEATURES = EventSchema(
    task="toy",
    columns=(Column(name="x", shape=(4,)), Column(name="w")),
    classes=("background", "signal"),
    weight="w",
)
IMAGES = EventSchema(
    task="toy", columns=(Column(name="image", shape=(8, 8, 1)),), classes=("background", "signal")
)
COMMON = {"loss": "cross_entropy", "optimizer": "sgd", "learning_rate": 0.1, "batch_size": 16}
MLP = COMMON | {"model": "mlp", "inputs": "x", "hidden_features": 8, "class_weights": "balanced"}
NORM = COMMON | {"model": "normalised"}
CASES: dict[str, tuple[EventSchema, dict[str, Any]]] = {
    "weighted": (FEATURES, MLP),
    "clipped": (FEATURES, MLP | {"clip_norm": 0.05, "scalar_scaling": "standardize"}),
    "adam": (FEATURES, MLP | {"optimizer": "adam", "learning_rate": 0.003, "schedule": "cosine"}),
    "noisy": (FEATURES, MLP | {"optimizer": "entropy_sgd", "inner_steps": 2, "thermal_noise": 0.1}),
    "synchronised": (IMAGES, NORM | {"sync_batch_norm": True}),
    "averaged": (IMAGES, NORM | {"sync_batch_norm": True, "swa_start": 0.0}),
    "own_statistics": (IMAGES, NORM),
    "own_averaged": (IMAGES, NORM | {"swa_start": 0.0, "batch_size": 20}),
    "dropped_averaged": (IMAGES, NORM | {"model": "dropped", "optimizer": "replicated_sgd"}),
    "dropped_together": (IMAGES, NORM | {"model": "dropped", "swa_start": 0.0, "sync_batch_norm": True}),
    "short_loop": (IMAGES, NORM | {"model": "dropped", "optimizer": "entropy_sgd"}),
    "last_shared": (FEATURES, MLP | {"batch_size": 32}),
    "dropout": (FEATURES, MLP | {"dropout": 0.3}),
    "mixed": (FEATURES, MLP | {"mixup": 0.4}),
    "linear": (FEATURES, MLP | {"batch_size": 8, "learning_rate": 0.05, "learning_rate_scaling": "linear"}),
}
EPOCHS = 3


def events(schema: EventSchema, count: int, seed: int) -> Events:
    """Labels of two classes of unlike frequency, which the first column tells apart."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < 0.3).astype(np.int64)
    precision = np.float64 if schema is IMAGES else np.float32
    columns = {
        column.name: random.normal(size=(count, *column.shape)).astype(precision) for column in schema.columns
    }
    first = columns[schema.columns[0].name]
    first += labels.reshape(-1, *[1] * (first.ndim - 1))
    if schema.weight:
        columns[schema.weight] = np.abs(columns[schema.weight])
    return Events.from_arrays(columns, labels)


def loop(case: str, communicator: Communicator = ALONE, **changes: Any) -> TrialLoop:
    """The trial of a case: 72 training events in batches of 16, so that the last has 8; 1100 to validate on."""
    schema, params = CASES[case]
    torch.set_default_dtype(torch.float64 if schema is IMAGES else torch.float32)
    config = TrialConfig.from_params(params | changes)
    train, val = events(schema, 72, 0), events(schema, 1100, 1)
    return TrialLoop(config, schema, train, val, epochs=EPOCHS, seed=3, communicator=communicator)


def main(rank: int, world_size: int, folder: Path) -> None:
    """Train every case, then go on with one from its middle, and run into a loss that is not finite."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/store", timedelta(seconds=120), rank=rank, world_size=world_size
    )
    communicator = Communicator.of_process_group()
    seen: dict[str, Any] = {}
    for case in CASES:
        trial, metrics, states = loop(case, communicator), [], []
        for _ in range(EPOCHS):
            metrics.append(trial.run_epoch())
            states.append(copy.deepcopy(trial.state_dict()))
        seen[case] = {"metrics": metrics, "kept": trial.kept.state_dict(), "states": states}
    resumed = loop("dropout", communicator)
    resumed.load_state_dict(seen["dropout"]["states"][0])
    seen["resumed"] = {"metrics": [resumed.run_epoch() for _ in range(EPOCHS - 1)]}
    try:
        loop("weighted", communicator, learning_rate=1e30).run_epoch()
    except NonFiniteLoss as fault:
        seen["diverged"] = str(fault)
    torch.save(seen, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
