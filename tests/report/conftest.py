"""Searches written by hand: journal, dataset, checkpoint, confirmation, as the commands leave them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hep_ray.confirm.confirmation import (
    FOLDER,
    Comparison,
    Confirmation,
    ConfirmedRun,
    Contender,
    Estimate,
    save_confirmation,
)
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.search.definition import Preset, Search
from hep_ray.search.parameters import Choice, LogUniform
from hep_ray.search.published import StudyTable
from hep_ray.search.space import Space
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import (
    EpochFinished,
    SearchFinished,
    SearchStarted,
    Status,
    TrialFinished,
    TrialStarted,
)
from hep_ray.training.checkpoint import BEST, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import METADATA

PARAMS: dict[str, Any] = {
    "model": "mlp", "loss": "root_softmax", "root_index": 1, "optimizer": "adam", "learning_rate": 0.001,
}  # fmt: skip
Trial = tuple[Mapping[str, Any], int, Sequence[float], Status]
"""Parameters that differ, seed, validation accuracy after each epoch, end."""
SEEDS: tuple[Trial, ...] = (
    ({}, 0, [0.5, 0.8, 0.7], "completed"),
    ({"root_index": 3}, 0, [0.6, 0.7, 0.9], "completed"),
    ({}, 1, [0.6, 0.6, 0.9], "completed"),
    ({"root_index": 3}, 1, [0.5, 0.9, 0.8], "completed"),
    ({}, 2, [0.1], "failed"),
)


class Workplace:
    """A storage with one search, and its dataset."""

    def __init__(
        self, folder: Path, classes: Sequence[str], *, table: bool = True, cost: bool = False
    ) -> None:
        self.storage = folder / "runs"
        self.data = folder / "data"
        self.classes = tuple(classes)
        space = Space(model="mlp", loss="root_softmax", root_index=Choice(1, 3), optimizer="adam", learning_rate=LogUniform(1e-4, 1e-2))  # fmt: skip  # noqa: E501
        preset = Preset(epochs=3, sampler="grid", scheduler="none", seeds=2, space=space)
        self.search = Search(
            name="toy_search", task="toy", title="Which root <index> & why?", space=space, presets={"smoke": preset},
            baseline={"root_index": 1}, second_objective="epoch_seconds" if cost else None,
            tables=(StudyTable("Accuracy by root", ("root_index",), epochs=(1, 3)),) if table else (),
        )  # fmt: skip
        self.write_data()

    @property
    def folder(self) -> Path:
        return self.storage / self.search.name

    @property
    def fingerprint(self) -> str:
        return Manifest.load(self.data).fingerprint

    def write_data(self) -> None:
        schema = EventSchema(
            task="toy",
            columns=(Column(name="x", shape=(4,), unit="GeV"),),
            classes=self.classes,
            class_meaning={self.classes[0]: "p_T < 10 GeV"},
        )
        labels = np.arange(240) % len(self.classes)
        values = (np.random.default_rng(0).normal(size=(240, 4)) + labels[:, None]).astype(np.float32)
        with ShardWriter(self.data, schema, source={"by": "hand"}) as writer:
            writer.write({"event_id": [f"e{row}" for row in range(240)], "label": labels, "x": values})

    def write_journal(
        self,
        trials: Sequence[Trial] = SEEDS,
        *,
        finished: bool = True,
        scheduler: str = "none",
        references: Sequence[dict[str, Any]] = (),
        repeats: int = 1,
        folds: int | None = None,
    ) -> None:
        with Journal(self.folder) as journal:
            journal.append(
                SearchStarted(
                    time=1e9, search=self.search.name, search_id="abc", dataset_fingerprint=self.fingerprint,
                    task="toy", metric="val_accuracy", mode="max",
                    second_objective=self.search.second_objective, epochs=3, sampler="grid",
                    scheduler=scheduler, points_to_evaluate=list(references), seed=0, repeats=repeats, folds=folds,
                    space={"learning_rate": "0.0001 … 0.01 (log)"},
                    options={"data": str(self.data)}, provenance={"git_commit": "c0ffee", "command": "python <s>.py"},
                )
            )  # fmt: skip
            for number, (params, seed, accuracies, status) in enumerate(trials):
                name = f"t{number:04d}"
                chosen = {**PARAMS, **params}
                fold = seed + 1 if folds else 0
                journal.append(
                    TrialStarted(time=1e9, trial_id=name, number=number, params=chosen, seed=seed, fold=fold)
                )
                for epoch, accuracy in enumerate(accuracies, 1):
                    journal.append(
                        EpochFinished(time=1e9, trial_id=name, metrics=epoch_metrics(epoch, accuracy))
                    )
                if status != "running":
                    cause = "NonFiniteLoss: <inf>\nmore" if status == "failed" else ""
                    journal.append(TrialFinished(time=1e9, trial_id=name, status=status, cause=cause))
            if finished:
                journal.append(SearchFinished(time=1e9))

    def write_model(self, trial_id: str = "t0003", seed: int = 0, **params: Any) -> None:
        torch.manual_seed(seed)
        config = TrialConfig.from_params({**PARAMS, **params})
        model = config.build_model(Manifest.load(self.data).event_schema)
        state = {"model": model.state_dict(), "params": config.resolved(), "metrics": {"epoch": 1.0}}
        save_checkpoint(self.folder / "trials" / trial_id / BEST, state)

    def write_confirmation(
        self, seeds: int = 2, search_id: str = "abc", labels: np.ndarray | None = None
    ) -> None:
        labels = np.arange(120) % len(self.classes) if labels is None else labels
        contenders = []
        for place, name in enumerate(("t0001", "baseline")):
            runs = []
            for seed in range(seeds):
                trial_id = f"{name}-{seed}"
                scores = probabilities(labels, len(self.classes), 2.0 - place, seed=10 * place + seed)
                write_scores(
                    self.folder / FOLDER / trial_id / "test_scores.parquet", labels, scores, self.classes
                )
                accuracy = float((scores.argmax(1) == labels).mean())
                runs.append(
                    ConfirmedRun(
                        trial_id=trial_id, seed=seed, epoch=3, metrics={"test_accuracy": accuracy},
                        checkpoint=f"{trial_id}/best.pt", scores=f"{trial_id}/test_scores.parquet",
                    )
                )  # fmt: skip
            values = [run.metrics["test_accuracy"] for run in runs]
            spread = statistics.stdev(values) if seeds > 1 else 0.0
            mean = statistics.fmean(values)
            estimate = Estimate(mean=mean, sd=spread, low=mean - 2 * spread, high=mean + 2 * spread)
            contenders.append(
                Contender(
                    name=name, role="finalist" if place == 0 else "baseline", params=dict(PARAMS), runs=tuple(runs),
                    estimates={"test_accuracy": estimate},
                )
            )  # fmt: skip
        difference = Estimate(mean=0.0625, sd=0.01, low=0.04, high=0.08)
        against = Comparison(
            contender="t0001",
            metric="test_accuracy",
            difference=difference,
            p_value=0.03,
            adjusted_p_value=0.03,
        )
        save_confirmation(
            self.folder,
            Confirmation(
                search=self.search.name, search_id=search_id, task="toy", dataset_fingerprint=self.fingerprint,
                metric="test_accuracy", mode="max", level=0.95, correction="holm", seeds=tuple(range(seeds)), epochs=3,
                contenders=tuple(contenders), comparisons=(against,), provenance={"command": "hep-ray confirm toy"},
            ),
        )  # fmt: skip


def epoch_metrics(epoch: int, accuracy: float) -> dict[str, float]:
    return {
        "epoch": epoch, "train_accuracy": accuracy + 0.01, "train_loss": 1 - accuracy, "val_accuracy": accuracy,
        "val_accuracy_error": 0.02, "val_loss": 1.1 - accuracy, "val_auc": accuracy, "epoch_seconds": 1.5,
    }  # fmt: skip


def probabilities(labels: np.ndarray, classes: int, strength: float, seed: int) -> np.ndarray:
    """Probabilities (N, C) that tend to the true class."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += strength
    odds = np.exp(logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def write_scores(path: Path, labels: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {f"score_{name}": scores[:, label] for label, name in enumerate(classes)}
    facts = {METADATA: json.dumps({"epoch": 3, "loss": 0.5})}
    ids = [f"e{row}" for row in range(len(labels))]
    pq.write_table(pa.table({"event_id": ids, "label": labels, **columns}, metadata=facts), path)


@pytest.fixture
def workplace(tmp_path: Path) -> Callable[..., Workplace]:
    """`workplace(classes=("background", "signal"), table=True, cost=False)`: a dataset, and a search not yet run."""

    def make(classes: Sequence[str] = ("background", "signal"), **options: bool) -> Workplace:
        return Workplace(tmp_path, classes, **options)

    return make


@pytest.fixture
def scores_of() -> Callable[..., np.ndarray]:
    return probabilities
