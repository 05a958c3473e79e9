"""A search as its journal tells it: its trials, how each ended, their ranking and why some failed."""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hep_ray.errors import Interrupted, SearchFailed
from hep_ray.plugins import Plugin
from hep_ray.search.means import Pooled, Training, pooled
from hep_ray.search.naming import Naming
from hep_ray.tracking.journal import FILE_NAME, read_records
from hep_ray.tracking.records import (
    OF_PARAMETERS,
    CodeAccepted,
    EpochFinished,
    NoGainLeft,
    OfTrial,
    OptionsChanged,
    Record,
    SearchFinished,
    SearchStarted,
    Status,
    TrialFinished,
    TrialGoesOn,
    TrialLost,
    TrialPaused,
    TrialStarted,
    TrialTested,
)

if TYPE_CHECKING:
    from hep_ray.search.definition import Search, Stated

OF_MODEL = ("parameters", "flops")
"""Costs of a model, the same in every epoch."""
TIMES = ("epoch_seconds", "cpu_seconds", "gpu_seconds")
"""Costs of a training; the first depends on what else the machine does."""

ENDING = ("until_no_gain", "trials", "preset")
"""Options that say when a search ends; another value of one takes back that nothing is left to gain."""

LOG = "log.txt"
"""File of a trial that its process writes to."""
ENDLESS = 10**9
"""Trials, or more, stand for no number of them: a time budget alone ends the search."""
CROSS_ENTROPY: Mapping[str, Any] = {"loss": "cross_entropy"}
"""The baseline of a search that states none."""
_NUMBER = re.compile(r"[-+]?\b\d[\w.+-]*")


@dataclass
class TrialState:
    """One trial so far.

    Attributes:
        started: its parameters.
        history: metrics per epoch, in order.
        used: `cpu_seconds`, and with a GPU `gpu_seconds`, of its epochs; empty in journals that do not tell.
        losses: times that its process or node was lost.
        finished: how it ended; None while it has not.
        tested: what the test split said of it, in a confirmation; None before, and always in a search.
        until: epoch after which it pauses; None where it trains to its end.
        paused: whether it waits without a worker; at the end of a search it is recorded as stopped.
        ending: best value in full that was predicted when it last paused: a standard deviation below, median, above.
    """

    started: TrialStarted
    history: list[dict[str, float]] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)
    losses: list[TrialLost] = field(default_factory=list)
    finished: TrialFinished | None = None
    tested: TrialTested | None = None
    until: int | None = None
    paused: bool = False
    ending: tuple[float, float, float] | None = None
    _best: dict[tuple[str, str], tuple[int, int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Metric and mode → epochs that were looked at, and the place of the best of them."""

    @property
    def trial_id(self) -> str:
        """Name of the trial in this search."""
        return self.started.trial_id

    @property
    def status(self) -> Status:
        """How it ended, or `running`, or `paused`."""
        if self.finished is not None:
            return self.finished.status
        return "paused" if self.paused else "running"

    def take(self, record: OfTrial) -> None:
        """Take in what happened to the trial."""
        if isinstance(record, EpochFinished):
            self.history.append(record.metrics)
            for name, seconds in record.used.items():
                self.used[name] = self.used.get(name, 0.0) + seconds
        elif isinstance(record, TrialLost):
            self.losses.append(record)
        elif isinstance(record, TrialPaused):
            self.paused, self.ending = True, record.ending
        elif isinstance(record, TrialGoesOn):
            self.paused, self.until = False, record.until
        elif isinstance(record, TrialFinished):
            self.paused, self.finished = False, record
        else:
            self.tested = record

    @property
    def seconds(self) -> float:
        """Time spent in its epochs, s."""
        return self.total("epoch_seconds")

    @property
    def figures(self) -> dict[str, float]:
        """Return the known costs of the trial: `parameters`, `flops` of one event, `cpu_seconds`, `gpu_seconds`."""
        last = self.history[-1] if self.history else {}
        return {
            **self.started.figures,
            **{name: last[name] for name in OF_MODEL if name in last},
            **self.used,
        }

    def breaks(self, limits: Mapping[str, float]) -> bool:
        """Return whether the model breaks a limit, as a reference or a fitted one may; unknown figures break none."""
        return bool(limits) and breaks(self.figures, limits)

    def total(self, metric: str) -> float:
        """Return a cost of the model (`parameters`, `flops`) as it is, of any other metric the sum over the epochs."""
        if metric in OF_MODEL or metric in TIMES[1:]:
            return self.figures[metric]
        return sum(metrics[metric] for metrics in self.history)

    def best(self, metric: str, mode: str) -> dict[str, float] | None:
        """Metrics of the epoch with the best value of a metric (the earliest of equals), if any epoch ended."""
        if not self.history:
            return None
        sign = 1 if mode == "max" else -1
        epochs = len(self.history)  # which grows while another thread looks
        looked_at, best = self._best.get((metric, mode), (1, 0))
        for place in range(looked_at, epochs):
            if sign * self.history[place][metric] > sign * self.history[best][metric]:
                best = place
        self._best[metric, mode] = epochs, best
        return self.history[best]


@dataclass
class SearchState:
    """The journal, folded.

    Attributes:
        started: what the search is; its options are those of the last time that it was resumed with others.
        trials: by their id, in the order in which they were drawn.
        finished: whether all of them ended, and as many as were asked for.
        no_gain: why nothing new begins; None where it does.
        opened: trials that are no repeats.
        records: all that was folded, in its order.
    """

    started: SearchStarted | None = None
    trials: dict[str, TrialState] = field(default_factory=dict)
    finished: bool = False
    no_gain: NoGainLeft | None = None
    accepted: CodeAccepted | None = None
    opened: int = 0
    records: list[Record] = field(default_factory=list, repr=False, compare=False)
    _alike: dict[str, list[TrialState]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Configuration → its trials, which differ in their seed."""
    _pooled: tuple[int, Pooled] = field(default=(-1, Pooled()), init=False, repr=False, compare=False)
    """Trials that had ended, and what they tell of configurations that were trained several times."""
    _ended: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Files of the user's own that register the components of its latest trials."""
        if self.accepted is not None:
            return self.accepted.plugins
        return self.started.plugins if self.started is not None else ()

    @property
    def naming(self) -> Naming:
        """Names of its trials; where fewer than two were drawn, all of its trials decide what tells them apart."""
        everyone = [trial.started.params for trial in self.trials.values()]
        stated = len(self.started.points_to_evaluate) if self.started is not None else 0
        drawn = everyone[stated:]
        return Naming.among(drawn if len(drawn) > 1 else everyone)

    @classmethod
    def read(cls, folder: Path) -> SearchState:
        """Read the journal in a search's folder; an empty state where none was run there."""
        return cls.fold(read_records(folder)) if (folder / FILE_NAME).exists() else cls()

    @classmethod
    def fold(cls, records: Iterable[Record]) -> SearchState:
        """Return the state after these records."""
        state = cls()
        for record in records:
            state.apply(record)
        return state

    def apply(self, record: Record) -> None:
        """Take in one record."""
        self.records.append(record)
        if isinstance(record, SearchStarted):
            self.started = record
        elif isinstance(record, OptionsChanged):
            assert self.started is not None
            before = self.started.options
            self.started = self.started.model_copy(update={"options": record.options})
            drawn = len(self.trials) - len(self.started.points_to_evaluate)
            self.finished &= (record.options.get("trials") or 0) <= drawn
            if any(record.options.get(name) != before.get(name) for name in ENDING):
                self.no_gain = None
        elif isinstance(record, TrialStarted):
            trial = self.trials[record.trial_id] = TrialState(record, until=record.until)
            self._alike.setdefault(_configuration(trial), []).append(trial)
            self.opened += not record.repeat_of
            self.finished = False
        elif isinstance(record, OfTrial):
            self.trials[record.trial_id].take(record)
            self._ended += isinstance(record, TrialFinished)
        elif isinstance(record, CodeAccepted):
            self.accepted = record
        elif isinstance(record, NoGainLeft):
            self.no_gain = record
        elif isinstance(record, SearchFinished):
            self.finished = True

    def drawn(self) -> list[TrialState]:
        """Return all trials in the order in which they were drawn, as a copy: another thread may add some."""
        return list(self.trials.values())

    def unfinished(self) -> list[TrialState]:
        """Return the trials that have not ended, in the order in which they were drawn."""
        return [trial for trial in self.drawn() if trial.finished is None]

    def running(self) -> list[TrialState]:
        """Return the trials that have a worker or wait for one: neither ended nor paused."""
        return [trial for trial in self.unfinished() if not trial.paused]

    def to_run(self, trials: int) -> int:
        """Return how many trainings a search of so many trials has before it: those begun, and those not drawn yet."""
        return len(self.unfinished()) + max(0, trials - len(self.trials))

    def breaks(self, trial: TrialState) -> bool:
        """Return whether a trial's model breaks a limit of the search."""
        limits = self.started.constraints if self.started is not None else {}
        return trial.breaks(limits)

    def end_of(self, trial: TrialState) -> str:
        """Return how a trial ended, in words, and whether its model breaks a limit of the search."""
        fell = ", a seed failed" * self.fell(trial)
        return trial.status + ", breaks a constraint" * self.breaks(trial) + fell

    def ranked(self, metric: str, mode: str) -> list[TrialState]:
        """Return the trials, best first; then those that break a limit, then the failed ones; without an epoch last.

        Where configurations that would lead are trained again, the trials of one share the mean over those that
        completed, less `penalty`, and those that `fell`, or are `partial`, are behind others. Of equals, and of those
        without a rank, the one that started last comes first: so does MLflow order them.
        """
        return sorted(self.drawn(), key=lambda trial: self.place(trial, metric, mode))

    def place(self, trial: TrialState, metric: str, mode: str) -> tuple[int, float, float, int, int]:
        """Return what trials are ranked by, least first."""
        best, failed = trial.best(metric, mode), trial.status == "failed"
        behind = [self.partial(trial), self.fell(trial), self.breaks(trial), failed, best is None]
        group = max((place for place, one in enumerate(behind, start=1) if one), default=0)
        sign = -1 if mode == "max" else 1
        value = sign * best[metric] if best and not failed else 0.0
        repeated = best and not failed and self.repeats > 1
        score = sign * self.mean(trial, metric, mode)[0] + self.penalty(trial) if repeated else value
        return (group, score, value, -int(1000 * trial.started.time), -trial.started.number)

    def alike(self) -> list[list[TrialState]]:
        """Return the trials of each configuration, which differ in their seed, in the order of their drawing."""
        return list(self._alike.values())

    def seeds_of(self, trial: TrialState) -> list[TrialState]:
        """Return the trainings of a trial's configuration that completed."""
        return self._completed(self._alike[_configuration(trial)])

    @staticmethod
    def _completed(trials: Iterable[TrialState]) -> list[TrialState]:
        return [one for one in trials if one.status == "completed"]

    def fell(self, trial: TrialState) -> bool:
        """Return whether another seed failed of a trial's parameters, where a search trains again what would lead."""
        others = self._alike[_configuration(trial)] if self.repeats > 1 and trial.status != "failed" else []
        return any(one.finished is not None and one.finished.failure in OF_PARAMETERS for one in others)

    def partial(self, trial: TrialState) -> bool:
        """Return whether a search has folds, and not all of them have trained a trial's configuration."""
        return bool(self.started and self.started.folds) and counted(self.seeds_of(trial)) < self.repeats

    @property
    def repeats(self) -> int:
        """Return the seeds, or folds, with which a configuration is trained before it leads."""
        return max(self.started.repeats, self.started.folds or 1) if self.started is not None else 1

    @property
    def pooled(self) -> Pooled:
        """Pool the configurations that were trained several times; empty of a search that trains none so."""
        if self.started is not None and self.repeats > 1 and self._pooled[0] != self._ended:
            found = pooled(map(self._trainings, map(self._completed, self._alike.values())))
            self._pooled = self._ended, found
        return self._pooled[1]

    def penalty(self, trial: TrialState) -> float:
        """Return what the mean of a trial's configuration is short of where it is ranked: a standard error.

        Its standard deviation over seeds or folds is pooled over all configurations that have several, so that one
        training has the error too that it is to be expected to have; 0 where the search repeats none.
        """
        return self.pooled.spread / math.sqrt(max(len(self.seeds_of(trial)), 1))

    def mean(self, trial: TrialState, metric: str, mode: str) -> tuple[float, float | None, int]:
        """Return what a trial is ranked by: mean of the best values of its configuration, its error, and trainings.

        The error is the standard deviation over the seeds by the root of their number; None of one. Where the search
        repeats none, or none has completed, it is the trial's own best value. Of folds see `Pooled.mean`.
        """
        trials = (self.seeds_of(trial) if self.repeats > 1 else []) or [trial]
        values = [best[metric] for one in trials if (best := one.best(metric, mode))]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return statistics.fmean(values) - self.offset(trials), error, len(values)

    def offset(self, trials: Sequence[TrialState]) -> float:
        """Return what the folds of trainings add to their mean, over all folds; 0 of a search without folds."""
        return statistics.fmean(self.pooled.effects.get(one.started.fold, 0.0) for one in trials)

    def _trainings(self, trials: Sequence[TrialState]) -> list[Training]:
        assert self.started is not None
        metric, mode = self.started.metric, self.started.mode
        found = ((one.started.fold, one.best(metric, mode)) for one in trials)
        return [(fold, best[metric]) for fold, best in found if best]


def counted(trials: Sequence[TrialState]) -> int:
    """Return how many trainings of a configuration count towards `repeats`: of those on folds one on each."""
    return len({one.started.fold or one.trial_id for one in trials})


def _configuration(trial: TrialState) -> str:
    return repr(sorted(trial.started.params.items()))


def breaks(figures: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    """Return whether a model of these figures breaks a limit; an unknown one breaks none."""
    return any(figures.get(name, 0.0) > limit for name, limit in limits.items())


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
        if trial.status == "completed"
        and not state.breaks(trial)
        and (best := trial.best(started.metric, started.mode))
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


def failed(trials: Iterable[TrialState]) -> list[TrialState]:
    """Return the trials that failed."""
    return [trial for trial in trials if trial.status == "failed"]


def causes(trials: Iterable[TrialState]) -> list[tuple[str, list[TrialState]]]:
    """Group failed trials by their cause, the commonest first.

    Causes that differ in numbers alone (an epoch, a learning rate, a process) are one; the first one speaks for all.

    Returns:
        First line of the cause, and the trials that failed so.
    """
    groups: dict[str, list[TrialState]] = defaultdict(list)
    for trial in failed(trials):
        groups[_NUMBER.sub("#", headline(trial))].append(trial)
    ordered = sorted(groups.values(), key=len, reverse=True)
    return [(headline(group[0]), group) for group in ordered]


def trials_in_words(trials: int) -> str:
    """Return `8 trials`, or that only the time ends them."""
    return "as many trials as there is time for" if trials >= ENDLESS else f"{trials} trials"


def judge(state: SearchState, trials: int, to_go_on: str) -> None:
    """Raise unless all trials have ended and one of them succeeded.

    Args:
        state: what was trained.
        trials: that were to be.
        to_go_on: what to type after an interruption.

    Raises:
        Interrupted: trials have not ended, or not begun.
        SearchFailed: every trial failed; the commonest cause is named first.
    """
    if left := state.to_run(trials):
        begun = ", ".join(trial.trial_id for trial in state.unfinished()) or "none of them begun"
        left = len(state.unfinished()) if left >= ENDLESS else left
        raise Interrupted(
            f"{left} trials have not ended ({begun}); every finished epoch is kept: to go on, {to_go_on}"
        )
    ended = state.trials.values()
    if ended and len(failed(ended)) == len(ended):
        (cause, like_it), *others = causes(ended)
        more = f"; {len(others)} other cause{'s' if len(others) > 1 else ''}" if others else ""
        raise SearchFailed(
            f"all {len(ended)} trials failed, {len(like_it)} of them with: {cause}{more}; what trial "
            f"{like_it[0].trial_id} wrote is in its {LOG}, and in MLflow"
        )


def headline(trial: TrialState) -> str:
    """Return the first line of the cause of a trial's failure."""
    assert trial.finished is not None
    return first_line(trial.finished.cause)


def first_line(text: str) -> str:
    """Return the first line of a cause that has anything in it."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "no cause given")


def has_parameters(params: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether a configuration, its defaults included, has these values; a root index of 1 is cross-entropy."""
    from hep_ray.training.config import TrialConfig

    values = TrialConfig.from_params(params).resolved()
    if values.get("loss") == "root_softmax" and values.get("root_index") == 1 and wanted == CROSS_ENTROPY:
        return True
    return all(key in values and values[key] == value for key, value in wanted.items())


def may_beat_cross_entropy(ranked: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the best of these configurations can be compared with the default baseline, cross-entropy.

    It cannot where it has that loss itself, or where none has it and the best, being fitted, has no loss to replace.
    """
    from hep_ray.training.config import TrialConfig

    if has_parameters(ranked[0], CROSS_ENTROPY):
        return False
    return "loss" in TrialConfig.from_params(ranked[0]).resolved() or any(
        has_parameters(one, CROSS_ENTROPY) for one in ranked[1:]
    )


def words_to_confirm(state: SearchState, stated: Search | Stated) -> list[str] | None:
    """Return the words after `hep-ray` that confirm a search; None where there is nothing to compare.

    A search that states no baseline, and whose best trial has the default one or no loss, is given a trial to beat by
    name: the first that is another configuration. What wins is never what is to be beaten.
    """
    from hep_ray.search.definition import Stated

    assert state.started is not None
    ranked = [
        trial
        for trial in state.ranked(state.started.metric, state.started.mode)
        if trial.history and trial.status in {"completed", "stopped"} and not state.breaks(trial)
    ]
    if not any(trial.status == "completed" for trial in ranked):
        return None
    best, known = ranked[0], not isinstance(stated, Stated) or stated.known
    words = ["confirm", stated.name]
    others = [trial for trial in ranked if trial.started.params != best.started.params]
    others.sort(key=lambda trial: trial.started.number)
    if known and stated.baseline:
        alone = not others and has_parameters(best.started.params, stated.baseline)
        return None if alone else words
    if known and may_beat_cross_entropy([trial.started.params for trial in ranked]):
        return words
    return [*words, "--baseline", f"trial={others[0].trial_id}"] if others else None
