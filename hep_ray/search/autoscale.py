"""Nodes that do not run yet, but that the cluster's autoscaler starts when trials wait for them.

A search that planned only for the nodes that run would never make the autoscaler start one. Ray does not tell a
driver what may come, so the cluster files do, in HEP_RAY_AUTOSCALE: the path of the file that the head was started
with, or the nodes in words, such as `8 x CPU=8 GPU=1`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hep_ray.cluster import nodes
from hep_ray.errors import InvalidConfig

VARIABLE = "HEP_RAY_AUTOSCALE"
_GROUP = re.compile(r"(\d+) x((?: (?:CPU|GPU)=\d+)+)")


def expected_nodes() -> list[dict[str, float]]:
    """Resources of every living node, and of those that may still start.

    Raises:
        InvalidConfig: HEP_RAY_AUTOSCALE is not understood.
    """
    alive = nodes()
    return [*alive, *to_come(alive, os.environ.get(VARIABLE, ""))]


def to_come(alive: Sequence[Mapping[str, float]], stated: str) -> list[dict[str, float]]:
    """Nodes that may still start.

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
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as fault:
        raise InvalidConfig(
            f"{VARIABLE} names a cluster file as Ray's launcher leaves it on the head; {path} is none: {fault!r}"
        ) from fault
    return groups
