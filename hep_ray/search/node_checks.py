"""Ask every node of the cluster what it runs and sees, and check that it can run trials."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hep_ray.addresses import located
from hep_ray.cores import usable_cores
from hep_ray.errors import StorageError
from hep_ray.masking import open_token, ray_token
from hep_ray.tracking.provenance import PACKAGES, code_hash, package_version

PATIENCE = 90.0
"""Seconds after which a node that does not answer is silent; its first answer needs a new worker process."""
VISIBLE_AFTER = 15.0
"""Seconds that a file may take to show on other nodes; network file systems remember old listings for a while."""
CLOCK_QUESTIONS = 5


@dataclass(frozen=True)
class Node:
    """A living node.

    Attributes:
        node_id: Ray's.
        address: as Ray knows it.
        cpus: that Ray hands out.
        gpus: that Ray hands out.
    """

    node_id: str
    address: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class NodeFacts:
    """Facts that a node reports.

    Attributes:
        host: its name.
        versions: `python` and package → version.
        code: hash of its hep_ray package.
        torch_gpus: GPUs that torch sees.
        auth_mode: RAY_AUTH_MODE of Ray's processes; empty where it is not set.
        open_token: Ray's token file with its permissions, where others than its owner can read it; empty elsewhere.
        cores: that its processes may use, by affinity, control group and batch system; 0 where that is not known.
    """

    host: str
    versions: dict[str, str]
    code: str
    torch_gpus: int
    auth_mode: str
    open_token: str = ""
    cores: int = 0


@dataclass(frozen=True)
class Clock:
    """Offset of a node's clock from the driver's.

    Attributes:
        offset: node minus driver, s.
        uncertainty: half the time of the question, s.
    """

    offset: float
    uncertainty: float


def living_nodes() -> list[Node]:
    """Return the living nodes of the cluster, the head first."""
    found = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    found.sort(
        key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeManagerAddress"])
    )
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
        )
        for node in found
    ]


def ask(
    nodes: Sequence[Node], work: Callable[..., Any], *args: Any, patience: float = PATIENCE
) -> dict[str, Any]:
    """Run the same function on each of the nodes, beside whatever runs there.

    Args:
        nodes: to ask.
        work: that each does.
        args: of the work.
        patience: seconds after which a node that does not answer is silent.

    Returns:
        Node id → what the work returned, or the exception that came instead of it.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(work)
    running = {task.options(scheduling_strategy=_on(node)).remote(*args): node.node_id for node in nodes}
    done, silent = ray.wait(list(running), num_returns=len(running), timeout=patience)
    answers: dict[str, Any] = {
        running[one]: TimeoutError(f"no answer within {patience:.0f} s") for one in silent
    }
    for one in silent:
        ray.cancel(one, force=True)
    for one in done:
        try:
            answers[running[one]] = ray.get(one)
        except Exception as exc:  # noqa: BLE001 - a node's answer, which the caller judges
            answers[running[one]] = exc
    return answers


def facts() -> NodeFacts:
    """Report the versions, code, GPUs and cores of this node."""
    versions = {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}}
    mode = os.environ.get("RAY_AUTH_MODE", "")
    token, cores = open_token(ray_token()), usable_cores()
    return NodeFacts(platform.node(), versions, code_hash(), _torch_gpus(), mode, token, cores)


def clocks(nodes: Sequence[Node]) -> dict[str, Clock]:
    """Return node id → its clock against the driver's, from the quickest of a few questions; without lost nodes."""
    found: dict[str, Clock] = {}
    task = ray.remote(num_cpus=0)(_now)
    for node in nodes:
        here = task.options(scheduling_strategy=_on(node))
        readings = []
        with suppress(RayError):
            for _ in range(CLOCK_QUESTIONS):
                before = time.time()
                there = ray.get(here.remote(), timeout=PATIENCE)
                after = time.time()
                readings.append(Clock(there - (before + after) / 2, (after - before) / 2))
        if readings:
            found[node.node_id] = min(readings, key=lambda reading: reading.uncertainty)
    return found


def unshared(folder: Path, nodes: Sequence[Node]) -> dict[str, str]:
    """Return the nodes that do not share a folder with the driver, or cannot write there.

    Args:
        folder: exists, and the driver can write there.
        nodes: to ask.

    Returns:
        Node id → what is wrong; nothing for a node that shares it.
    """
    place = folder.resolve() / f".probe-{uuid.uuid4().hex}"
    place.mkdir()
    try:
        (place / "driver").write_text("driver", encoding="utf-8")
        answers = ask(nodes, _share, str(place))
        faults = {}
        for node in nodes:
            answer = answers[node.node_id]
            if isinstance(answer, Exception):
                faults[node.node_id] = f"no answer: {one_line(answer)}"
            elif not answer.startswith("wrote "):
                faults[node.node_id] = answer
            elif _read(place / answer.removeprefix("wrote ")) != "node":
                faults[node.node_id] = f"what it writes to {folder} does not arrive here"
        return faults
    finally:
        shutil.rmtree(place, ignore_errors=True)


def unreadable(path: Path, nodes: Sequence[Node]) -> dict[str, str]:
    """Return the nodes that cannot read a file: node id → what is wrong."""
    answers = ask(nodes, _first_byte, str(located(path).resolve()))
    return {node_id: one_line(answer) for node_id, answer in answers.items() if isinstance(answer, Exception)}


def one_line(exc: Exception) -> str:
    """Return an exception in a line: the last one of a traceback says what happened."""
    lines = str(exc).strip().splitlines()
    return lines[-1] if lines else type(exc).__name__


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.node_id, soft=False)


def _now() -> float:
    return time.time()


def _share(place: str) -> str:
    if _read(Path(place) / "driver") != "driver":
        return f"it does not see {Path(place).parent}, or another folder of that name"
    name = uuid.uuid4().hex
    try:
        (Path(place) / name).write_text("node", encoding="utf-8")
    except OSError as exc:
        return f"it cannot write to {Path(place).parent}: {exc.strerror}"
    return f"wrote {name}"


def _read(path: Path) -> str:
    until = time.monotonic() + VISIBLE_AFTER
    while True:
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            if time.monotonic() > until or not path.parent.parent.is_dir():
                return ""
            time.sleep(0.5)


def _first_byte(path: str) -> int:
    with located(path).open("rb") as file:
        return len(file.read(1))


def _torch_gpus() -> int:
    """In a process of its own: Ray hides the GPUs from a task that holds none."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return int(done.stdout) if done.returncode == 0 else 0


def check_every_node(storage: Path, manifests: Sequence[Path]) -> None:
    """Check that every node shares the storage and reads the data; nothing is asked of a single node.

    Args:
        storage: folder of all searches, which the driver can write.
        manifests: of the datasets, which the driver can read.

    Raises:
        StorageError: a node does not share the storage, or cannot read the data.
    """
    nodes = living_nodes()
    if len(nodes) == 1:
        return
    if faults := unshared(storage, nodes):
        raise StorageError(
            f"storage {storage.resolve()} is not shared by all nodes: {_listing(nodes, faults)}: "
            "give a folder of a shared file system with --storage or HEP_RAY_STORAGE; `hep-ray doctor` checks the rest"
        )
    for manifest in manifests:
        if faults := unreadable(manifest, nodes):
            raise StorageError(
                f"not every node can read {manifest.resolve()}: {_listing(nodes, faults)}: put the dataset on a shared "
                "file system and name it there (--data or HEP_RAY_DATA; --watch for a second one)"
            )


def _listing(nodes: Sequence[Node], faults: Mapping[str, str]) -> str:
    return "; ".join(f"{node.address}: {faults[node.node_id]}" for node in nodes if node.node_id in faults)
