"""What a journal tells of a search that was extended or resumed with other flags; journals of before are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hep_ray.config import FORMERLY
from hep_ray.search.options import SearchOptions
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import (
    EpochFinished,
    OptionsChanged,
    SearchFinished,
    SearchStarted,
    TrialFinished,
    TrialStarted,
    decode,
)

OLD = {
    "kind": "search_started",
    "time": 0,
    "search": "toy",
    "search_id": "ab",
    "dataset_fingerprint": "f",
    "task": "toy",
    "metric": "val_auc",
    "mode": "max",
    "epochs": 3,
    "sampler": "tpe",
    "scheduler": "none",
    "seed": 0,
    "space": {},
    "provenance": {},
    "points_to_evaluate": [{"model": "likelihood"}],
    "options": {"preset": "laptop", "trials": 2, "epochs": None, "epoch_timeout": 60.0, "cache": "resident"},
}
"""The first line of a journal of before, which knows of no other default and of no change of flags."""


def drawn(number: int) -> TrialStarted:
    return TrialStarted(time=0, trial_id=f"t{number}", number=number, params={}, seed=0)


def ended(number: int) -> TrialFinished:
    return TrialFinished(time=0, trial_id=f"t{number}", status="completed")


def changed(**options: Any) -> OptionsChanged:
    return OptionsChanged(time=0, options={**OLD["options"], **options})  # type: ignore[dict-item]


def started() -> SearchStarted:
    record = decode(json.dumps(OLD))
    assert isinstance(record, SearchStarted)
    return record


def whole() -> SearchState:
    """A reference and two trials, all ended."""
    records = [one for number in range(3) for one in (drawn(number), ended(number))]
    return SearchState.fold([started(), *records, SearchFinished(time=0)])


def test_trials_that_have_begun_always_count() -> None:
    state = whole()
    assert (state.to_run(3), state.to_run(10)) == (0, 7)
    for number in (3, 4):
        state.apply(drawn(number))
    state.apply(ended(3))
    # Five drawn, one of them unfinished: a total of three, as an older journal says, does not hide it.
    assert (state.to_run(3), state.to_run(5), state.to_run(10)) == (1, 1, 6)


def test_flags_of_a_resume_hold_from_then_on() -> None:
    state = whole()
    assert state.finished
    state.apply(changed(epoch_timeout=5.0))
    assert state.finished
    state.apply(changed(trials=9, memory_budget=2.0))
    assert not state.finished
    assert state.started is not None
    assert state.started.options == {**OLD["options"], "trials": 9, "memory_budget": 2.0}  # type: ignore[dict-item]
    assert state.started.model_copy(update={"options": OLD["options"]}) == started()


def test_a_record_of_changed_flags_is_read_back() -> None:
    record = changed(trials=9)
    assert decode(record.model_dump_json()) == record


def test_a_journal_of_before_says_what_its_trials_leave_unstated() -> None:
    assert started().unstated == FORMERLY


def test_a_plain_resume_takes_the_flags_last_given_and_another_preset_its_own_numbers() -> None:
    given = dict.fromkeys(("data", "preset", "trials", "epochs", "seed", "epoch_timeout", "memory_budget"))
    state = whole()
    state.apply(changed(trials=9, memory_budget=2.0, data="events"))
    assert state.started is not None
    plain = SearchOptions.from_flags(given, state.started.options, "toy")
    assert (plain.trials, plain.memory_budget, plain.epoch_timeout) == (9, 2.0, 60.0)
    assert plain.data == Path("events")
    other = SearchOptions.from_flags({**given, "preset": "long"}, state.started.options, "toy")
    assert (other.preset, other.trials, other.epochs, other.memory_budget) == ("long", None, None, 2.0)


def test_the_best_epoch_is_the_first_of_the_best_so_far_however_often_it_is_asked_for() -> None:
    state = SearchState.fold([started(), drawn(0)])
    trial = state.trials["t0"]
    assert trial.best("val_auc", "max") is None
    values = [0.5, 0.7, 0.4, 0.7, 0.9, 0.2]
    for epoch, value in enumerate(values, start=1):
        state.apply(
            EpochFinished(
                time=0, trial_id="t0", metrics={"epoch": epoch, "val_auc": value, "val_loss": value}
            )
        )
        so_far = values[:epoch]
        for metric, mode, pick in (("val_auc", "max", max), ("val_loss", "min", min)):
            best = trial.best(metric, mode)
            assert best is not None
            assert best["epoch"] == 1 + so_far.index(pick(so_far))
