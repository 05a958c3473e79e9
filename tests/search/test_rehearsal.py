"""A scheduler or a sampler of the user's own that fails is told with its line before any trial, and by name later."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import GridSampler, RandomSampler
from ray.tune import TuneError

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import HepRayError, InvalidConfig, PluginFailed
from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import _chain
from hep_ray.search.own_checks import rehearse
from hep_ray.search.parameters import LogUniform
from hep_ray.search.scheduler import Scheduler, TakeUp
from hep_ray.search.space import Space
from tests.facts import raises

SCHEMA = EventSchema(task="toy", columns=(Column(name="x", shape=(3,)),), classes=("a", "b"))
SPACE = Space(model="mlp", loss="cross_entropy", optimizer="adam", learning_rate=LogUniform(1e-4, 1e-1))
SEARCH = Search(name="toy", task="toy", title="", space=SPACE, presets={})


class Raises(Scheduler):
    def report(self, trial_id: str, epoch: int, metrics: Any) -> Any:
        return metrics["val_acuracy"]


class Forgets(Scheduler):
    def start(self, goal: Any) -> None:
        self.curves: dict[str, float] = {}

    def report(self, trial_id: str, epoch: int, metrics: Any) -> Any:
        return "stop" if metrics[self.goal.metric] < 0 else "go on"


class Answers(Scheduler):
    def report(self, trial_id: str, epoch: int, metrics: Any) -> Any:
        return "halt" if epoch > 2 else "go on"


class AnswersTheWorse(Scheduler):
    best = 0.0

    def report(self, trial_id: str, epoch: int, metrics: Any) -> Any:
        if metrics[self.goal.metric] < self.best:
            return "halt"
        self.best = metrics[self.goal.metric]
        return "go on"


class PausesUnsaid(Scheduler):
    def report(self, trial_id: str, epoch: int, metrics: Any) -> Any:
        return "pause"


class Begins(Scheduler):
    def begin(self, trial_id: str, params: Any) -> Any:
        return "3"


class TakesUpAName(Scheduler):
    pauses = True

    def begin(self, trial_id: str, params: Any) -> int:
        return 2

    def take_up(self) -> Any:
        return "t0000"


class TakesUpNobody(TakesUpAName):
    def take_up(self) -> Any:
        return TakeUp("t0123", 4, "why not")


class Sound(TakesUpAName):
    def start(self, goal: Any) -> None:
        super().start(goal)
        self.waiting: list[str] = []

    def begin(self, trial_id: str, params: Any) -> Any:
        return np.int64(1)

    def report(self, trial_id: str, epoch: int, metrics: Any) -> Any:
        self.waiting += [trial_id] if epoch == 1 else []
        return "go on" if epoch < 3 or metrics["val_loss"] + metrics["epoch_seconds"] > 0 else "stop"

    def take_up(self) -> Any:
        return TakeUp(self.waiting[0], 4, "two wait") if len(self.waiting) > 1 else None

    def went_on(self, trial_id: str, until: int) -> None:
        self.waiting.remove(trial_id)


class BadSampler(RandomSampler):
    def sample_independent(self, *_: Any) -> Any:
        raise RuntimeError("no draw")


def no_sampler(seed: int) -> Any:
    return optuna.samplers.TPESampler(seed=seed, startup=3)


@pytest.mark.parametrize(
    ("given", "error", "facts"),
    [
        ({"scheduler": Raises()}, PluginFailed, ["test_rehearsal.py", "KeyError", "'val_acuracy'", "Raises"]),
        ({"scheduler": Forgets()}, PluginFailed, ["test_rehearsal.py", "goal", "Forgets"]),
        ({"scheduler": Answers()}, InvalidConfig, ["'halt'", "'go on'", "Answers"]),
        ({"scheduler": AnswersTheWorse()}, InvalidConfig, ["'halt'", "AnswersTheWorse"]),
        ({"scheduler": PausesUnsaid()}, InvalidConfig, ["'pause'", "pauses = True"]),
        ({"scheduler": Begins()}, InvalidConfig, ["'3'", "Begins", "None"]),
        ({"scheduler": TakesUpAName(), "sampler": "random"}, InvalidConfig, ["'t0000'", "TakeUp"]),
        ({"scheduler": TakesUpNobody(), "sampler": "random"}, InvalidConfig, ["'t0123'", "TakesUpNobody"]),
        ({"sampler": BadSampler(seed=0)}, PluginFailed, ["test_rehearsal.py", "no draw", "BadSampler"]),
        ({"sampler": no_sampler}, PluginFailed, ["test_rehearsal.py", "'startup'", "no_sampler"]),
        ({"sampler": lambda _: 5}, InvalidConfig, ["5"]),
        ({"sampler": GridSampler({"momentum": [0.5]})}, InvalidConfig, ["GridSampler", "learning_rate"]),
    ],
)
def test_what_would_end_a_search_in_its_midst_is_refused_before(
    given: dict[str, Any], error: type[HepRayError], facts: list[str]
) -> None:
    with raises(error, *facts):
        rehearse(SEARCH, Preset(epochs=6, trials=9, **given), SPACE, SCHEMA)


@pytest.mark.parametrize(
    "given", [{"scheduler": Sound(), "sampler": "tpe"}, {"sampler": RandomSampler(seed=1)}]
)
def test_what_is_sound_is_taken_and_not_changed(given: dict[str, Any]) -> None:
    rehearse(SEARCH, Preset(epochs=6, trials=9, **given), SPACE, SCHEMA)
    assert not hasattr(given.get("scheduler"), "waiting")


def wrapped(fault: Exception) -> None:
    """Raise as Tune does."""
    try:
        raise fault
    except InvalidConfig:
        raise TuneError("a traceback")  # noqa: B904


def test_a_named_error_is_found_in_what_tune_makes_of_it() -> None:
    fault = InvalidConfig("the scheduler answered nonsense")
    with pytest.raises(TuneError) as caught:
        wrapped(fault)
    assert list(_chain(caught.value)) == [caught.value, fault]
    assert not list(_chain(None))
