"""The records of a confirmation: what it found, and each look at the test split that it or an earlier one took."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from hep_ray.config import Config, parse
from hep_ray.errors import PromotionRefused, StorageError
from hep_ray.files import rename, storing, write_whole
from hep_ray.flags import typed
from hep_ray.search.naming import count_words
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import FILE_NAME as JOURNAL
from hep_ray.tracking.journal import Journal

C = TypeVar("C", bound=Config)

FOLDER = "confirm"
"""Folder of a confirmation within that of its search: a journal and one folder per trial, as of a search."""
FILE_NAME = "confirmation.json"
INSIDE = r"^(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*$"
"""A path below a folder, of which no part leads out of it."""


class Estimate(Config):
    """A mean over seeds with its interval.

    Attributes:
        mean: over the runs.
        sd: sample standard deviation; 0 of a single run.
        low: lower end of the interval.
        high: upper end.
    """

    mean: float
    sd: float
    low: float
    high: float


class ConfirmedRun(Config):
    """One training with one seed, evaluated once on the test split at its best validation epoch.

    Of an ensemble it is the mean of such trainings of its members with one seed.

    Attributes:
        trial_id: within the confirmation.
        seed: of weights and order of events; the same seeds for every contender.
        epoch: whose model was tested; 0 of an ensemble, whose members have their own.
        metrics: of the test split, `test_accuracy` and so on, and of that epoch, `val_accuracy` and so on.
        checkpoint: its model, relative to the folder of the confirmation; None of an ensemble.
        scores: Parquet file of event_id, label and one probability per class, relative to the same.
        mlflow_run_id: of the run; None where it has none.
    """

    trial_id: str
    seed: int
    epoch: int
    metrics: dict[str, float]
    checkpoint: str | None = Field(pattern=INSIDE)
    scores: str = Field(pattern=INSIDE)
    mlflow_run_id: str | None = None


class Contender(Config):
    """A configuration that was retrained with every seed, or the mean of several.

    Attributes:
        name: `baseline`, `ensemble`, or the trial of the search that it is (the first of several that differ in seed
            only).
        role: why it is here.
        params: without the seed; empty of an ensemble.
        runs: one per seed, in the order of the seeds.
        estimates: metric → over the runs.
        members: of an ensemble, the finalists whose mean probability it is: name → parameters.
    """

    name: str
    role: Literal["finalist", "baseline"]
    params: dict[str, Any]
    runs: tuple[ConfirmedRun, ...]
    estimates: dict[str, Estimate]
    members: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only ensembles have, so that records of others are as they were before there were any."""
        values: dict[str, Any] = write(self)
        if not self.members:
            values.pop("members", None)
        return values

    @property
    def configurations(self) -> tuple[dict[str, Any], ...]:
        """Return its parameters, or those of its members."""
        return tuple(self.members.values()) or (self.params,)

    @property
    def words(self) -> str:
        """Return of an ensemble whose mean it is; empty of a configuration."""
        return f"mean of {', '.join(self.members)}" if self.members else ""


class Comparison(Config):
    """A finalist against the baseline, seed by seed.

    Attributes:
        contender: the finalist's name.
        metric: of the test split.
        difference: finalist minus baseline, paired by seed and event.
        p_value: two-sided, of no difference; None where it cannot be had (one seed, or no noise).
        adjusted_p_value: corrected for the number of finalists.
        sample_error: standard error of the difference from the finite test split, which all seeds share; None where it
            cannot be had.
        seed_error: standard error of the difference from the seeds.
        judged_by: what interval and p-value cover: `crossed` is seeds and events, `seeds` the seeds alone, as of
            confirmations of earlier versions and where the scores do not tell more.
    """

    contender: str
    metric: str
    difference: Estimate
    p_value: float | None
    adjusted_p_value: float | None
    sample_error: float | None = None
    seed_error: float | None = None
    judged_by: Literal["crossed", "seeds"] = "seeds"

    def better(self, mode: str, level: float) -> bool:
        """Return whether the finalist beats the baseline by more than the noise that was counted, at 1 - `level`."""
        gain = self.difference.mean if mode == "max" else -self.difference.mean
        return self.adjusted_p_value is not None and self.adjusted_p_value < 1 - level and gain > 0


class UnderVariation(Config):
    """A contender under a systematic variation of the test events, beside the same models on the events as they are.

    Attributes:
        contender: its name.
        variation: its name.
        changes: in words, such as `jet_pt × 1.01`.
        metric: of the test split, by which contenders are compared.
        estimates: metric → over the runs, of the varied events.
        difference: varied minus nominal, paired by seed and by the events that both have; its `sd` is the standard
            error.
        sample_error: standard error of the difference from the finite test split; None where it cannot be had.
        seed_error: standard error of the difference from the seeds; None where it cannot be had.
        events: of the test under the variation; None where they are the nominal ones.
        paired_events: those among them that are nominal ones too, by id and class, and that the difference pairs.
    """

    contender: str
    variation: str
    changes: str
    metric: str
    estimates: dict[str, Estimate]
    difference: Estimate
    sample_error: float | None = None
    seed_error: float | None = None
    events: int | None = None
    paired_events: int | None = None

    @property
    def told(self) -> str:
        """Return the changes in words, and of other events how many are paired."""
        if self.events is None:
            return self.changes
        return f"{self.changes}, {self.paired_events} of {self.events} paired"

    def loss(self, mode: str) -> float:
        """Return by how much the metric is worse; negative where it is better."""
        return -self.difference.mean if mode == "max" else self.difference.mean


class Confirmation(Config):
    """Everything that a confirmation found.

    Attributes:
        search: name.
        search_id: of the search whose finalists these are.
        task: of the dataset.
        dataset_fingerprint: of the dataset that was trained and tested on.
        metric: of the test split, by which the finalists are compared.
        mode: whether more or less of it is better.
        level: of every interval.
        correction: of the p-values for the number of finalists.
        seeds: of every contender.
        epochs: full length of a trial.
        contenders: finalists in the order of the search's ranking, their ensemble where it was asked for, then the
            baseline.
        comparisons: of every finalist.
        provenance: of the confirmation, as of a search.
        confirmation_id: `search_id` in its journal; `test_uses` knows by it when the test split was read.
        baseline_origin: in words, where the baseline's parameters come from.
        dropped: finalists of which a training failed, with the cause; they count among those corrected for.
        variations: every contender under each systematic variation that the dataset names.
        folds: by which the search ranked its configurations; 0 where it ranked by one validation split.
    """

    search: str
    search_id: str
    task: str
    dataset_fingerprint: str
    metric: str
    mode: Literal["max", "min"]
    level: float = Field(gt=0, lt=1)
    correction: str
    seeds: tuple[int, ...]
    epochs: int
    contenders: tuple[Contender, ...]
    comparisons: tuple[Comparison, ...]
    provenance: dict[str, str]
    confirmation_id: str = ""
    baseline_origin: str = ""
    dropped: dict[str, str] = Field(default_factory=dict)
    variations: tuple[UnderVariation, ...] = ()
    folds: int = 0

    @model_validator(mode="after")
    def _judged(self) -> Confirmation:
        baselines = [one.name for one in self.contenders if one.role == "baseline"]
        if len(baselines) != 1:
            raise ValueError(f"a confirmation has one baseline; this one has {len(baselines)}")
        return self

    @property
    def baseline(self) -> Contender:
        """Return the contender that the others are compared with."""
        return next(one for one in self.contenders if one.role == "baseline")

    @property
    def finalists(self) -> tuple[Contender, ...]:
        """Return the contenders that are compared with the baseline."""
        return tuple(one for one in self.contenders if one.role == "finalist")

    def trained(self, contender: Contender, run: ConfirmedRun) -> list[tuple[Contender, ConfirmedRun]]:
        """Return what a run of a contender is made of: itself, or its members' runs of the same seed.

        Raises:
            StorageError: one of them is not there.
        """
        if not contender.members:
            return [(contender, run)]
        named = {one.name: one for one in self.contenders if not one.members}
        found = [
            (named[name], own)
            for name, params in contender.members.items()
            if name in named and named[name].params == params
            for own in named[name].runs
            if own.seed == run.seed
        ]
        if [one.name for one, _ in found] != list(contender.members):
            raise StorageError(
                f"{contender.name} is the {contender.words}; the confirmation of '{self.search}' has no training of "
                f"seed {run.seed} of each"
            )
        return found


def choose(confirmation: Confirmation) -> tuple[Contender, ConfirmedRun]:
    """Choose the candidate and the run whose model would be handed on, without the test split.

    The candidate is the finalist with the best mean validation metric over its runs. Of a search by folds it is the
    first finalist, which is the best over all folds, several times the events that the runs are validated with; only
    the mean of the finalists, which no fold knows, is compared with it by the runs.

    Raises:
        PromotionRefused: there is no finalist, or its runs tell no validation metric.
    """
    key = "val_" + confirmation.metric.removeprefix("test_")
    sign = 1 if confirmation.mode == "max" else -1
    if not confirmation.finalists or any(
        key not in run.metrics for one in confirmation.finalists for run in one.runs
    ):
        raise PromotionRefused(
            f"a candidate is chosen among finalists by {key}; the confirmation of '{confirmation.search}' has "
            f"{count_words(len(confirmation.finalists), 'finalist')} and not every run of theirs has it"
        )

    def mean(contender: Contender) -> float:
        return sign * math.fsum(run.metrics[key] for run in contender.runs) / len(contender.runs)

    compared = confirmation.finalists
    if confirmation.folds:
        single = [one for one in compared if not one.members]
        compared = (*single[:1], *(one for one in compared if one.members))
    candidate = max(compared, key=mean)
    return candidate, max(candidate.runs, key=lambda run: sign * run.metrics[key])


def save_confirmation(search_folder: Path, confirmation: Confirmation) -> Path:
    """Write it whole or not at all into the search's folder.

    Raises:
        StorageError: it cannot be written.
    """
    path = search_folder / FOLDER / FILE_NAME
    with storing(path):
        write_whole(path, confirmation.model_dump_json(indent=1) + "\n")
    return path


def load_confirmation(search_folder: Path) -> Confirmation:
    """Load what the last confirmation of a search found.

    Raises:
        StorageError: there is none, or the file is not one.
    """
    path = search_folder / FOLDER / FILE_NAME
    if not path.is_file():
        command = made_by(search_folder)
        raise StorageError(f"there is no confirmation, {path} is not there: type `{command}`")
    try:
        return read_record(Confirmation, path)
    except StorageError as exc:
        raise StorageError(f"{exc}: type `{made_by(search_folder)}`, which writes it again") from None


def made_by(search_folder: Path, *more: str, data: Path | None = None) -> str:
    """Return the command that made the confirmation of a search, with the flags that its journal tells.

    Args:
        search_folder: of the search.
        more: words to type beside, such as `--again`.
        data: the dataset, where it is no longer where the search found it.
    """
    started = SearchState.read(search_folder / FOLDER).started
    options = {} if started is None else started.options
    flags = {flag: options.get(flag) for flag in ("top", "seeds", "baseline", "level")}
    ensemble = ("--ensemble",) if options.get("ensemble") else ()
    asked: dict[Any, tuple[str, ...]] = {True: ("--deterministic",), False: ("--no-deterministic",)}
    deterministic = asked.get(options.get("deterministic"), ())
    words = ("hep-ray", "confirm", search_folder.name, *ensemble, *deterministic, *more)
    return typed(*words, storage=search_folder.parent, data=data, **flags)


def read_record(kind: type[C], path: Path) -> C:
    """Read a record that stands as JSON in a file.

    Raises:
        StorageError: the file cannot be read, or is not such a record.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise StorageError(f"cannot read {path}: {exc.strerror}") from None
    except (ValueError, RecursionError) as exc:
        raise StorageError(f"{path} is not JSON: {exc}") from exc
    return parse(kind, values, str(path), StorageError)


def set_aside(folder: Path) -> Path | None:
    """Rename a folder, as `confirm` to `confirm_1`, `confirm_2` or so on; nothing is deleted.

    Raises:
        StorageError: a process holds its journal.
    """
    if not folder.exists():
        return None
    with Journal(folder) if (folder / JOURNAL).exists() else nullcontext():
        number = 1
        while (target := folder.with_name(f"{folder.name}_{number}")).exists():
            number += 1
        return rename(folder, target)


TEST_USES = "test_uses.jsonl"


class SplitUse(Config):
    """One look at the test split.

    Attributes:
        time: Unix time, s, just before the split was read.
        purpose: why: `confirm`, or `refit`, of a configuration that a confirmation has chosen.
        dataset_fingerprint: whose test split.
        contenders: `params_hash` of each configuration that was evaluated, sorted.
        confirmation_id: `search_id` of the first record in the confirmation's journal.
        seeds: of the trainings that were evaluated.
    """

    time: float
    purpose: str
    dataset_fingerprint: str
    contenders: tuple[str, ...]
    confirmation_id: str
    seeds: tuple[int, ...] = ()


def params_hash(params: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, its parameters without the seed, whatever their order."""
    canonical = json.dumps(
        {key: value for key, value in params.items() if key != "seed"}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def record_use(folder: Path, use: SplitUse) -> None:
    """Append a look to the file of a search's folder; one that is there already (by confirmation) is not repeated.

    Raises:
        StorageError: the file cannot be written or read.
    """
    known = uses(folder)
    if any(one.confirmation_id == use.confirmation_id for one in known):
        return
    try:
        write_whole(folder / TEST_USES, "".join(one.model_dump_json() + "\n" for one in (*known, use)))
    except OSError as exc:
        raise StorageError(
            f"cannot record a look at the test split in {folder / TEST_USES}: {exc.strerror}"
        ) from exc


def uses(folder: Path) -> list[SplitUse]:
    """Every look that was taken for a search, in order of time; none where the file is absent.

    Raises:
        StorageError: a line of the file is not a look.
    """
    path = folder / TEST_USES
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as exc:
            fault = exc.msg if isinstance(exc, json.JSONDecodeError) else exc
            raise StorageError(
                f"line {number} of {path}, which tells the looks at the test split, is not JSON: {fault}"
            ) from exc
        found.append(parse(SplitUse, values, f"{path}, line {number}", StorageError))
    return found


def earlier_uses(folder: Path, fingerprint: str, confirmation_id: str) -> list[SplitUse]:
    """Looks at the same test split, for the same search, before that of a confirmation.

    Any of them means that the confirmation's finalists or seeds may have been chosen with knowledge of the test split.
    That of a refit is left out: it tests one more training of a configuration that an earlier confirmation chose and
    counts already, of a seed that follows from that confirmation, so that it adds nothing to choose from.

    Args:
        folder: of the search.
        fingerprint: of the dataset.
        confirmation_id: of the confirmation that is judged; not yet recorded, all looks are earlier.
    """
    earlier = []
    for use in uses(folder):
        if use.confirmation_id == confirmation_id:
            break
        if use.dataset_fingerprint == fingerprint and use.purpose != "refit":
            earlier.append(use)
    return earlier


def uses_of_others(storage: Path, search: str, fingerprint: str) -> dict[str, int]:
    """Other searches in a storage that looked at the same test split, with the number of looks."""
    counts: Sequence[tuple[str, int]] = [
        (path.parent.name, sum(use.dataset_fingerprint == fingerprint for use in uses(path.parent)))
        for path in sorted(storage.glob(f"*/{TEST_USES}"))
        if path.parent.name != search
    ]
    return {name: count for name, count in counts if count}
