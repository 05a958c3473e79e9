"""Records of a search in MLflow: how fast, in how much memory, and how soon its page is seen.

A journal is made up, as a search of so many trials leaves it: eight trials at a time, each epoch with its metrics. It
is written into a new SQLite database by `MlflowTracker`, as at the end of a search whose server was away, and part of
it by MLflow's client as one uses it: a run with its parameters, one `log_batch` for each epoch, a tag and the end.
`ratio` compares processor seconds for a record; seconds on the clock depend on how soon a disk answers.

With `--page`, the page of the trials, best first, that `hep-ray ui` shows of the whole database is asked for.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from many_trials import resident, ui_seconds

from hep_ray.tracking.client import default_uri, open_client
from hep_ray.tracking.mlflow import MlflowTracker
from hep_ray.tracking.records import (
    EpochFinished,
    Record,
    SearchFinished,
    SearchStarted,
    TrialFinished,
    TrialStarted,
)
from hep_ray.tracking.views import TRIALS, VIEW_TAG, metric_key

WORKERS = 8
MEBIBYTE = 2**20
NAME = "made_up"


def records(trials: int, epochs: int, metrics: int) -> Iterator[Record]:
    """Yield the records of a made-up search; every number is another."""
    now = 1.75e9
    yield SearchStarted(
        time=now,
        search=NAME,
        search_id="made-up",
        dataset_fingerprint="f" * 64,
        task="toy",
        metric="val_auc",
        mode="max",
        epochs=epochs,
        sampler="tpe",
        scheduler="none",
        seed=0,
        options={},
        provenance={f"version_{number}": "1.2.3" for number in range(12)},
    )
    for first in range(0, trials, WORKERS):
        group = range(first, min(first + WORKERS, trials))
        for number in group:
            now += 0.01
            params = {f"parameter_{place}": number + place / 10 for place in range(10)}
            yield TrialStarted(time=now, trial_id=f"t{number:04d}", number=number, params=params, seed=number)
        for epoch in range(1, epochs + 1):
            for number in group:
                now += 0.01
                values = {f"val_metric_{place}": 1 / (epoch + number + place) for place in range(metrics)}
                values |= {"epoch": epoch, "val_auc": 1 - 1 / (1 + epoch + number % 97)}
                yield EpochFinished(
                    time=now, trial_id=f"t{number:04d}", metrics=values, cpu_seconds=1.0 + number
                )
        for number in group:
            now += 0.01
            yield TrialFinished(time=now, trial_id=f"t{number:04d}", status="completed")
    yield SearchFinished(time=now)


def ours(journal: list[Record], storage: Path) -> tuple[float, float, int]:
    """Return seconds of the clock, of the processor, and the growth of the process' memory, bytes."""
    open_client(default_uri(storage))  # its tables
    before, start, used = resident(), time.perf_counter(), time.process_time()
    tracker = MlflowTracker(default_uri(storage), NAME, storage / "mlartifacts")
    tracker.replay(journal)
    tracker.close()
    seconds, used = time.perf_counter() - start, time.process_time() - used
    assert len(tracker.run_ids) == sum(isinstance(one, TrialStarted) for one in journal)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds, used, most - before


def by_client(journal: list[Record], storage: Path) -> tuple[float, float]:
    """Return seconds of the clock and of the processor of MLflow's client, as one uses it."""
    from mlflow.entities import Metric, Param

    client = open_client(default_uri(storage))
    experiment = client.create_experiment(NAME)
    start, used = time.perf_counter(), time.process_time()
    runs: dict[str, Any] = {}
    for record in journal:
        if isinstance(record, TrialStarted):
            run = client.create_run(experiment, start_time=int(1000 * record.time), run_name=record.trial_id)
            runs[record.trial_id] = run.info.run_id
            params = [Param(key, str(value)) for key, value in record.params.items()]
            client.log_batch(runs[record.trial_id], params=params)
        elif isinstance(record, EpochFinished):
            stamp = int(1000 * record.time)
            points = [
                Metric(metric_key(key), value, stamp, record.epoch) for key, value in record.metrics.items()
            ]
            client.log_batch(runs[record.trial_id], metrics=points)
        elif isinstance(record, TrialFinished):
            client.set_tag(runs[record.trial_id], "status", record.status)
            client.set_terminated(runs[record.trial_id], "FINISHED", int(1000 * record.time))
    return time.perf_counter() - start, time.process_time() - used


def first_page(storage: Path) -> dict[str, float]:
    """Return the seconds in which `hep-ray ui` answers for the trials, best first, as its view asks for them."""
    experiment = open_client(default_uri(storage)).get_experiment_by_name(NAME)
    view = json.loads(json.loads(experiment.tags[VIEW_TAG + TRIALS])["state"])
    asked = {
        "filter": view["searchFilter"],
        "order_by": [f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"],
        "max_results": 100,
    }
    return ui_seconds(storage, NAME, asked)


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--metrics", type=int, default=30, help="of an epoch")
    parser.add_argument("--peer-trials", type=int, default=8, help="that MLflow's client writes")
    parser.add_argument("--page", action="store_true", help="ask for the page of all trials, too")
    options = parser.parse_args()
    journal = list(records(options.trials, options.epochs, options.metrics))
    part = list(records(options.peer_trials, options.epochs, options.metrics))
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / one for one in ("warm", "peer", "ours")]
        for folder in folders:
            folder.mkdir()
        ours(part, folders[0])
        peer_seconds, peer_used = by_client(part, folders[1])
        seconds, used, memory = ours(journal, folders[2])
        line = {
            "what": "tracking: processor seconds for 1,000 records in MLflow on SQLite",
            "ours": round(1000 * used / len(journal), 3),
            "peer": round(1000 * peer_used / len(part), 3),
            "ratio": round(peer_used / len(part) / (used / len(journal)), 1),
            "peer_is": "MLflow's client: one log_batch for each epoch",
            "trials": options.trials,
            "epochs": options.epochs,
            "records": len(journal),
            "records_per_second": round(len(journal) / seconds),
            "peer_records_per_second": round(len(part) / peer_seconds, 1),
            "more_memory_mib": round(memory / MEBIBYTE),
            "database_mib": round((folders[2] / "mlflow.db").stat().st_size / MEBIBYTE, 1),
            **({"page_seconds": first_page(folders[2])} if options.page else {}),
        }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
