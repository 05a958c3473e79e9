"""Confirm a search: train finalists and baseline anew with the same seeds, then open the test split, once.

The test split stays closed until every training has ended, so no result of it can decide what else is trained. That
it is opened, and for whom, is recorded before (`record_use`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch
from rich.console import Console

from hep_ray.cluster import result
from hep_ray.confirm.comparison import confirmed_values, failures, summarise
from hep_ray.confirm.confirmation import (
    Confirmation,
    SplitUse,
    earlier_uses,
    load_confirmation,
    params_hash,
    record_use,
    save_confirmation,
    set_aside,
)
from hep_ray.confirm.ensemble import keep_means, not_validated, variations_of
from hep_ray.confirm.finalists import ENSEMBLE
from hep_ray.confirm.plan import BASELINE, ConfirmPlan, RetrainingPlan
from hep_ray.dataset.dataset import Dataset, TestPurpose
from hep_ray.dataset.schema import EVENT_ID, EventSchema
from hep_ray.dataset.variations import Variation
from hep_ray.errors import Interrupted, SearchFailed, TrackingUnavailable
from hep_ray.loading.stream import EventData, OtherData, open_events, open_others
from hep_ray.plugins import Plugin, load
from hep_ray.search.execute import SearchResult, beside, execute, head_watchdog
from hep_ray.search.naming import count_words
from hep_ray.search.recorder import Recorder
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.state import SearchState
from hep_ray.tracking.mlflow_writer import log_confirmed
from hep_ray.tracking.records import Record, TrialTested
from hep_ray.training.testing import Judged, Outcome, evaluate_once


@dataclass(frozen=True)
class ConfirmResult:
    """Result of a confirmation.

    Attributes:
        confirmation: all of it.
        path: of `confirmation.json`.
        tracking_uri: where MLflow holds the same.
        earlier_uses: times that the test split was read for this search before.
        untracked: why MLflow does not hold all of it yet; None where it does.
    """

    confirmation: Confirmation
    path: Path
    tracking_uri: str
    earlier_uses: int
    untracked: TrackingUnavailable | None = None


def run_confirmation(
    plan: ConfirmPlan, *, again: bool = False, console: Console | None = None
) -> ConfirmResult:
    """Train what has not been trained yet, test what has not been tested yet, and compare.

    Typed again, it goes on: trainings that ended are not repeated, one that was cut off goes on from its checkpoint,
    and a confirmation that has ended only tells its result again.

    Args:
        plan: checked by `prepare_confirmation`.
        again: set an earlier confirmation of the search aside, into a folder beside it, and start anew.
        console: where progress is shown.

    Raises:
        CannotResume: the folder holds another confirmation than this one; the message says what differs.
        StorageError: another process is confirming this search.
        TrackingUnavailable: MLflow does not answer.
        Interrupted: Ctrl-C; typed again, it goes on.
        SearchFailed: a training of the baseline failed, or one of every finalist.
    """
    console = console or Console(stderr=True)
    if again:
        set_aside(plan.folder)
    done = execute(
        plan,
        console,
        publish=partial(_publish, plan),
        when_trained=partial(_open_test_split, plan, console=console),
    )
    confirmation = load_confirmation(plan.search_folder)
    untracked = done.untracked
    if untracked is None:
        try:
            log_confirmed(
                plan.tracking_uri,
                plan.experiment,
                plan.started.search_id,
                done.parent_run_id,
                main=plan.test_metric.removeprefix("test_"),
                values=confirmed_values(confirmation),
                trials=plan.trials_of_search,
                stamp=max(
                    trial.tested.time for trial in done.state.trials.values() if trial.tested is not None
                ),
            )
        except TrackingUnavailable as exc:
            untracked = exc
    looks = earlier_uses(plan.search_folder, plan.dataset.fingerprint, confirmation.confirmation_id)
    return ConfirmResult(confirmation, done.published, plan.tracking_uri, len(looks), untracked)


def _publish(plan: ConfirmPlan, state: SearchState, run_ids: Mapping[str, str]) -> Path | None:
    """Write what was found, once all trainings have been tested."""
    if not state.finished:
        return None
    return save_confirmation(plan.search_folder, summarise(plan, state, run_ids))


def _open_test_split(plan: ConfirmPlan, recorder: Recorder, *, console: Console) -> None:
    """Open the test split for the trainings that it has not judged yet.

    Raises:
        SearchFailed: a training of the baseline failed, or one of every finalist.
        Interrupted: Ctrl-C; what was tested is recorded.
    """
    state = recorder.state
    assert state.started is not None
    failed = failures(plan, state)
    if BASELINE in failed or all(one.name in failed for one in plan.finalists):
        name = BASELINE if BASELINE in failed else next(iter(failed))
        raise SearchFailed(
            f"{name} failed: {failed[name]}; a confirmation needs every training of the baseline and of a finalist"
        )
    judged = [(name, params) for name, _, params in plan.contenders if name not in failed]
    names = {name for name, _ in judged}
    whole = bool(plan.members) and ENSEMBLE not in failed
    if whole and (unseen := not_validated(plan)):
        console.print(
            f"{count_words(len(unseen), 'model')} to evaluate on the validation split, by which the ensemble is chosen "
            "or not.",
            highlight=False,
        )
        evaluate_kept(plan, unseen, lambda _: None, console, "val")
    closed = [
        trial.trial_id
        for trial in state.trials.values()
        if trial.started.tags["contender"] in names and trial.tested is None
    ]
    if closed:
        use = SplitUse(
            time=time.time(),
            purpose="confirm",
            dataset_fingerprint=plan.dataset.fingerprint,
            contenders=tuple(
                sorted(
                    params_hash(params)
                    for params in (
                        *(params for _, params in judged),
                        *(plan.ensemble.values() if whole else ()),
                    )
                )
            ),
            confirmation_id=state.started.search_id,
            seeds=plan.seeds,
        )
        record_use(plan.search_folder, use)
        opened = datetime.fromtimestamp(use.time, UTC).isoformat(timespec="seconds")
        console.print(
            f"All trainings have ended. The test split is opened at {opened} for {count_words(len(closed), 'model')}.",
            highlight=False,
        )

        def write(record: Record) -> None:
            recorder.write(record)
            told = sum(trial.tested is not None for trial in state.trials.values())
            console.print(f"tested {told} of {len(plan.seeds) * len(judged)}", highlight=False)

        evaluate_kept(plan, closed, write, console)
    if whole:
        keep_means(plan)


def evaluate_kept(
    plan: RetrainingPlan,
    trial_ids: Sequence[str],
    write: Callable[[Record], None],
    console: Console,
    split: Judged = "test",
) -> None:
    """Evaluate trained models on a split, and record each as it is done; see `evaluate_all`.

    Raises:
        Interrupted: Ctrl-C; what was tested is recorded.
    """
    try:
        with head_watchdog(console, plan.to_go_on) if ray.is_initialized() else nullcontext():
            evaluate_all(
                plan.dataset,
                plan.resources,
                plan.folder / "trials",
                trial_ids,
                write,
                plan.plugins,
                variations_of(plan, split),
                plan.tested if split == "test" else plan.others,
                split=split,
            )
    except KeyboardInterrupt:
        raise Interrupted(
            f"some models are not tested yet; every evaluation that ended is kept: to go on, {plan.to_go_on}"
        ) from None


def train_one(
    plan: RetrainingPlan,
    console: Console,
    publish: Callable[[SearchState, Mapping[str, str]], Path | None],
    *,
    purpose: str | None,
    name: str,
    others: str = "",
) -> SearchResult:
    """Train the one model of a plan and evaluate it on the test split.

    Args:
        plan: of one training.
        console: where progress is shown.
        publish: see `execute`.
        purpose: of the look at the test split; None where another training records it.
        name: of the plan in words.
        others: what the command does with other models, behind the message of a training that failed.

    Raises:
        SearchFailed: the training failed.
        TrackingUnavailable, Interrupted: see `execute`.
    """
    try:
        done = execute(
            plan,
            console,
            publish=publish,
            when_trained=partial(_evaluate_one, plan, console=console, purpose=purpose),
        )
    except SearchFailed as exc:
        raise SearchFailed(f"{name} failed: {exc}; typed again, the command trains it anew{others}") from None
    if done.untracked is not None:
        beside(console)(str(done.untracked))
    return done


def _evaluate_one(plan: RetrainingPlan, recorder: Recorder, *, console: Console, purpose: str | None) -> None:
    """Evaluate the one model of a plan on the test split, and record the look before it is taken.

    Raises:
        Interrupted: Ctrl-C; typed again, it goes on.
    """
    (training,) = plan.runs
    trial, started = recorder.state.trials[training.trial_id], recorder.state.started
    assert started is not None
    if trial.status != "completed" or trial.tested is not None:
        return
    if purpose is not None:
        use = SplitUse(
            time=time.time(),
            purpose=purpose,
            dataset_fingerprint=plan.started.dataset_fingerprint,
            contenders=(params_hash(training.params),),
            confirmation_id=started.search_id,
            seeds=(training.seed,),
        )
        record_use(plan.storage / plan.experiment, use)
    evaluate_kept(plan, [training.trial_id], recorder.write, console)


RESTARTS = 3
"""Times an evaluation is tried again when its worker or node dies."""


@dataclass(frozen=True)
class EvaluationSetup:
    """Settings that all evaluations share.

    Attributes:
        trials_folder: one folder per trial, on storage that every node sees.
        schema: classes and columns.
        data: handle of the split.
        event_ids: of its events, in their order.
        cpus: threads of one evaluation.
        gpu: whether it holds (part of) a GPU.
        plugins: files of the user's own whose components the models need.
        variations: of the events, under which each model is evaluated too.
        others: of those that name a dataset, handle of the same split of it.
        split: that is evaluated.
    """

    trials_folder: str
    schema: EventSchema
    data: EventData
    event_ids: pa.Array
    cpus: int
    gpu: bool
    plugins: tuple[Plugin, ...] = ()
    variations: Mapping[str, Variation] = field(default_factory=dict)
    others: Mapping[str, OtherData] = field(default_factory=dict)
    split: Judged = "test"


def evaluate_all(
    dataset: Dataset,
    resources: ResourcePlan,
    trials_folder: Path,
    trial_ids: Sequence[str],
    write: Callable[[Record], None],
    plugins: tuple[Plugin, ...] = (),
    variations: Mapping[str, Variation] | None = None,
    others: Mapping[str, Dataset] | None = None,
    *,
    split: Judged = "test",
) -> None:
    """Evaluate the kept model of each trial on the test split, side by side, and record each as it is done.

    Args:
        dataset: whose test split is read, with purpose `confirm`.
        resources: of one trial, which one evaluation holds too.
        trials_folder: of the trials.
        trial_ids: to evaluate; a trial whose scores are on disk is not evaluated a second time.
        write: is given a `TrialTested` for each.
        plugins: files of the user's own whose components the models need.
        variations: of the events, under which each model is evaluated too.
        others: of those that name a dataset, it; its test split is read with the same purpose.
        split: evaluated in place of the test split; of the validation split scores are kept, and nothing is recorded.

    Raises:
        CorruptCheckpoint, NonFiniteLoss, StorageError: see `evaluate_once`.
        WorkersLost: an evaluation's process was lost too often.
    """
    purpose: TestPurpose | None = "confirm" if split == "test" else None
    setup = EvaluationSetup(
        str(trials_folder.resolve()),
        dataset.schema,
        open_events(dataset, resources.ingest, [split], purpose=purpose, here=resources.here),
        dataset.values(EVENT_ID, split, purpose=purpose).combine_chunks(),
        resources.cpus_per_trial,
        resources.gpus_per_trial > 0,
        plugins,
        variations or {},
        open_others(others or {}, resources.ingest, split, purpose=purpose, ids=True, here=resources.here),
        split,
    )
    outcomes = _in_turn(setup, trial_ids) if resources.here else _side_by_side(setup, trial_ids, resources)
    for trial_id, outcome in outcomes:
        tested = TrialTested(
            time=time.time(),
            trial_id=trial_id,
            epoch=outcome.epoch,
            metrics=outcome.metrics,
            variations=outcome.variations,
        )
        if split == "test":
            write(tested)


def _in_turn(setup: EvaluationSetup, trial_ids: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
    """Evaluate in this process, without Ray."""
    threads = torch.get_num_threads()
    try:
        for trial_id in trial_ids:
            yield trial_id, _evaluate(setup, trial_id)
    finally:
        torch.set_num_threads(threads)


def _side_by_side(
    setup: EvaluationSetup, trial_ids: Sequence[str], resources: ResourcePlan
) -> Iterator[tuple[str, Outcome]]:
    """Evaluate by tasks of Ray; what is done first comes first."""
    opened = ray.put(setup)
    task = ray.remote(
        num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial, max_retries=RESTARTS
    )(_evaluate)
    pending = list(trial_ids)
    waiting: dict[Any, str] = {}
    while pending or waiting:
        # No more at once than were planned: evaluations that stream leave Ray Data its cores.
        while pending and len(waiting) < resources.concurrent * resources.workers_per_trial:
            trial_id = pending.pop(0)
            waiting[task.remote(opened, trial_id)] = trial_id
        (done, *_), _ = ray.wait(list(waiting))
        yield waiting.pop(done), result(done)


def _evaluate(opened: EvaluationSetup, trial_id: str) -> Outcome:
    load(opened.plugins)
    torch.set_num_threads(opened.cpus)
    return evaluate_once(
        Path(opened.trials_folder) / trial_id,
        opened.schema,
        opened.data.events(opened.split),
        opened.event_ids,
        "cuda" if opened.gpu else "cpu",
        opened.variations,
        {name: one.events(opened.split) for name, one in opened.others.items()},
        opened.split,
    )
