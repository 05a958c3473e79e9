"""Compare what a search left (`hep-ray audit NAME`), and hand its journal over to MLflow (`hep-ray track NAME`).

Neither needs a cluster nor the process that ran the search; an audit only reads.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from hep_ray.console import print_text, result_console
from hep_ray.errors import AuditFailed, CorruptCheckpoint, StorageError, TrackingUnavailable
from hep_ray.files import UNFINISHED
from hep_ray.flags import STORAGE, SearchName, Storage, TrackingUri
from hep_ray.masking import mask
from hep_ray.search.leaderboard import LEADERBOARD, leaderboard, write_leaderboard
from hep_ray.search.naming import count_words
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import database_file, find_runs, look, open_client, recorded_uri, sqlite_uri
from hep_ray.tracking.journal import FILE_NAME, Journal, read_records
from hep_ray.tracking.mlflow import MlflowTracker
from hep_ray.tracking.mlflow_writer import RUN_STATUS, SEARCH_TAG, TRIAL_TAG
from hep_ray.tracking.records import (
    EpochFinished,
    Record,
    TrialFinished,
    TrialGoesOn,
    TrialPaused,
    TrialStarted,
)
from hep_ray.tracking.views import metric_key

Kind = Literal["lost", "twice", "differs", "left over"]


@dataclass(frozen=True)
class Finding:
    """Something that is not as it has to be.

    Attributes:
        kind: what is wrong: something is missing, there twice, another than elsewhere, or should be gone.
        text: in a sentence.
    """

    kind: Kind
    text: str


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Attributes:
        trials: in the journal.
        epochs: in the journal.
        failed: trials that failed.
        losses: times that the process or node of a trial was lost, and the trial went on.
        findings: empty where all is well.
    """

    trials: int
    epochs: int
    failed: int
    losses: int
    findings: tuple[Finding, ...]


def compare(folder: Path, uri: str) -> Audit:
    """Compare all that a search left.

    Args:
        folder: of the search.
        uri: tracking URI of its runs.

    Raises:
        StorageError: there is no journal, or it holds no search.
        TrackingUnavailable: MLflow does not answer.
    """
    records = read_records(folder)
    state = SearchState.fold(records)
    if state.started is None:
        raise StorageError(f"no search to audit: the journal in {folder} holds none")
    try:
        tracked = _Tracked(uri, state)
    except Exception as exc:
        raise TrackingUnavailable(
            f"MLflow does not answer at {mask(uri)}, which an audit needs: {mask(str(exc))}"
        ) from exc
    trials = state.trials.values()
    findings = [
        *_journal(records, state),
        *tracked.compare(),
        *_board(folder, state, tracked.run_ids),
        *_study(folder, state),
        *_files(folder, state),
    ]
    return Audit(
        trials=len(trials),
        epochs=sum(len(trial.history) for trial in trials),
        failed=sum(trial.status == "failed" for trial in trials),
        losses=sum(len(trial.losses) for trial in trials),
        findings=tuple(findings),
    )


def _journal(records: Sequence[Record], state: SearchState) -> Iterator[Finding]:
    if not state.finished:
        yield Finding("lost", "the search has not ended")
    drawn = Counter(record.trial_id for record in records if isinstance(record, TrialStarted))
    ended = Counter(record.trial_id for record in records if isinstance(record, TrialFinished))
    for name in drawn:
        yield from _once(drawn[name], f"{name}: drawn {{}} times")
        yield from _once(ended[name], f"{name}: ended {{}} times")
        counts = Counter(int(metrics["epoch"]) for metrics in state.trials[name].history)
        for epoch in range(1, max(counts, default=0) + 1):
            yield from _once(counts[epoch], f"{name}: epoch {epoch} is {{}} times in the journal")
    yield from _order(records)


def _order(records: Sequence[Record]) -> Iterator[Finding]:
    """Find what follows the end of a trial, or happens while it pauses."""
    gone: set[str] = set()
    paused: set[str] = set()
    for record in records:
        if isinstance(record, TrialFinished):
            gone.add(record.trial_id)
        elif isinstance(record, TrialPaused):
            paused.add(record.trial_id)
        elif isinstance(record, TrialGoesOn):
            paused.discard(record.trial_id)
            if record.trial_id in gone:
                yield Finding("twice", f"{record.trial_id}: goes on to epoch {record.until} after its end")
        elif isinstance(record, EpochFinished) and record.trial_id in paused:
            yield Finding("twice", f"{record.trial_id}: epoch {record.epoch} while it pauses")
        elif isinstance(record, EpochFinished) and record.trial_id in gone:
            yield Finding("twice", f"{record.trial_id}: epoch {record.epoch} after its end")


def _once(times: int, text: str) -> Iterator[Finding]:
    if times != 1:
        yield Finding("twice" if times else "lost", text.format(times))


class _Tracked:
    """The runs of a search in MLflow."""

    def __init__(self, uri: str, state: SearchState) -> None:
        assert state.started is not None
        file = database_file(uri)
        if file is not None and not file.exists():
            raise FileNotFoundError("there is no such database")  # a client would make one
        self._state, self._client = state, open_client(uri)
        experiment = self._client.get_experiment_by_name(state.started.search)
        condition = f"tags.`{SEARCH_TAG}` = '{state.started.search_id}'"
        self._found = find_runs(self._client, experiment.experiment_id, condition) if experiment else []
        self.run_ids = {tags[TRIAL_TAG]: run_id for run_id, tags in self._found if TRIAL_TAG in tags}

    def compare(self) -> Iterator[Finding]:
        """Find what MLflow lacks, has twice, or has otherwise than the journal."""
        counts = Counter(tags.get(TRIAL_TAG, "the search") for _, tags in self._found)
        for name in ["the search", *self._state.trials]:
            yield from _once(counts[name], f"{name}: {{}} runs in MLflow")
        for name in self._state.trials:
            if name in self.run_ids:
                yield from self._run(name)

    def _run(self, name: str) -> Iterator[Finding]:
        trial = self._state.trials[name]
        run = self._client.get_run(self.run_ids[name])
        expected = RUN_STATUS.get(trial.status, "RUNNING")
        if run.info.status != expected:
            yield Finding("differs", f"{name}: {run.info.status} in MLflow, {trial.status} in the journal")
        keys = {key for metrics in trial.history for key in metrics}
        for key in sorted(keys | {"epoch"} if trial.history else keys):
            points = self._client.get_metric_history(run.info.run_id, metric_key(key))
            yield from _points(name, key, points, trial.history)


def _points(name: str, key: str, points: Iterable[Any], history: list[dict[str, float]]) -> Iterator[Finding]:
    values: defaultdict[int, list[float]] = defaultdict(list)
    for point in points:
        values[point.step].append(point.value)
    for metrics in history:
        step = int(metrics["epoch"])
        there = values.pop(step, [])
        if key not in metrics:
            continue
        yield from _once(len(there), f"{name}: {key} of epoch {step} is {{}} times in MLflow")
        if len(there) == 1 and there[0] != metrics[key]:
            yield Finding(
                "differs",
                f"{name}: {key} of epoch {step} is {there[0]} in MLflow, {metrics[key]} in the journal",
            )
    for step in values:
        yield Finding("differs", f"{name}: {key} of epoch {step} is in MLflow, and not in the journal")


def _board(folder: Path, state: SearchState, run_ids: dict[str, str]) -> Iterator[Finding]:
    path = folder / LEADERBOARD
    if not path.exists():
        yield Finding("lost", f"{LEADERBOARD} is not there")
        return
    written = json.loads(path.read_text(encoding="utf-8"))
    made = json.loads(json.dumps(leaderboard(state, run_ids)))
    if written != made:
        names = [one["trial_id"] for one in written.get("trials", [])]
        what = "trials or their order" if names != [one["trial_id"] for one in made["trials"]] else "values"
        yield Finding("differs", f"{LEADERBOARD} is not what the journal gives: other {what}")


def _study(folder: Path, state: SearchState) -> Iterator[Finding]:
    assert state.started is not None
    import optuna

    from hep_ray.search.draws import TOLD_AS

    database = folder / "optuna.db"
    if not database.exists():
        yield Finding("lost", "optuna.db is not there; --resume makes it anew")
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=state.started.search, storage=sqlite_uri(database))
    told = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    known = {trial.started.number: trial for trial in state.trials.values()}
    for number, trial in known.items():
        expected = TOLD_AS[trial.status].name if trial.finished else "RUNNING"
        there = told[number].state.name if number in told else "absent"
        if there != expected:
            yield Finding("differs", f"{trial.trial_id}: {there} in optuna.db, {trial.status} in the journal")
        best = trial.best(state.started.metric, state.started.mode)
        if there == "COMPLETE" and best and told[number].values[0] != best[state.started.metric]:
            yield Finding("differs", f"{trial.trial_id}: value {told[number].values[0]} in optuna.db")
    for number in told.keys() - known.keys():
        if told[number].state.name != "FAIL":
            yield Finding(
                "differs", f"trial {number} of optuna.db is in no journal: {told[number].state.name}"
            )


def _files(folder: Path, state: SearchState) -> Iterator[Finding]:
    from hep_ray.training.checkpoint import BEST, KEEP_BEST, LAST, load_checkpoint

    for path in sorted({*folder.rglob(UNFINISHED), *folder.glob(".tune"), *folder.parent.glob(".probe-*")}):
        yield Finding("left over", f"{path.relative_to(folder.parent)}")
    started = state.started
    assert started is not None
    ranked = [trial for trial in state.ranked(started.metric, started.mode) if trial.finished]
    lasting = KEEP_BEST if state.repeats == 1 else 1  # a mean may fall, and others rise
    for place, trial in enumerate(ranked):
        kept = folder / "trials" / trial.trial_id
        best = trial.best(started.metric, started.mode)
        if (kept / LAST).exists():
            yield Finding("left over", f"{trial.trial_id}: {LAST} of an ended trial")
        if place >= lasting or best is None:
            continue
        try:
            if load_checkpoint(kept / BEST)["metrics"] != best:
                yield Finding("differs", f"{trial.trial_id}: {BEST} is not of its best epoch")
        except CorruptCheckpoint as exc:
            yield Finding("lost", f"{trial.trial_id}: {exc}")


def audit(
    name: SearchName,
    storage: Storage = STORAGE,
    tracking_uri: TrackingUri = None,
) -> None:
    """Compare a search's journal, MLflow runs, leaderboard, study and files with each other.

    Read-only. Exit code 1 where something is missing, there twice, different, or left over.

    Raises:
        AuditFailed: something is.
        UnknownSearch: there is no such search.
        TrackingUnavailable: MLflow does not answer.
    """
    from hep_ray.search.find import find_search

    folder = find_search(name, storage).folder
    uri = tracking_uri or recorded_uri(folder, SearchState.read(folder).started)
    found = compare(folder, uri)
    console = result_console()
    print_text(
        console,
        f"{folder.name}: {count_words(found.trials, 'trial')} ({found.failed} failed), "
        f"{count_words(found.epochs, 'epoch')}, lost processes tried again: {found.losses}; "
        f"compared: journal, leaderboard, study, files and MLflow at {uri}",
    )
    for finding in found.findings:
        print_text(console, f"  {finding.kind}: {finding.text}")
    if found.findings:
        raise AuditFailed(
            f"{len(found.findings)} inconsistencies found: run the search's script with --resume, which mends what "
            "the journal can, then audit again"
        )
    console.print("All is there, once, and the same everywhere.")


@dataclass(frozen=True)
class HandedOver:
    """Count of what MLflow holds now.

    Attributes:
        uri: where.
        records: of the search's journal, and of its confirmation's.
        trials: with a run of their own.
    """

    uri: str
    records: int
    trials: int


def hand_over(folder: Path, uri: str | None = None, say: Callable[[str], None] | None = None) -> HandedOver:
    """Write every record of a search, its confirmations and folds into MLflow; what is there already stays as it is.

    Args:
        folder: of the search.
        uri: MLflow server or database; that of the search unless given.
        say: told while MLflow does not answer.

    Raises:
        StorageError: no search was run there, or a process is running it.
        TrackingUnavailable: MLflow did not take everything; typed again, it goes on.
    """
    if not (folder / FILE_NAME).exists():
        raise StorageError(f"no search in {folder}: it has no {FILE_NAME}")
    records = trials = 0
    uri = uri or recorded_uri(folder, SearchState.read(folder).started)
    later = (journal.parent for at in ("*", "*/fold_*") for journal in folder.glob(f"{at}/{FILE_NAME}"))
    for part in (folder, *sorted(later)):
        with Journal(part) as journal:
            state = SearchState.fold(journal)
            tracker = MlflowTracker(uri, folder.name, folder.parent / "mlartifacts", *((say,) if say else ()))
            tracker.replay(journal)
            tracker.close()
            if part == folder and state.started is not None:
                tracker.attach(write_leaderboard(folder, leaderboard(state, tracker.run_ids)))
            records += len(journal)
            trials += len(tracker.run_ids)
    return HandedOver(uri, records, trials)


def track(
    name: SearchName,
    storage: Storage = STORAGE,
    tracking_uri: TrackingUri = None,
) -> None:
    """Hand a search over to MLflow, from its journal: what a server that was away has missed, or all of it to another.

    What MLflow holds already stays as it is, so it can be typed as often as one likes. A search that is running does
    it by itself.

    Raises:
        UnknownSearch: there is no such search.
        StorageError: it is running.
        TrackingUnavailable: MLflow did not take everything.
    """
    from hep_ray.search.find import find_search

    folder = find_search(name, storage).folder
    done = hand_over(folder, tracking_uri, lambda text: typer.echo(text, err=True))
    typer.echo(
        f"{done.records} records of {folder.name} are in MLflow at {mask(done.uri)}: {done.trials} trials"
    )
    print_text(result_console(), f"next: {look(done.uri, folder.parent)}")
