"""Conclusions from what the nodes said: pure functions from facts to one line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hep_ray.search.node_checks import Clock, Node, NodeFacts

SKEW = 1.0
"""Clocks farther apart than this, in s, mix up times in logs, MLflow and file systems."""


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Attributes:
        name: what was checked.
        ok: whether a search can go on as it is.
        found: what was found.
        advice: what to do; empty where all is well.
    """

    name: str
    ok: bool
    found: str
    advice: str = ""


def answered(nodes: Sequence[Node], silent: Mapping[str, str]) -> Check:
    """Check that every node answers and imports hep_ray."""
    if not silent:
        kinds = Counter((node.cpus, node.gpus) for node in nodes)
        listed = ", ".join(f"{many} × {cpus:g} CPU + {gpu:g} GPU" for (cpus, gpu), many in kinds.items())
        return Check("nodes", True, f"{count(len(nodes), 'node')}, {listed}")
    return Check(
        "nodes",
        False,
        _per_node(nodes, silent),
        "install the same hep_ray on these nodes: `ray up` the cluster file again, or run clusters/bin/setup.sh there",
    )


def versions(nodes: Sequence[Node], facts: Mapping[str, NodeFacts]) -> Check:
    """Check that Python and packages are the same everywhere."""
    differing = {}
    for name in sorted({name for one in facts.values() for name in one.versions}):
        seen = {node_id: one.versions.get(name, "absent") for node_id, one in facts.items()}
        if len(set(seen.values())) > 1 or "absent" in seen.values():
            differing[name] = seen
    if not differing:
        shown = next(iter(facts.values())).versions if facts else {}
        return Check("versions", True, ", ".join(f"{name} {value}" for name, value in shown.items()))
    text = "; ".join(f"{name}: {_by_value(nodes, seen)}" for name, seen in differing.items())
    return Check(
        "versions",
        False,
        text,
        "install requirements/lock.txt on every node: `ray up` the cluster file again, or run clusters/bin/setup.sh",
    )


def code(nodes: Sequence[Node], facts: Mapping[str, NodeFacts], here: str, expected: str | None) -> Check:
    """Check that the hep_ray package is the driver's on every node, and the one that is expected.

    Args:
        nodes: that were asked.
        facts: of those that answered.
        here: hash of the driver's package.
        expected: hash that `hep-ray doctor --print-code` says elsewhere, on the laptop for instance.
    """
    seen = {node_id: one.code for node_id, one in facts.items()}
    advice = (
        "copy the code again: `ray up` the cluster file (ray submit copies the script alone); a module that was "
        "deleted stays on the nodes until it is deleted there"
    )
    stale = {node_id: value for node_id, value in seen.items() if value != here}
    if stale:
        return Check("code", False, f"the driver runs {here}; {_by_value(nodes, stale)}", advice)
    if expected is not None and expected != here:
        return Check("code", False, f"all nodes run {here}; expected is {expected}", advice)
    return Check("code", True, f"hep_ray {here} on all nodes" + (", as expected" if expected else ""))


def cores(nodes: Sequence[Node], facts: Mapping[str, NodeFacts]) -> Check:
    """Check that Ray hands out no more CPUs of a node than its processes may use."""
    over = {
        node.node_id: f"Ray hands out {node.cpus:g} CPU, its processes may use {facts[node.node_id].cores}"
        for node in nodes
        if node.node_id in facts and 0 < facts[node.node_id].cores < node.cpus
    }
    if over:
        return Check(
            "cores",
            False,
            _per_node(nodes, over),
            "affinity, a control group or the batch system bounds them, and trials would share what they believe to "
            "have: start Ray there with `ray start --num-cpus=` that number, or ask the batch system for more",
        )
    return Check("cores", True, "no node hands out more than its processes may use")


def gpus(nodes: Sequence[Node], facts: Mapping[str, NodeFacts]) -> Check:
    """Check that torch sees the GPUs that Ray hands out."""
    blind = {
        node.node_id: f"Ray hands out {node.gpus:g}, torch sees {facts[node.node_id].torch_gpus}"
        for node in nodes
        if node.node_id in facts and facts[node.node_id].torch_gpus < node.gpus
    }
    if blind:
        return Check(
            "gpus",
            False,
            _per_node(nodes, blind),
            "`nvidia-smi` on that node tells whether its driver works; torch needs a driver at least as new as its "
            "CUDA (python -c 'import torch; print(torch.version.cuda)')",
        )
    idle = {
        node.node_id: f"torch sees {facts[node.node_id].torch_gpus} that Ray does not hand out"
        for node in nodes
        if node.node_id in facts and facts[node.node_id].torch_gpus > node.gpus
    }
    total = sum(node.gpus for node in nodes)
    found = f"{total:g}" if total else "none: trials train on CPUs"
    return Check("gpus", True, found + (f"; {_per_node(nodes, idle)}" if idle else ""))


def shared(name: str, folder: str, nodes: Sequence[Node], faults: Mapping[str, str]) -> Check:
    """Check that every node sees the folder, and what others write there."""
    if not faults:
        return Check(name, True, f"{folder}, shared by {count(len(nodes), 'node')}")
    return Check(
        name,
        False,
        f"{folder}: {_per_node(nodes, faults)}",
        "mount the same file system on every node, and name a folder of it with --storage or HEP_RAY_STORAGE",
    )


def clock(nodes: Sequence[Node], clocks: Mapping[str, Clock]) -> Check:
    """Check that clocks agree within a second, or that no disagreement can be told."""
    off = {
        node_id: f"{one.offset:+.1f} s against the driver"
        for node_id, one in clocks.items()
        if abs(one.offset) - one.uncertainty > SKEW
    }
    if off:
        return Check(
            "clocks",
            False,
            _per_node(nodes, off),
            "set the clock by NTP: `sudo timedatectl set-ntp true` there",
        )
    largest = max((abs(one.offset) + one.uncertainty for one in clocks.values()), default=0.0)
    untold = " ".join(node.address for node in nodes if node.node_id not in clocks)
    found = f"within {1000 * largest:.0f} ms of the driver's"
    return Check("clocks", True, found + (f"; not told by {untold}" if untold else ""))


def authentication(nodes: Sequence[Node], facts: Mapping[str, NodeFacts]) -> Check:
    """Check that a cluster of several machines asks for a token, on which all of its nodes agree."""
    modes = {node_id: one.auth_mode or "not stated" for node_id, one in facts.items()}
    if len(nodes) == 1:
        return Check("authentication", True, f"RAY_AUTH_MODE {next(iter(modes.values()), 'not stated')}")
    if set(modes.values()) == {"token"}:
        return Check("authentication", True, "token")
    return Check(
        "authentication",
        False,
        f"RAY_AUTH_MODE: {_by_value(nodes, modes)}",
        "whoever reaches Ray's ports may run code: set RAY_AUTH_MODE=token on every node and for the driver, and "
        "start Ray anew (the files in clusters/ do)",
    )


def token(nodes: Sequence[Node], facts: Mapping[str, NodeFacts]) -> Check:
    """Check that nobody but its owner reads the token of the cluster; Ray itself writes it for everyone to read."""
    in_use = {node_id: one for node_id, one in facts.items() if one.auth_mode == "token"}
    open_to_all = {node_id: one.open_token for node_id, one in in_use.items() if one.open_token}
    if not open_to_all:
        return Check("token file", True, "read by its owner alone, where one is asked for")
    return Check(
        "token file",
        False,
        _per_node(nodes, open_to_all),
        "whoever reads the token may run code as you: `chmod 600` the file there, and make a new token "
        "(`ray get-auth-token --generate` after deleting it) where others may have read it",
    )


def count(number: int, noun: str) -> str:
    """Return `1 node`, `2 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _per_node(nodes: Sequence[Node], faults: Mapping[str, str]) -> str:
    return "; ".join(f"{node.address}: {faults[node.node_id]}" for node in nodes if node.node_id in faults)


def _by_value(nodes: Sequence[Node], seen: Mapping[str, str]) -> str:
    hosts: dict[str, list[str]] = {}
    for node in nodes:
        if node.node_id in seen:
            hosts.setdefault(seen[node.node_id], []).append(node.address)
    return ", ".join(f"{value} on {' '.join(addresses)}" for value, addresses in hosts.items())
