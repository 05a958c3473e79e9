"""A journal as a small search leaves it."""

from __future__ import annotations

import time

from hep_ray.tracking.client import find_runs, open_client
from hep_ray.tracking.mlflow_writer import SEARCH_TAG, TRIAL_TAG
from hep_ray.tracking.records import EpochFinished, SearchFinished, SearchStarted, TrialFinished, TrialStarted

EPOCHS = 3


def journal(search_id, trials=3, search="toy", **options):
    records = [
        SearchStarted(
            time=time.time(),
            search=search,
            search_id=search_id,
            dataset_fingerprint="f" * 64,
            task="toy",
            metric="val_accuracy",
            mode="max",
            epochs=EPOCHS,
            sampler="tpe",
            scheduler="none",
            seed=0,
            space={"learning_rate": "0.1 … 0.2"},
            options=options,
            provenance={"git_commit": "c0ffee"},
        )
    ]
    for number in range(trials):
        name = f"t{number:04d}"
        params = {"learning_rate": 0.1 * number, "loss": "hinge"}
        records.append(TrialStarted(time=time.time(), trial_id=name, number=number, params=params, seed=0))
        for epoch in range(1, EPOCHS + 1):
            metrics = {"epoch": epoch, "val_accuracy": 0.5 + 0.1 * epoch + number, "val_loss": 1 / epoch}
            metrics["epoch_seconds"] = 1.0
            records.append(EpochFinished(time=time.time(), trial_id=name, metrics=metrics))
        status = "failed" if number == 2 else "completed"
        cause = "it broke" if number == 2 else ""
        records.append(TrialFinished(time=time.time(), trial_id=name, status=status, cause=cause))
    return [*records, SearchFinished(time=time.time())]


def audit(uri, search_id, trials=3, search="toy"):
    """MLflow holds one parent, one child per trial, and each epoch once."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name(search).experiment_id
    found = find_runs(client, experiment, f"tags.`{SEARCH_TAG}` = '{search_id}'")
    children = {tags[TRIAL_TAG]: run_id for run_id, tags in found if TRIAL_TAG in tags}
    assert sorted(children) == [f"t{number:04d}" for number in range(trials)]
    assert len(found) == trials + 1
    for run_id in children.values():
        history = client.get_metric_history(run_id, "val/loss")
        assert sorted(point.step for point in history) == list(range(1, EPOCHS + 1))
        assert client.get_run(run_id).info.status in {"FINISHED", "FAILED"}
    return children
