"""A search that ends when nothing above the noise is left to gain: what is left, when it ends, and how it goes on."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hep_ray.errors import InvalidConfig
from hep_ray.search import curves
from hep_ray.search.curves import CurveSearcher
from hep_ray.search.curves_gain import gain_left, noise_of
from hep_ray.search.curves_gp import Kernel, Process, Warp
from hep_ray.search.definition import Preset
from hep_ray.search.options import SearchOptions
from hep_ray.search.preflight import check_read
from hep_ray.search.progress import Progress
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import NoGainLeft, OptionsChanged, SearchStarted, TrialStarted
from tests.facts import raises, tells
from tests.search.simulated import RANGES, Simulated, height, told

MADE = Preset(epochs=9, trials=60, sampler="curves")


def begun(**options: Any) -> SearchStarted:
    return SearchStarted(
        time=0, search="toy", search_id="a", dataset_fingerprint="f", task="toy", metric="val_accuracy", mode="max",
        epochs=9, sampler="curves", scheduler="curves", seed=0, provenance={}, options=options,
    )  # fmt: skip


def smooth(params: dict[str, Any], epoch: int) -> float:
    """Curves without noise, that all saturate by the last epoch."""
    return height(params) * (1 - math.exp(-epoch))


def epochs_of(run: Simulated) -> int:
    return sum(len(trial.history) for trial in run.state.drawn())


def test_what_is_left_is_the_expected_height_of_the_highest_above_the_best() -> None:
    """Far from all that was seen values are independent: of a few, the mean of the highest of as many normals."""
    kernel = Kernel(np.array([0.01]), 1.0, 1.0, 0.0, 0.0, 1e-4, np.array([0]), np.ones((2, 1)))
    process = Process(kernel, np.array([[0.1]]), np.ones(1), np.array([1.5]))
    asked = np.array([[0.5], [0.7], [0.9], [0.1]])
    left = gain_left(process, asked, np.ones(4), lambda rise: 7.0 + 3 * rise, np.random.default_rng(0))
    highest = np.random.default_rng(1).normal(size=(100_000, 3)).max(1)
    assert left == pytest.approx(3 * np.maximum(highest - 1.5, 0).mean(), rel=0.3)
    nothing = gain_left(
        process, asked[-1:], np.ones(1), lambda rise: 7.0 + 3 * rise, np.random.default_rng(0)
    )
    assert nothing == 0


def test_the_noise_of_a_value_is_told_in_units_of_the_metric() -> None:
    values = np.linspace(0.0, 1.0, 21)
    warp = Warp(values)
    seen = warp.standardise(values)
    kernel = Kernel(np.array([0.1]), 1.0, 1.0, 0.0, 0.0, 1e-2, np.array([0]), np.ones((2, 1)))
    process = Process(kernel, values[:, None], np.ones(21), seen)
    below = float(warp(np.array(1.0))) - 0.1
    assert noise_of(process, warp, 1.0) == pytest.approx(1.0 - warp.back(below))


@pytest.mark.slow
@pytest.mark.ci
def test_it_ends_before_its_epochs_are_spent_and_trains_the_best_in_full() -> None:
    whole = Simulated(MADE, RANGES, [begun(until_no_gain=True)])
    expected = whole.run()
    (ended,) = (record for record in whole.state.records if isinstance(record, NoGainLeft))
    assert epochs_of(whole) < 0.7 * 60 * 9
    assert 0 <= ended.gain < ended.noise
    assert whole.state.trials[ended.trial_id].status == "completed"
    after = whole.state.records[whole.state.records.index(ended) :]
    assert not any(isinstance(record, TrialStarted) for record in after)
    records = whole.state.records
    at = records.index(ended)
    for cut in (at // 2, at, at + 1, len(records)):
        assert Simulated(MADE, RANGES, records[:cut]).run() == expected, cut
    alone = Simulated(MADE, RANGES, [begun()])
    alone.run()
    assert epochs_of(alone) == 60 * 9
    assert told(alone.state.records)[1:at] == told(records)[1:at]  # until then it decides as any other


@pytest.mark.slow
@pytest.mark.ci
def test_the_statistical_error_decides_where_the_metric_has_one() -> None:
    """Ten times smaller an error is searched for longer; where all is told apart, to the last of the epochs."""
    spent = {}
    for error in (1e-2, 1e-3, 1e-6):
        run = Simulated(MADE, RANGES, [begun(until_no_gain=True)], value=smooth, error=error)
        run.run()
        spent[error] = epochs_of(run)
        assert run.state.no_gain is None or run.state.no_gain.noise == error
    assert spent[1e-2] < spent[1e-3] < spent[1e-6] == 60 * 9


@pytest.mark.slow
@pytest.mark.ci
def test_it_goes_on_where_it_is_told_to() -> None:
    first = Simulated(MADE, RANGES, [begun(until_no_gain=True)])
    first.run()
    changed = OptionsChanged(time=0, options={"until_no_gain": False, "trials": 60})
    again = Simulated(MADE, RANGES, [*first.state.records, changed])
    assert again.state.no_gain is None
    again.run()
    assert epochs_of(again) > epochs_of(first) + 9


def test_other_options_that_change_do_not_take_back_that_nothing_is_left_to_gain() -> None:
    given = {"until_no_gain": True, "trials": 60, "preset": "full"}
    ended = [begun(**given), NoGainLeft(time=0, gain=0.0, noise=0.1, trial_id="t0007")]
    for changes, ends in (
        ({"readers": 2}, True),
        ({"epoch_timeout": 60.0, "cache": "resident"}, True),
        ({"trials": 80}, False),
        ({"until_no_gain": False}, False),
        ({"preset": "laptop", "trials": None}, False),
    ):
        state = SearchState.fold([*ended, OptionsChanged(time=0, options={**given, **changes})])
        assert (state.no_gain is not None) is ends, changes


def test_a_trial_that_failed_is_not_the_best_that_is_trained_in_full() -> None:
    searcher = CurveSearcher(RANGES, 9, seed=0)
    for _ in range(6):
        step = searcher.next()
        assert step is not None
        for epoch in range(step.start + 1, step.until + 1):
            searcher.report(step.trial, epoch, 2.0 if step.trial == 0 else smooth(dict(step.params), epoch))
    searcher.ended(0, failed=True)
    bests = {trial: searcher._trials[trial].best for trial in searcher._trials.paused}
    training = searcher.best_in_full()
    assert training is not None
    assert training.trial == max(bests, key=lambda trial: bests[trial])


def test_a_trial_that_failed_is_no_best_above_which_a_gain_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "LEAST_FULL", 2)
    monkeypatch.setattr(curves, "LEAST_OPENED", 4)
    searcher = CurveSearcher(RANGES, 9, seed=0)
    while searcher.gain_left() is None:
        step = searcher.next()
        assert step is not None
        for epoch in range(step.start + 1, step.until + 1):
            searcher.report(step.trial, epoch, 2.0 if step.trial == 0 else smooth(dict(step.params), epoch))
    searcher.ended(0, failed=True)
    looked: list[Any] = []
    monkeypatch.setattr(
        curves, "gain_left", lambda _process, codes, *_: looked.append(codes[-1].tolist()) or 0.0
    )
    assert searcher.gain_left() is not None
    best = max(range(1, len(searcher._trials)), key=lambda trial: searcher._trials[trial].best)
    assert looked == 2 * [searcher._trials.codes[best].tolist()]


def test_a_sampler_that_knows_no_gain_is_refused_and_the_end_is_told() -> None:
    with raises(InvalidConfig, "--until-no-gain", "'tpe'", "curves"):
        check_read(Preset(epochs=9, trials=4), SearchOptions(data=".", until_no_gain=True))  # type: ignore[arg-type]
    console = Console(file=io.StringIO(), width=400)
    shown = Progress(SearchState.fold([begun()]), 60, 9, "val_accuracy", "max", console)
    shown.record(NoGainLeft(time=0, gain=0.00021, noise=0.0013, trial_id="t0007"))
    told_of = console.file.getvalue()  # type: ignore[attr-defined]
    assert tells(told_of, "val_accuracy", "0.00021", "0.0013", "t0007", "--no-until-no-gain")
