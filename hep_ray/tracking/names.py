"""Names in MLflow's pages: metrics in folders, which it draws together, and runs that say what they tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hep_ray.tracking.records import RecordedParameter

SPLITS = ("train", "val", "test", "confirmed")
FAMILIES = ("confusion", "background_rejection")
"""Metrics of many members, which get a folder of their own."""
SHOWN = 4
"""Parameters in the name of a run; more do not fit its column."""


def metric_key(key: str) -> str:
    """The name in MLflow of a metric: `val_accuracy` is `val/accuracy`, `val_confusion_a_b` is `val/confusion/a_b`."""
    split, _, name = key.partition("_")
    if split not in SPLITS or not name:
        return key
    for family in FAMILIES:
        if name.startswith(f"{family}_"):
            return f"{split}/{family}/{name.removeprefix(f'{family}_')}"
    return f"{split}/{name}"


def best_key(metric: str) -> str:
    """The name in MLflow of a metric's best value so far, by which trials are ranked: of `val_auc` it is `best/auc`."""
    return "best/" + metric_key(metric).removeprefix("val/")


def varied(space: Mapping[str, RecordedParameter]) -> tuple[str, ...]:
    """Parameters of which a space allows more than one value."""
    several = {*choices(space), *ranges(space)}
    return tuple(name for name in space if name in several)


def choices(space: Mapping[str, RecordedParameter]) -> tuple[str, ...]:
    """Parameters that are one of several values."""
    return tuple(name for name, one in space.items() if len(one.values) > 1)


def ranges(space: Mapping[str, RecordedParameter]) -> tuple[str, ...]:
    """Parameters between two bounds."""
    return tuple(name for name, one in space.items() if one.is_range)


def run_name(trial_id: str, params: Mapping[str, Any], space: Mapping[str, RecordedParameter]) -> str:
    """The trial, and what it tried: `t0003 root_index=3 learning_rate=0.0147`."""
    drawn = [
        f"{name}={params[name]:.3g}" if isinstance(params[name], float) else f"{name}={params[name]}"
        for name in varied(space)
        if name in params
    ]
    return " ".join([trial_id, *drawn[:SHOWN], *(["…"] if len(drawn) > SHOWN else [])])
