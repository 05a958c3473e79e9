"""Compute how many trials fit on a cluster before anything starts, instead of hanging later.

Nodes that do not run yet, but that the cluster's autoscaler starts when trials wait for them, count too. Ray does not
tell a driver what may come, so the cluster files do, in HEP_RAY_AUTOSCALE: the path of the file that the head was
started with, or the nodes in words, such as `8 x CPU=8 GPU=1`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hep_ray.cluster import describe, nodes
from hep_ray.errors import Infeasible, InvalidConfig
from hep_ray.loading.stream import RESIDENT, Ingest, with_streams
from hep_ray.search.state import ENDLESS, trials_in_words


@dataclass(frozen=True)
class ResourcePlan:
    """Resources that trials will use.

    Attributes:
        trials: trials to run.
        concurrent: trials that run side by side.
        cpus_per_trial: cores that each worker of a trial holds.
        gpus_per_trial: GPUs (or a fraction of one, for a single worker) that each worker of a trial holds.
        cpus: cores of the cluster.
        gpus: GPUs of the cluster.
        workers_per_trial: processes that train a trial together, on one node or several.
        min_workers_per_trial: as few of them will do while the cluster has no room for all.
        data_cpus: cores kept free for Ray Data while trials run.
        ingest: where the events are while trials run.
        unread: columns of the dataset that no model of these trials reads.
        here: whether processes of this machine train, without Ray, see `hep_ray.search.local_fits`.
    """

    trials: int
    concurrent: int
    cpus_per_trial: int
    gpus_per_trial: float
    cpus: int
    gpus: float
    workers_per_trial: int = 1
    min_workers_per_trial: int = 1
    data_cpus: int = 0
    ingest: Ingest = RESIDENT
    unread: tuple[str, ...] = ()
    here: bool = False

    @property
    def cluster(self) -> str:
        """In words, where trials run."""
        return "none: models that are fitted, to few events, need no Ray" if self.here else describe()

    @property
    def _workers(self) -> int:
        return self.concurrent * self.workers_per_trial

    def __str__(self) -> str:
        each = f"{self.cpus_per_trial} CPU"
        if self.gpus_per_trial:
            each += f" and {self.gpus_per_trial:g} GPU"
        if self.workers_per_trial == 1:
            text = f"{self.concurrent} trials side by side × {each}"
        else:
            least, most = self.min_workers_per_trial, self.workers_per_trial
            workers = str(most) if least == most else f"{least} to {most}"
            text = f"{self.concurrent} trials side by side × (driver 0 CPU + {workers} workers × {each})"
        bound = "up to " if self.min_workers_per_trial < self.workers_per_trial else ""
        sums = bound + f"{self._workers * self.cpus_per_trial + self.data_cpus} CPU"
        if self.gpus_per_trial:
            sums += f" and {self._workers * self.gpus_per_trial:g} GPU"
        data = f" + Ray Data {self.data_cpus} CPU" if self.data_cpus else ""
        cluster = f"{self.cpus} CPU, {self.gpus:g} GPU"
        waves = "" if self.trials >= ENDLESS else f" in about {-(-self.trials // self.concurrent)} waves"
        return f"{text}{data} = {sums} of a cluster with {cluster}: {trials_in_words(self.trials)}{waves}"


def plan_resources(
    nodes: Sequence[Mapping[str, float]],
    trials: int,
    cpus_per_trial: int,
    gpus_per_trial: float,
    *,
    workers_per_trial: int = 1,
    min_workers_per_trial: int | None = None,
    ingest: Ingest = RESIDENT,
) -> ResourcePlan:
    """Compute how many trials fit on a cluster at once: trials × (driver + workers) + Ray Data ≤ cluster.

    The driver of a trial holds nothing. A worker must fit on one node; the workers of a trial may be on several. As
    all workers are alike, as many trials fit as the places for workers make groups. Where events are streamed, no more
    workers run than a node's memory budget holds streams, if one node could get them all.

    Args:
        nodes: each node's resources, as `{"CPU": 16, "GPU": 1}`.
        trials: trials to run.
        cpus_per_trial: cores of each worker of a trial.
        gpus_per_trial: GPUs of each worker; a fraction shares a GPU, for a single worker only.
        workers_per_trial: processes that train a trial together.
        min_workers_per_trial: how few of them will do; as many as above unless given.
        ingest: where the events are. Ray Data's cores are kept free of trials where it streams, and it gets those that
            no trial takes unless their number is given; where events are in memory before the first trial starts, it
            needs none.

    Raises:
        Infeasible: the workers of one trial could never run at once, or the memory budget is too small for their
            streams; the message holds the sums.
    """
    least = workers_per_trial if min_workers_per_trial is None else min_workers_per_trial
    _check(cpus_per_trial, gpus_per_trial, workers_per_trial, least)
    data_cpus = ingest.readers if ingest.cache == "streaming" else 0
    free = _without_data(nodes, data_cpus)
    on_nodes = [_fit(node, cpus_per_trial, gpus_per_trial) for node in free]
    places, on_one = sum(on_nodes), max(on_nodes, default=0)
    if places < least:
        raise Infeasible(_refusal(nodes, cpus_per_trial, gpus_per_trial, least, places, data_cpus))
    if ingest.cache == "streaming" and on_one > ingest.most_streams:
        # Ray may put all workers on the node that has most places.
        places = min(places, ingest.most_streams)
    concurrent = min(max(places // workers_per_trial, 1), trials)
    if ingest.cache == "streaming" and ingest.spare:
        left = (
            int(sum(node.get("CPU", 0) for node in nodes)) - concurrent * workers_per_trial * cpus_per_trial
        )
        data_cpus = max(data_cpus, left)
        ingest = dataclasses.replace(ingest, readers=data_cpus)
    return ResourcePlan(
        trials=trials,
        concurrent=concurrent,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        cpus=int(sum(node.get("CPU", 0) for node in nodes)),
        gpus=sum(node.get("GPU", 0) for node in nodes),
        workers_per_trial=workers_per_trial,
        min_workers_per_trial=least,
        data_cpus=data_cpus,
        ingest=with_streams(ingest, min(on_one, concurrent * workers_per_trial)),
    )


def _check(cpus: int, gpus: float, workers: int, least: int) -> None:
    if workers < 1 or not 1 <= least <= workers:
        raise Infeasible(
            f"1 <= min-workers-per-trial <= workers-per-trial must hold, got --workers-per-trial {workers} and "
            f"--min-workers-per-trial {least}"
        )
    if cpus < 1:
        raise Infeasible(f"--cpus-per-trial must be at least 1, got {cpus}")
    if not 0 <= gpus < math.inf:
        raise Infeasible(f"--gpus-per-trial must be 0 or more and finite, got --gpus-per-trial {gpus:g}")
    if gpus > 1 and gpus != int(gpus):
        raise Infeasible(f"above one GPU only whole ones can be asked for, got --gpus-per-trial {gpus:g}")
    if workers > 1 and gpus != int(gpus):
        raise Infeasible(
            f"workers that train together need whole GPUs, since NCCL takes one process per GPU, got --gpus-per-trial "
            f"{gpus:g} for each of --workers-per-trial {workers}"
        )


def _refusal(
    nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float, workers: int, places: int, data_cpus: int
) -> str:
    listing = "; ".join(f"{node.get('CPU', 0):g} CPU + {node.get('GPU', 0):g} GPU" for node in nodes)
    has = f"the {len(nodes)} node(s) have: {listing}" + (
        f", of which Ray Data takes {data_cpus} CPU" if data_cpus else ""
    )
    if workers == 1:
        return f"a trial fits on no node: it needs {cpus} CPU + {gpus:g} GPU, {has}"
    return (
        f"the workers of a trial do not fit on the cluster: they run at once, each on one node, and need {workers} × "
        f"({cpus} CPU + {gpus:g} GPU) = {workers * cpus} CPU + {workers * gpus:g} GPU; there is room for {places} of "
        f"them: {has}"
    )


def _without_data(nodes: Sequence[Mapping[str, float]], data_cpus: int) -> list[dict[str, float]]:
    """Return what Ray Data's tasks leave, which take a core each of the nodes that have most."""
    free = [dict(node) for node in nodes]
    for _ in range(data_cpus):
        most = max(free, key=lambda node: node.get("CPU", 0), default={})
        most["CPU"] = max(most.get("CPU", 0) - 1, 0)
    return free


def _fit(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) // cpus)
    if gpus == 0:
        return by_cpu
    whole = int(node.get("GPU", 0))
    by_gpu = whole * int(1 / gpus + 1e-9) if gpus <= 1 else whole // int(gpus)
    return min(by_cpu, by_gpu)


VARIABLE = "HEP_RAY_AUTOSCALE"
_GROUP = re.compile(r"(\d+) x((?: (?:CPU|GPU)=\d+)+)")


def expected_nodes() -> list[dict[str, float]]:
    """Return the resources of every living node, and of those that may still start.

    Raises:
        InvalidConfig: HEP_RAY_AUTOSCALE is not understood.
    """
    alive = nodes()
    return [*alive, *to_come(alive, os.environ.get(VARIABLE, ""))]


def to_come(alive: Sequence[Mapping[str, float]], stated: str) -> list[dict[str, float]]:
    """Return the nodes that may still start.

    Args:
        alive: resources of the living nodes; those that look like nodes of a group count against its number.
        stated: value of HEP_RAY_AUTOSCALE; empty where nothing scales.

    Raises:
        InvalidConfig: it is neither the path of a cluster file nor groups in words.
    """
    waiting: list[dict[str, float]] = []
    for count, resources in _groups(stated.strip()):
        running = sum(
            all(node.get(name, 0) == resources.get(name, 0) for name in ("CPU", "GPU")) for node in alive
        )
        waiting += [resources] * max(count - running, 0)
    return waiting


def _groups(stated: str) -> list[tuple[int, dict[str, float]]]:
    if not stated:
        return []
    path = Path(stated).expanduser()
    if path.suffix in {".yaml", ".yml"}:
        return _of_file(path)
    groups = []
    for words in stated.split(","):
        match = _GROUP.fullmatch(words.strip())
        if match is None:
            raise InvalidConfig(
                f"{VARIABLE} is the path of a cluster file, or nodes such as '8 x CPU=8 GPU=1, 2 x CPU=32'; "
                f"got '{stated}'"
            )
        pairs = (pair.split("=") for pair in match[2].split())
        groups.append((int(match[1]), {name: float(value) for name, value in pairs}))
    return groups


def _of_file(path: Path) -> list[tuple[int, dict[str, float]]]:
    import yaml

    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        kinds = config["available_node_types"]
        groups = []
        left = int(config.get("max_workers", 0))
        for name, kind in kinds.items():
            if name == config["head_node_type"]:
                continue
            count = min(int(kind.get("max_workers", left)), left)
            left -= count
            groups.append((count, {key: float(kind["resources"].get(key, 0)) for key in ("CPU", "GPU")}))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InvalidConfig(
            f"{VARIABLE} names a cluster file as Ray's launcher leaves it on the head; {path} is none: {exc!r}"
        ) from exc
    return groups
