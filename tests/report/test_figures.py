"""The numbers behind the figures, against scikit-learn and by hand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from hep_ray.dataset.dataset import Manifest
from hep_ray.errors import DuplicateName, UnknownName
from hep_ray.metrics.labels import metric_words
from hep_ray.report.figures import FIGURES, Drawn, figure, of_section
from hep_ray.report.figures.bars import Bar, bars, epochs_of
from hep_ray.report.figures.classes import (
    calibration,
    confusion,
    confusion_shares,
    distributions,
    reliability_points,
    score_densities,
)
from hep_ray.report.figures.parameters import ABSENT, coordinate, round_places
from hep_ray.report.figures.roc import gains, roc_band
from hep_ray.report.figures.scaling import Scaling, fitted_law, scalings
from hep_ray.report.figures.trials import predicted_ends
from hep_ray.report.formatting import axis_label
from hep_ray.report.groups import groups_of
from hep_ray.report.plotting import bulk, outside, spread
from hep_ray.report.report_data import ReportData, gather
from hep_ray.report.scores import (
    EFFICIENCIES,
    SCORE_BINS,
    THRESHOLDS,
    Scored,
    Scores,
    accuracy_by_threshold,
    performance_of,
)
from hep_ray.report.tables import accuracies
from hep_ray.search.naming import interval, plus_minus
from hep_ray.search.published import StudyTable
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.records import EpochFinished, TrialPaused, TrialStarted
from tests.facts import raises

LABELS = np.arange(300) % 3


@pytest.fixture
def probabilities(scores_of: Callable[..., np.ndarray]) -> np.ndarray:
    return scores_of(LABELS, 3, 1.5, seed=0).astype(np.float64)


@pytest.fixture
def two_runs(scores_of: Callable[..., np.ndarray]) -> Scored:
    runs = tuple(performance_of(scores_of(LABELS, 3, 1.5, seed=seed), LABELS, 2) for seed in (1, 2))
    return Scored("t0000", baseline=False, runs=runs)


def test_rates_and_areas_are_those_of_scikit_learn(probabilities: np.ndarray) -> None:
    found = performance_of(probabilities, LABELS, 2)
    false, true, thresholds = sklearn_roc_curve(LABELS == 2, probabilities[:, 2], drop_intermediate=False)
    cut = [int(np.flatnonzero(true >= efficiency - 1e-12)[0]) for efficiency in EFFICIENCIES]
    np.testing.assert_allclose(found.background_efficiency, false[cut])
    assert found.auc == pytest.approx(roc_auc_score(LABELS == 2, probabilities[:, 2]))
    for point in found.points:
        place = cut[point.percent - 1]
        assert point.threshold == pytest.approx(thresholds[place])
        assert point.log_odds == pytest.approx(np.log(thresholds[place] / (1 - thresholds[place])), rel=1e-5)
        assert point.background_efficiency == pytest.approx(false[place])
        assert point.limit == (false[place] == 0)
        assert point.rejection == pytest.approx(1 / max(false[place], 1 / 200))
    for label, own in enumerate(found.one_versus_rest):
        assert own.auc == pytest.approx(roc_auc_score(label == LABELS, probabilities[:, label]))
        assert own.recall == pytest.approx(np.mean(probabilities.argmax(1)[label == LABELS] == label))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(LABELS, probabilities.argmax(1)))


def test_a_band_is_mean_and_deviation_over_seeds_or_the_statistical_error(two_runs: Scored) -> None:
    band = roc_band(two_runs)
    first, second = two_runs.runs
    place = 49  # ε_s = 0.5
    both = [first.rejection[place], second.rejection[place]]
    assert band.rejection[place] == pytest.approx(statistics.fmean(both))
    statistical = [first.rejection_error[place], second.rejection_error[place]]
    assert statistics.fmean(statistical) > statistics.stdev(both)
    assert band.rejection_error[place] == pytest.approx(statistics.fmean(statistical))
    unlike = replace(second, auc=second.auc - 0.3)
    apart = roc_band(Scored("t", baseline=False, runs=(first, unlike)))
    assert apart.auc_error == pytest.approx(statistics.stdev([first.auc, unlike.auc]))
    assert band.measured[place] == (not first.limit[place] and not second.limit[place])


def test_a_single_run_has_its_statistical_error(two_runs: Scored) -> None:
    run = two_runs.runs[0]
    band = roc_band(Scored("t", baseline=False, runs=(run,)))
    place = 89  # ε_s = 0.9, of 200 background events
    passing = run.background_efficiency[place]
    of_background = math.sqrt(passing * (1 - passing) / 200)
    steep = of_background + math.sqrt(0.9 * 0.1 / 100) * 6  # the curve rises by less than 6 for each 1 there
    assert of_background < band.background_error[place] < steep
    assert band.background_error[place] == pytest.approx(run.rejection_error[place] * passing**2)
    mean, error = confusion_shares(Scored("t", baseline=False, runs=(run,)))
    assert error[0, 1] == pytest.approx(math.sqrt(mean[0, 1] * (1 - mean[0, 1]) / 100))
    np.testing.assert_allclose(mean.sum(axis=1), 1)


def test_gains_of_a_study_are_ratios_of_rejections(scores_of: Callable[..., np.ndarray]) -> None:
    labels = np.arange(20_000) % 2
    better, worse = (performance_of(scores_of(labels, 2, apart, seed=1), labels, 1) for apart in (1.5, 1.0))
    contenders = (
        Scored("network", baseline=False, runs=(better,)),
        Scored("cuts", baseline=True, runs=(worse,)),
    )
    scores = Scores("validation split", "task", ("b", "s"), 1, contenders, confirmed=False)
    table = StudyTable(
        "t", ("model",), published_on="theirs", published_gains={"Loose": (90, 4.0), "Tight": (5, 9.0)}
    )
    loose, tight = gains(table, scores, comparable=True)
    expected = better.rejection[89] / worse.rejection[89]
    parts = [one.rejection_error[89] / one.rejection[89] for one in (better, worse)]
    assert (loose.factor, loose.error) == pytest.approx((expected, expected * math.hypot(*parts)))
    assert expected > 1
    assert str(loose) == f"Loose {plus_minus(loose.factor, loose.error)} (published 4)"
    assert tight.bound == bool(better.limit[4])
    assert str(tight).startswith("Tight > ") == tight.bound
    assert {one.published for one in gains(table, scores, comparable=False)} == {None}
    assert gains(table, replace(scores, contenders=contenders[:1]), comparable=True) == []


def test_densities_have_area_one(two_runs: Scored) -> None:
    for runs in (two_runs.runs, two_runs.runs[:1]):
        for label in range(3):
            mean, error = score_densities(runs, label)
            assert mean.sum() / SCORE_BINS == pytest.approx(1)
            assert (error >= 0).all()


def test_reliability_bins_are_those_of_scikit_learn(probabilities: np.ndarray) -> None:
    run = performance_of(probabilities, LABELS, 2)
    confidence, accuracy, error, filled = reliability_points(Scored("t", baseline=False, runs=(run,)))
    right = probabilities.argmax(1) == LABELS
    expected, predicted = calibration_curve(right, probabilities.max(1), n_bins=15)
    np.testing.assert_allclose(accuracy[filled], expected)
    np.testing.assert_allclose(confidence[filled], predicted)
    counts = run.reliability.count[filled]
    np.testing.assert_allclose(error[filled], np.sqrt(expected * (1 - expected) / counts))
    assert counts.sum() == 300


def folded(place: Any, *trials: Any, **options: Any) -> SearchState:
    place.write_journal(trials, **options)
    return SearchState.read(place.folder)


def test_trials_that_differ_in_the_seed_are_a_group_with_a_band(workplace: Callable[..., Any]) -> None:
    place = workplace()
    place.write_journal()
    groups = groups_of(place.search, SearchState.read(place.folder))
    assert [(group.name, group.kind, len(group.trials)) for group in groups.members] == [
        ("root_index=1", "seeds", 2),
        ("root_index=3", "seeds", 2),
    ]
    band = groups.members[0].band("val_accuracy")
    assert band.epochs.tolist() == [1, 2, 3]
    np.testing.assert_allclose(band.mean, [0.55, 0.7, 0.8])
    np.testing.assert_allclose(band.sd, [statistics.stdev(x) for x in ([0.5, 0.6], [0.8, 0.6], [0.7, 0.9])])
    # best epochs: (0.8 + 0.9) / 2 and (0.9 + 0.9) / 2
    assert [group.name for group in groups.ranked] == ["root_index=3", "root_index=1"]
    assert groups.to_beat is groups.members[0]
    assert [group.name for group in groups.leading(1)] == ["root_index=1"]


def test_rows_of_the_table_are_groups_unless_trials_were_stopped(workplace: Callable[..., Any]) -> None:
    place = workplace()
    trials = [({"learning_rate": 0.1 * number}, 0, [0.5], "completed") for number in (1, 2)]
    state = folded(place, *trials, scheduler="none")
    (group,) = groups_of(place.search, state).members
    assert (group.name, group.kind) == ("root_index=1", "trials")
    assert state.started is not None
    state.started = state.started.model_copy(update={"scheduler": "asha"})
    assert [group.name for group in groups_of(place.search, state).members] == [
        "t0000: learning_rate=0.1",
        "t0001: learning_rate=0.2",
    ]


def test_bars_are_of_the_epochs_of_the_table(workplace: Callable[..., Any]) -> None:
    place = workplace()
    place.write_journal()
    data = gather(place.search, place.storage)
    assert epochs_of(data) == [1, 3]
    (first, last) = bars(data.groups.members[0], "val_accuracy", [1, 3])
    assert first == Bar(pytest.approx(0.55), pytest.approx(statistics.stdev([0.5, 0.6])), 2)
    assert last == Bar(pytest.approx(0.8), pytest.approx(statistics.stdev([0.7, 0.9])), 2)
    assert bars(data.groups.members[0], "val_accuracy", [9]) == [None]


def test_an_early_outlier_does_not_flatten_an_axis() -> None:
    low, high = bulk([40.0, *np.linspace(0.2, 0.7, 99)])
    assert 0.1 < low < 0.2
    assert 0.7 < high < 1.5
    assert outside([40.0, 0.3, 0.5], (low, high)) == " 1 of 3 points lie beyond the vertical axis."
    kept = bulk([0.2, 0.4, 0.7, float("nan")])  # nothing is far off: all is shown
    assert kept == spread([0.2, 0.7])
    assert outside([0.2, 0.4, 0.7], kept) == ""


def test_more_losses_than_bands_can_be_told_apart_have_a_panel_each_by_their_names(
    workplace: Callable[..., Any],
) -> None:
    place = workplace()
    names = {
        "root_index=1": "cross-entropy",
        **{f"root_index={root}": f"root {root}" for root in (3, 4, 5, 6)},
    }
    place.search = replace(place.search, tables=(StudyTable("By root", ("root_index",), names=names),))
    trials = [
        ({"root_index": root}, seed, [0.5, 0.6 + root / 100 + seed / 50], "completed")
        for seed in (0, 1)
        for root in (1, 3, 4, 5, 6)
    ]
    place.write_journal(trials)
    drawn = FIGURES["accuracy_by_epoch"].draw(gather(place.search, place.storage))
    assert isinstance(drawn, Drawn)
    panels = [axes for axes in drawn.figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "cross-entropy (baseline)", "root 3", "root 4", "root 5", "root 6",
    ]  # fmt: skip
    # Two runs and their mean; beside it, but in its own panel, that of cross-entropy.
    assert [len(axes.lines) for axes in panels] == [3, 4, 4, 4, 4]
    np.testing.assert_allclose(panels[3].lines[2].get_ydata(), [0.5, 0.62])
    np.testing.assert_allclose(panels[3].lines[3].get_ydata(), [0.5, 0.66])
    assert panels[1].get_legend() is not None
    assert drawn.figure.legends == []
    assert "each of 2 runs" in drawn.caption


def test_trials_that_stand_alone_are_named_by_the_study_too(workplace: Callable[..., Any]) -> None:
    place = workplace()
    names = {"root_index=1": "cross-entropy", "root_index=3": "root 3"}
    place.search = replace(place.search, tables=(StudyTable("By root", ("root_index",), names=names),))
    trials = [
        ({"root_index": root, "learning_rate": rate}, 0, [0.5], "completed")
        for root, rate in ((1, 0.1), (3, 0.2), (3, 0.3))
    ]
    state = folded(place, *trials, scheduler="asha")
    assert [group.name for group in groups_of(place.search, state).members] == [
        "t0000: cross-entropy, learning_rate=0.1",
        "t0001: root 3, learning_rate=0.2",
        "t0002: root 3, learning_rate=0.3",
    ]


def test_the_root_softmax_is_drawn_for_the_roots_of_a_search(workplace: Callable[..., Any]) -> None:
    """p = exp(z) / (exp(z) + 1) with z = 8^(1/3) = 2 at the right end; cross-entropy has z = 8 there."""
    place = workplace()
    place.write_journal()
    drawn = FIGURES["root_softmax"].draw(gather(place.search, place.storage))
    assert isinstance(drawn, Drawn)
    left, right = drawn.figure.axes
    assert [curve.get_label() for curve in left.lines] == ["cross-entropy", "root 3"]
    np.testing.assert_allclose([curve.get_ydata()[-1] for curve in left.lines], [0.99966465, 0.88079708])
    np.testing.assert_allclose([curve.get_ydata()[0] for curve in right.lines], [8.00033541, 2.12692801])


def test_coordinates_know_numbers_names_and_absence(workplace: Callable[..., Any]) -> None:
    place = workplace()
    rates = [1e-4, 1e-3, 1e-2]
    state = folded(place, *(({"learning_rate": rate}, 0, [0.5], "completed") for rate in rates))
    trials = list(state.trials.values())
    assert state.started is not None
    rate = coordinate("learning_rate", trials, state.started.space)
    np.testing.assert_allclose(rate.places, [0, 0.5, 1])
    assert [words for _, words in rate.ticks] == ["0.0001", "0.001", "0.01"]
    trials[1].started.params.pop("root_index")
    root = coordinate("root_index", trials, state.started.space)
    assert root.names == ("1",)
    np.testing.assert_allclose(root.places, [0.5, ABSENT, 0.5])


def test_ticks_of_a_logarithmic_axis() -> None:
    assert round_places(2e-4, 3e-2) == [1e-3, 1e-2]
    assert round_places(2e-4, 8e-4) == [2e-4, 4e-4, 8e-4]


def test_figures_are_found_in_their_order_and_named_once() -> None:
    assert [entry.name for entry in of_section("classifier")] == [
        "roc", "rejection", "working_points", "background_kinds", "accuracy_by_threshold", "confusion", "scores",
        "calibration", "inputs", "integrated_gradients", "image_attributions",
    ]  # fmt: skip
    with pytest.raises(DuplicateName):
        figure("roc", "search", 1, "again")(lambda data: None)
    with raises(UnknownName, "'trainnig'", "'training'"):
        figure("mine", "trainnig", 1, "nowhere on the page")  # type: ignore[arg-type]


def test_values_stand_with_their_errors() -> None:
    assert plus_minus(0.87654, 0.0123) == "0.877 ± 0.012"
    assert plus_minus(264.4, 263.1) == "260 ± 260"
    assert plus_minus(803.0, 802.5) == "800 ± 800"
    assert plus_minus(12345.6, 1234.5) == "12300 ± 1200"
    assert plus_minus(9.96, 0.0996) == "9.96 ± 0.10"
    assert plus_minus(3.0, float("inf")) == "3"
    assert interval(1234.0, 5678.0, -2) == "[1200, 5700]"
    assert plus_minus(0.5, 0.0) == "0.5"
    assert plus_minus(0.0625, 0.02, "+") == "+0.062 ± 0.020"
    assert interval(0.1, 0.25, 2, "+") == "[+0.10, +0.25]"
    assert metric_words("val_background_rejection_at_50") == "validation 1/ε_b at ε_s = 0.5"
    assert metric_words("epoch_seconds") == "training time [s]"
    assert metric_words("test_accuracy_black_hole") == "test accuracy black_hole"
    assert metric_words("val_unheard_of") == "validation unheard of"
    assert axis_label("val_auc") == "Validation AUC"


def test_predicted_ends_are_those_of_trials_that_were_left_best_first() -> None:
    trials = []
    for name, epochs, ending in (("a", 2, 0.7), ("b", 3, 0.95), ("c", 1, 0.8), ("d", 1, None)):
        trial = TrialState(TrialStarted(time=0, trial_id=name, number=0, params={}, seed=0))
        band = None if ending is None else (ending - 0.1, ending, ending + 0.1)
        trial.take(TrialPaused(time=0, trial_id=name, epoch=1, ending=band))
        for epoch in range(epochs):
            trial.take(
                EpochFinished(time=0, trial_id=name, metrics={"epoch": epoch + 1, "val_accuracy": 0.5})
            )
        trials.append(trial)
    assert [trial.trial_id for trial, _ in predicted_ends(trials, 3, "max")] == ["c", "a"]
    assert [trial.trial_id for trial, _ in predicted_ends(trials, 3, "min")] == ["a", "c"]
    assert predicted_ends(trials, 3, "max")[0][1] == pytest.approx((0.7, 0.8, 0.9))


def test_watched_events_are_drawn_beside_validation_with_the_last_accuracies(
    workplace: Callable[..., Any],
) -> None:
    place = workplace()
    place.write_journal()
    data = gather(place.search, place.storage)
    assert FIGURES["watched"].draw(data) is None
    assert FIGURES["flatness"].draw(data) is None
    for trial in data.ranked:
        for metrics in trial.history:
            metrics["watched_accuracy"] = metrics["val_accuracy"] - 0.1
    drawn = FIGURES["watched"].draw(data)
    assert isinstance(drawn, Drawn)
    for axes in drawn.figure.axes:
        own, other = (line.get_ydata() for line in axes.lines)
        np.testing.assert_allclose(np.asarray(other), np.asarray(own) - 0.1)
    # Roots 1 and 3: (0.7 + 0.9) / 2 and (0.9 + 0.8) / 2 after the third epoch.
    assert "0.8000 and 0.7000" in drawn.caption
    assert "0.8500 and 0.7500" in drawn.caption


def test_the_flatness_of_minima_is_measured_where_an_optimizer_looks_for_wide_ones(
    workplace: Callable[..., Any],
) -> None:
    place = workplace()
    wide = {"root_index": 3, "optimizer": "entropy_sgd", "inner_steps": 2}
    place.write_journal([({}, 0, [0.5, 0.8], "completed"), (wide, 0, [0.6, 0.9], "completed")])
    gone = FIGURES["flatness"].draw(gather(place.search, place.storage))
    assert isinstance(gone, str)
    assert "no model of these trials is kept" in gone
    place.write_model("t0001")
    drawn = FIGURES["flatness"].draw(gather(place.search, place.storage))
    assert isinstance(drawn, Drawn)
    (axes,) = drawn.figure.axes
    losses = np.asarray(axes.lines[0].get_ydata())
    assert len(losses) == 9
    assert np.isfinite(losses).all()
    assert "No model is kept of" in drawn.caption
    assert "ε-sharpness" in drawn.caption


def test_a_result_by_the_events_learnt_from_has_its_power_law(workplace: Callable[..., Any]) -> None:
    # One minus the accuracy is 2 · events^−0.5: 0.2 of 100, 0.1 of 400, 0.05 of 1,600; seeds ± 0.01 about it.
    sizes = {100: 0.8, 400: 0.9, 1600: 0.95}
    points = Scaling(
        np.array([*sizes], dtype=float),
        1 - np.array([*sizes.values()]),
        np.array([0.02, 0.01, 0.005]),
        (1, 1, 1),
    )
    law = fitted_law(points)
    assert law is not None
    assert (law.exponent, law.scale, law.degrees) == (pytest.approx(0.5), pytest.approx(2), 1)
    assert law.chi2 == pytest.approx(0, abs=1e-9)
    # Points of 10 % each: ln(deficit) is a line with σ = 0.1 in x = ln(events), whose slope has σ/√Σ(x − x̄)².
    x = np.log(points.events)
    assert law.exponent_error == pytest.approx(0.1 / np.sqrt(((x - x.mean()) ** 2).sum()), rel=1e-3)
    value, error = law.band(np.array([400.0]))
    assert (value[0], error[0]) == (pytest.approx(0.1), pytest.approx(0.1 * 0.1 / np.sqrt(3), rel=1e-2))
    assert fitted_law(Scaling(points.events[:2], points.result[:2], points.error[:2], (1, 1))) is None

    place = workplace()
    everything = Manifest.load(place.data).rows("train")
    place.write_journal(
        [
            ({"train_events": events}, seed, [0.1, accuracy + (0.01 if seed else -0.01)], "completed")
            for events, accuracy in ((25, 0.8), (50, 0.85), (0, 0.9), (everything, 0.9))
            for seed in (0, 1)
        ]
    )
    data = gather(place.search, place.storage)
    (found,) = scalings(data).values()
    assert found.events.tolist() == [25, 50, everything]
    assert found.seeds == (2, 2, 2)  # all events, asked for twice, are no more seeds
    np.testing.assert_allclose(found.result, [0.2, 0.15, 0.1])
    # s.d. of two values 0.02 apart over √2 is 0.01; 0.02 is the journal's statistical error.
    np.testing.assert_allclose(found.error, np.hypot(0.01, 0.02))
    drawn = FIGURES["scaling_law"].draw(data)
    assert isinstance(drawn, Drawn)
    assert "/1." in drawn.caption
    assert len(drawn.figure.axes[0].containers) == 1
    place_without = gather(place.search, place.storage)
    for trial in place_without.state.trials.values():
        trial.started.params.pop("train_events")
    assert FIGURES["scaling_law"].draw(place_without) is None


def sized(
    place: Any, metric: str, mode: str, results: dict[int, float], error: float | None = None
) -> ReportData:
    """Return the data of a search by a metric, with a training of one seed for each number of events."""
    place.write_journal([({"train_events": events}, 0, [0.1], "completed") for events in results])
    data: ReportData = gather(place.search, place.storage)
    for trial, result in zip(data.state.trials.values(), results.values(), strict=True):
        trial.history[0].pop(f"{metric}_error", None)
        trial.history[0].update(
            {metric: result} if error is None else {metric: result, f"{metric}_error": error}
        )
    return replace(data, started=data.started.model_copy(update={"metric": metric, "mode": mode}))


@pytest.mark.parametrize(
    ("metric", "mode", "results", "error", "scale"),
    [
        ("val_background_rejection_at_50", "max", [12.0, 30.0, 70.0], 3.0, "log"),
        ("val_asimov_significance", "max", [0.4, 0.8, 2.5], None, "log"),
        ("val_asimov_significance", "max", [0.0, 0.0, 0.0], None, "linear"),
        ("val_of_a_plugin", "min", [-3.0, 1.0, 2.0], 0.5, "linear"),
    ],
)
def test_results_that_are_no_fractions_are_drawn_as_they_are(
    workplace: Callable[..., Any],
    metric: str,
    mode: str,
    results: list[float],
    error: float | None,
    scale: str,
) -> None:
    data = sized(workplace(), metric, mode, dict(zip((25, 50, 100), results, strict=True)), error)
    (found,) = scalings(data).values()
    assert found.result.tolist() == results
    drawn = FIGURES["scaling_law"].draw(data)
    assert isinstance(drawn, Drawn)
    (axes,) = drawn.figure.axes
    assert (axes.get_yscale(), axes.get_ylabel()[0] == "1" and "−" in axes.get_ylabel()) == (scale, False)
    assert "β =" not in drawn.caption
    assert ("validation events" in drawn.caption) == (error is not None)
    assert "Too few" not in drawn.caption


def test_a_loss_of_one_seed_has_an_unweighted_law_and_says_so(workplace: Callable[..., Any]) -> None:
    # 2 · events^−0.5 but for a factor 1 ± 0.02, with no error of its own.
    results = {25: 0.4 * 1.02, 50: 0.4 / 2**0.5 * 0.98, 100: 0.2 * 1.02}
    data = sized(workplace(), "val_loss", "min", results)
    (found,) = scalings(data).values()
    assert (found.error.tolist(), found.of_events) == ([0, 0, 0], False)
    law = fitted_law(found)
    assert law is not None
    assert law.chi2 is None
    assert law.exponent == pytest.approx(0.5, abs=0.02)
    assert 0.005 < law.exponent_error < 0.2
    drawn = FIGURES["scaling_law"].draw(data)
    assert isinstance(drawn, Drawn)
    assert "unweighted" in drawn.caption
    assert "no error bars" in drawn.caption
    assert not any(words in drawn.caption for words in ("Too few", "validation events", "χ²"))
    exact = fitted_law(Scaling(found.events, 2 * found.events**-0.5, found.error, (1, 1, 1)))
    assert exact is not None
    assert exact.exponent == pytest.approx(0.5)
    assert np.isfinite(exact.band(found.events)).all()


def test_accuracies_by_the_threshold_are_those_of_a_mask_each_and_of_two_classes_alone() -> None:
    rng = np.random.default_rng(3)
    scores, signal = rng.choice(np.arange(1001) / 1000, 500), rng.random(500) < 0.4
    for weights in (None, rng.normal(1, 0.5, 500)):
        (fraction, error), balanced = accuracy_by_threshold(scores, signal, weights)
        w = np.ones(500) if weights is None else weights
        for place, cut in enumerate(THRESHOLDS):
            right = (scores >= cut) == signal
            share = w[right].sum() / w.sum()
            assert fraction[place] == pytest.approx(share)
            assert error[place] == pytest.approx(np.sqrt((w**2 * (right - share) ** 2).sum()) / w.sum())
            each = [w[right & kind].sum() / w[kind].sum() for kind in (signal, ~signal)]
            assert balanced[place] == pytest.approx(np.mean(each))
    labels = np.arange(300) % 3
    found = performance_of(rng.dirichlet((1, 1, 1), 300), labels, 2)
    assert (found.accuracy.shape, found.balanced.shape) == ((2, 0), (0,))


def test_accuracies_by_the_threshold_are_those_of_counting() -> None:
    scores, signal = np.array([0.1, 0.4, 0.5, 0.9]), np.array([False, True, False, True])
    (fraction, error), balanced = accuracy_by_threshold(scores, signal)
    # From 0.5 on signal: 0.1 and 0.9 are told rightly. From 0.3 on 0.4 is too; from 0.6 on 0.5 is, and no longer 0.4.
    assert fraction[[0, 30, 50, 60, 95]].tolist() == [0.5, 0.75, 0.5, 0.75, 0.5]
    assert error[30] == pytest.approx(np.sqrt(0.75 * 0.25 / 4))
    assert balanced[[0, 60]].tolist() == [0.5, 0.75]
    weights = np.array([1.0, 2, 3, 4])
    (fraction, error), balanced = accuracy_by_threshold(scores, signal, weights)
    assert fraction[30] == pytest.approx(0.7)  # 1 + 2 + 4 of 10
    assert error[30] == pytest.approx(np.sqrt(0.3**2 * (1 + 4 + 16) + 0.7**2 * 9) / 10)
    assert balanced[30] == pytest.approx((1 + 1 / 4) / 2)


def test_both_contenders_stand_in_one_figure_and_table_of_accuracies(workplace: Callable[..., Any]) -> None:
    place = workplace()
    place.write_journal()
    place.write_confirmation()
    data = gather(place.search, place.storage)
    drawn = FIGURES["accuracy_by_threshold"].draw(data)
    assert isinstance(drawn, Drawn)
    assert data.scores is not None
    labels = drawn.figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["t0001", "baseline", "the larger class alone"]
    table = accuracies(data.scores)
    for row, one in zip(table.rows, data.scores.contenders, strict=True):
        right = [float(run.confusion.trace() / run.confusion.sum()) for run in one.runs]
        assert float(row[1].split(" ")[0]) == pytest.approx(statistics.fmean(right), abs=0.01)
        assert row[-1] == "0.5"


def test_a_caption_says_which_of_two_errors_is_drawn(two_runs: Scored) -> None:
    alone = Scored("alone", baseline=True, runs=two_runs.runs[:1])
    scores = Scores("test split", "t", ("a", "b", "c"), 2, (two_runs, alone), confirmed=True)
    for drawn in (confusion, distributions, calibration):
        for shown, words in (
            ((two_runs, alone), "s.d. over seeds, or the"),
            ((two_runs,), "s.d. over seeds, or the"),
            ((alone,), " error"),
        ):
            made = drawn(SimpleNamespace(scores=replace(scores, contenders=shown)))  # type: ignore[arg-type]
            assert words in made.caption  # type: ignore[union-attr]
            assert ("over seeds" in made.caption.split("error bars")[-1]) is (two_runs in shown)  # type: ignore[union-attr]
            assert ("where that is larger" in made.caption) is (two_runs in shown)  # type: ignore[union-attr]
