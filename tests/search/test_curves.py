"""The searcher that follows learning curves: what it decides, and that the same history decides the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from hep_ray import Choice, Integer, LogUniform, Space, Uniform
from hep_ray.search.curves import CurveSearcher
from hep_ray.search.curves_gp import Kernel, Process, fit, log_expected_gain
from hep_ray.search.curves_space import Encoding
from hep_ray.search.curves_trials import Step, milestones
from hep_ray.search.parameters import Mapped

EPOCHS = 27
MIXED = Space(
    model=Choice("mlp", "gradient_boosting"),
    optimizer=Choice("adam", "sgd"),
    learning_rate=LogUniform(1e-4, 1e-1),
    momentum=Uniform(0.5, 0.99).when(optimizer="sgd"),
    batch_size=Choice(256, 64, 1024),
    hidden_layers=Integer(1, 4).when(model="mlp"),
    weight_decay=Mapped("optimizer", {"adam": 0.0, "sgd": 1e-4}),
    max_iter=Integer(50, 400).when(model="gradient_boosting"),
)
PLAIN = Space(
    model="mlp", learning_rate=LogUniform(1e-4, 1e-1), dropout=Uniform(0, 0.5), weight_decay=Uniform(0, 1)
)


def quality(params: dict[str, Any]) -> float:
    """Value of a configuration of PLAIN in full: 0.9 at best, in a corner of two of its parameters."""
    away = (
        (math.log10(params["learning_rate"]) + 2.3) ** 2
        + 4 * params["dropout"] ** 2
        + params["weight_decay"] ** 2
    )
    return 0.9 - 0.3 * math.tanh(away)


def value(params: dict[str, Any], epoch: int) -> float:
    """Value after an epoch: fast learners are ahead at first."""
    return quality(params) - 0.4 * math.exp(-epoch * 30 * params["learning_rate"] ** 0.5)


class Run:
    """Workers that train what a searcher decides, in turns that are drawn."""

    def __init__(self, searcher: CurveSearcher, workers: int, seed: int = 0) -> None:
        self.searcher, self.workers = searcher, workers
        self.rng = np.random.default_rng(seed)
        self.running: dict[int, tuple[Step, int]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.best = -math.inf
        self.spent = 0

    def call(self, name: str, *given: Any, **named: Any) -> None:
        """Tell the searcher, and keep what it was told."""
        self.calls.append((name, given, named))
        getattr(self.searcher, name)(*given, **named)

    def turn(self, trouble: float = 0.0) -> None:
        """Start what can be, then let one worker train for an epoch."""
        while len(self.running) < self.workers and (step := self.searcher.next()) is not None:
            self.calls.append(("took", (step,), {}))
            self.running[step.trial] = (step, step.start)
        if not self.running:
            return
        trial = int(self.rng.choice(list(self.running)))
        step, epoch = self.running[trial]
        fate = self.rng.random()
        if fate < trouble:
            del self.running[trial]
            if fate < trouble / 3:
                self.call("released", trial)
            else:
                self.call("ended", trial, failed=fate < trouble / 2)
            return
        shown = value(step.params, epoch + 1) if fate > trouble * 1.1 else math.nan
        self.call("report", trial, epoch + 1, shown)
        self.spent += 1
        self.best = max(self.best, shown if math.isfinite(shown) else -math.inf)
        self.running[trial] = (step, epoch + 1)
        if epoch + 1 == step.until or not math.isfinite(shown):
            del self.running[trial]


def searched(seed: int, epochs: int, **given: Any) -> Run:
    run = Run(CurveSearcher(PLAIN, EPOCHS, seed=seed, **given), workers=4, seed=seed)
    while run.spent < epochs:
        run.turn()
    return run


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), workers=st.integers(1, 32), turns=st.integers(30, 150))
def test_a_journal_restores_the_searcher(seed: int, workers: int, turns: int) -> None:
    """A searcher that took the decisions of another in place of making them decides the same from then on."""
    run = Run(CurveSearcher(PLAIN, EPOCHS, seed=seed), workers, seed)
    for _ in range(turns):
        run.turn(trouble=0.05)
    again = CurveSearcher(PLAIN, EPOCHS, seed=seed)
    for name, told, named in run.calls:
        getattr(again, name)(*told, **named)
    assert [again.next() for _ in range(3)] == [run.searcher.next() for _ in range(3)]


def test_only_trial_params_and_epochs_of_a_decision_are_needed() -> None:
    run = searched(3, 200)
    again = CurveSearcher(PLAIN, EPOCHS, seed=3)
    for name, told, named in run.calls:
        bare = tuple(Step(one.trial, one.params, one.start, one.until) for one in told if name == "took")
        getattr(again, name)(*(bare or told), **named)
    assert again.next() == run.searcher.next()


def test_another_seed_searches_elsewhere() -> None:
    assert searched(1, 30).calls != searched(2, 30).calls


@pytest.mark.slow
@pytest.mark.ci
def test_it_leaves_random_search_far_behind() -> None:
    """Of the regret of as many epochs of random trainings in full, a fifth is left at most; medians of five seeds."""
    epochs = 12 * EPOCHS
    encoding = Encoding(PLAIN)
    ours = [0.9 - searched(seed, epochs).best for seed in range(5)]
    chance = []
    for seed in range(5):
        drawn = np.random.default_rng(seed).random((12, encoding.genes))
        chance.append(0.9 - max(value(encoding.params(genes), EPOCHS) for genes in drawn))
    assert np.median(ours) < np.median(chance) / 5


def test_less_can_be_better() -> None:
    """A loss that is to fall and its negative that is to rise are searched alike, in any units."""
    up, down = CurveSearcher(PLAIN, EPOCHS, seed=5), CurveSearcher(PLAIN, EPOCHS, seed=5, mode="min")
    for _ in range(40):
        one, other = up.next(), down.next()
        assert one is not None
        assert other is not None
        assert (one.trial, one.params, one.until) == (other.trial, other.params, other.until)
        for epoch in range(one.start + 1, one.until + 1):
            up.report(one.trial, epoch, value(one.params, epoch))
            down.report(one.trial, epoch, -value(one.params, epoch))


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_values_of_any_scale_make_the_same_search(scale: float) -> None:
    plain, scaled = CurveSearcher(PLAIN, EPOCHS, seed=5), CurveSearcher(PLAIN, EPOCHS, seed=5)
    for _ in range(30):
        one, other = plain.next(), scaled.next()
        assert one is not None
        assert other is not None
        assert (one.trial, one.until) == (other.trial, other.until)
        for epoch in range(one.start + 1, one.until + 1):
            plain.report(one.trial, epoch, value(one.params, epoch))
            scaled.report(one.trial, epoch, scale * (value(one.params, epoch) - 0.5))


def test_trials_pause_at_milestones_and_end_with_the_last() -> None:
    assert milestones(52) == [3, 5, 8, 12, 20, 32, 52]
    assert milestones(1) == [1]
    assert milestones(4)[-1] == 4
    marks = {0, *milestones(EPOCHS)}
    for name, told, _ in searched(0, 400).calls:
        if name == "took":
            assert told[0].start in marks
            assert told[0].until in marks
            assert told[0].start < told[0].until


def test_it_trains_few_trials_in_full() -> None:
    """Most configurations are seen for a few epochs, and the best in full."""
    searcher = searched(0, 600).searcher
    epochs = [one.epoch for one in searcher._trials]
    assert np.median(epochs) < EPOCHS / 2
    assert max(epochs) == EPOCHS


def test_references_come_first_and_in_full() -> None:
    points = [{"model": "mlp", "learning_rate": 1e-3}, {"model": "gradient_boosting", "max_iter": 99}]
    searcher = CurveSearcher(PLAIN, EPOCHS, points=points)
    steps = [searcher.next() for _ in range(3)]
    assert [step.params for step in steps[:2] if step] == points
    assert [step.until for step in steps if step] == [EPOCHS, EPOCHS, milestones(EPOCHS)[0]]


def test_thirty_two_workers_get_different_configurations() -> None:
    searcher = CurveSearcher(PLAIN, EPOCHS)
    steps = [searcher.next() for _ in range(32)]
    assert len({str(step.params) for step in steps if step}) == 32


def test_limits_of_trials_and_epochs_are_kept() -> None:
    run = searched(0, 100, trials=10, budget=100)
    assert run.searcher.next() is None
    assert len(run.searcher._trials) <= 10
    assert run.spent == 100
    assert run.searcher.finished


def test_a_small_space_is_searched_once() -> None:
    space = Space(model="mlp", batch_size=Choice(32, 64, 128), activation=Choice("relu", "gelu"))
    searcher = CurveSearcher(space, 9)
    steps = []
    while (step := searcher.next()) is not None:
        steps.append(step)
        for epoch in range(step.start + 1, step.until + 1):
            searcher.report(step.trial, epoch, math.log(step.params["batch_size"]) + epoch)
    assert len({str(step.params) for step in steps}) == 6
    assert sum(step.start == 0 for step in steps) == 6
    assert sum(step.until - step.start for step in steps) == 54
    assert searcher.finished


def test_a_small_space_is_begun_otherwise_with_another_seed() -> None:
    space = Space(model="mlp", batch_size=Choice(16, 32, 64), weight_decay=Choice(0.0, 0.1, 0.2, 0.3))
    begun = set()
    for seed in range(8):
        step = CurveSearcher(space, 3, seed=seed).next()
        assert step is not None
        begun.add(tuple(step.params.items()))
    assert len(begun) > 2


def test_a_reference_of_a_small_space_is_not_trained_again() -> None:
    space = Space(model="mlp", batch_size=Choice(32, 64), weight_decay=Choice(0.0, 0.1, 0.2))
    inside = {"model": "mlp", "batch_size": 64, "weight_decay": 0.1}
    outside = {"model": "mlp", "batch_size": 64, "weight_decay": 0.5}  # coded as one in the middle
    searcher = CurveSearcher(space, 3, points=[inside, outside])
    opened = []
    while (step := searcher.next()) is not None:
        opened += [step.params] if step.start == 0 else []
        for epoch in range(step.start + 1, step.until + 1):
            searcher.report(step.trial, epoch, 0.5 + epoch / 10)
    assert len(opened) == 7  # six of the space, one of which is a reference, and the other
    assert all(opened.count(one) == 1 for one in opened)


def test_where_trainings_diverge_few_go_on() -> None:
    """Every training with a learning rate above 0.01 diverges at once: a third of the space."""
    searcher, drawn = CurveSearcher(PLAIN, EPOCHS, seed=1), []
    for _ in range(80):
        step = searcher.next()
        assert step is not None
        if step.start == 0:
            drawn.append(step.params["learning_rate"] > 0.01)
        for epoch in range(step.start + 1, step.until + 1):
            diverges = step.params["learning_rate"] > 0.01
            searcher.report(step.trial, epoch, math.nan if diverges else value(step.params, epoch))
            if diverges:
                break
    assert np.mean(drawn[-20:]) < 0.3


def test_a_model_that_is_fitted_at_once_counts_as_trained_in_full() -> None:
    searcher = CurveSearcher(MIXED, EPOCHS)
    fitted = None
    while fitted is None:
        step = searcher.next()
        assert step is not None
        searcher.report(step.trial, 1, 0.7)
        if step.params["model"] == "gradient_boosting":
            fitted = step.trial
        searcher.ended(step.trial)
    assert searcher._trials[fitted].epoch == EPOCHS


def test_only_failures() -> None:
    searcher = CurveSearcher(PLAIN, EPOCHS)
    for _ in range(30):
        step = searcher.next()
        assert step is not None
        assert step.start == 0
        searcher.report(step.trial, 1, math.inf)


def test_a_lost_trial_is_taken_up_where_it_was() -> None:
    searcher = CurveSearcher(PLAIN, EPOCHS)
    step = searcher.next()
    assert step is not None
    searcher.report(step.trial, 1, 0.5)
    searcher.released(step.trial)
    again = searcher.next()
    assert again is not None
    assert (again.trial, again.params, again.start, again.until) == (step.trial, step.params, 1, step.until)


def test_it_says_why_and_where_trials_end() -> None:
    run = searched(2, 500)
    told = [told[0].why for name, told, _ in run.calls if name == "took"]
    assert any("goes on to epoch" in why and "% to beat 0." in why for why in told)
    best = max(run.searcher._trials, key=lambda one: one.best if one.epoch < EPOCHS else -1)
    predicted = run.searcher.prediction(best.number)
    assert predicted is not None
    assert best.best <= predicted.low <= predicted.mean <= predicted.high
    assert predicted.mean == pytest.approx(max(best.best, quality(best.params)), abs=0.05)


def test_every_kind_of_parameter_survives_its_code() -> None:
    encoding = Encoding(MIXED)
    genes = np.random.default_rng(0).random((200, encoding.genes))
    kinds = set()
    for row in genes:
        params = encoding.params(row)
        kinds.add(tuple(params))
        back = encoding.params(encoding.of(params))
        assert back == pytest.approx(params)
        np.testing.assert_allclose(
            encoding.codes(encoding.of(params)[None]), encoding.codes(row[None]), atol=1e-9
        )
        assert ("momentum" in params) == (params.get("optimizer") == "sgd")
        assert ("hidden_layers" in params) == (params["model"] == "mlp")
        assert params.get("weight_decay") == {"adam": 0.0, "sgd": 1e-4}.get(params.get("optimizer", ""))
    assert len(kinds) == 3


def test_a_range_in_steps_gives_its_steps_and_equal_ones_the_same_code() -> None:
    space = Space(model="mlp", dropout=Uniform(0.1, 0.5, step=0.2), learning_rate=LogUniform(1e-4, 1e-1))
    encoding = Encoding(space)
    genes = np.random.default_rng(0).random((200, encoding.genes))
    values = [encoding.params(one)["dropout"] for one in genes]
    assert {round(value, 9) for value in values} == {0.1, 0.3, 0.5}
    codes = encoding.codes(genes)[:, [one.name for one in encoding._genes].index("dropout")]
    assert {(round(value, 9), code) for value, code in zip(values, codes, strict=True)} == {
        (0.1, 0.0),
        (0.3, 0.5),
        (0.5, 1.0),
    }


def test_a_space_of_every_kind_is_searched() -> None:
    searcher = CurveSearcher(MIXED, 9, seed=0)
    models = []
    for _ in range(60):
        step = searcher.next()
        assert step is not None
        models.append(step.params["model"])
        for epoch in range(step.start + 1, step.until + 1):
            searcher.report(step.trial, epoch, (step.params["model"] == "mlp") + epoch / 100)
    assert models[-15:].count("mlp") > 10


def test_a_process_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    codes, values, asked = rng.random((12, 2)), rng.normal(size=12), rng.random((5, 2))
    kernel = Kernel(np.array([0.4, 0.7]), 1.0, 1.0, 0.0, 0.0, 1e-2, np.array([0, 1]), np.ones((2, 2)))
    process = Process(kernel, codes, np.ones(12), values)
    mean, spread = process.spread(asked, np.ones(5))
    regressor = GaussianProcessRegressor(Matern([0.4, 0.7], nu=2.5), alpha=1e-2 + 1e-6, optimizer=None)
    theirs = regressor.fit(codes, values)
    expected, deviation = theirs.predict(asked, return_std=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(spread, deviation, rtol=1e-6)
    mean, covariance = process.joint(asked, np.ones(5))
    expected, between = theirs.predict(asked, return_cov=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_allclose(covariance, between, atol=1e-7)


def test_what_is_awaited_narrows_and_does_not_move_the_prediction() -> None:
    rng = np.random.default_rng(1)
    codes, values, asked = rng.random((8, 2)), rng.normal(size=6), rng.random((5, 2))
    kernel = Kernel(np.array([0.4, 0.7]), 0.5, 0.6, 0.3, 0.2, 1e-2, np.array([0, 1]), np.ones((2, 2)))
    times = np.linspace(0, 1, 8)
    mean, spread = Process(kernel, codes[:6], times[:6], values).spread(asked, np.ones(5))
    also, narrower = Process(kernel, codes, times, values).spread(asked, np.ones(5))
    np.testing.assert_allclose(also, mean, rtol=1e-6)
    assert (narrower < spread).all()


def test_fitted_lengths_tell_which_parameter_matters() -> None:
    rng = np.random.default_rng(0)
    codes = rng.random((60, 3))
    values = np.sin(6 * codes[:, 0])
    kernel = fit(codes, np.ones(60), values - values.mean(), Kernel.start(np.arange(3)), flat=True)
    assert kernel.lengths[0] < min(kernel.lengths[1:]) / 2


def test_a_parameter_that_matters_near_a_bound_alone_is_bent() -> None:
    """A weight decay on a linear scale: all of it happens below a twentieth of its range."""
    rng = np.random.default_rng(4)
    codes, far = rng.random((80, 2)), rng.random((200, 2))

    def value(codes: Any) -> Any:
        return np.log(codes[:, 0] + 1e-2) + 0.5 * codes[:, 1]

    values = value(codes)
    scaled = (values - values.mean()) / values.std()
    told = {
        bend: fit(codes, np.ones(80), scaled, Kernel.start(np.arange(2)), flat=True, bend=bend)
        for bend in (True, False)
    }
    low, high = told[True].bends[:, 0]
    assert low < 0.7
    assert np.all(told[False].bends == 1)
    truth = (value(far) - values.mean()) / values.std()
    error = {
        bend: np.abs(Process(kernel, codes, np.ones(80), scaled).mean(far, 1.0) - truth).mean()
        for bend, kernel in told.items()
    }
    assert error[True] < 0.7 * error[False]
    second = fit(codes, np.ones(80), scaled, Kernel.start(np.arange(2)), bend=np.array([False, True]))
    assert np.all(second.bends[:, 0] == 1)
    assert np.all(second.bends[:, 1] != 1)
    # the model, learning rate and size of a batch: one range between two choices
    assert Encoding(MIXED).ranges[[0, 2, 4]].tolist() == [False, True, False]
    bent = told[True].bent(np.array([[0.05, 0.05], [0.5, 0.5]]))
    assert bent[:, 0] == pytest.approx(1 - (1 - np.array([0.05, 0.5]) ** low) ** high)
    assert bent[0, 0] > 0.4


def test_the_logarithm_of_the_expected_gain() -> None:
    mean, spread = np.array([0.0, 1.0, -3.0]), np.array([1.0, 0.5, 0.7])
    drawn = np.random.default_rng(0).normal(size=(2_000_000, 1)) * spread + mean
    simulated = np.log(np.maximum(drawn - 0.2, 0).mean(0))
    np.testing.assert_allclose(log_expected_gain(mean, spread, 0.2)[:2], simulated[:2], atol=0.01)
    far = log_expected_gain(np.array([-5.99, -6.01, -40.0]), np.ones(3), 0.0)
    assert far[0] > far[1] > far[2]
    assert far[0] - far[1] == pytest.approx(0.13, abs=0.1)


def test_a_trial_that_failed_is_nothing_to_beat():
    """The first shows 5 and fails: no decision aims at it, and nothing is sought around it."""
    searcher = CurveSearcher(PLAIN, EPOCHS, seed=3)
    aims = []
    for _ in range(120):
        step = searcher.next()
        assert step is not None
        for epoch in range(step.start + 1, step.until + 1):
            searcher.report(step.trial, epoch, 5.0 if step.trial == 0 else value(step.params, epoch))
        if step.trial == 0:
            searcher.ended(0, failed=True)
            first = searcher._trials.genes[0].copy()
        if "to beat" in step.why:
            aims.append(float(step.why.split()[-1]))
    assert aims
    assert max(aims) < 0.9
    assert not (searcher._candidates.tops() == first).all(1).any()
    assert searcher._trials.best != 0
    assert searcher._full_process(searcher._seen())[1] < 4
