"""Trains every case of `test_crash_exact.py`: `crash.py WHAT FOLDER`, where WHAT is `whole`, `begin` or `resume`.

`begin` stops after checkpoints of half of the epochs, inside the next one, and waits there to be killed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.batches import Events
from hep_ray.optim import OPTIMIZERS, SCHEDULES
from hep_ray.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop

EPOCHS, KEPT = 4, 2
SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="image", shape=(28, 28, 3), unit="GeV"), Column(name="x", shape=(3,))),
    classes=("a", "b"),
)
MLP = {"model": "mlp", "hidden_features": 8, "dropout": 0.2, "scalar_scaling": "standardize", "batch_size": 8}
CNN = {"model": "cnn", "batch_size": 8}
COMMON = {"loss": "root_softmax", "root_index": 3, "learning_rate": 3e-3, "class_weights": "balanced"}
RECIPES: dict[str, dict[str, Any]] = {
    "averaged": {"swa_start": 0.3},
    "averaged centre": {"optimizer": "entropy_sgd", "swa_start": 0.6},
    "clipped, penalised": {"clip_norm": 0.5, "l1_penalty": 1e-3, "weight_decay": 1e-3},
    "patient": {"patience": 4},
    "mixed": {"mixup": 0.4},
    "mixed inside": {"manifold_mixup": 0.4},
    "bfloat16": {"precision": "bfloat16"},
    "augmented": {
        **CNN, "phi_rotation": True, "phi_flip": True, "eta_flip": True, "cutout": 0.3, "noise": 0.1, "cutmix": 0.4,
    },
    "scaled images": {**CNN, "image_scaling": "per_channel", "swa_start": 0.5},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    f"{optimizer}, {schedule}": {
        **MLP,
        "optimizer": optimizer,
        "schedule": schedule,
        **({"step_size": 1} if schedule == "step" else {"cycle_epochs": 3} if schedule == "cyclic" else {}),
    }
    for optimizer in OPTIMIZERS
    for schedule in SCHEDULES
} | {
    name: ({} if "model" in recipe else MLP) | {"optimizer": "adam", "schedule": "cosine", **recipe}
    for name, recipe in RECIPES.items()
}


def loop(case: dict[str, Any]) -> TrialLoop:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    columns = {
        "image": random.random((60, 28, 28, 3), dtype=np.float32),
        "x": (random.normal(size=(60, 3)) + labels[:, None]).astype(np.float32),
    }
    train, val = (
        Events.from_arrays({name: column[rows] for name, column in columns.items()}, labels[rows])
        for rows in (slice(0, 40), slice(40, 60))
    )
    return TrialLoop(TrialConfig.from_params({**COMMON, **case}), SCHEMA, train, val, epochs=EPOCHS, seed=5)


def main(what: str, folder: Path) -> None:
    torch.set_num_threads(1)
    told = {}
    for name, case in CASES.items():
        trial = loop(case)
        history = []
        if what == "resume":
            trial.load_state_dict(load_checkpoint(folder / name / LAST))
        while trial.epoch < (KEPT if what == "begin" else EPOCHS):
            metrics = trial.run_epoch()
            history.append({key: value for key, value in metrics.items() if key != "epoch_seconds"})
            if what == "begin":
                save_checkpoint(folder / name / LAST, trial.state_dict())
        if what == "begin":
            trial.run_epoch()  # trained, and lost: no checkpoint has it
        else:
            told[name] = history
            save_checkpoint(folder / name / f"{what}.pt", trial.state_dict())
    if what == "begin":
        print("ready", flush=True)  # noqa: T201 - the parent kills now
        time.sleep(600)
    (folder / f"{what}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
