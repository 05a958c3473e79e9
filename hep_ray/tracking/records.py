"""The records of a search's journal: each one line of JSON, in the order in which things happened."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from hep_ray.config import FORMERLY, Config
from hep_ray.plugins import Plugin

Status = Literal["running", "completed", "stopped", "failed"]
"""`completed`: all epochs, or until its patience ended; `stopped`: by the scheduler; `failed`: by an error."""

Failure = Literal["diverged", "out_of_memory", "error", "timeout", "lost"]
"""Why a trial failed. Its parameters brought it about: `diverged`, a loss or metric that is not finite;
`out_of_memory`, of the GPU, of Python or of the node, each time it was tried; `error`, which the model or the training
raised; `timeout`, an epoch that took too long each time. They did not: `lost`, its process, node, data or storage."""
OF_PARAMETERS: frozenset[Failure] = frozenset({"diverged", "out_of_memory", "error", "timeout"})
"""Failures from which a search learns."""


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
    cost: str | None = Field(None, description="metric whose sum over a trial is minimised beside the first")
    epochs: int
    sampler: str
    scheduler: str
    seed: int
    space: dict[str, Any] = Field(description="the space in words, as printed by --dry-run")
    workers_per_trial: int = Field(1, description="processes that train a trial together")
    references: list[dict[str, Any]] = Field([], description="configurations run before any is drawn")
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
    tags: dict[str, str] = Field(default_factory=dict, description="of its run in MLflow, beside the usual")


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


class CodeAccepted(Config):
    """A search goes on although files that register its components have changed, as its user said."""

    kind: Literal["code_accepted"] = "code_accepted"
    time: float
    plugins: tuple[Plugin, ...] = Field(description="as they are from here on")
    changes: tuple[str, ...] = Field(description="what differs from before, a sentence for each file")


class SearchFinished(Config):
    """The search ended with every trial accounted for; a later resume may add trials after it."""

    kind: Literal["search_finished"] = "search_finished"
    time: float


Record = (
    SearchStarted
    | OptionsChanged
    | TrialStarted
    | EpochFinished
    | TrialLost
    | TrialFinished
    | TrialTested
    | CodeAccepted
    | SearchFinished
)

_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def decode(line: str | bytes) -> Record:
    """A record from its line.

    Raises:
        pydantic.ValidationError: the line is not a record.
    """
    return _ADAPTER.validate_json(line)
