"""Every option of a search, of a confirmation and of cross-validation, stated once.

A field says how it is typed (`typer.Option`), its default, and what becomes of it when a search is resumed (`Resume`)
or confirmed (`AS_IN_SEARCH`). Flags, help, keywords of `hep_ray.run`, what the journal records and what is taken from
it are made from the fields.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError
from typer.models import OptionInfo, ParameterInfo

from hep_ray.addresses import located
from hep_ray.errors import CannotConfirm, HepRayError, InvalidConfig
from hep_ray.flags import (
    CPUS_PER_WORKER,
    GPUS_PER_WORKER,
    IN_STORAGE,
    SEED,
    STORAGE,
    WORKERS_PER_TRIAL,
    Plugins,
    SearchName,
    Storage,
    TrackingUri,
)
from hep_ray.masking import without_password
from hep_ray.registry import check_name, takes_named_fields
from hep_ray.tracking.records import SearchStarted

EPOCH_TIMEOUT = 6 * 3600.0
"""Seconds that an epoch may take unless the search is told another time: what takes longer hangs."""
LONGEST_EPOCH = 366 * 86400.0
"""Seconds; Python's own alarm takes no infinity."""

LONG_SECONDS = 90
"""Times from here on are told in minutes and hours."""

Cache = Literal["auto", "resident", "streaming"]
Weights = Literal["on", "off"]


class Resume(Enum):
    """Rule for what `--resume` does with an option that the journal records; one without this is not recorded."""

    MAY_CHANGE = "as the search was given it, unless another is typed"
    MUST_MATCH = "as the search was given it; another is refused"


AS_IN_SEARCH = "as in the search"
"""Marks an option of a confirmation that is the search's unless another is typed."""

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def duration(text: str) -> float:
    """Return the seconds of a time such as `90s`, `45m`, `2h` or `1h30m`.

    Raises:
        InvalidConfig: it is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        raise InvalidConfig(f"no time: '{text}'; type hours, minutes and seconds as 2h, 45m, 90s or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def in_words(seconds: float) -> str:
    """Return a time as it is typed, with minutes for the smallest unit of long ones: `50s`, `45m`, `2h10m`.

    >>> in_words(7800.0)
    '2h10m'
    """
    if seconds < LONG_SECONDS:
        return f"{max(round(seconds), 1)}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h" * (hours > 0) + f"{minutes}m" * (minutes > 0)


EPOCH_TIMEOUT_FLAG = typer.Option(
    help="Seconds that an epoch may take; a trial whose epoch takes longer hangs, is ended, and tried once more."
)
WEIGHTS_FLAG = typer.Option(
    help="on: the weights of the events count in the loss and in every metric, where the dataset has some; off: each "
    "event counts once."
)
CACHE_FLAG = typer.Option(
    help="resident: load the events into memory once; streaming: read them in every epoch, with a core for it on each "
    "node; auto: stream what exceeds the memory budget."
)
TIME_BUDGET_FLAG = typer.Option(
    parser=duration,
    metavar="TIME",
    help="Time after which no trial starts and each that runs stops after its epoch, such as 45m, 2h or 1h30m; "
    "--resume goes on with them.",
)
PRECISION_FLAG = typer.Option(
    help="float32 or bfloat16 for the products of every network, whatever the space states; auto: bfloat16 where this "
    "processor, or every GPU of the cluster, multiplies in it and all networks are of images (on GPUs transformers "
    "too). A published preset lists bfloat16 as a deviation."
)
MEMORY_BUDGET_FLAG = typer.Option(
    help="GB of a node's memory for the events; unless given, half of the smallest object store of Ray."
)
WATCHES_NONE = "none"
WATCH_FLAG = typer.Option(
    metavar="FOLDER",
    help="Second dataset with the columns and classes of the first: its validation split is evaluated after each epoch "
    "(watched_accuracy, watched_auc, watched_loss) and ranks nothing. With --resume, none watches no more.",
)
LEARN_FROM_FLAG = typer.Option(
    "--learn-from",
    metavar="FOLDER",
    help="Folder of an earlier search, such as runs/other, from which sampler curves learns where to begin; may be "
    "given several times. What is learnt is kept in the journal: with --resume it is not typed again.",
    show_default=False,
)
CONSTRAINT_FLAG = typer.Option(
    "--constraint",
    metavar="FIGURE<=NUMBER",
    help="Limit that every model keeps, beside those of the search: parameters<=1e5, flops<=2e6 (of one event) or "
    "latency_ms<=0.2 (one event, one core of this machine). A configuration that breaks it is not trained. In quotes, "
    "for the shell; may be given several times.",
    show_default=False,
)
UNTIL_NO_GAIN_FLAG = typer.Option(
    "--until-no-gain/--no-until-no-gain",
    help="With sampler curves: begin nothing more once the best value is expected to rise by less than its noise, were "
    "the search to go on for ever; the best trial is then trained in full. --trials is the most that is trained.",
    show_default=False,
)
REPEATS_FLAG = typer.Option(
    min=1,
    help="Train a configuration that would lead with up to so many seeds, in about a fifth of the epochs; the best "
    "mean less its standard error wins. 1 is none; unless given, the preset's.",
)
FOLDS_FLAG = typer.Option(
    min=3,
    help="Divide training and validation events into so many parts that take turns to validate. A configuration that "
    "would lead is trained on every fold, in about half of the epochs, and the best mean wins; the test split stays "
    "out of it [default: the preset's, which is none unless it says so].",
    show_default=False,
)
GAIN_PER_FLAG = typer.Option(
    help="What sampler curves weighs a gain against, where configurations take unlike seconds for an epoch: epoch, or "
    "second [default: second with --time-budget, else epoch].",
    show_default=False,
)
FUSE_FLAG = typer.Option(
    metavar="auto|off|N",
    help="Train networks of one architecture as one stacked network, with the numbers that each gives alone: where a "
    "short measurement says that it pays, never, or so many at once.",
)
READERS_FLAG = typer.Option(
    min=1,
    help="Cores that Ray Data reads streamed events with; unless given, one of each node and all that no trial takes.",
)


DETERMINISTIC_FLAG = typer.Option(
    "--deterministic/--no-deterministic",
    help="Train by operations that give the same numbers each time, slower on GPUs; a trial that has others fails, "
    "naming one.",
    show_default=False,
)


COMPILE_FLAG = typer.Option(
    help="Compile the steps of networks whose batches have one shape (torch.compile; CUDA graphs for small ones): on, "
    "off, or auto: on GPUs where a trial has steps enough to pay for it. Not tried on a GPU yet."
)


def check_fuse_flag(fuse: str, error: type[HepRayError]) -> None:
    """Refuse what is neither `auto` nor `off` nor a number of trainings, by an error of this class."""
    if fuse not in ("auto", "off") and not (fuse.isdecimal() and int(fuse) > 1):
        raise error(f"--fuse must be auto, off, or a number of trainings from 2 on, such as 8; got {fuse}")


@takes_named_fields
@dataclass(frozen=True)
class SearchOptions:
    """Options of a search, as its command line chooses them.

    The help of its flag says what a field is.

    Attributes:
        source: the search script.
        grace_epochs: of the search that is resumed, which keeps it where the preset leaves it open.
        sampler: likewise, where the preset says `auto`.
        scheduler: likewise.

    Raises:
        InvalidConfig: no epoch can take so long, or there is no time.
    """

    data: Annotated[
        Path,
        typer.Option(
            help="Dataset folder, or its address [default: the search's task in the folder HEP_RAY_DATA, or in data/]."
        ),
        Resume.MAY_CHANGE,
    ]
    storage: Storage = STORAGE
    preset: Annotated[str, typer.Option(help="How much to run, see above."), Resume.MAY_CHANGE] = "laptop"
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials to draw, instead of the preset's."), Resume.MAY_CHANGE
    ] = None
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of a full trial, instead of the preset's."),
        Resume.MAY_CHANGE,
    ] = None
    repeats: Annotated[int | None, REPEATS_FLAG, Resume.MAY_CHANGE] = None
    folds: Annotated[int | None, FOLDS_FLAG, Resume.MAY_CHANGE] = None
    time_budget: Annotated[float | None, TIME_BUDGET_FLAG] = None
    seed: Annotated[int, SEED, Resume.MUST_MATCH] = 0
    tracking_uri: Annotated[str | None, IN_STORAGE, Resume.MAY_CHANGE] = None
    cpus_per_trial: Annotated[int, CPUS_PER_WORKER, Resume.MAY_CHANGE] = 1
    gpus_per_trial: Annotated[float, GPUS_PER_WORKER, Resume.MAY_CHANGE] = 0.0
    workers_per_trial: Annotated[int, WORKERS_PER_TRIAL, Resume.MUST_MATCH] = 1
    min_workers_per_trial: Annotated[
        int | None,
        typer.Option(help="Go on with as few workers while the cluster lacks nodes for all [default: all]."),
        Resume.MAY_CHANGE,
    ] = None
    epoch_timeout: Annotated[float, EPOCH_TIMEOUT_FLAG, Resume.MAY_CHANGE] = EPOCH_TIMEOUT
    weights: Annotated[Weights, WEIGHTS_FLAG, Resume.MUST_MATCH] = "on"
    cache: Annotated[Cache, CACHE_FLAG, Resume.MAY_CHANGE] = "auto"
    memory_budget: Annotated[float | None, MEMORY_BUDGET_FLAG, Resume.MAY_CHANGE] = None
    precision: Annotated[Literal["auto", "float32", "bfloat16"] | None, PRECISION_FLAG, Resume.MAY_CHANGE] = (
        None
    )
    readers: Annotated[int | None, READERS_FLAG, Resume.MAY_CHANGE] = None
    fuse: Annotated[str, FUSE_FLAG, Resume.MAY_CHANGE] = "auto"
    deterministic: Annotated[bool, DETERMINISTIC_FLAG, Resume.MUST_MATCH] = False
    compile: Annotated[Literal["auto", "on", "off"], COMPILE_FLAG, Resume.MAY_CHANGE] = "off"
    watch: Annotated[Path | None, WATCH_FLAG, Resume.MAY_CHANGE] = None
    learn_from: Annotated[list[str] | None, LEARN_FROM_FLAG] = None
    constraint: Annotated[list[str] | None, CONSTRAINT_FLAG] = None
    gain_per: Annotated[Literal["epoch", "second"] | None, GAIN_PER_FLAG] = None
    until_no_gain: Annotated[bool | None, UNTIL_NO_GAIN_FLAG, Resume.MAY_CHANGE] = None
    plugin: Annotated[Plugins, Resume.MAY_CHANGE] = None
    accept_changed_code: Annotated[
        bool,
        typer.Option(
            "--accept-changed-code",
            help="With --resume: go on although a file that registers components has changed; it is recorded.",
        ),
    ] = False
    source: Path = Path()
    grace_epochs: int | None = None
    sampler: str | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.epoch_timeout <= LONGEST_EPOCH:
            raise InvalidConfig(
                f"no epoch can take --epoch-timeout {self.epoch_timeout:g} s; it must be more than 0 s and at most "
                f"{LONGEST_EPOCH:.0f} s (a year), which is as good as no limit"
            )

        if self.time_budget is not None and not 0 < self.time_budget < math.inf:
            raise InvalidConfig(f"a --time-budget must be more than 0 s; got {self.time_budget:g} s")
        check_fuse_flag(self.fuse, InvalidConfig)
        beside = "--deterministic" if self.deterministic else f"--workers-per-trial {self.workers_per_trial}"
        if self.compile == "on" and (self.deterministic or self.workers_per_trial > 1):
            raise InvalidConfig(
                f"--compile on compiles nothing beside {beside}: steps are compiled where one process trains a trial, "
                "by operations of any kind; leave one of the two out"
            )

    @classmethod
    def from_flags(cls, given: Mapping[str, Any], recorded: Mapping[str, Any], task: str) -> Self:
        """Return the options as typed, else as recorded by the search that is resumed, else the defaults.

        Args:
            given: by field; None where nothing was typed.
            recorded: by field, as `recorded_options` has it; empty for a new search.
            task: of the search, which names its dataset.
        """
        if given.get("preset") not in (None, recorded.get("preset")):  # the numbers are those of another
            recorded = {
                key: value for key, value in recorded.items() if key not in ("trials", "epochs", "repeats")
            }
        chosen: dict[str, Any] = {"data": Path(os.environ.get("HEP_RAY_DATA") or "data") / task}
        for source in (recorded, given):
            chosen |= {
                one.name: source[one.name]
                for one in dataclasses.fields(cls)
                if source.get(one.name) is not None
            }
        if str(chosen.get("watch")) == WATCHES_NONE:
            del chosen["watch"]
        paths: dict[str, Any] = {name: located(chosen[name]) for name in ("data", "watch") if name in chosen}
        return cls(**{**chosen, **paths})

    @property
    def tracking(self) -> str:
        """MLflow server or database: as asked for, else that of the storage."""
        from hep_ray.tracking.client import default_uri

        return self.tracking_uri or default_uri(self.storage)

    def with_gain_per(self, sampler: object) -> Self:
        """Return options that say what sampler curves weighs a gain against: seconds where time ends the search."""
        if sampler != "curves":
            return self
        in_time = self.time_budget is not None
        return dataclasses.replace(self, gain_per=self.gain_per or ("second" if in_time else "epoch"))

    @property
    def to_look(self) -> str:
        """Return what to type to see what MLflow holds."""
        from hep_ray.tracking.client import look

        return look(self.tracking, self.storage)

    def record(self, *kinds: Resume) -> dict[str, Any]:
        """Return what the journal records, as plain values; of these kinds only, where any is named."""
        plain = {
            "data": str(self.data.resolve()),
            "watch": self.watch and str(self.watch.resolve()),
            "tracking_uri": self.tracking_uri and without_password(self.tracking_uri),
        }
        return {
            name: plain.get(name, getattr(self, name))
            for name, (_, *marks) in annotations_of(type(self)).items()
            if any(isinstance(mark, Resume) and mark in (kinds or Resume) for mark in marks)
        }


def recorded_options(folder: Path, started: SearchStarted) -> dict[str, Any]:
    """Return what a search was given the last time, as its journal tells."""
    from hep_ray.tracking.client import recorded_uri

    stated = started.options.get("tracking_uri") is not None
    return {
        **started.options,
        "tracking_uri": recorded_uri(folder, started) if stated else None,
        "workers_per_trial": started.workers_per_trial,
        "weights": started.weights,
        "gain_per": started.gain_per if started.sampler == "curves" else None,
        "grace_epochs": started.grace_epochs,
        "sampler": started.sampler,
        "scheduler": started.scheduler,
    }


@dataclass(frozen=True)
class AfterSearch:
    """Options of what trains configurations of a search once more.

    Attributes:
        search: name, folder or script.
        scripts: folder of the search scripts.
    """

    search: SearchName
    storage: Storage = STORAGE
    data: Annotated[Path | None, typer.Option(help="Dataset folder, or its address."), AS_IN_SEARCH] = None
    tracking_uri: TrackingUri = None
    cpus_per_trial: Annotated[int | None, CPUS_PER_WORKER, AS_IN_SEARCH] = None
    gpus_per_trial: Annotated[float | None, GPUS_PER_WORKER, AS_IN_SEARCH] = None
    epoch_timeout: Annotated[float | None, EPOCH_TIMEOUT_FLAG, AS_IN_SEARCH] = None
    cache: Annotated[Cache | None, CACHE_FLAG, AS_IN_SEARCH] = None
    memory_budget: Annotated[float | None, MEMORY_BUDGET_FLAG, AS_IN_SEARCH] = None
    readers: Annotated[int | None, READERS_FLAG, AS_IN_SEARCH] = None
    deterministic: Annotated[bool | None, DETERMINISTIC_FLAG, AS_IN_SEARCH] = None
    compile: Annotated[Literal["auto", "on", "off"] | None, COMPILE_FLAG, AS_IN_SEARCH] = None
    allow_unfinished: Annotated[
        bool,
        typer.Option("--allow-unfinished", help="Leave out trials that have not ended, instead of refusing."),
    ] = False
    plugin: Plugins = None
    scripts: Path = Path("searches")

    def as_in_search(self, started: SearchStarted) -> SearchOptions:
        """Return the options of the search, with what was typed instead."""
        given = {
            name: getattr(self, name)
            for name, (_, *marks) in annotations_of(type(self)).items()
            if AS_IN_SEARCH in marks
        }
        recorded = recorded_options(self.storage / started.search, started)
        return dataclasses.replace(
            SearchOptions.from_flags(given, recorded, started.task), storage=self.storage
        )


@dataclass(frozen=True)
class ConfirmOptions(AfterSearch):
    """Options of a confirmation, as its command line chooses them.

    The help of its flag says what a field is.

    Raises:
        CannotConfirm: fewer than one finalist or seed, or a level that is none.
    """

    top: Annotated[int, typer.Option(help="Finalists: the best K configurations by validation.")] = 3
    seeds: Annotated[
        int,
        typer.Option(
            help="Trainings of each, the same seeds for all; with 1 there is no interval, no p-value."
        ),
    ] = 5
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="EXPR",
            help="What they are to beat: loss=root_softmax,root_index=1 or trial=t0003 "
            "[default: what the search states, else cross-entropy].",
            show_default=False,
        ),
    ] = None
    level: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95
    ensemble: Annotated[
        bool,
        typer.Option(
            "--ensemble",
            help="Compare one more contender: the mean probability of all finalists, seed by seed. It trains nothing.",
        ),
    ] = False
    fuse: Annotated[str, FUSE_FLAG] = "auto"

    def __post_init__(self) -> None:
        check_fuse_flag(self.fuse, CannotConfirm)
        if self.ensemble and self.top == 1:
            raise CannotConfirm(
                "an ensemble is the mean of two finalists or more; --top is 1: raise it to 3, say"
            )
        for name, value in (("--top", self.top), ("--seeds", self.seeds)):
            if value < 1:
                raise CannotConfirm(f"{name} must be at least 1; got {value}")
        if not 0 < self.level < 1:
            raise CannotConfirm(f"--level must be between 0 and 1, such as 0.95; got {self.level}")


@dataclass(frozen=True)
class FoldOptions(AfterSearch):
    """Options of cross-validation, as its command line chooses them.

    The help of its flag says what a field is.
    """

    folds: Annotated[int, typer.Option(help="Parts of the events that take turns; as many trainings.")] = 5
    trial: Annotated[
        str | None,
        typer.Option(
            help="Whose configuration is trained [default: the confirmed candidate, else the best]."
        ),
    ] = None


F = TypeVar("F", bound=Callable[..., None])


def with_flags(options: type) -> Callable[[F], F]:
    """Give a command a flag for each annotated field of a class of options, in the place of its `**given`.

    What is recorded, or taken from the search, is None where it was not typed; its help states the default.
    """

    def decorate(command: F) -> F:
        own = inspect.signature(command, eval_str=True).parameters.values()
        shared = (
            {one.name for one in dataclasses.fields(AfterSearch)} if issubclass(options, AfterSearch) else {}
        )
        fields = sorted(dataclasses.fields(options), key=lambda one: one.name in shared)
        parameters = [_parameter(one, *annotations_of(options)[one.name]) for one in fields]
        parameters += [one for one in own if one.kind is not inspect.Parameter.VAR_KEYWORD]
        made = [one for one in parameters if one is not None]
        command.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in made}
        return command

    return decorate


def _parameter(one: dataclasses.Field[Any], kind: Any, *marks: Any) -> inspect.Parameter | None:
    shown = next((copy.copy(mark) for mark in marks if isinstance(mark, ParameterInfo)), None)
    if shown is None:
        return None
    default = inspect.Parameter.empty if one.default is dataclasses.MISSING else one.default
    if AS_IN_SEARCH in marks or any(isinstance(mark, Resume) for mark in marks):
        words = f"{default:g}" if isinstance(default, float) else default
        words = AS_IN_SEARCH if AS_IN_SEARCH in marks else words
        if words not in (None, inspect.Parameter.empty):
            shown.help = f"{str(shown.help).removesuffix('.')} [default: {words}]."
        kind, default, shown.show_default = kind | None, None, False
    return inspect.Parameter(
        one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown]
    )


def annotations_of(options: type) -> dict[str, tuple[Any, ...]]:
    """Field → its type, and how it is annotated."""
    hints = get_type_hints(options, include_extras=True)
    return {
        name: get_args(hint) if hasattr(hint, "__metadata__") else (hint,) for name, hint in hints.items()
    }


def keywords() -> dict[str, tuple[Any, OptionInfo, Any]]:
    """Return the options that a person gives: name → type, flag and default."""
    defaults = {one.name: one.default for one in dataclasses.fields(SearchOptions)}
    found = {}
    for name, (kind, *marks) in annotations_of(SearchOptions).items():
        flag = next((mark for mark in marks if isinstance(mark, OptionInfo)), None)
        if flag is not None:
            found[name] = (kind, flag, defaults[name])
    return found


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options given by keyword, converted and checked as their flags would be.

    The environment variable of a flag counts where its keyword is not given.

    Raises:
        UnknownName: there is no such option.
        InvalidConfig: a value is of another type, or out of range.
    """
    known = keywords()
    for name in values:
        check_name("option", name, known)
    found = {}
    for name, (kind, flag, _) in known.items():
        value = values.get(name)
        if value is None and isinstance(flag.envvar, str):
            value = os.environ.get(flag.envvar) or None
        if value is not None:
            found[name] = _checked(name, value, kind, flag)
    return found


def _checked(name: str, value: Any, kind: Any, flag: OptionInfo) -> Any:
    if flag.parser is not None and isinstance(value, str):
        value = flag.parser(value)
    if list[str] in (kind, *get_args(kind)):  # a flag that may be typed several times
        value = [value] if isinstance(value, str | os.PathLike) else value
        if isinstance(value, list | tuple):
            value = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in value]
    if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
        raise InvalidConfig(f"option {name} cannot be {value!r}: it should be a number or a text")
    try:
        value = TypeAdapter(kind).validate_python(value)
    except ValidationError as exc:
        raise InvalidConfig(f"option {name} cannot be {value!r}: {exc.errors()[0]['msg']}") from None
    low, high = flag.min, flag.max
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidConfig(f"option {name} must be {bounds}; got {value!r}")
    return value


def signature(*own: inspect.Parameter) -> inspect.Signature:
    """Return the signature of a function of a search, some parameters of its own, and every option as a keyword."""
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if default is dataclasses.MISSING else default,
            annotation=kind,
        )
        for name, (kind, _, default) in keywords().items()
    ]
    search = inspect.Parameter("search", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="Search")
    return inspect.Signature([search, *options, *own])
