"""Run a search, or go on with one: check everything first, then let Tune train, then rank."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hep_ray.errors import CannotResume, StorageError, TrackingUnavailable
from hep_ray.files import storing
from hep_ray.plugins import differences
from hep_ray.search.execute import aside, attach, close, fit
from hep_ray.search.failures import judge
from hep_ray.search.find import stated_by
from hep_ray.search.leaderboard import leaderboard, write_leaderboard
from hep_ray.search.plan import SearchPlan
from hep_ray.search.recorder import Recorder
from hep_ray.search.sampler import OptunaSearcher
from hep_ray.search.scheduler import build_scheduler
from hep_ray.search.state import OF_MODEL, TIMES, SearchState
from hep_ray.tracking.client import default_uri
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.mlflow import MlflowTracker
from hep_ray.tracking.records import CodeAccepted, OptionsChanged, SearchFinished, SearchStarted


@dataclass(frozen=True)
class SearchResult:
    """What a finished search leaves.

    Attributes:
        state: every trial with its history.
        leaderboard: path of `leaderboard.json`.
        tracking_uri: where MLflow holds the same.
        untracked: why MLflow does not hold all of it yet; None where it does.
    """

    state: SearchState
    leaderboard: Path
    tracking_uri: str
    untracked: TrackingUnavailable | None = None


def run_search(plan: SearchPlan, *, resume: bool = False, console: Console | None = None) -> SearchResult:
    """Train every trial of a plan that has not ended yet, and rank them.

    An MLflow server that is away, at the start, in the middle or at the end, stops nothing: the result says so.

    Args:
        plan: checked by `prepare`.
        resume: go on with the search that the storage holds.
        console: where progress is shown.

    Raises:
        StorageError: the storage holds a search already and `resume` is off, or takes no more while it runs.
        CannotResume: there is none, or it is another search than this one.
        TrackingUnavailable: MLflow refuses the search before it starts, and always will.
        Interrupted: Ctrl-C; the search can be resumed.
        SearchFailed: every trial failed.
    """
    console = console or Console(stderr=True)
    untracked: TrackingUnavailable | None = None
    uri = plan.given.tracking_uri or default_uri(plan.storage)
    with Journal(plan.folder) as journal:
        plan = _with_recorded_cost(plan, journal, console)
        opening = _opening(plan, journal, resume=resume)
        tracker = MlflowTracker(uri, plan.search.name, plan.storage / "mlartifacts", aside(console))
        tracker.replay(journal)
        recorder = Recorder(
            journal, plan.search, plan.preset.epochs, plan.folder / "trials", [tracker.record]
        )
        recorder.sweep()
        for record in opening:
            recorder.write(record)
        try:
            try:
                _train(plan, journal, recorder, console)
            except KeyboardInterrupt:  # a second one, while Tune was ending the first way
                judge(recorder.state)
                raise
            finally:
                untracked = close(tracker)
                with storing(plan.folder):
                    board = write_leaderboard(plan.folder, leaderboard(recorder.state, tracker.run_ids))
            untracked = untracked or attach(tracker, board)
            judge(recorder.state)
        except BaseException:
            if untracked is not None:
                aside(console)(str(untracked))
            raise
    return SearchResult(recorder.state, board, uri, untracked)


def _with_recorded_cost(plan: SearchPlan, journal: Journal, console: Console) -> SearchPlan:
    """The plan; of a search that began when its script still counted time, with that for its cost."""
    started = SearchState.fold(journal).started
    if started is None or started.cost not in TIMES or plan.search.cost not in OF_MODEL:
        return plan
    aside(console)(
        f"this search began with the cost {started.cost} and goes on with it; one started anew counts "
        f"{plan.search.cost}, which does not depend on what else the machine does"
    )
    return dataclasses.replace(plan, search=dataclasses.replace(plan.search, cost=started.cost))


def _opening(
    plan: SearchPlan, journal: Journal, *, resume: bool
) -> list[SearchStarted | OptionsChanged | CodeAccepted]:
    """The first records of this attempt: of a new search, or that flags are other ones and changed code is accepted."""
    state = SearchState.fold(journal)
    if state.started is None:
        if resume:
            raise CannotResume(
                f"--resume goes on with a search; {plan.folder} holds none: start it without --resume"
            )
        started = SearchStarted(
            time=time.time(),
            search_id=uuid.uuid4().hex,
            provenance=plan.provenance,
            options=plan.options,
            plugins=tuple(plugin.recorded for plugin in plan.plugins),
            stated=stated_by(plan.search),
            unstated={},
            **plan.identity,
        )
        return [started]
    if not resume:
        ended = sum(trial.finished is not None for trial in state.trials.values())
        raise StorageError(
            f"a new search needs a folder without one; {plan.folder} holds {len(state.trials)} trials, {ended} ended: "
            "type --resume to go on with it, or choose another --storage"
        )
    before, now = {key: getattr(state.started, key) for key in plan.identity}, plan.identity
    if state.started.stated is not None:
        before["baseline"], now["baseline"] = state.started.stated["baseline"], dict(plan.search.baseline)
    if changes := plan.space.changes_since(before.pop("space")):
        raise CannotResume(
            f"the search space has changed: {'; '.join(changes)}. A resumed search is the same search: state the space "
            "as it was, or choose another --storage"
        )
    for key, recorded in before.items():
        value = now[key]
        if recorded != value:
            raise CannotResume(
                f"a resumed search is the same search; {key} was {recorded!r} and is now {value!r}: "
                "resume with the flags it was started with, or choose another --storage"
            )
    records = (_changed_options(plan, state, state.started.options), _changed_code(plan, state))
    return [record for record in records if record is not None]


def _changed_code(plan: SearchPlan, state: SearchState) -> CodeAccepted | None:
    changes = differences(state.plugins, plan.plugins)
    if not changes:
        return None
    if not plan.given.accept_changed_code:
        raise CannotResume(
            f"the code of this search has changed: {'; '.join(changes)}. Its trials would not be comparable: put the "
            "file back as it was, or type --accept-changed-code to go on, which is recorded"
        )
    now = tuple(plugin.recorded for plugin in plan.plugins)
    return CodeAccepted(time=time.time(), plugins=now, changes=tuple(changes))


def _changed_options(
    plan: SearchPlan, state: SearchState, before: Mapping[str, Any]
) -> OptionsChanged | None:
    if plan.trials < len(state.trials) and plan.given.trials not in (None, before.get("trials")):
        drawn = len(state.trials) - len(plan.search.references)
        raise CannotResume(
            f"trials that are drawn are trained; {plan.folder} holds {drawn} beside the references, --trials "
            f"{plan.given.trials} is fewer: type --trials {drawn} to draw no more, or leave it out"
        )
    changed = any(value != before.get(key) for key, value in plan.options.items())
    return OptionsChanged(time=time.time(), options={**before, **plan.options}) if changed else None


def _train(plan: SearchPlan, journal: Journal, recorder: Recorder, console: Console) -> None:
    state = recorder.state
    again = True
    while again:
        again = _tune(plan, journal, recorder, console)
    if not state.to_run(plan.trials) and not state.finished:
        recorder.write(SearchFinished(time=time.time()))


def _tune(plan: SearchPlan, journal: Journal, recorder: Recorder, console: Console) -> bool:
    """Let Tune train what is left; whether it gave trials up that it has to train again."""
    scheduler = build_scheduler(plan.search, plan.preset)
    for trial_id in sorted(scheduler.replay(journal)):
        recorder.finish(trial_id)
    state = recorder.state
    assert state.started is not None
    searcher = OptunaSearcher(
        plan.search,
        plan.preset,
        plan.space,
        plan.given.seed,
        plan.folder / "optuna.db",
        state,
        recorder.write,
    )
    if not (to_run := state.to_run(plan.trials)):
        return False
    with recorder.listening(searcher.record):
        fit(
            plan.dataset,
            plan.resources,
            plan.folder,
            epochs=plan.preset.epochs,
            metric=plan.search.metric,
            mode=plan.search.mode,
            searcher=searcher,
            scheduler=scheduler,
            recorder=recorder,
            to_run=to_run,
            total=max(plan.trials, len(state.trials)),
            unstated=state.started.unstated,
            epoch_timeout=plan.given.epoch_timeout,
            plugins=plan.plugins,
            console=console,
        )
    for doubt in scheduler.doubts():
        aside(console)(doubt)
    return recorder.given_back()
