"""AUC and processor seconds of networks of features, beside boosted trees, after the same epochs on the same events.

    hep-ray data convert ../shared/data/susy_uci/X_train_5000.txt --schema uci_susy_text --split 60/40/0 --out data/uci
    python docs/scripts/tabular.py --data data/uci

Each network is trained with each of three learning rates and several seeds, with Adam, a cosine schedule and
standardized features (`real_mlp` with those of its paper), all else as their defaults say. Nothing is chosen: a line of
JSON for each model and learning rate has the mean over the seeds of the AUC of the validation events after the last
epoch, its standard deviation, and the processor seconds of an epoch, validation included, on one thread. Seeds take
turns, so that other work on the machine meets all alike. The events leave an error on each AUC, common to all, that is
told too; the differences of models are known better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from hep_ray.dataset.dataset import Dataset
from hep_ray.loading.batches import Events
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import start_trial

RATES = (0.0003, 0.001, 0.003)
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"model": "mlp"},
    "tabm": {"model": "tabm"},
    "tabm_first": {"model": "tabm", "factors": "first"},
    "tabm_periodic": {"model": "tabm", "embedding": "periodic"},
    "real_mlp": {"model": "real_mlp", "scalar_scaling": "robust", "label_smoothing": 0.1},
    "gradient_boosting": {"model": "gradient_boosting"},
}
FASTER = {"real_mlp": 10}
"""By how much the learning rates of a parametrisation are larger."""
TRAINED = {
    "loss": "cross_entropy",
    "optimizer": "adam",
    "schedule": "cosine",
    "scalar_scaling": "standardize",
    "batch_size": 128,
}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="dataset folder of two classes")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = Dataset.open(given.data)
    schema = dataset.schema
    train, val = (events_of(dataset, split) for split in ("train", "val"))
    cases = []
    for name in given.models:
        if name == "gradient_boosting":
            cases.append((name, 0.0, TrialConfig.from_params(MODELS[name])))
            continue
        for rate in RATES:
            own = round(FASTER.get(name, 1) * rate, 6)
            params = {**TRAINED, **MODELS[name], "learning_rate": own}
            cases.append((name, own, TrialConfig.from_params(params)))
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    for seed in range(given.seeds):
        for name, rate, config in cases:
            loop = start_trial(config, schema, train, val, epochs=given.epochs, seed=seed)
            epochs, start = 0, time.process_time()
            while not loop.finished:
                metrics = loop.run_epoch()
                epochs += 1
            seconds = (time.process_time() - start) / epochs
            found.setdefault((name, rate), []).append({**metrics, "cpu_seconds": seconds})
            told = {"model": name, "learning_rate": rate, "seed": seed, "val_auc": metrics["val_auc"]}
            print(json.dumps({**told, "cpu_seconds": round(seconds, 4)}), file=sys.stderr, flush=True)
    compared = {name: min(of(found, name, "cpu_seconds")) for name in given.models}
    for (name, rate), runs in found.items():
        values = [one["val_auc"] for one in runs]
        line = {
            "model": name,
            "learning_rate": rate,
            "val_auc": round(statistics.fmean(values), 4),
            "sd_of_seeds": round(statistics.stdev(values), 4) if len(values) > 1 else None,
            "error_of_events": round(statistics.fmean(one["val_auc_error"] for one in runs), 4),
            "parameters": runs[0]["parameters"],
            "cpu_seconds_of_an_epoch": round(statistics.median(one["cpu_seconds"] for one in runs), 4),
            "ratio_of_cpu_seconds": round(compared[name] / compared[given.models[0]], 2),
            "train_events": len(train),
            "val_events": len(val),
        }
        print(json.dumps(line), flush=True)


def of(found: dict[tuple[str, float], list[dict[str, float]]], name: str, key: str) -> list[float]:
    """Return a number of all trainings of a model."""
    return [one[key] for (model, _), runs in found.items() if model == name for one in runs]


def events_of(dataset: Dataset, split: str) -> Events:
    """Return the events of a split, in memory."""
    arrays = dataset.arrays(split)  # type: ignore[arg-type]
    return Events.from_arrays({one.name: arrays[one.name] for one in dataset.schema.inputs}, arrays["label"])


if __name__ == "__main__":
    main()
