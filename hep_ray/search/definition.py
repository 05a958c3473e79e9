"""The definition of a search: one `Search` value, which its script states, with its presets."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, get_args

from hep_ray.errors import InvalidConfig
from hep_ray.plugins import import_named
from hep_ray.registry import check_kind, check_name, takes_named_fields
from hep_ray.search.published import Published, StudyTable
from hep_ray.tracking.records import RENAMED, SearchStarted, stopping_words

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from hep_ray.search.named_samplers import SamplerFactory
    from hep_ray.search.options import SearchOptions
    from hep_ray.search.scheduler import Scheduler, SearchGoal
    from hep_ray.search.space import Space

SAMPLERS = ("auto", "tpe", "gp", "cmaes", "nsga2", "nsga3", "qmc", "random", "grid", "curves")
"""Samplers that a preset may name; `named_samplers.py` says what each is."""
SCHEDULERS = ("auto", "asha", "asha_pausing", "hyperband", "median", "none", "curves")
"""Schedulers that a preset may name; `scheduler.py` says what each is."""
OTHER_NAMES = {"promoting": "asha_pausing"}
PAUSING = ("asha_pausing", "curves")
"""Schedulers by which trials pause."""
LEAST_FOR_CURVES = 5
"""Epochs from which on `auto` for both is `curves`: of fewer there are no curves to learn from."""
UNREAD: dict[str, dict[str, Any]] = {
    "curves": {"grace_epochs": None, "reduction_factor": 3},
    "none": {"grace_epochs": None, "reduction_factor": 3},
    "median": {"reduction_factor": 3},
}
"""Scheduler → fields of a preset that it does not read, and their defaults."""
Mode = Literal["max", "min"]
THAT_OF_THE_METRIC: Any = ""

LEAST_GRACE = 3
"""Epochs before any trial is stopped, unless a preset says otherwise: measured by benchmarks/search_efficiency.py."""
GRACE_SHARE = 9
"""Of longer trainings, one part in so many is the grace."""


def check_search_name(name: str) -> None:
    """Refuse a name that could not be that of a search's script and folder.

    Raises:
        InvalidConfig: it is another than lower case letters, digits and _, a letter first.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InvalidConfig(
            f"invalid name of a search: '{name}'; it must be lower case letters, digits and _"
        )


@takes_named_fields
@dataclass(frozen=True)
class Preset:
    """How much of a search is run.

    Attributes:
        epochs: full length of a trial.
        trials: configurations drawn; None runs the whole grid, and of another sampler as many as a time budget allows.
        sampler: `tpe` unless stated; `auto` (chooses by space and budget, and says what), `gp` (a Gaussian process),
            `cmaes`, `nsga2`, `nsga3`, `qmc` (a Sobol sequence), `random`, `grid` (every configuration); or one of
            Optuna's samplers; or a function seed → sampler, asked for every draw, so that a resumed search draws alike.
        scheduler: `asha` unless stated (stops the weaker trials early); `auto`, `asha_pausing` (or `promoting`: pauses
            all and goes on with the best), `hyperband`, `median`, `none` (trains every trial in full); or an object of
            a class that derives from `Scheduler`. `curves`, for either, chooses configurations and epochs by a model
            of learning curves; trials pause under it too.
        seeds: trainings of each configuration of a grid, with different seeds.
        grace_epochs: no trial is stopped before; None is a ninth of the epochs, and at least three, since what a
            network shows after its first epochs hardly ranks it.
        reduction_factor: at each rung of ASHA one trial in this many goes on.
        repeats: seeds with which a configuration is trained before it leads; those that would lead are trained again by
            the search, within its trials or epochs, and the best mean leads. 1 is none, and the best training leads.
        folds: parts of the training and validation events that take turns to validate. What would lead is trained on
            every one, as `repeats` has it with seeds, and a grid's every configuration is; the test split stays out.
        space: parameters stated anew for this preset.
        published: how it stands to the document that it repeats; None where it repeats none.
        why: `auto` chose so; set by `resolved`.

    Raises:
        UnknownName: there is no such sampler, or no such scheduler.
        InvalidConfig: no whole number, or one below 1, an object of another kind, or a count of trials that contradicts
            the sampler.
    """

    epochs: int
    trials: int | None = None
    sampler: str | BaseSampler | SamplerFactory = ""
    scheduler: str | Scheduler = ""
    seeds: int = 1
    grace_epochs: int | None = None
    reduction_factor: int = 3
    repeats: int = 1
    folds: int | None = None
    space: Space | None = None
    published: Published | None = None
    why: str = ""

    def __post_init__(self) -> None:
        from hep_ray.search.space import Space

        if isinstance(self.scheduler, str) and self.scheduler in OTHER_NAMES:
            object.__setattr__(self, "scheduler", OTHER_NAMES[self.scheduler])
        curves = "curves" in (self.sampler, self.scheduler)
        for name, default in (("sampler", "tpe"), ("scheduler", "asha")):
            if getattr(self, name) in ("", *(("auto",) if curves else ())):
                object.__setattr__(self, name, "curves" if curves else default)
        self._check_components()
        check_kind("space of a Preset", self.space, (Space, type(None)), "Space(model='mlp', …)")
        check_kind(
            "published of a Preset", self.published, (Published, type(None)), "Published('…', follows=('…',))"
        )
        if curves and self.sampler != self.scheduler:
            raise InvalidConfig(
                "curves chooses both the configurations and their epochs: state no other sampler or scheduler beside "
                f"it; got sampler '{self.sampler_name}', scheduler '{self.scheduler_name}'"
            )
        self._check_numbers()
        self._check_folds()
        self._refuse_unread()
        if self.reduction_factor < 2:  # noqa: PLR2004 - a factor of 1 would never stop anything
            raise InvalidConfig(f"reduction_factor must be at least 2; got {self.reduction_factor}")
        if self.endless and self.pauses:
            raise InvalidConfig(
                f"scheduler '{self.scheduler_name}' shares the epochs of a number of trials among those that pause: "
                "state trials"
            )
        if self.repeats > 1 and self.sampler == "grid":
            raise InvalidConfig(
                f"a grid trains every configuration as often: state seeds={self.repeats} in place of repeats, or take "
                "another sampler"
            )
        if self.seeds > 1 and self.sampler != "grid":
            raise InvalidConfig(
                f"several seeds per configuration belong to a grid; sampler is '{self.sampler_name}', seeds "
                f"{self.seeds}"
            )

    def _refuse_unread(self) -> None:
        for name, default in UNREAD.get(self.scheduler_name, {}).items():
            if (value := getattr(self, name)) != default:
                raise InvalidConfig(
                    f"{name}={value} would do nothing, scheduler '{self.scheduler_name}' does not read it: leave it out"
                )

    def _check_numbers(self) -> None:
        for name in ("epochs", "trials", "seeds", "grace_epochs", "reduction_factor", "repeats", "folds"):
            value = getattr(self, name)
            if value is None and name in ("trials", "grace_epochs", "folds"):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise InvalidConfig(f"{name} of a Preset must be a whole number; got {value!r}")
            if value < 1:
                raise InvalidConfig(f"{name} must be at least 1; got {value}")
            object.__setattr__(self, name, int(value))

    def _check_folds(self) -> None:
        """Train what leads on every fold: of a grid each configuration, as it would with as many seeds."""
        if self.folds is None:
            return
        from hep_ray.dataset.splits import FEWEST_FOLDS

        if self.folds < FEWEST_FOLDS:
            raise InvalidConfig(f"folds must be at least {FEWEST_FOLDS}; got {self.folds}")
        name = "seeds" if self.sampler == "grid" else "repeats"
        if getattr(self, name) not in (1, self.folds):
            raise InvalidConfig(
                f"{self.folds} folds train a configuration {self.folds} times, with a seed each: leave "
                f"{name}={getattr(self, name)} out"
            )
        object.__setattr__(self, name, self.folds)

    def _check_components(self) -> None:
        if isinstance(self.sampler, str | None):
            check_name("sampler", self.sampler, SAMPLERS)
        else:
            from optuna.samplers import BaseSampler

            if isinstance(self.sampler, type) or not (
                isinstance(self.sampler, BaseSampler) or callable(self.sampler)
            ):
                raise InvalidConfig(
                    f"a sampler is a name ({', '.join(SAMPLERS)}), one of Optuna's samplers, or a function that makes "
                    f"one of a seed; got {self.sampler!r}"
                )
        if isinstance(self.scheduler, str | None):
            check_name("scheduler", self.scheduler, (*SCHEDULERS, *OTHER_NAMES))
        else:
            from hep_ray.search.scheduler import Scheduler

            if not isinstance(self.scheduler, Scheduler):
                raise InvalidConfig(
                    f"a scheduler is a name ({', '.join(SCHEDULERS)}) or an object of a class that derives from "
                    f"hep_ray.search.scheduler.Scheduler; got {self.scheduler!r}"
                )

    @property
    def endless(self) -> bool:
        """Whether no number of trials is stated and the sampler never ends, so that a time budget must."""
        return self.trials is None and self.sampler != "grid"

    @property
    def sampler_name(self) -> str:
        """Return the sampler's name, or where the class of the object is defined, as the journal records it."""
        if isinstance(self.sampler, str):
            return self.sampler
        from hep_ray.search.named_samplers import name_of

        return name_of(self.sampler)

    @property
    def scheduler_name(self) -> str:
        """Return the scheduler's name, or where the class of the object is defined, as the journal records it."""
        if isinstance(self.scheduler, str):
            return self.scheduler
        return f"{type(self.scheduler).__module__}.{type(self.scheduler).__qualname__}"

    @property
    def pauses(self) -> bool:
        """Return whether trials pause, so that the budget is in epochs."""
        if isinstance(self.scheduler, str):
            return self.scheduler in PAUSING
        return self.scheduler.pauses

    @property
    def grace(self) -> int:
        """Epochs before any trial is stopped; all of them where none is."""
        stated = self.grace_epochs or max(LEAST_GRACE, math.ceil(self.epochs / GRACE_SHARE))
        return self.epochs if self.scheduler == "none" else min(stated, self.epochs)

    @property
    def early_stopping(self) -> dict[str, Any]:
        """Return scheduler, grace and reduction factor, as the journal records them."""
        if self.scheduler in ("none", "curves"):
            return {"scheduler": self.scheduler, "grace_epochs": None, "reduction_factor": None}
        grace = self.grace_epochs or self.grace
        factor = None if self.scheduler == "median" else self.reduction_factor
        return {"scheduler": self.scheduler_name, "grace_epochs": grace, "reduction_factor": factor}

    @property
    def stopping(self) -> str:
        """Return in words by which rule trials are stopped early."""
        return stopping_words(**self.early_stopping)

    def goal(self, search: Search, seed: int) -> SearchGoal:
        """Return what a scheduler compares the trials of a search by."""
        from hep_ray.search.scheduler import SearchGoal

        return SearchGoal(
            search.metric,
            search.mode,
            self.epochs,
            self.grace,
            self.reduction_factor,
            search.second_objective,
            seed,
        )

    def with_options(self, options: SearchOptions) -> Preset:
        """Return the preset as it was asked for, with the grace of a search that is resumed where it leaves it open."""
        asked: dict[str, Any] = {
            name: getattr(options, name) for name in ("trials", "epochs", "repeats", "folds")
        }
        if options.folds is not None and options.repeats is None:  # in place of the preset's
            asked |= {"repeats": 1, "seeds": 1}
        if self.grace_epochs is None:
            asked["grace_epochs"] = options.grace_epochs
        return replace(self, **{name: value for name, value in asked.items() if value is not None})

    def resolved(self, search: Search, sampler: str | None = None, scheduler: str | None = None) -> Preset:
        """Return the preset with what `auto` stands for.

        Args:
            search: whose preset it is.
            sampler: that a search which is resumed has recorded; it goes on with that.
            scheduler: likewise.
        """
        made = self
        both = (self.sampler, self.scheduler) == ("auto", "auto")
        begun_so = "curves" in (sampler, scheduler)
        long = search.second_objective is None and self.epochs >= LEAST_FOR_CURVES
        long = long and not self.endless and bool((self.space or search.space).drawn())
        if both and (begun_so or (sampler is None and long)):
            why = "as it was begun" if begun_so else f"one objective, {LEAST_FOR_CURVES} epochs or more"
            return replace(self, sampler="curves", scheduler="curves", why=why, **UNREAD["curves"])
        if made.scheduler == "auto":
            known = scheduler if scheduler in SCHEDULERS else None
            chose = known or ("none" if search.second_objective else "asha")
            made = replace(made, scheduler=chose, **UNREAD.get(chose, {}))
        if made.sampler == "auto":
            from hep_ray.search.named_samplers import chosen

            name, why = str(sampler), "as it was begun"
            if sampler not in SAMPLERS:
                space, second = made.space or search.space, search.second_objective is not None
                in_full = made.scheduler == "none"
                name, why = chosen(space, made.trials, two_objectives=second, in_full=in_full)
                if name == "grid" and (search.constraints or self.repeats > 1):
                    name, why = "tpe", "constraints or repeats, and no grid has those"
            made = replace(made, sampler=name, why=why)
        return made


def _warn_renamed(name: str) -> None:
    warnings.warn(f"{name} of a Search is now called {RENAMED[name]}", DeprecationWarning, stacklevel=3)


def _takes_former_names(cls: type[Any]) -> type[Any]:
    """Let a class be made with the former names of its fields; one that is stated takes the place of today's."""
    made = cls.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **given: Any) -> None:
        for name in given.keys() & RENAMED.keys():
            _warn_renamed(name)
            given[RENAMED[name]] = given.pop(name)
        made(self, *args, **given)

    cls.__init__ = init
    return cls


@_takes_former_names
@takes_named_fields
@dataclass(frozen=True)
class Search:
    """Search definition: what may vary, what is optimised, and how much is run under each preset.

    Attributes:
        name: folder in the storage, MLflow experiment and leaderboard name; the script's own name.
        task: task of the datasets it is meant for, such as `mbh_sph`.
        title: one line for --help.
        space: what may vary.
        presets: `smoke` (seconds), `laptop` (minutes), `thesis` (the published protocol).
        metric: key of the per-epoch report that ranks trials; always of the validation split.
        mode: whether more (`max`) or less (`min`) of it is better; as the metric says unless given.
        baseline: parameters that mark the trials to beat.
        second_objective: what is minimised beside the metric: `flops` of one event or `parameters`, which are the
            model's, or a key of the per-epoch report, of which the sum over a trial counts; `epoch_seconds` depends on
            what else the machine does. The trials that none beats in both are the Pareto front.
        tables: of the study, for `hep-ray report`.
        points_to_evaluate: whole configurations, each trained (or fitted) once before any is drawn, so that the
            leaderboard shows what the search adds to them: gradient boosting, say, or the published best.
        constraints: limits that the best model has to keep, such as `("parameters<=1e5", "latency_ms<=0.2")`;
            `constraints.py` says of what. A configuration that breaks one is not trained.
        plugins: modules that register components of your own, such as `mypkg.nets`, beside those that the script
            registers itself; a text is one of them.

    `cost` and `references`, the former names of the two, are taken with a DeprecationWarning.

    Raises:
        UnknownName: there is no such mode.
        InvalidConfig: a name that is no file name, a metric that is not of the validation split, or a field of another
            kind than stated here.
        PluginFailed: a plug-in cannot be imported, or registers nothing.
    """

    name: str
    task: str
    title: str
    space: Space
    presets: Mapping[str, Preset]
    metric: str = "val_accuracy"
    mode: Mode = THAT_OF_THE_METRIC
    baseline: Mapping[str, str | int | float] = field(default_factory=dict)
    second_objective: str | None = None
    tables: tuple[StudyTable, ...] = ()
    points_to_evaluate: tuple[Mapping[str, str | int | float], ...] = ()
    plugins: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_kinds()
        _ = self.limits  # refuses what is none
        check_search_name(self.name)
        import_named(self.plugins)
        if str(self.mode) == THAT_OF_THE_METRIC:
            from hep_ray.metrics import larger_is_better

            larger = larger_is_better(self.metric)
            object.__setattr__(self, "mode", "min" if larger is False else "max")
            object.__setattr__(self, "_unknown_direction", larger is None)
        check_name("mode", self.mode, get_args(Mode))
        if not self.metric.startswith("val_"):
            raise InvalidConfig(f"cannot rank by '{self.metric}': it is not of the validation split (val_…)")

    def _check_kinds(self) -> None:
        """Refuse a field of another kind by its name, and make one text, or a list, a tuple.

        Raises:
            InvalidConfig: it is.
        """
        from hep_ray.search.space import Space

        for name in ("plugins", "constraints"):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else given)
        for name in ("name", "task", "title", "metric"):
            check_kind(f"{name} of a Search", getattr(self, name), (str,), f"{name}='…'")
        check_kind("space of a Search", self.space, (Space,), "Space(model='mlp', …)")
        kind: Any
        for name, kind, example in (
            ("presets", Preset, "{'laptop': Preset(trials=12, epochs=10)}"),
            ("baseline", (str, int, float), "{'loss': 'cross_entropy'}"),
        ):
            given = getattr(self, name)
            check_kind(f"{name} of a Search", given, (Mapping,), example)
            for key, value in given.items():
                check_kind(f"a name among the {name} of a Search", key, (str,), example)
                check_kind(f"'{key}' among the {name} of a Search", value, kind, example)
        for name, kind, example in (
            ("points_to_evaluate", Mapping, "({'model': 'gradient_boosting'},)"),
            ("tables", StudyTable, "(StudyTable('…', rows=('loss',)),)"),
            ("plugins", str, "('mypkg.nets',)"),
            ("constraints", str, "('parameters<=1e5',)"),
        ):
            given = getattr(self, name)
            check_kind(f"{name} of a Search", given, (list, tuple), example)
            for value in given:
                check_kind(f"each of the {name} of a Search", value, kind, example)
            object.__setattr__(self, name, tuple(given))

    @property
    def cost(self) -> str | None:
        """Former name of `second_objective`."""
        _warn_renamed("cost")
        return self.second_objective

    @property
    def references(self) -> tuple[Mapping[str, str | int | float], ...]:
        """Former name of `points_to_evaluate`."""
        _warn_renamed("references")
        return self.points_to_evaluate

    def with_direction(self) -> Search:
        """Return the search with the mode that its metric has, where `--plugin` brought that after it was stated."""
        unknown = getattr(self, "_unknown_direction", False)
        return replace(self, mode=THAT_OF_THE_METRIC, plugins=()) if unknown else self

    @property
    def limits(self) -> dict[str, float]:
        """Return its constraints as figure → largest value."""
        from hep_ray.search.constraints import limits_of

        return limits_of(self.constraints)

    def better(self, left: float, right: float) -> bool:
        """Return whether `left` is the better value of the metric."""
        return left > right if self.mode == "max" else left < right


@dataclass(frozen=True)
class Stated:
    """Title, baseline and study tables of a search: what it states beside what decides its trials.

    Attributes:
        name: of the search.
        title: one line.
        baseline: parameters that mark the trials to beat; empty where it states none.
        tables: of the study.
        known: whether this was stated; not, where a journal of an earlier version is all that there is.
    """

    name: str
    title: str
    baseline: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[StudyTable, ...] = ()
    known: bool = True


def stated_by(search: Search) -> dict[str, Any]:
    """Return what a search states, as its journal keeps it."""
    return {
        "title": search.title,
        "baseline": dict(search.baseline),
        "tables": [asdict(table) for table in search.tables],
    }


def stated_in(started: SearchStarted, search: Search | None = None) -> Stated:
    """Return what a search stated when it began.

    Args:
        started: first record of its journal.
        search: as its script states it now; taken where a journal of an earlier version says nothing.
    """
    if started.stated is None:
        if search is None:
            return Stated(started.search, started.search, known=False)
        return Stated(search.name, search.title, search.baseline, search.tables)
    names = {one.name for one in fields(StudyTable)}
    tables: list[dict[str, Any]] = [
        {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in table.items()
            if key in names
        }
        for table in started.stated.get("tables", ())
    ]
    title, baseline = started.stated.get("title", started.search), started.stated.get("baseline", {})
    return Stated(started.search, title, baseline, tuple(StudyTable(**table) for table in tables))
