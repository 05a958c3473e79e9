"""The ranking of a search: `leaderboard.json` and the table that a person reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hep_ray.files import write_whole
from hep_ray.search.state import OF_MODEL, SearchState, TrialState

FILE_NAME = "leaderboard.json"
HEADINGS = {"val_background_rejection_at_50": "1/ε_b at ε_s=0.5"}
"""Column headings that say more than the metric's key."""
COLUMNS = ("val_accuracy", "val_auc", "val_background_rejection_at_50", "val_loss")
"""Metrics shown beside the ranking one, where the study has them."""


def leaderboard(state: SearchState, run_ids: Mapping[str, str]) -> dict[str, Any]:
    """Return the ranking as plain values, best trial first.

    Args:
        state: the search, with its first record.
        run_ids: trial id → MLflow run id.
    """
    started = state.started
    assert started is not None
    front = pareto_front(state)
    return {
        "search": started.search,
        "dataset_fingerprint": started.dataset_fingerprint,
        "metric": started.metric,
        "mode": started.mode,
        "cost": started.second_objective,
        "trials": [
            {
                "trial_id": trial.trial_id,
                "status": trial.status,
                "params": all_parameters(trial),
                "epochs": len(trial.history),
                "metrics": trial.best(started.metric, started.mode),
                "history": trial.history,
                "mlflow_run_id": run_ids.get(trial.trial_id),
                "seconds": trial.seconds,
                **trial.figures,
                **({"pareto": trial.trial_id in front} if started.second_objective else {}),
                **({"losses": len(trial.losses)} if trial.losses else {}),
                **(
                    {"cause": trial.finished.cause, "log": trial.finished.log}
                    if trial.finished and trial.finished.cause
                    else {}
                ),
            }
            for trial in state.ranked(started.metric, started.mode)
        ],
    }


def pareto_front(state: SearchState) -> set[str]:
    """Return the ids of the completed trials that no other equals or beats in metric and cost while beating it in one.

    Empty for a search without a cost.
    """
    started = state.started
    assert started is not None
    if started.second_objective is None:
        return set()
    sign = 1 if started.mode == "max" else -1
    points = {
        trial.trial_id: (sign * best[started.metric], -trial.total(started.second_objective))
        for trial in state.trials.values()
        if trial.status == "completed" and (best := trial.best(started.metric, started.mode))
    }
    return {
        name
        for name, point in points.items()
        if not any(
            other != point and other[0] >= point[0] and other[1] >= point[1] for other in points.values()
        )
    }


def cost_words(cost: str) -> str:
    """Return a cost in words: `total epoch seconds`, or `flops` of a model."""
    words = cost.replace("_", " ")
    return words if cost in OF_MODEL else f"total {words}"


def write_leaderboard(folder: Path, board: Mapping[str, Any]) -> Path:
    """Write `leaderboard.json` whole or not at all."""
    path = folder / FILE_NAME
    write_whole(path, json.dumps(board, indent=1) + "\n")
    return path


def table(state: SearchState, rows: int = 15) -> Table:
    """Return the leaderboard for a terminal: each trial at its best epoch, how it ended, and what varied."""
    started = state.started
    assert started is not None
    ranked = state.ranked(started.metric, started.mode)
    varied = varied_parameters(ranked)
    known = {key for trial in ranked for key in (trial.best(started.metric, started.mode) or {})}
    shown = [key for key in dict.fromkeys([started.metric, *COLUMNS]) if key in known]
    made = Table(
        title=f"{started.search}: {len(ranked)} trials, best first, each at its best epoch by {started.metric}",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
    )
    made.add_column("trial", no_wrap=True)
    for name in shown:
        made.add_column(HEADINGS.get(name, name.removeprefix("val_").replace("_", " ")), no_wrap=True)
    front = pareto_front(state)
    if started.second_objective:
        made.add_column(cost_words(started.second_objective), no_wrap=True)
        made.add_column("Pareto", no_wrap=True)
    made.add_column("epochs", no_wrap=True)
    made.add_column("end", no_wrap=True)
    made.add_column("parameters that varied", overflow="fold", min_width=24)
    for trial in ranked[:rows]:
        best = trial.best(started.metric, started.mode) or {}
        params = all_parameters(trial)
        made.add_row(
            trial.trial_id,
            *(_with_error(best, name) for name in shown),
            *(
                [f"{trial.total(started.second_objective):.4g}", "●" if trial.trial_id in front else ""]
                if started.second_objective
                else []
            ),
            f"{len(trial.history)}/{started.epochs}",
            trial.status,
            ", ".join(f"{name}={number(params[name])}" for name in varied if name in params),
        )
    if len(ranked) > rows:
        made.caption = f"{len(ranked) - rows} more in {FILE_NAME}"
    return made


def all_parameters(trial: TrialState) -> dict[str, Any]:
    """Return the parameters of a trial and its seed."""
    return {**trial.started.params, "seed": trial.started.seed}


def varied_parameters(trials: list[TrialState]) -> list[str]:
    """Return the parameters that not all trials have, or have with the same value."""
    everyone = [all_parameters(trial) for trial in trials]
    names = dict.fromkeys(name for params in everyone for name in params)
    return [name for name in names if len({params.get(name) for params in everyone}) > 1]


def _with_error(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return "–"
    error = metrics.get(f"{name}_error")
    return number(metrics[name]) + (f" ± {error:.2g}" if error is not None else "")


def number(value: Any) -> str:
    """Format a value in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
