"""A search with a real confirmation in miniature: real training, real checkpoints and scores, no cluster."""

import hashlib
import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hep_ray.confirm.confirmation import (
    Comparison,
    Confirmation,
    ConfirmedRun,
    Contender,
    Estimate,
    choose,
    load_confirmation,
    save_confirmation,
)
from hep_ray.confirm.folds import FILE_NAME as FOLDS_FILE
from hep_ray.confirm.folds import OF_ALL, CrossValidation, Fold, dataset_of_fold, put_together
from hep_ray.confirm.refit import RefitPlan, _publish, dataset_of_refit
from hep_ray.confirm.refit_result import FILE_NAME as REFIT_FILE
from hep_ray.confirm.refit_result import REFIT, best_epoch
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.loading.batches import BatchRequest, Events
from hep_ray.loading.shards import RowGroups, ShardStream
from hep_ray.loading.stream import EventData
from hep_ray.metrics import classification_metrics
from hep_ray.search.options import AfterSearch
from hep_ray.search.recorder import Recorder
from hep_ray.search.state import SearchState
from hep_ray.search.trial import TrialJob, TrialRun
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import SearchFinished, SearchStarted, TrialTested
from hep_ray.training.checkpoint import load_checkpoint, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.evaluation import evaluate
from hep_ray.training.loop import TrialLoop, start_trial
from hep_ray.training.testing import SCORES, evaluate_once, read_scores

PROVENANCE = {
    "command": "hep-ray confirm toy",
    "git_commit": "c0ffee" * 6 + "dead",
    "git_dirty": "false",
    "python": "3.11.7",
    "host": "here",
    "cpu": "x86_64, 2 cores",
    **{
        f"version_{name}": "1.0"
        for name in ("hep-ray", "ray", "torch", "optuna", "mlflow", "numpy", "pyarrow")
    },
}
SEEDS = (1, 2, 3)
LINEAR = {"hidden_layers": 0}
"""Cannot tell the classes apart: about half of its answers are right."""
SHALLOW = {"hidden_layers": 1, "hidden_features": 16, "learning_rate": 3e-3}
DEEP = {"hidden_layers": 2, "hidden_features": 64, "learning_rate": 1e-2}


def schema():
    column = Column(name="features", shape=(2,), unit="GeV", elements=("x", "y"))
    return EventSchema(task="toy", columns=(column,), classes=("background", "signal"))


def xor_events(events, seed=0):
    """Signal where x·y > 0: no linear classifier can tell."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(events, 2)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(np.int64)
    return {"event_id": [f"e{row}" for row in range(events)], "label": labels, "features": features}


def write_dataset(folder, events=1200, seed=0):
    with ShardWriter(folder, schema(), source={"seed": seed}, rows_per_shard=256) as writer:
        writer.write(xor_events(events, seed))
    return folder


def params(**changed):
    values = {
        "model": "mlp",
        "loss": "cross_entropy",
        "optimizer": "adam",
        "learning_rate": 1e-2,
        "batch_size": 64,
        "scalar_scaling": "standardize",
    }
    return {**values, **changed}


def split(dataset, name):
    batch = pa.concat_tables(
        [pq.read_table(path) for path in dataset.paths(name, purpose="check")]
    ).combine_chunks()
    events = dataset.schema.decode(batch.to_batches()[0])
    return events["event_id"], Events({"features": events["features"]}, events["label"])


def train_and_test(folder, trial_id, dataset, given, seed, epochs):
    """One run of a contender, with its checkpoint and its scores where a confirmation has them."""
    loop = TrialLoop(
        TrialConfig.from_params(given),
        dataset.schema,
        split(dataset, "train")[1],
        split(dataset, "val")[1],
        epochs=epochs,
        seed=seed,
    )
    metrics = [loop.run_epoch() for _ in range(epochs)][-1]
    path = folder / "trials" / trial_id
    state = {"model": loop.kept.state_dict(), "params": loop.config.resolved(), "metrics": metrics}
    save_checkpoint(path / "best.pt", state)
    ids, test = split(dataset, "test")
    result = evaluate(loop.kept, loop.loss, test.batches(BatchRequest(512)))
    table = {"event_id": ids, "label": test.labels}
    table |= {f"score_{name}": result.probabilities[:, i] for i, name in enumerate(dataset.schema.classes)}
    pq.write_table(pa.table(table), path / "test_scores.parquet")
    tested = classification_metrics(
        result.probabilities, test.labels, dataset.schema.classes, dataset.schema.signal
    )
    return ConfirmedRun(
        trial_id=trial_id,
        seed=seed,
        epoch=int(metrics["epoch"]),
        metrics={
            **{f"test_{key}": value for key, value in tested.items()},
            **{key: value for key, value in metrics.items() if key.startswith("val_")},
        },
        checkpoint=f"trials/{trial_id}/best.pt",
        scores=f"trials/{trial_id}/test_scores.parquet",
    )


def estimate(values):
    from scipy import stats

    mean, error = float(np.mean(values)), float(stats.sem(values))
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error) if error else (mean, mean)
    return Estimate(mean=mean, sd=float(np.std(values, ddof=1)), low=float(low), high=float(high))


def confirm(storage, data, name="toy", finalist=DEEP, baseline=LINEAR, seeds=SEEDS, epochs=8):
    """A storage with a search of one finalist, confirmed; returns the folder of the search."""
    from scipy import stats

    torch.set_num_threads(1)  # such small networks train fastest so
    dataset = Dataset.open(data)
    folder = storage / name
    search_id = hashlib.sha256(name.encode()).hexdigest()[:32]
    header = {
        "search_id": search_id,
        "time": time.time(),
        "search": name,
        "dataset_fingerprint": dataset.fingerprint,
        "task": "toy",
        "metric": "val_accuracy",
        "mode": "max",
        "epochs": epochs,
        "sampler": "random",
        "scheduler": "none",
        "seed": 0,
        "space": {},
        "options": {"data": str(data)},
        "provenance": PROVENANCE,
    }
    with Journal(folder) as journal:
        journal.append(SearchStarted(**header))
    contenders = []
    for label, role, changed in (("t0001", "finalist", finalist), ("baseline", "baseline", baseline)):
        given = params(**changed)
        runs = tuple(
            train_and_test(folder / "confirm", f"{label}-s{seed}", dataset, given, seed, epochs)
            for seed in seeds
        )
        keys = [key for key in runs[0].metrics if len(seeds) > 1]
        estimates = {key: estimate([run.metrics[key] for run in runs]) for key in keys}
        contenders.append(Contender(name=label, role=role, params=given, runs=runs, estimates=estimates))
    ours, theirs = ([run.metrics["test_accuracy"] for run in one.runs] for one in contenders)
    differences = np.subtract(ours, theirs)
    p_value = float(stats.ttest_rel(ours, theirs).pvalue) if len(seeds) > 1 and np.ptp(differences) else None
    zero = Estimate(mean=float(differences.mean()), sd=0, low=0, high=0)
    comparison = Comparison(
        contender="t0001",
        metric="test_accuracy",
        difference=estimate(differences) if len(seeds) > 1 else zero,
        p_value=p_value,
        adjusted_p_value=p_value,
    )
    save_confirmation(
        folder,
        Confirmation(
            search=name,
            search_id=search_id,
            task="toy",
            dataset_fingerprint=dataset.fingerprint,
            metric="test_accuracy",
            mode="max",
            level=0.95,
            correction="holm",
            seeds=seeds,
            epochs=epochs,
            contenders=tuple(contenders),
            comparisons=(comparison,),
            provenance=PROVENANCE,
            confirmation_id=f"confirmation-of-{name}",
        ),
    )
    return folder


def rewrite(folder, **changed):
    """Change fields of `confirmation.json`."""
    path = folder / "confirm" / "confirmation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def make_folds(folder, dataset, given, folds, epochs=2, search="toy", trial="t0000"):
    """Train the folds of a configuration on events of one column, and leave them as `hep-ray folds` does."""
    config, made, files = TrialConfig.from_params(given), [], []
    (column,) = dataset.schema.inputs
    salt = dataset.manifest.split_rule.salt

    def events_of(one, part):
        found = one.arrays(part, purpose="check")
        return pa.array(found["event_id"]), Events.from_arrays(
            {column.name: found[column.name]}, found["label"]
        )

    for number in range(folds):
        fold = dataset_of_fold(dataset, SplitRule.of_fold(number, folds, salt), folder, weights=True)
        events = [events_of(fold, part)[1] for part in ("train", "val")]
        loop = start_trial(config, fold.schema, *events, epochs=epochs, seed=number)
        metrics = [loop.run_epoch() for _ in range(epochs)][-1]
        place = folder / f"fold_{number + 1}" / "trials" / "model"
        state = {"model": loop.kept.state_dict(), "params": config.resolved(), "metrics": metrics}
        save_checkpoint(place / "best.pt", state)
        ids, test = events_of(fold, "test")
        tested = evaluate_once(place, fold.schema, test, ids)
        files.append(place / SCORES)
        made.append(
            Fold(
                events=len(ids),
                epoch=tested.epoch,
                metrics=tested.metrics,
                checkpoint=f"fold_{number + 1}/trials/model/best.pt",
                dataset_fingerprint=fold.fingerprint,
            )
        )
    put_together(files, folder / OF_ALL, dataset.schema)
    found = CrossValidation(
        search=search,
        search_id="1",
        dataset_fingerprint=dataset.fingerprint,
        trial=trial,
        params=given,
        seed=1,
        metric="test_auc",
        folds=tuple(made),
        metrics=read_scores(folder / OF_ALL, dataset.schema).metrics(dataset.schema),
        held_out={},
        scores=OF_ALL,
        provenance=PROVENANCE,
    )
    (folder / FOLDS_FILE).write_text(found.model_dump_json())
    return folder


def make_refit(folder, data, scale=1.0):
    """Refit the candidate of a confirmed search as `hep-ray refit` does, in this process; return its plan.

    A scale below 1 makes it a worse model: of its weights so much is kept, and with 0 all events are scored alike.
    """
    torch.set_num_threads(1)
    confirmation, dataset = load_confirmation(folder), Dataset.open(data)
    candidate, _ = choose(confirmation)
    plan = RefitPlan(
        experiment=folder.name,
        storage=folder.parent,
        folder=folder / REFIT,
        tracking_uri="",
        dataset=dataset_of_refit(dataset, folder / REFIT, weights=True),
        resources=None,
        epochs=confirmation.epochs,
        metric="seen_accuracy",
        mode="max",
        until=best_epoch([run.epoch for run in candidate.runs]),
        started=SearchState.read(folder).started,
        source=folder,
        options=AfterSearch(folder.name, storage=folder.parent),
        confirmation=confirmation,
        candidate=candidate,
        seed=9,
        original=dataset,
    )
    names = tuple(column.name for column in plan.dataset.schema.columns)
    sources = {
        part: ShardStream(plan.dataset.schema, RowGroups.of(plan.dataset, part), names, {})
        for part in ("train", "val")
    }
    trials = plan.folder / "trials"
    (begun,) = plan.runs
    job = TrialJob(
        str(trials),
        plan.dataset.schema,
        EventData(sources, plan.dataset.fingerprint),
        plan.epochs,
        plan.metric,
        plan.mode,
        1,
        gpu=False,
        until=plan.until,
    )
    with Journal(plan.folder) as journal:
        recorder = Recorder(journal, plan.metric, plan.mode, plan.epochs, trials, keep=1)
        (started,) = plan.opening(recorder.state, print)
        told = {**PROVENANCE, "confirms": plan.started.search_id}
        recorder.write(started.model_copy(update={"provenance": told}))
        recorder.write(begun)
        place = trials / begun.trial_id
        place.mkdir(parents=True)
        run = TrialRun(job, {"trial_id": begun.trial_id, "params": begun.params, "seed": begun.seed}, "cpu")
        while not run.loop.finished:
            result = run.report()
            recorder.hear(begun.trial_id, result)
        recorder.end(begun.trial_id, result)
        state = load_checkpoint(place / "best.pt")
        learnt = {name for name, _ in run.loop.kept.named_parameters()}
        model = {key: value * scale if key in learnt else value for key, value in state["model"].items()}
        save_checkpoint(place / "best.pt", {**state, "model": model})
        ids, test = split(plan.dataset, "test")
        tested = evaluate_once(place, plan.dataset.schema, test, pa.array(ids))
        recorder.write(
            TrialTested(time=time.time(), trial_id=begun.trial_id, epoch=tested.epoch, metrics=tested.metrics)
        )
        assert _publish(plan, recorder.state, {}) is None  # it has not ended
        recorder.write(SearchFinished(time=time.time()))
        assert _publish(plan, recorder.state, {}) == plan.folder / REFIT_FILE
    return plan
