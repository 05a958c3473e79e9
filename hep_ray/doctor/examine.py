"""Asks the cluster everything that a search will need, and judges it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hep_ray.cluster import connect
from hep_ray.dataset.dataset import MANIFEST
from hep_ray.doctor import checks
from hep_ray.doctor.checks import Check
from hep_ray.errors import Infeasible, TrackingUnavailable
from hep_ray.search import node_checks
from hep_ray.search.resources import expected_nodes, plan_resources
from hep_ray.tracking.client import database_file, default_uri, ping
from hep_ray.tracking.provenance import code_hash


@dataclass(frozen=True)
class Wanted:
    """Needs of the search to come.

    Attributes:
        storage: folder of all searches.
        data: dataset folder, if it is to be checked.
        tracking_uri: MLflow server or database; None is SQLite in the storage.
        trials: of the search.
        cpus_per_trial: cores of each worker of a trial.
        gpus_per_trial: GPUs of each worker of a trial.
        code: hash that the hep_ray package shall have.
        workers_per_trial: processes that train a trial together.
    """

    storage: Path
    data: Path | None = None
    tracking_uri: str | None = None
    trials: int = 64
    cpus_per_trial: int = 1
    gpus_per_trial: float = 0
    code: str | None = None
    workers_per_trial: int = 1


def examine(wanted: Wanted) -> list[Check]:
    """Join the cluster, or start one here as a search would, and check it.

    Raises:
        ClusterUnavailable: the cluster does not take this driver.
    """
    connect()
    nodes = node_checks.living_nodes()
    answers = node_checks.ask(nodes, node_checks.facts)
    facts = {key: answer for key, answer in answers.items() if isinstance(answer, node_checks.NodeFacts)}
    silent = {
        key: node_checks.one_line(answer) for key, answer in answers.items() if isinstance(answer, Exception)
    }
    heard = [node for node in nodes if node.node_id in facts]
    found = [
        checks.answered(nodes, silent),
        checks.versions(nodes, facts),
        checks.code(nodes, facts, code_hash(), wanted.code),
        checks.cores(nodes, facts),
        checks.gpus(nodes, facts),
        checks.authentication(nodes, facts),
        checks.token(nodes, facts),
        checks.clock(nodes, node_checks.clocks(heard)),
        _storage(wanted.storage, heard),
    ]
    if wanted.data is not None:
        faults = node_checks.unreadable(wanted.data / MANIFEST, heard)
        found.append(checks.shared("data", str(wanted.data), heard, faults))
    return [*found, _mlflow(wanted), _resources(wanted)]


def _storage(storage: Path, nodes: list[node_checks.Node]) -> Check:
    try:
        storage.mkdir(parents=True, exist_ok=True)
        faults = node_checks.unshared(storage, nodes)
    except OSError as exc:
        return Check(
            "storage",
            False,
            f"{storage}: the driver cannot write there: {exc.strerror}",
            "name a folder that can be written with --storage or HEP_RAY_STORAGE",
        )
    return checks.shared("storage", str(storage.resolve()), nodes, faults)


def _mlflow(wanted: Wanted) -> Check:
    uri = wanted.tracking_uri or default_uri(wanted.storage)
    file = database_file(uri)
    if file is not None and not file.exists():
        return Check("mlflow", True, f"{uri}, which the first search makes")
    try:
        ping(uri)
    except TrackingUnavailable as exc:
        return Check(
            "mlflow",
            False,
            str(exc),
            "start it beside the head with clusters/bin/mlflow.sh, or name another one with --tracking-uri or "
            "MLFLOW_TRACKING_URI",
        )
    return Check("mlflow", True, uri)


def _resources(wanted: Wanted) -> Check:
    try:
        plan = plan_resources(
            expected_nodes(),
            wanted.trials,
            wanted.cpus_per_trial,
            wanted.gpus_per_trial,
            workers_per_trial=wanted.workers_per_trial,
        )
    except Infeasible as exc:
        return Check(
            "resources",
            False,
            str(exc),
            "ask for less with --workers-per-trial, --cpus-per-worker and --gpus-per-worker, or add nodes; on an "
            "autoscaling cluster HEP_RAY_AUTOSCALE tells which may still come"
            + ("" if os.environ.get("HEP_RAY_AUTOSCALE") else " (it is not set)"),
        )
    return Check("resources", True, str(plan))
