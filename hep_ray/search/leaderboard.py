"""The leaderboard of a search: as plain values, as a file and as a table for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hep_ray.files import storing, write_whole
from hep_ray.metrics.labels import metric_words
from hep_ray.search.means import heading_of_means, mean_words, of_means
from hep_ray.search.naming import plus_minus
from hep_ray.search.state import SearchState, cost_words, pareto_front

LEADERBOARD = "leaderboard.json"
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
                "params": {**trial.started.params, "seed": trial.started.seed},
                "epochs": len(trial.history),
                "metrics": trial.best(started.metric, started.mode),
                "history": trial.history,
                "mlflow_run_id": run_ids.get(trial.trial_id),
                "seconds": trial.seconds,
                **trial.figures,
                **({"pareto": trial.trial_id in front} if started.second_objective else {}),
                **({"breaks_constraint": state.breaks(trial)} if started.constraints else {}),
                **(of_means(state, trial) if state.repeats > 1 else {}),
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


def write_leaderboard(folder: Path, board: Mapping[str, Any]) -> Path:
    """Write `leaderboard.json` whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    path = folder / LEADERBOARD
    with storing(folder):
        write_whole(path, json.dumps(board, indent=1) + "\n")
    return path


def table(state: SearchState, rows: int = 15) -> Table:
    """Return the leaderboard for a terminal: each trial at its best epoch, how it ended, and what varied."""
    started = state.started
    assert started is not None
    ranked, naming = state.ranked(started.metric, started.mode), state.naming
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
        made.add_column(metric_words(name).removeprefix("validation "), no_wrap=True)
    if state.repeats > 1:
        made.add_column(heading_of_means(state), no_wrap=True)
    kind = "fold" if started.folds else "seed"
    seeds = {trial.trial_id: f"{kind}={getattr(trial.started, kind)}" for trial in ranked}
    seeds = seeds if len(set(seeds.values())) > 1 else {}
    front = pareto_front(state)
    if started.second_objective:
        made.add_column(cost_words(started.second_objective), no_wrap=True)
        made.add_column("Pareto", no_wrap=True)
    made.add_column("epochs", no_wrap=True)
    made.add_column("end", no_wrap=True)
    made.add_column("parameters that varied", overflow="fold", min_width=24)
    for trial in ranked[:rows]:
        best = trial.best(started.metric, started.mode) or {}
        made.add_row(
            trial.trial_id,
            *(with_error(best, name) for name in shown),
            *([mean_words(state, trial)] if state.repeats > 1 else []),
            *(
                [f"{trial.total(started.second_objective):.4g}", "●" if trial.trial_id in front else ""]
                if started.second_objective
                else []
            ),
            f"{len(trial.history)}/{started.epochs}",
            state.end_of(trial),
            ", ".join(filter(None, (naming.words(trial.started.params), seeds.get(trial.trial_id)))),
        )
    if len(ranked) > rows:
        made.caption = f"{len(ranked) - rows} more in {LEADERBOARD}"
    return made


def with_error(metrics: Mapping[str, float], name: str) -> str:
    """Return a metric in few digits, with its statistical error where it is known."""
    if name not in metrics:
        return "–"
    return plus_minus(metrics[name], metrics.get(f"{name}_error"))
