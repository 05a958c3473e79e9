"""Draw configurations: the k-th depends on the seed, on k and on the trials told so far, and on nothing else.

What draws holds what a sampler can learn from and nothing else:

- no reference, which has no parameter of the space: TPE draws jointly over what all its trials have;
- no repeat of a configuration with another seed: what it learns is the first training of each;
- a trial that was trained in full as its best value, a trial that was stopped as pruned, below those;
- a trial that failed of its parameters (`OF_PARAMETERS`), or breaks a limit once fitted, as one that breaks a
  constraint, below all:
  so it needs no value, which the first trial to fail would have none to be made from, and which with
  a second objective would have to be bad in both;
- a trial that was lost as failed, which says nothing of its parameters.

A sampler that knows no pruned trials (`gp`), or any where trials pause, learns from values after equally many epochs
instead, as BOHB does (Falkner et al., arXiv:1807.01774): the most that enough trials have reached.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import optuna
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from hep_ray.errors import InvalidConfig
from hep_ray.models import is_fitted
from hep_ray.search.constraints import ModelLimits
from hep_ray.search.definition import Preset, Search
from hep_ray.search.named_samplers import SamplerOfDraws
from hep_ray.search.options import SearchOptions, in_words
from hep_ray.search.space import Space
from hep_ray.search.state import ENDLESS, SearchState, TrialState, counted, trials_in_words
from hep_ray.tracking.records import OF_PARAMETERS, SearchStarted, TrialStarted
from hep_ray.training.config import TrialConfig

TOLD_AS = {"completed": OptunaState.COMPLETE, "stopped": OptunaState.PRUNED, "failed": OptunaState.FAIL}
"""How a trial ended, in Optuna's words."""
REDRAWS = 20
"""Times that a configuration which was tried before is drawn anew; where so many in a row break a limit of the models,
which a sampler does not know, it is drawn at random as well."""
INSISTING = 4
"""Of them, before it is drawn at random."""
MOST_BROKEN = 5000
"""Draws in a row that may break a limit."""
MOST_STARTUP_TRIALS = 10
"""Trials that a sampler which learns waits for at most, in however many dimensions."""
LEAST_TRAINED = 3
"""Of those it waits for, that must not have failed: of failures alone nothing good can be learnt."""
MIXED = 3
"""Where trials are stopped, one draw in so many is random, as in BOHB: a rung needs the poor to compare with, they cost
few epochs, and what TPE learns from stopped trials may mislead it."""
WAITING = ("tpe", "gp")
"""Samplers that a search lets wait for enough trials, and mixes random draws into; others begin by themselves."""
REPEATED = 0.2
"""Share of the epochs, at most, for configurations that are trained again with another seed."""
IN_FOLDS = 0.5
"""Of them on other folds: a winner that was on few of them is no winner of cross-validation."""
HEEDLESS = ("random", "qmc", "grid")
"""Samplers that draw the same however earlier trials end."""


def to_repeat(
    state: SearchState,
    search: Search,
    repeats: int,
    *,
    at_end: bool = False,
    left: float = math.inf,
    at_once: bool = False,
) -> tuple[TrialState, str] | None:
    """Return the first trial of the configuration that is trained again, with another seed or on another fold, and why.

    None if none is. It has the best mean of those that have not been trained as often as one that leads, and would
    lead by it: it is above that of the best which has. One seed at a time, so that a configuration which was lucky
    once is not trained to the last; one whose model no seed changes is trained once, unless there are folds; one that
    a seed made fail never leads, and one that breaks a limit cannot.

    Args:
        state: the search so far.
        search: what is optimised.
        repeats: trainings of a configuration that leads.
        at_end: of the search, when a trial that pauses is taken by its best value too; it goes on in full first.
        left: trainings that there may be: a configuration that needs more of them is not taken.
        at_once: train it again while another training of it runs.
    """
    leader: tuple[float, str] | None = None
    found: tuple[float, list[TrialState], TrialState] | None = None
    sign = 1 if search.mode == "max" else -1
    for trials in state.alike():
        ended = [trial for trial in trials if trial.status == "completed"]
        used = ended or [trial for trial in trials if at_end and trial.paused][:1]
        if not used or state.fell(used[0]) or state.breaks(used[0]):
            continue
        mean = sign * (statistics.fmean(objectives(trial, search)[0] for trial in used) - state.offset(used))
        if counted(ended) >= repeats or (ended and not used[0].started.fold and seedless(ended[0])):
            leader = max(leader or (-math.inf, ""), (mean, used[0].trial_id), key=lambda one: one[0])
        elif _takes(trials, repeats, left, at_once=at_once):
            found = max(
                found or (-math.inf, trials, used[0]), (mean, trials, used[0]), key=lambda one: one[0]
            )
    if found is None or (leader is not None and found[0] <= leader[0]):
        return None
    mean, trials, first = found
    ended = [trial for trial in trials if trial.status == "completed"]
    begun = counted([trial for trial in trials if trial.status in {"completed", "running"}])
    ahead = f"ahead of {sign * leader[0]:.4g} of {leader[1]}" if leader else "the best so far"
    if not ended:
        return first, f"to be trained again if it stays best: {sign * mean:.4g} is {ahead}"
    kind, number = "fold" if first.started.fold else "seed", counted(ended)
    of = f"{first.trial_id} has" if number == 1 else f"{number} {kind}s have"
    return first, f"{kind} {begun + 1} of {repeats}: {of} {sign * mean:.4g}, {ahead}"


def _takes(trials: Sequence[TrialState], repeats: int, left: float, *, at_once: bool) -> bool:
    """Return whether a configuration may be trained once more now, and as often as it has to be by then."""
    running = any(trial.status == "running" for trial in trials)
    needed = repeats - counted([trial for trial in trials if trial.status in {"completed", "running"}])
    return 0 < needed <= left and (at_once or not running) and len(trials) < 2 * repeats


def seedless(trial: TrialState) -> bool:
    """Return whether a trial's model is a fit that no seed changes."""
    params = trial.started.params
    return is_fitted(params.get("model")) and TrialConfig.from_params(params).seedless


def trained_again(first: TrialState, reason: str, state: SearchState, folds: int | None) -> TrialStarted:
    """Return how a configuration is trained again, with a seed that it has not had; time and number are left open.

    Of a search by folds it is on another fold, see `next_fold`.
    """
    params = first.started.params
    alike = [trial.started for trial in state.drawn() if trial.started.params == params]
    return first.started.model_copy(
        update={
            "trial_id": f"{first.trial_id}-{len(alike) + 1}",
            "seed": max(one.seed for one in alike) + 1,
            "until": None,
            "reason": reason,
            "fold": next_fold(params, folds, state),
            "repeat_of": first.trial_id,
            "tags": {"repeat_of": first.trial_id},
        }
    )


def next_fold(params: Mapping[str, Any], folds: int | None, state: SearchState) -> int:
    """Return the first of the folds on which a configuration has the fewest trainings; 0 where there are no folds.

    Those that failed, or that were stopped before their last epoch, do not count: they judge nothing on their fold.
    """
    if not folds:
        return 0
    alike = [trial for trial in state.drawn() if trial.started.params == params]
    counts = Counter(trial.started.fold for trial in alike if trial.status not in {"failed", "stopped"})
    return min(range(1, folds + 1), key=lambda fold: counts[fold])


class DrawnTrial(NamedTuple):
    """A configuration that was drawn.

    Attributes:
        params: its parameters.
        repeat: trials that have had the same.
        frozen: the trial as a study enters it.
    """

    params: dict[str, Any]
    repeat: int
    frozen: FrozenTrial


class Draws:
    """The configurations of a search, references first.

    Args:
        search: what is optimised.
        preset: sampler and number of trials, `auto` resolved.
        space: what may vary.
        seed: of the draws.
        limits: of the models; what breaks one is drawn anew.

    Attributes:
        differs: the first trial that was drawn otherwise when it was drawn again after a restart; empty where none was.
    """

    def __init__(
        self, search: Search, preset: Preset, space: Space, seed: int, limits: ModelLimits | None = None
    ) -> None:
        self._search, self._preset, self._space, self._seed = search, preset, space, seed
        self._limits = limits
        self._references = search.points_to_evaluate
        self._points = space.grid() if preset.sampler == "grid" else []
        self._sampler = None if self._points else SamplerOfDraws(preset.sampler, space, seed)
        self._n_startup_trials = n_startup_trials(preset, space)
        self._equal_epochs = preset.sampler == "gp" or (preset.pauses and preset.sampler == "tpe")
        self._study = optuna.create_study(directions=directions(search))
        self._drawn_as: dict[str, int] = {}
        """Trial → its number in the study that draws; references have none."""
        self._frozen: dict[str, FrozenTrial] = {}
        self._tried: Counter[Any] = Counter()
        self._looked_at = 0
        """Trials whose configurations are counted there."""
        self.differs = ""

    def next(self, state: SearchState) -> DrawnTrial:
        """Draw the next configuration; the trial that trains it is the next to be `enter`ed."""
        count = state.opened
        if count < len(self._references):
            return DrawnTrial(dict(self._references[count]), 0, frozen_trial({}, self._space))
        place, name = count - len(self._references), f"t{count:04d}"
        if self._points:
            repeat, index = divmod(place, len(self._points))
            frozen = frozen_trial(self._points[index], self._space)
            self._study.add_trial(frozen)
            params: dict[str, Any] = self._points[index]
        else:
            study = self._at_equal_epochs(state) if self._equal_epochs else self._study
            params, repeat = self._ask_anew(study, place, state)
            frozen = study.get_trials(deepcopy=False)[-1]
            if self._equal_epochs:
                self._study.add_trial(frozen)
        self._drawn_as[name] = len(self._study.get_trials(deepcopy=False)) - 1
        self._frozen[name] = frozen
        return DrawnTrial(params, repeat, frozen)

    def enter(self, started: TrialStarted, state: SearchState) -> None:
        """Enter a trial of an earlier attempt, before `state` has it; a sampler that keeps a state draws it again."""
        known = started.trial_id in self._drawn_as or started.repeat_of
        if known or len(state.trials) < len(self._references):
            return
        if self._sampler is not None and not self._sampler.replays and not self.differs:
            drawn = self.next(state)
            if drawn.params == started.params:
                return
            self.differs = started.trial_id
            self._study.tell(self._drawn_as.pop(started.trial_id), state=OptunaState.FAIL)
        frozen = frozen_trial(started.params, self._space)
        self._study.add_trial(frozen)
        self._drawn_as[started.trial_id] = len(self._study.get_trials(deepcopy=False)) - 1
        self._frozen[started.trial_id] = frozen

    def end(self, trial: TrialState) -> None:
        """Tell the study how a trial ended, if it has it; a failure of the parameters is worse than any value."""
        assert trial.finished is not None
        number = self._drawn_as.get(trial.trial_id)
        if number is None:
            return
        if not _failed_of_parameters(trial, self._limits):
            tell(self._study, number, trial, self._search)
        elif not held(self._study, number).state.is_finished():
            if self._preset.sampler != "cmaes":  # which takes no constraints, and warns of each
                running_trial(self._study, number).set_constraint("fails", 1.0)
            self._study.tell(number, state=OptunaState.PRUNED)

    def _ask_anew(self, study: optuna.Study, place: int, state: SearchState) -> tuple[dict[str, Any], int]:
        """Draw a configuration that no trial has had: with the same seed it would only give the same numbers again.

        What was drawn again stays open meanwhile, for TPE keeps away from what still runs, and is then given up. Where
        TPE insists, chance decides; where that does not help (all has been tried, say) the configuration is trained
        from another seed. What breaks a limit of the models is drawn again too, however often, and is counted apart.

        Returns:
            The parameters, which the last trial of the study has, and how many trials have had them.

        Raises:
            InvalidConfig: every draw breaks a limit.
        """
        study.sampler = self._sampler_of(place, state)
        tried = self._tried_in(state)
        again: list[optuna.Trial] = []
        repeats = in_a_row = 0
        by_chance = False
        drawn = study.ask()
        params = self._space.suggest(drawn)
        while (broken := self._breaks(params)) or (_hashable(params) in tried and repeats < REDRAWS):
            if broken and in_a_row >= MOST_BROKEN:
                raise InvalidConfig(
                    f"each of {in_a_row} configurations in a row breaks a constraint: allow more, or state smaller "
                    "models"
                )
            again.append(drawn)
            repeats, in_a_row = (repeats, in_a_row + 1) if broken else (repeats + 1, 0)
            if not by_chance and (repeats == INSISTING or in_a_row == REDRAWS):
                by_chance, study.sampler = True, RandomSampler(seed=self._seed_of(place))
            drawn = study.ask()
            params = self._space.suggest(drawn)
        for one in again:
            study.tell(one, state=OptunaState.FAIL)
        return params, tried[_hashable(params)]

    def _tried_in(self, state: SearchState) -> Counter[Any]:
        """Return how many trials have had each configuration; only those that are new are looked at."""
        for trial in islice(reversed(state.trials.values()), len(state.trials) - self._looked_at):
            self._tried[_hashable(trial.started.params)] += 1
        self._looked_at = len(state.trials)
        return self._tried

    def _breaks(self, params: dict[str, Any]) -> bool:
        return self._limits is not None and self._limits.margin(params) > 0

    def _seed_of(self, place: int) -> int:
        """Return the seed of the k-th draw; references are no draws: a search with them draws as one without."""
        return (self._seed * 1_000_003 + place) % 2**32

    def _sampler_of(self, place: int, state: SearchState) -> Any:
        """Return the sampler of the k-th draw: random until TPE knows enough, and in every third draw of ASHA."""
        seed = self._seed_of(place)
        mixed = stops(self._preset) and place % MIXED == MIXED - 1
        if self._preset.sampler in WAITING and (mixed or not self._knows_enough(state)):
            return RandomSampler(seed=seed)
        assert self._sampler is not None
        return self._sampler(place, seed)

    def _knows_enough(self, state: SearchState) -> bool:
        trained = failed = 0
        for name, trial in state.trials.items():
            if name in self._drawn_as and (trial.finished is not None or trial.paused):
                of_parameters = _failed_of_parameters(trial, self._limits)
                failed += of_parameters
                trained += trial.status != "failed" and not of_parameters
                least = min(LEAST_TRAINED, self._n_startup_trials)
                if trained + failed >= self._n_startup_trials and trained >= least:
                    return True
        return False

    def _at_equal_epochs(self, state: SearchState) -> optuna.Study:
        """Return a study of the trials' values after the same number of epochs: the most that enough have reached.

        A trial that ended by itself, its patience being over, counts as trained to any length. One that has not got so
        far is left out, or still runs. One that failed of its parameters has the worst value of all.
        """
        failed = {name for name in self._frozen if _failed_of_parameters(state.trials[name], self._limits)}
        known = [
            trial
            for name, trial in state.trials.items()
            if name in self._frozen and name not in failed and trial.status != "failed"
        ]
        lengths = sorted((self._length(trial) for trial in known if trial.history), reverse=True)
        epochs = lengths[: self._n_startup_trials][-1] if lengths else 0
        values = {
            trial.trial_id: objectives(
                TrialState(trial.started, history=trial.history[:epochs]), self._search
            )
            for trial in known
            if trial.history and self._length(trial) >= epochs
        }
        signs = [1 if one == StudyDirection.MAXIMIZE else -1 for one in directions(self._search)]
        columns = zip(*values.values(), strict=True)
        worst = [
            sign * min(sign * one for one in column) for sign, column in zip(signs, columns, strict=False)
        ]
        study = optuna.create_study(directions=directions(self._search))
        for name, frozen in self._frozen.items():
            if name in values or (worst and name in failed):
                study.add_trial(_complete(frozen, values.get(name, worst)))
            elif state.trials[name].finished is None and not state.trials[name].paused:
                study.add_trial(frozen)
        return study

    def _length(self, trial: TrialState) -> int:
        return self._preset.epochs if trial.status == "completed" else len(trial.history)


def _hashable(value: Any) -> Any:
    """Return what is equal where parameters are equal, and can be looked up."""
    if isinstance(value, dict):
        return frozenset((key, _hashable(one)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return (type(value), *map(_hashable, value))
    return value


def _failed_of_parameters(trial: TrialState, limits: ModelLimits | None) -> bool:
    """Return whether a trial failed of its parameters, or breaks a limit, as one that was fitted may."""
    failed = trial.finished is not None and trial.finished.failure in OF_PARAMETERS
    return failed or (limits is not None and trial.breaks(limits.limits))


def _complete(frozen: FrozenTrial, values: list[float]) -> FrozenTrial:
    return create_trial(
        state=OptunaState.COMPLETE, params=frozen.params, distributions=frozen.distributions, values=values
    )


def stops(preset: Preset) -> bool:
    """Return whether any trial may be stopped, or pause."""
    return preset.grace < preset.epochs


def why_not_ahead(preset: Preset) -> str:
    """Return in words why the trials of a preset are not known before others have ended; empty where they are."""
    if preset.sampler not in HEEDLESS:
        return (
            f"sampler {preset.sampler_name} draws by how earlier trials ended ({', '.join(HEEDLESS)} do not)"
        )
    if preset.folds:
        return "trainings on different folds have different events"
    if preset.repeats > 1:
        return "repeats are of what leads once others have ended"
    if preset.pauses:
        return f"scheduler {preset.scheduler_name} lets trials pause, and says by how others do which go on"
    return "no number of trials is stated" if preset.endless else ""


def budget_in_words(search: Search, preset: Preset, space: Space, given: SearchOptions, trials: int) -> str:
    """Return how much of a search is trained, what draws it and what stops it.

    Args:
        search: whose budget it is.
        preset: with its sampler and scheduler chosen.
        space: that is drawn from.
        given: options of the search.
        trials: all of them, references too.
    """
    drawn = trials - len(search.points_to_evaluate)
    limit, learns = given.time_budget, len(given.learn_from or ())
    shared = f" = {drawn * preset.epochs} epochs, shared among trials that pause" if preset.pauses else ""
    early = "; ends before where no gain above the noise is left" if given.until_no_gain else ""
    stopping = "" if limit is None else ", with what runs stopping after its epoch"
    in_time = early + ("" if limit is None else f"; ends after {in_words(limit)}{stopping}")
    return (
        f"{trials_in_words(trials)} × {preset.epochs} epochs{shared}; "
        f"{draws_in_words(preset, space, drawn, learns, given.gain_per)}; seed {given.seed}{in_time}"
    )


def draws_in_words(preset: Preset, space: Space, drawn: int, lessons: int, gain_per: str | None) -> str:
    """Return what draws the trials of a search, and what stops them.

    Args:
        preset: with its sampler and scheduler chosen.
        space: that is drawn from.
        drawn: trials that are.
        lessons: earlier searches that it learns from.
        gain_per: what a gain is weighed against.
    """
    sampler, stopping = preset.sampler_name, preset.scheduler != "none"
    if sampler in WAITING:
        third = f" and one in {MIXED}" if stops(preset) else ""
        sampler += f" after {min(n_startup_trials(preset, space), drawn)} trials at random{third}"
    if lessons:
        sampler += f", which learns from {lessons} earlier search{'es' if lessons > 1 else ''}"
    sampler += " by gain per second" * (gain_per == "second")
    chosen = f" (chosen by auto: {preset.why})" if preset.why else ""
    nobody = ", which stops none of so few epochs" if stopping and not stops(preset) else ""
    how = "pausing" if preset.pauses else "stopping"
    more = f"on all {preset.folds} folds" if preset.folds else f"with up to {preset.repeats} seeds"
    again = f"; what would lead is trained {more}, and the best mean wins"
    return f"sampler {sampler}{chosen}, {how} {preset.stopping}{nobody}{again * (preset.repeats > 1)}"


def n_startup_trials(preset: Preset, space: Space) -> int:
    """Return how many trials have to end before TPE draws: one more than there are parameters to draw.

    At least three and at most ten, but no more than half of what is drawn: eight trials leave four to TPE. It is d + 1
    in BOHB too (Falkner et al., arXiv:1807.01774), the least for a density in d dimensions.
    """
    drawn = ENDLESS if preset.endless else preset.trials or 0
    most = min(MOST_STARTUP_TRIALS, max(1, drawn // 2))
    return min(most, max(LEAST_TRAINED, len(space.drawn()) + 1))


def total_trials(search: Search, preset: Preset, space: Space) -> int:
    """Return how many trials a preset runs: the search's references, and those that are drawn.

    Where trials pause, this many trials in full are the budget, of which more are begun and few end. Where a time
    budget alone ends the search it is `ENDLESS` or more.

    Raises:
        InvalidSpace: a grid over a range.
    """
    if preset.sampler != "grid":
        return len(search.points_to_evaluate) + (ENDLESS if preset.trials is None else preset.trials)
    whole = len(space.grid()) * preset.seeds
    return len(search.points_to_evaluate) + (whole if preset.trials is None else min(preset.trials, whole))


def directions(search: Search | SearchStarted) -> list[StudyDirection]:
    """Return the directions of the metric, and of the second objective where there is one."""
    metric = StudyDirection.MAXIMIZE if search.mode == "max" else StudyDirection.MINIMIZE
    return [metric, *([StudyDirection.MINIMIZE] if search.second_objective else [])]


def objectives(trial: TrialState, search: Search | SearchStarted) -> list[float]:
    """Return the best value of the metric, and the second objective where there is one."""
    best = trial.best(search.metric, search.mode)
    assert best is not None
    return [best[search.metric], *([trial.total(search.second_objective)] if search.second_objective else [])]


def frozen_trial(params: dict[str, Any], space: Space) -> FrozenTrial:
    """Return a trial that starts with these parameters, as if they had been drawn; a reference has none."""
    drawn: Any = FixedTrial(params)
    if params:
        space.suggest(drawn)
    return create_trial(state=OptunaState.RUNNING, params=drawn.params, distributions=drawn.distributions)


def tell(study: optuna.Study, number: int, trial: TrialState, search: Search) -> None:
    """Tell a study how a trial ended, if it does not know: in full with its best value, stopped with all its values.

    Optuna takes values of single epochs for one objective alone.
    """
    assert trial.finished is not None
    if held(study, number).state.is_finished():
        return
    told = TOLD_AS[trial.finished.status]
    if told == OptunaState.PRUNED and search.second_objective is None:
        running = running_trial(study, number)
        for metrics in trial.history:
            running.report(metrics[search.metric], int(metrics["epoch"]))
    values = objectives(trial, search) if trial.history and told == OptunaState.COMPLETE else None
    study.tell(number, values, state=told)


def running_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Return a trial that runs, to report to."""
    return optuna.Trial(study, held(study, number)._trial_id)  # noqa: SLF001 - there is no public way


def held(study: optuna.Study, number: int) -> FrozenTrial:
    """Return the trial of a study that has a number; `get_trials` would read all that run from a database."""
    storage, of = study._storage, study._study_id  # noqa: SLF001 - there is no public way
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(of, number))
