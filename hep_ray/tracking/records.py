"""The records of a search's journal: each one line of JSON, in the order in which things happened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from hep_ray.config import FORMERLY, Config
from hep_ray.plugins import Plugin

Status = Literal["running", "paused", "completed", "stopped", "failed"]
"""`completed`: all epochs, or until its patience ended; `stopped`: by the scheduler, or paused until the budget was
spent; `failed`: by an error."""

Failure = Literal["diverged", "out_of_memory", "error", "timeout", "lost"]
"""Why a trial failed. Its parameters brought it about: `diverged`, a loss or metric that is not finite;
`out_of_memory`, of the GPU, of Python or of the node, each time it was tried; `error`, which the model or the training
raised; `timeout`, an epoch that took too long each time. They did not: `lost`, its process, node, data or storage."""
RENAMED = {"references": "points_to_evaluate", "cost": "second_objective"}
"""Names before 2026-11-28 of what a search states, and those of today; in journals too."""

OF_PARAMETERS: frozenset[Failure] = frozenset({"diverged", "out_of_memory", "error", "timeout"})
"""Failures from which a search learns."""


class RecordedParameter(Config):
    """One parameter of a search space: Optuna's distribution, or a value that follows from another parameter.

    `str()` gives it in words, as a person reads it: `0.8 … 0.99 when optimizer=sgd`. Journals before 2026-11-28 hold
    these words and nothing else, and a resumed search is compared with them: do not reword them.
    """

    distribution: dict[str, Any] | None = Field(
        None, description="by `optuna.distributions.distribution_to_json`"
    )
    prior: float | None = Field(None, description="of a range, where the best is expected")
    follows: str | None = Field(None, description="parameter that decides the value, where none is drawn")
    mapping: tuple[tuple[Any, Any], ...] = Field((), description="value of that parameter, value of this one")
    when: dict[str, tuple[Any, ...]] = Field(
        {}, description="exists where each of these has one of the values"
    )
    words: str | None = Field(None, description="in journals before 2026-11-28, which hold no structure")

    @property
    def is_range(self) -> bool:
        """Whether it is a number between two bounds."""
        return self.distribution is not None and self.distribution["name"] != "CategoricalDistribution"

    @property
    def is_log(self) -> bool:
        """Whether it is drawn uniformly in its logarithm."""
        return self.is_range and bool(self._bounds["log"])

    @property
    def values(self) -> tuple[Any, ...]:
        """Values that it can have; empty for a range."""
        if self.distribution is None:
            return tuple(value for _, value in self.mapping)
        return () if self.is_range else tuple(self._bounds["choices"])

    @property
    def _bounds(self) -> dict[str, Any]:
        assert self.distribution is not None
        attributes: dict[str, Any] = self.distribution["attributes"]
        return attributes

    def __str__(self) -> str:
        if self.words is not None:
            return self.words
        text = " | ".join(map(str, self.values))
        if self.is_range:
            low, high = self._bounds["low"], self._bounds["high"]
            step = self._bounds["step"]
            text = f"{low} … {high}, whole" if step == 1 else f"{low:g} … {high:g}"
            text += " (log)" * self.is_log + (f" in steps of {step:g}" if step not in (None, 1) else "")
            text += "" if self.prior is None else f", best expected at {self.prior:g}"
        condition = " and ".join(f"{key}={'|'.join(map(str, values))}" for key, values in self.when.items())
        return f"{text} when {condition}" if condition else text


class Lesson(Config):
    """Values of an earlier search, kept whole in the journal of the one that learns from it."""

    search: str
    search_id: str
    metric: str
    mode: Literal["max", "min"]
    epochs: int = Field(description="full length of its trials")
    trials: tuple[tuple[dict[str, Any], dict[int, float]], ...] = Field(
        description="parameters, and best value until some epochs"
    )


class SearchStarted(Config):
    """First record: what this search is. A resumed search must state the same."""

    kind: Literal["search_started"] = "search_started"
    time: float = Field(description="Unix time, s")
    search: str
    search_id: str = Field(description="random, names this search in MLflow")
    dataset_fingerprint: str
    task: str
    metric: str
    mode: Literal["max", "min"]
    second_objective: str | None = Field(
        None, description="metric whose sum over a trial is minimised beside the first"
    )
    epochs: int
    sampler: str
    scheduler: str = Field(description="name, or the class of an object")
    grace_epochs: int | None = Field(None, description="no trial is stopped before; None where none is")
    reduction_factor: int | None = Field(None, description="of ASHA")
    seed: int
    space: dict[str, RecordedParameter] = Field({}, description="what is drawn; empty for a confirmation")
    contenders: dict[str, dict[str, Any]] = Field({}, description="parameters of what a confirmation trains")
    workers_per_trial: int = Field(1, description="processes that train a trial together")
    weights: Literal["on", "off"] = Field(
        "on", description="whether the weights of events count, if they have some"
    )
    deterministic: bool = Field(
        False, description="whether operations without a deterministic form are refused"
    )
    points_to_evaluate: list[dict[str, Any]] = Field([], description="configurations run before any is drawn")
    gain_per: Literal["epoch", "second"] = Field(
        "epoch", description="what sampler curves weighs a gain against"
    )
    repeats: int = Field(1, description="seeds with which a configuration is trained before it leads")
    folds: int | None = Field(
        None,
        description="parts of the training and validation events that take turns to validate; None where they do not",
    )
    constraints: dict[str, float] = Field(
        {}, description="figure of a model, and the largest value it may have"
    )
    variations: dict[str, dict[str, Any]] = Field(
        {}, description="systematic ones by name, that a confirmation evaluates, or a search ranks under"
    )
    lessons: tuple[Lesson, ...] = Field((), description="of earlier searches")
    plugins: tuple[Plugin, ...] = Field((), description="files of the user's own that register components")
    options: dict[str, Any] = Field(description="the command line, for --resume without flags")
    unstated: dict[str, Any] = Field(
        default_factory=FORMERLY.copy,
        description="what trials use of a parameter that they leave unstated, where it is not today's default",
    )
    provenance: dict[str, str]
    stated: dict[str, Any] | None = Field(
        None,
        description="title, baseline and study tables of the script; None in journals of earlier versions",
    )
    title: str = Field("", description="name of the parent run in MLflow, where it is not the search's")
    tags: dict[str, str] = Field(
        default_factory=dict, description="of all its runs in MLflow, beside the usual"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_any_age(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _before_2026_11_28(values)

    @property
    def stopping(self) -> str:
        """Return in words by which rule trials are stopped early."""
        return stopping_words(self.scheduler, self.grace_epochs, self.reduction_factor)


class OptionsChanged(Config):
    """The search was resumed with other flags than it had; they hold from here on, and for a later plain --resume."""

    kind: Literal["options_changed"] = "options_changed"
    time: float
    options: dict[str, Any] = Field(description="the whole command line, in place of the former")


class TrialStarted(Config):
    """A configuration was drawn and will be trained under this id until it ends, whatever breaks."""

    kind: Literal["trial_started"] = "trial_started"
    time: float
    trial_id: str = Field(pattern="^[A-Za-z0-9_][A-Za-z0-9._-]*$", description="also the name of its folder")
    number: int = Field(description="number of the trial in the Optuna study")
    params: dict[str, Any]
    seed: int
    until: int | None = Field(None, description="epoch after which it pauses; None where it need not")
    reason: str = Field("", description="why it was opened, where the scheduler says so")
    fold: int = Field(0, description="from 1, whose events validate; 0 where there are no folds")
    repeat_of: str = Field(
        "",
        description="first trial of a configuration that is trained again, with another seed, or on another fold",
    )
    tags: dict[str, str] = Field(default_factory=dict, description="of its run in MLflow, beside the usual")
    figures: dict[str, float] = Field(
        {}, description="of its model that the search limits, known before its first epoch"
    )

    @property
    def config(self) -> dict[str, Any]:
        """Return what its worker is told."""
        return {"trial_id": self.trial_id, "params": self.params, "seed": self.seed, "fold": self.fold}


class ModelTimed(Config):
    """How long one event takes a model was measured, where the search limits it; a resumed search takes this value."""

    kind: Literal["model_timed"] = "model_timed"
    time: float
    model: str = Field(description="its name and parameters, as one text")
    milliseconds: float


class EpochFinished(Config):
    """One epoch's metrics."""

    kind: Literal["epoch_finished"] = "epoch_finished"
    time: float
    trial_id: str
    metrics: dict[str, float]
    cpu_seconds: float | None = Field(None, description="of all threads of the trial's processes")
    gpu_seconds: float | None = Field(None, description="for which it held a GPU, times its share of it")

    @property
    def used(self) -> dict[str, float]:
        """Seconds of processors and GPUs, where they are known."""
        both = {"cpu_seconds": self.cpu_seconds, "gpu_seconds": self.gpu_seconds}
        return {name: seconds for name, seconds in both.items() if seconds is not None}

    @property
    def epoch(self) -> int:
        """Epoch, from 1."""
        return int(self.metrics["epoch"])


class TrialLost(Config):
    """The process or node of a trial was lost; it is tried again from its last checkpoint."""

    kind: Literal["trial_lost"] = "trial_lost"
    time: float
    trial_id: str
    epoch: int = Field(description="last one that was heard of, 0 before the first")
    cause: str
    log: str = Field("", description="end of what the process wrote")


class TrialPaused(Config):
    """A trial gave its worker away; it goes on from its checkpoint where a later record says so."""

    kind: Literal["trial_paused"] = "trial_paused"
    time: float
    trial_id: str
    epoch: int = Field(description="that it has reached")
    ending: tuple[float, float, float] | None = Field(
        None,
        description="best value of the metric, were it trained in full: a standard deviation below, the median and one "
        "above, as the model of learning curves predicts",
    )


class TrialGoesOn(Config):
    """It was decided that a paused trial, or one whose leg has ended, trains on."""

    kind: Literal["trial_goes_on"] = "trial_goes_on"
    time: float
    trial_id: str
    until: int = Field(description="epoch after which it pauses again, unless it goes on then too")
    reason: str = Field("", description="of the decision, in words")


class TrialFinished(Config):
    """A trial ended; nothing follows under its id."""

    kind: Literal["trial_finished"] = "trial_finished"
    time: float
    trial_id: str
    status: Status
    cause: str = Field("", description="what went wrong, for a failed trial")
    log: str = Field("", description="end of what the trial wrote, for a failed trial")
    failure: Failure | None = Field(
        None, description="of what kind, for a failed trial; journals of old lack it"
    )


class TrialTested(Config):
    """The kept model of an ended trial was evaluated on the test split, once; never in a search."""

    kind: Literal["trial_tested"] = "trial_tested"
    time: float
    trial_id: str
    epoch: int = Field(description="whose model was kept")
    metrics: dict[str, float] = Field(description="of the test split, `test_accuracy` and so on")
    variations: dict[str, dict[str, float]] = Field(
        {}, description="the same under each systematic variation, by its name"
    )


class CodeAccepted(Config):
    """A search goes on although files that register its components have changed, as its user said."""

    kind: Literal["code_accepted"] = "code_accepted"
    time: float
    plugins: tuple[Plugin, ...] = Field(description="as they are from here on")
    changes: tuple[str, ...] = Field(description="what differs from before, a sentence for each file")


class TrialsFused(Config):
    """Several trials of one architecture are trained as one stacked network from here on, or it did not pay."""

    kind: Literal["trials_fused"] = "trials_fused"
    time: float
    trial_ids: tuple[str, ...]
    gain: float | None = Field(
        None, description="seconds of their steps one by one, over those together; None where a flag decided"
    )
    fused: bool = Field(description="whether they are; else each is trained alone")
    unmeasured: str = Field("", description="why it could not be measured whether it pays")


class NoGainLeft(Config):
    """A search that was asked to ends: what it has left to gain is less than the noise of its best value."""

    kind: Literal["no_gain_left"] = "no_gain_left"
    time: float
    gain: float = Field(description="of the best value that is expected, were the search to go on for ever")
    noise: float = Field(
        description="of the best value: its statistical error, or what curves scatter by where it has none"
    )
    trial_id: str = Field(description="the best, which is trained in full yet")


class TimeBudgetSpent(Config):
    """The time that this attempt had is over; trials that have not ended go on when the search is resumed."""

    kind: Literal["time_budget_spent"] = "time_budget_spent"
    time: float
    seconds: float = Field(description="the budget")
    stopped: tuple[str, ...] = Field((), description="trials that ran, and stopped after an epoch")


class SearchFinished(Config):
    """The search ended with every trial accounted for; a later resume may add trials after it."""

    kind: Literal["search_finished"] = "search_finished"
    time: float


Record = (
    SearchStarted
    | OptionsChanged
    | ModelTimed
    | TrialStarted
    | EpochFinished
    | TrialLost
    | TrialPaused
    | TrialGoesOn
    | TrialFinished
    | TrialTested
    | CodeAccepted
    | TrialsFused
    | NoGainLeft
    | TimeBudgetSpent
    | SearchFinished
)

OfTrial = EpochFinished | TrialLost | TrialPaused | TrialGoesOn | TrialFinished | TrialTested
"""What happens to a trial that has started."""

_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def decode(line: str | bytes) -> Record:
    """Return the record of a line.

    Raises:
        pydantic.ValidationError: the line is not a record.
    """
    return _ADAPTER.validate_json(line)


def stopping_words(scheduler: str, grace_epochs: int | None, reduction_factor: int | None) -> str:
    """Return in words by which rule trials are stopped early."""
    grace = "" if grace_epochs is None else f", grace {grace_epochs}"
    return scheduler + grace + ("" if reduction_factor is None else f", factor {reduction_factor}")


def _before_2026_11_28(values: dict[str, Any]) -> dict[str, Any]:
    """Return the first record of a journal before 2026-11-28 as it would be written today; a later one as it is.

    Such a journal holds the space and the scheduler in words, the contenders of a confirmation as its space, and two
    fields under other names.
    """
    values = {RENAMED.get(name, name): value for name, value in values.items()}
    space = values.get("space") or {}
    structured = all(
        isinstance(one, RecordedParameter)
        or (isinstance(one, Mapping) and {"distribution", "follows"} & one.keys())
        for one in space.values()
    )
    if space and all(isinstance(one, str) for one in space.values()):
        values = {**values, "space": {name: _from_words(words) for name, words in space.items()}}
    elif not structured:
        values = {**values, "space": {}, "contenders": space}
    if asha := re.fullmatch(r"(asha), grace (\d+), factor (\d+)", str(values.get("scheduler"))):
        name, grace, factor = asha.groups()
        values = {**values, "scheduler": name, "grace_epochs": int(grace), "reduction_factor": int(factor)}
    return values


def _from_words(words: str) -> RecordedParameter:
    """Return a parameter from its words, whose numbers have six digits and whose names and numbers look alike."""
    text, _, condition = words.partition(" when ")
    equations = [part.partition("=") for part in condition.split(" and ")] if condition else []
    when = {key: tuple(map(_from_word, values.split("|"))) for key, _, values in equations}
    if bounds := re.fullmatch(r"(\S+) … (\S+?)(, whole| \(log\))?", text):
        low, high, kind = bounds.groups()
        whole = kind == ", whole"
        attributes: dict[str, Any] = {
            "low": _from_word(low),
            "high": _from_word(high),
            "log": kind == " (log)",
        }
        distribution = {
            "name": "IntDistribution" if whole else "FloatDistribution",
            "attributes": {**attributes, "step": 1 if whole else None},
        }
    else:
        choices = [_from_word(word) for word in text.split(" | ")]
        distribution = {"name": "CategoricalDistribution", "attributes": {"choices": choices}}
    return RecordedParameter(distribution=distribution, when=when, words=words)


def _from_word(word: str) -> str | int | float | bool:
    for pattern, kind in ((r"[+-]?\d+", int), (r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", float)):
        if re.fullmatch(pattern, word):
            return kind(word)
    return {"True": True, "False": False}.get(word, word)
