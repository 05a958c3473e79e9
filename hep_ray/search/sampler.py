"""Hand out trials to Tune, and decide after each epoch whether they go on; all of it follows from the journal.

Ray Tune's own OptunaSearch keeps its state in pickles that lag behind the trials, and tells a
trial that ASHA stopped as if it had been trained in full. Here the journal is the state: `draws.py` draws from what it
tells, `scheduler.py` decides by it, so a search killed at any moment goes on as it would have.

Tune's own PAUSE is not used: it keeps checkpoints of its own, which a restart loses. A trial that pauses ends its Tune
run; when it goes on, a Tune run with the same trial id begins, whose worker finds the checkpoint. So a trial is a
sequence of legs, each from the epoch that it has reached until the epoch that the journal names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import optuna
from ray.tune.search import Searcher

from hep_ray.errors import HepRayError, InvalidConfig
from hep_ray.models import is_fitted
from hep_ray.own_code import blaming
from hep_ray.search.constraints import ModelLimits
from hep_ray.search.definition import Preset, Search
from hep_ray.search.draws import (
    IN_FOLDS,
    REPEATED,
    Draws,
    frozen_trial,
    next_fold,
    to_repeat,
    total_trials,
    trained_again,
    why_not_ahead,
)
from hep_ray.search.epochs import EpochTally
from hep_ray.search.named_samplers import draws_alike
from hep_ray.search.scheduler import Decision, TakeUp, scheduler_for
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, TrialState, breaks
from hep_ray.search.study import StoredStudy
from hep_ray.tracking.records import (
    EpochFinished,
    Record,
    TrialFinished,
    TrialGoesOn,
    TrialPaused,
    TrialStarted,
)
from hep_ray.training.checkpoint import MOST_PAUSED

HOPELESS = 10
"""Trials of an attempt, all of them failed, after which a search that only time ends gives up."""


class JournalSearcher(Searcher):
    """Hands out trials; whoever derives from it learns from records, not from Tune.

    Args:
        state: the search so far.
        write: records a trial before it runs.

    Attributes:
        pauses: whether trials pause, so that their number is not known before.
        epochs_in_all: what they share then.
        bounded: whether it hands out only what was drawn ahead, so that another has to go on.
    """

    pauses = False
    epochs_in_all: int | None = None
    bounded = False

    def __init__(self, state: SearchState, write: Callable[[Record], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._state, self._write = state, write
        self._pending = [trial.started for trial in state.running()]
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its searcher to restore it, and here the journal restores."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # noqa: ARG002
        """Return the next trial's id, parameters and seed, None where it has to wait, or that there is none."""
        finished: str = self.FINISHED
        if self._closed:
            return finished
        started = self._pending.pop(0) if self._pending else self.leg()
        if started is None:
            return None if self.may_come() else finished
        return started.config

    def leg(self) -> TrialStarted | None:
        """Decide what a free worker trains, and record it; None where there is nothing now."""
        raise NotImplementedError

    def ahead(self, number: int) -> list[TrialStarted]:  # noqa: ARG002
        """Return what will be trained as far as it is known now, `number` trials at least where nothing prevents it."""
        return [*self._pending]

    def may_come(self) -> bool:
        """Return whether there may be something to train although there is nothing now."""
        return False

    def close(self) -> None:
        """Hand out nothing from now on: what is left goes on when the search is resumed."""
        self._closed = True

    def has_work(self) -> bool:
        """Return whether anything is left to train; what is next is decided by it where trials pause."""
        raise NotImplementedError

    def record(self, record: Record) -> None:
        """Listen to the recorder: nothing to learn, unless whoever derives from it does."""

    def after_epoch(self, trial_id: str) -> Decision:  # noqa: ARG002
        """Decide whether a trial goes on after an epoch that is recorded."""
        return "go on"

    def end(self) -> None:
        """End: record what pauses as stopped, when nothing is left to train."""

    def settle(self, epochs: int, finish: Callable[[str], None]) -> None:
        """Do what was decided before the driver died, and is not recorded: end a trial, or let it pause.

        Args:
            epochs: full length of a trial.
            finish: records the end of a trial.
        """
        for trial in self._state.running():
            if len(trial.history) >= epochs or (
                trial.history and self.after_epoch(trial.trial_id) != "go on"
            ):
                self._pending.remove(trial.started)
                if not trial.paused:
                    finish(trial.trial_id)

    def warnings(self) -> list[str]:
        """Return what a user should know before the first trial, a sentence each."""
        return []

    def doubts(self) -> list[str]:
        """Return what a user should know at the end, a sentence each."""
        return []

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing to do: what a trial reports is recorded first."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: how a trial ends is recorded first."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal holds everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class FixedList(JournalSearcher):
    """Hands out trainings that an earlier attempt left unfinished, then those that it had not begun.

    Args:
        runs: what is to be trained, in order; the time of each is set when it is begun.
        state: what the journal tells.
        write: records a training before it runs.
    """

    def __init__(
        self, runs: Sequence[TrialStarted], state: SearchState, write: Callable[[Record], None]
    ) -> None:
        super().__init__(state, write)
        self._to_begin = [run for run in runs if run.trial_id not in state.trials]

    def __len__(self) -> int:
        return len(self._pending) + len(self._to_begin)

    def leg(self) -> TrialStarted | None:
        """Begin the next training."""
        if not self._to_begin:
            return None
        run = self._to_begin.pop(0)
        self._write(run.model_copy(update={"time": time.time()}))
        return run

    def ahead(self, number: int) -> list[TrialStarted]:  # noqa: ARG002
        """Return all that has not ended, begun or not."""
        return [*self._pending, *self._to_begin]

    def has_work(self) -> bool:
        """Return whether a training has not ended."""
        return len(self) > 0


class OptunaSearcher(JournalSearcher):
    """Hands trials that an earlier attempt left unfinished to Tune first, then what sampler and scheduler decide.

    Args:
        search: what is optimised.
        preset: sampler, scheduler, seeds and number of trials.
        space: what may vary.
        seed: of the draws, and of the first training of each configuration.
        database: SQLite file of the Optuna study; None keeps it in memory, for simulations.
        state: the search so far.
        write: records a trial before it runs.
        limits: of the models; a configuration that breaks one is not trained.
    """

    def __init__(
        self,
        search: Search,
        preset: Preset,
        space: Space,
        seed: int,
        database: Path | None,
        state: SearchState,
        write: Callable[[Record], None],
        limits: ModelLimits | None = None,
    ) -> None:
        super().__init__(state, write, metric=search.metric, mode=search.mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        preset = preset.resolved(search)
        self._search, self._preset, self._seed, self._limits = search, preset, seed, limits
        self._space = space
        self._references = len(search.points_to_evaluate)
        self.total = total_trials(search, preset, space)
        self._draws = None if preset.sampler == "curves" else Draws(search, preset, space, seed, limits)
        with self._asking_sampler():
            self._alike = draws_alike(preset.sampler, space)
        with self._asking_scheduler():
            self._scheduler = scheduler_for(preset.scheduler, preset.goal(search, seed))
        self.pauses = self._scheduler.pauses
        if self.pauses:
            of_references = (
                1 if is_fitted(one.get("model")) else preset.epochs for one in search.points_to_evaluate
            )
            self.epochs_in_all = self._drawn_epochs() + sum(of_references)
        self._tally = EpochTally(preset.epochs, self._references)
        self._begun: dict[str, int | None] = {}
        """Trial that the scheduler knows → epoch until which it trains first."""
        self._decisions: dict[str, Decision] = {}
        self._told: Record | None = None
        self._failed, self._succeeded = 0, 0
        """Trials that ended in this attempt."""
        self._prepare()
        self._replay(state)
        self._stored = StoredStudy(search, space, database, state)

    def _ending(self, trial_id: str) -> tuple[float, float, float] | None:
        """Where a trial that pauses would end; None where nothing predicts it."""

    def _prepare(self) -> None:
        """Make what decides, before it is told the journal."""

    def leg(self) -> TrialStarted | None:
        """Train again what would lead, let a paused trial go on, or begin a new one."""
        again = self._to_repeat()
        going_on = None if again else self._going_on()
        if going_on is not None:
            self._note(going_on)
            return self._state.trials[going_on.trial_id].started
        begun = None if again else self._begin()
        again = again or (None if begun else self._to_repeat(nothing_else=True))
        return self._begin_again(*again) if again else begun

    def ahead(self, number: int) -> list[TrialStarted]:
        """Draw and record trials until so many have not ended, where the sampler does not ask how others do.

        From then on nothing else is handed out.
        """
        if not why_not_ahead(self._preset):
            while len(self._pending) < number and (started := self.leg()) is not None:
                self._pending.append(started)
            self.total, self.bounded = len(self._state.trials), True
        return [*self._pending]

    def may_come(self) -> bool:
        """Return whether a trial that runs may leave something to go on with."""
        return (self.pauses or self._kept_for_folds) and bool(self._state.running())

    def has_work(self) -> bool:
        """Return whether anything is left to train."""
        if self._pending:
            return True
        if not self.pauses:
            return len(self._state.trials) < self.total and not self._hopeless()
        if self._closed:
            return True
        started = self.leg()
        self._pending += [started] if started else []
        return started is not None

    @property
    def _kept_for_folds(self) -> bool:
        """Return whether what is left is for the other folds of what leads: that which runs may be it."""
        repeats, left = self._preset.repeats, self.total - len(self._state.trials)
        return bool(self._preset.folds) and 0 < left < repeats and not self.pauses

    def _hopeless(self) -> bool:
        """Return whether a search that only time ends goes on for nothing: each of this attempt's trials failed."""
        return self._preset.endless and not self._succeeded and self._failed >= HOPELESS

    def record(self, record: Record) -> None:
        """Listen to the recorder: tell scheduler and studies what happened, each record once."""
        if record is self._told:
            return
        self._told = record
        if isinstance(record, TrialFinished):
            self._failed += record.status == "failed"
            self._succeeded += record.status != "failed"
            self.tell(self._state.trials[record.trial_id])
        self._tell_scheduler(record)

    def after_epoch(self, trial_id: str) -> Decision:
        """Decide whether a trial goes on after an epoch that is recorded; that it pauses is recorded first.

        A leg that ends asks what a free worker would train: where that is this trial, it goes on without a pause. A
        model that is fitted in one go ends by itself; where its end is not recorded, it is to be told again.

        Raises:
            InvalidConfig: the scheduler, an object of the user's own, gives another answer than a scheduler can.
        """
        trial = self._state.trials[trial_id]
        if trial.finished is not None or len(trial.history) >= self._preset.epochs:
            return "stop"
        if is_fitted(trial.started.params.get("model")):
            return "go on"
        decision = self._checked(self._decisions.get(trial_id, "go on"))
        if decision == "go on" and trial.until is not None and len(trial.history) >= trial.until:
            decision = "pause"
        if decision != "pause":
            return decision
        going_on = None if self._to_repeat() else self._going_on()
        if going_on is not None and going_on.trial_id == trial_id:
            self._note(going_on)
            return "go on"
        epoch, ending = len(trial.history), self._ending(trial_id)
        self._note(TrialPaused(time=time.time(), trial_id=trial_id, epoch=epoch, ending=ending))
        if going_on is not None:
            self._note(going_on)
            self._pending.append(self._state.trials[going_on.trial_id].started)
        self._give_up_worst()
        return "pause"

    def tell(self, trial: TrialState) -> None:
        """Tell the studies how a trial ended; a trial whose end is known is left as it is."""
        self._stored.tell(trial)
        if self._draws is not None:
            self._draws.end(trial)

    def end(self) -> None:
        """Record every trial that pauses as stopped: the budget is spent."""
        for trial in self._state.unfinished():
            if trial.paused:
                self._note(TrialFinished(time=time.time(), trial_id=trial.trial_id, status="stopped"))

    def doubts(self) -> list[str]:
        """Return those of the scheduler, and a sampler that does not draw again what it drew."""
        with self._asking_scheduler():
            found = list(self._scheduler.doubts())
        if self._draws is not None and self._draws.differs:
            found.append(
                f"{self._preset.sampler_name} drew {self._draws.differs} otherwise when it was asked again after the "
                "restart: from there on the search is another than it would have been without one"
            )
        return found

    def warnings(self) -> list[str]:
        """Return what a user should know before the first trial, a sentence each."""
        told = (
            f"{self._preset.sampler_name} does not draw the same twice, so this search cannot be resumed exactly: "
            "give it a seed, or state a function seed → sampler"
        )
        return [] if self._alike else [told]

    def _replay(self, state: SearchState) -> None:
        """Tell scheduler and draws what an earlier attempt recorded, in its order, as it was told then."""
        self._state = SearchState()
        for record in state.records:
            if isinstance(record, TrialStarted) and self._draws is not None:
                with self._asking_sampler():
                    self._draws.enter(record, self._state)
            self._state.apply(record)
            if isinstance(record, TrialFinished) and self._draws is not None:
                self._draws.end(self._state.trials[record.trial_id])
            self._tell_scheduler(record)
        self._state = state

    def _tell_scheduler(self, record: Record) -> None:
        name = getattr(record, "trial_id", "")
        with self._asking_scheduler():
            if isinstance(record, TrialStarted):
                known, place = name in self._begun or bool(record.repeat_of), self._state.opened - 1
                if not known and self._is_scheduled(place, record.params, record.figures):
                    self._enter(name, record.params)
            elif name not in self._begun:
                return
            elif isinstance(record, EpochFinished):
                self._decisions[name] = self._scheduler.report(name, record.epoch, record.metrics)
            elif isinstance(record, TrialGoesOn):
                self._decisions.pop(name, None)
                self._scheduler.went_on(name, record.until)
            elif isinstance(record, TrialFinished):
                self._scheduler.end(name, record.status)

    def _enter(self, name: str, params: Mapping[str, Any]) -> None:
        """Tell the scheduler of a trial, and keep until when it trains first; within `_asking_scheduler`.

        Raises:
            InvalidConfig: the scheduler answers something else than an epoch, or None.
        """
        until: Any = self._scheduler.begin(name, params)
        if until is not None and (not isinstance(until, Integral) or until < 1):
            raise InvalidConfig(
                f"the scheduler {self._preset.scheduler_name} answered {until!r} when '{name}' began; it may answer an "
                "epoch, from 1 on, or None"
            )
        self._begun[name] = None if until is None else int(until)

    def _is_scheduled(self, place: int, params: dict[str, Any], figures: Mapping[str, float]) -> bool:
        """Return whether the scheduler is told of a trial.

        The only epoch of a model that is fitted in one go is its last, and no rung compares a network's first epoch
        with it. Where trials pause, references are trained in full, beside the budget. One that breaks a limit, by the
        figures of its model, cannot win, and takes no place in a rung from one that may.
        """
        broken = self._limits is not None and breaks(figures, self._limits.limits)
        return (
            not broken
            and not is_fitted(params.get("model"))
            and (place >= self._references or not self.pauses)
        )

    def _begin(self) -> TrialStarted | None:
        """Begin a new trial, unless trials, or epochs, are spent."""
        place, trials = self._state.opened, len(self._state.trials)
        reference = place < self._references
        left = None
        if self.pauses and not reference:
            left = self._epochs_left()
            if left <= 0 or (self._preset.sampler == "grid" and place >= self.total):
                return None
        elif trials >= self.total or self._hopeless() or (self._state.running() and self._kept_for_folds):
            return None
        assert self._draws is not None
        with self._asking_sampler():
            drawn = self._draws.next(self._state)
        name, figures = f"t{place:04d}", self._limits.figures(drawn.params) if self._limits else {}
        if self._is_scheduled(place, drawn.params, figures):
            with self._asking_scheduler():
                self._enter(name, drawn.params)
        until = None if left is None else min(self._begun.get(name) or self._preset.epochs, left)
        record = TrialStarted(
            time=time.time(),
            trial_id=name,
            number=self._stored.add(drawn.frozen),
            params=drawn.params,
            seed=self._seed + drawn.repeat,
            fold=next_fold(drawn.params, self._preset.folds, self._state),
            until=until,
            figures=figures,
        )
        self._note(record)
        return record

    def _going_on(self) -> TrialGoesOn | TrialStarted | None:
        """Return which paused trial goes on, within the epochs that are left."""
        if self._closed or not self.pauses or len(self._state.trials) < self._references:
            return None
        left = self._epochs_left()
        with self._asking_scheduler():
            taken: Any = self._scheduler.take_up() if left > 0 else None
        if taken is None:
            return None
        if not isinstance(taken, TakeUp):
            raise InvalidConfig(
                f"the scheduler {self._preset.scheduler_name} answered {taken!r} when it was asked what goes on; it "
                "may answer TakeUp(trial_id, until, reason), or None"
            )
        trial = self._state.trials.get(taken.trial_id)
        reached = len(trial.history) if trial else 0
        if trial is None or trial.finished is not None or taken.until <= reached:
            raise InvalidConfig(
                f"the scheduler {self._preset.scheduler_name} lets '{taken.trial_id}' go on to epoch {taken.until}; it "
                f"may name a trial that pauses, and a later epoch than the {reached} that it has reached"
            )
        until = min(taken.until, self._preset.epochs, reached + left)
        return TrialGoesOn(time=time.time(), trial_id=taken.trial_id, until=until, reason=taken.reason)

    def _epochs_left(self) -> int:
        """Return the epochs that are neither trained nor given to a trial that runs; references have their own."""
        return self._drawn_epochs() - self._tally.follow(self._state).drawn

    def _to_repeat(self, *, nothing_else: bool = False) -> tuple[TrialState, str] | None:
        """Return the configuration to train again now, and why, within the share of the epochs that repeats have.

        The share is of what was trained, and does not count where there is nothing else to train. Near the end it is of
        all epochs: what is left of it is kept for repeats. All references begin before: they are the first trials.
        """
        repeats, trials, cost = self._preset.repeats, len(self._state.trials), self._preset.epochs
        if repeats == 1 or self._closed or self._state.opened < self._references or self._hopeless():
            return None
        tally = self._tally.follow(self._state)
        spent, again = tally.all, tally.again
        left = trainings = math.inf
        if self.pauses:
            left = self._epochs_left()
            trainings = left // cost
        elif not self._preset.endless:
            trainings = max(0, self.total - trials)
            left = trainings * (spent / trials if trials else cost)
        share = IN_FOLDS if self._preset.folds else REPEATED
        at_end = nothing_else or left < share * (spent + left) - again
        if left <= 0 or not (at_end or again + cost <= share * (spent + cost)):
            return None
        last = self._kept_for_folds
        if last and any(not trial.started.repeat_of for trial in self._state.running()):
            return None  # which may be it
        if not self._preset.folds:
            trainings = math.inf  # of seeds as many as there are make a mean
        found = to_repeat(self._state, self._search, repeats, at_end=at_end, left=trainings, at_once=last)
        needed = cost - len(found[0].history) if found and found[0].paused else cost
        return found if not self.pauses or left >= needed else None

    def _begin_again(self, first: TrialState, reason: str) -> TrialStarted:
        """Begin to train a configuration again, in full, with a seed that it has not had; one that pauses goes on."""
        if first.paused:
            until, name = self._preset.epochs, first.trial_id
            self._note(TrialGoesOn(time=time.time(), trial_id=name, until=until, reason=reason))
            return first.started
        again = trained_again(first, reason, self._state, self._preset.folds)
        stated = [trial.started.params for trial in self._state.drawn()[: self._references]]
        frozen = frozen_trial({} if again.params in stated else again.params, self._space)
        record = again.model_copy(update={"time": time.time(), "number": self._stored.add(frozen)})
        self._note(record)
        return record

    def _drawn_epochs(self) -> int:
        return (self.total - self._references) * self._preset.epochs

    def _checked(self, decision: Decision) -> Decision:
        if decision not in get_args(Decision) or (decision == "pause" and not self.pauses):
            allowed = [one for one in get_args(Decision) if one != "pause" or self.pauses]
            raise InvalidConfig(
                f"the scheduler {self._preset.scheduler_name} answered {decision!r} after an epoch; it may answer "
                f"{', '.join(map(repr, allowed))}"
                + (", and 'pause' where its class states pauses = True" * (decision == "pause"))
            )
        return decision

    def _give_up_worst(self) -> None:
        if self._tally.follow(self._state).paused <= MOST_PAUSED:
            return
        state, metric, mode = self._state, self._search.metric, self._search.mode
        paused = [trial for trial in state.drawn() if trial.paused]
        for trial in sorted(paused, key=lambda one: state.place(one, metric, mode))[MOST_PAUSED:]:
            self._note(TrialFinished(time=time.time(), trial_id=trial.trial_id, status="stopped"))

    def _asking_scheduler(self) -> AbstractContextManager[None]:
        return _asking(self._preset.scheduler, f"the scheduler {self._preset.scheduler_name}")

    def _asking_sampler(self) -> AbstractContextManager[None]:
        return _asking(self._preset.sampler, f"the sampler {self._preset.sampler_name}")

    def _note(self, record: Record) -> None:
        """Record a decision, and learn of it: the recorder may have told it by then."""
        self._write(record)
        self.record(record)


@contextmanager
def _asking(given: object, name: str) -> Iterator[None]:
    """Within, what an object that the user gave raises becomes a named error; one of ours raises as it is.

    Raises:
        PluginFailed: their own code raised; the error begins with the line.
        InvalidConfig: other code did, such as Optuna's.
    """
    try:
        with blaming(f"asking {name}"):
            yield
    except HepRayError:
        raise
    except Exception as exc:
        if isinstance(given, str):
            raise
        raise InvalidConfig(f"{name} raised {type(exc).__name__}: {exc}") from exc
