"""How many cores this process may use, where a batch system or a container gave fewer than the machine has. No Ray."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
SLURM = "SLURM_CPUS_PER_TASK"


def usable_cores() -> int:
    """Return the cores that this process and its children may use: the least of the limits, and at least one."""
    return max(1, int(min(core_limits().values())))


def core_limits(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> dict[str, float]:
    """Return what bounds the cores of this process, by who says so.

    Args:
        cgroups: where control groups are mounted.
        own: the groups of this process, as `/proc/self/cgroup` lists them.

    Returns:
        `machine`: its cores; `affinity`: those that the process is bound to; `cgroup`: the CPU time that its group may
        take, in cores, if bounded; `SLURM_CPUS_PER_TASK`, if set.
    """
    machine = os.cpu_count() or 1
    limits: dict[str, float] = {"machine": machine}
    if hasattr(os, "sched_getaffinity"):
        limits["affinity"] = len(os.sched_getaffinity(0))
    if (quota := _quota(cgroups, own)) is not None:
        limits["cgroup"] = quota
    if (given := os.environ.get(SLURM, "")).isdecimal() and int(given) > 0:
        limits[SLURM] = int(given)
    return limits


def _quota(cgroups: Path, own: Path) -> float | None:
    """Least quota of the groups that the process is in, from its own up to the root; None where there is none."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found: list[float] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            bases, read = [cgroups, cgroups / "unified"], _v2
        elif "cpu" in controllers.split(","):
            bases, read = [cgroups / controllers, cgroups / "cpu"], _v1
        else:
            continue
        # In a container the path may be the host's; the container's own group is then mounted as the root.
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        for base in bases:
            quotas = (read(base.joinpath(*parts[:depth])) for depth in range(len(parts) + 1))
            found.extend(quota for quota in quotas if quota is not None)
    return min(found, default=None)


def _v2(folder: Path) -> float | None:
    """Read `cpu.max` of version 2: "200000 100000" are two cores, "max 100000" is no bound."""
    words = _words(folder / "cpu.max")
    if len(words) != 2 or words[0] == "max":  # noqa: PLR2004 - quota and period, μs
        return None
    return int(words[0]) / int(words[1])


def _v1(folder: Path) -> float | None:
    """Read the quota of version 1; -1 is no bound."""
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    if not quota or not period or int(quota[0]) <= 0:
        return None
    return int(quota[0]) / int(period[0])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
