"""The arithmetic of a search against a cluster, done before anything starts instead of hanging later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hep_ray.errors import Infeasible


@dataclass(frozen=True)
class ResourcePlan:
    """What a search will use.

    Attributes:
        trials: trials to run.
        concurrent: trials that run side by side.
        cpus_per_trial: cores each holds.
        gpus_per_trial: GPUs (or a fraction of one) each holds.
        cpus: cores of the cluster.
        gpus: GPUs of the cluster.
    """

    trials: int
    concurrent: int
    cpus_per_trial: int
    gpus_per_trial: float
    cpus: int
    gpus: float

    def __str__(self) -> str:
        text = f"{self.concurrent} trials side by side × {self.cpus_per_trial} CPU"
        if self.gpus_per_trial:
            text += f" and {self.gpus_per_trial:g} GPU"
        cluster = f"{self.cpus} CPU, {self.gpus:g} GPU"
        waves = -(-self.trials // self.concurrent)
        return f"{text} of a cluster with {cluster}: {self.trials} trials in about {waves} waves"


def plan_resources(
    nodes: Sequence[Mapping[str, float]], trials: int, cpus_per_trial: int, gpus_per_trial: float
) -> ResourcePlan:
    """How many trials fit on a cluster at once.

    Args:
        nodes: each node's resources, as `{"CPU": 16, "GPU": 1}`.
        trials: trials to run.
        cpus_per_trial: cores of one trial, on one node.
        gpus_per_trial: GPUs of one trial, on one node; a fraction shares a GPU.

    Raises:
        Infeasible: no node could ever hold one trial; the message holds the sums.
    """
    if cpus_per_trial < 1:
        raise Infeasible(f"a trial holds at least 1 CPU; got --cpus-per-trial {cpus_per_trial}")
    if gpus_per_trial < 0:
        raise Infeasible(f"a trial cannot hold less than 0 GPUs; got --gpus-per-trial {gpus_per_trial:g}")
    if gpus_per_trial > 1 and gpus_per_trial != int(gpus_per_trial):
        raise Infeasible(f"above one GPU only whole ones are given; got --gpus-per-trial {gpus_per_trial:g}")
    fitting = sum(_fit(node, cpus_per_trial, gpus_per_trial) for node in nodes)
    if fitting == 0:
        listing = "; ".join(f"{node.get('CPU', 0):g} CPU + {node.get('GPU', 0):g} GPU" for node in nodes)
        raise Infeasible(
            f"one trial must fit on one node; a trial needs {cpus_per_trial} CPU + {gpus_per_trial:g} GPU, "
            f"the {len(nodes)} node(s) have: {listing}"
        )
    return ResourcePlan(
        trials=trials,
        concurrent=min(fitting, trials),
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        cpus=int(sum(node.get("CPU", 0) for node in nodes)),
        gpus=sum(node.get("GPU", 0) for node in nodes),
    )


def _fit(node: Mapping[str, float], cpus: int, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) // cpus)
    if gpus == 0:
        return by_cpu
    whole = int(node.get("GPU", 0))
    by_gpu = whole * int(1 / gpus + 1e-9) if gpus <= 1 else whole // int(gpus)
    return min(by_cpu, by_gpu)
