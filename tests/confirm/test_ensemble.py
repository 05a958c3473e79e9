"""The mean of finalists as a contender: its scores by hand, what it is judged by, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hep_ray.confirm.comparison import failures, seedless, summarise
from hep_ray.confirm.confirmation import Confirmation, Contender, choose, load_confirmation, save_confirmation
from hep_ray.confirm.ensemble import keep_means, not_validated
from hep_ray.confirm.finalists import Baseline, Configuration, check_ensemble
from hep_ray.confirm.plan import ConfirmPlan, trial_id
from hep_ray.confirm.table import contender_lines, variation_rows
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.variations import Variation
from hep_ray.errors import CannotConfirm, CannotResume, StorageError
from hep_ray.metrics.crossed import crossed
from hep_ray.promote.gate import same_contender
from hep_ray.report.tables import contenders
from hep_ray.search.options import ConfirmOptions
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.records import EpochFinished, SearchStarted, TrialFinished, TrialStarted, TrialTested
from hep_ray.training.testing import KeptScores, mean_scores, read_scores, varied_scores, write_scores
from tests.facts import raises, tells

BASE = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.001}
SEEDS = (5, 6)
LABELS = np.array([0, 1, 0, 1])
SIGNAL: dict[str, dict[int, list[float]]] = {
    # Each ranks one pair wrongly with seed 5, another one: their means (0.35, 0.5, 0.3, 0.75) rank all four rightly.
    "t0000": {5: [0.6, 0.5, 0.1, 0.9], 6: [0.2, 0.9, 0.1, 0.8]},
    "t0004": {5: [0.1, 0.5, 0.5, 0.6], 6: [0.4, 0.3, 0.3, 0.6]},
    "baseline": {5: [0.6, 0.4, 0.5, 0.7], 6: [0.6, 0.4, 0.5, 0.7]},
}
"""Probability of signal of each event, by seed."""
SCHEMA = EventSchema(task="t", columns=(Column(name="x", unit="GeV"),), classes=("bg", "sig"))


def started(search_id: str, **values: Any) -> SearchStarted:
    given: dict[str, Any] = {
        "time": 0, "search": "s", "search_id": search_id, "dataset_fingerprint": "f", "task": "t", "metric": "val_auc",
        "mode": "max", "epochs": 1, "sampler": "tpe", "scheduler": "none", "seed": 0, "space": {}, "options": {},
        "provenance": {"git_commit": "c"},
    }  # fmt: skip
    return SearchStarted(**{**given, **values})


def configuration(number: int, **figures: float) -> Configuration:
    params = {**BASE, "learning_rate": 0.1 / (1 + number)}
    of = TrialStarted(
        time=0, trial_id=f"t{number:04d}", number=number, params=params, seed=0, figures=figures
    )
    return Configuration((TrialState(of, [{"epoch": 1, "val_auc": 0.5}]),), 0.5)


def kept(signal: list[float], *, first: int = 0, weights: np.ndarray | None = None) -> KeptScores:
    p = np.array(signal)
    odds = np.log(p / (1 - p))
    return KeptScores(
        pa.chunked_array([[f"e{first + row}" for row in range(len(p))]]),
        LABELS,
        np.stack([1 - p, p], axis=1).astype(np.float32),
        np.stack([-odds, odds], axis=1),
        np.full(len(p), 0.5, np.float32),
        {"epoch": 1, "loss": 0.5},
        True,
        weights,
    )


def made_plan(
    folder: Path, *, schema: EventSchema = SCHEMA, metric: str = "val_auc", **given: Any
) -> ConfirmPlan:
    searched = started("searched", metric=metric)
    return ConfirmPlan(
        experiment="searched",
        storage=folder,
        folder=folder / "searched" / "confirm",
        tracking_uri="",
        epochs=1,
        metric=metric,
        mode="max",
        started=searched,
        finalists=(configuration(0), configuration(4)),
        ranked=3,
        baseline=Baseline(BASE, "t0002, as asked", None),
        seeds=SEEDS,
        dataset=cast("Any", SimpleNamespace(fingerprint="f", schema=schema, folder=folder)),
        resources=ResourcePlan(12, 2, 1, 0, 2, 0),
        given=ConfirmOptions("s", storage=folder, **{"ensemble": True, **given}),
        source=folder,
        variations=dict(schema.variations),
    )


def trained(plan: ConfirmPlan, *, lost: str = "") -> SearchState:
    """A journal whose trainings were all tested, with the scores that they left; `lost` failed with seed 6."""
    state, schema = SearchState(), plan.dataset.schema
    state.apply(started("confirmed"))
    for run in plan.runs:
        name, seed = run.tags["contender"], run.seed
        state.apply(run)
        if name == lost and seed == 6:
            state.apply(TrialFinished(time=1, trial_id=run.trial_id, status="failed", cause="Lost: it"))
            continue
        metrics = {"epoch": 1, "val_auc": 0.5, "val_loss": 0.6}
        state.apply(EpochFinished(time=1, trial_id=run.trial_id, metrics=metrics))
        state.apply(TrialFinished(time=1, trial_id=run.trial_id, status="completed"))
        scores, path = kept(SIGNAL[name][seed]), plan.folder / "trials" / run.trial_id
        write_scores(path / "test_scores.parquet", schema, scores)
        varied = kept([0.9 * p for p in SIGNAL[name][seed]])
        for variation in schema.variations:
            write_scores(path / f"test_scores.{variation}.parquet", schema, varied)
        if name != "baseline":
            write_scores(path / "val_scores.parquet", schema, scores)
        tested = TrialTested(
            time=2,
            trial_id=run.trial_id,
            epoch=1,
            metrics=scores.metrics(schema),
            variations={variation: varied.metrics(schema) for variation in schema.variations},
        )
        state.apply(tested)
    return state


@pytest.fixture
def plan(tmp_path: Path) -> ConfirmPlan:
    return made_plan(tmp_path)


@pytest.fixture
def found(plan: ConfirmPlan) -> Confirmation:
    state = trained(plan)
    keep_means(plan)
    return summarise(plan, state, {})


def test_its_scores_are_the_mean_of_those_of_the_same_seed(plan: ConfirmPlan, found: Confirmation) -> None:
    folder = plan.folder / "trials"
    for seed in SEEDS:
        table = pq.read_table(folder / f"ensemble_seed{seed}" / "test_scores.parquet")
        mean = np.mean([SIGNAL["t0000"][seed], SIGNAL["t0004"][seed]], axis=0)
        np.testing.assert_allclose(table["score_sig"].to_numpy(), mean, rtol=1e-6)
        np.testing.assert_allclose(table["score_bg"].to_numpy(), 1 - mean, rtol=1e-6)
        np.testing.assert_allclose(table["log_odds_sig"].to_numpy(), np.log(mean / (1 - mean)), rtol=1e-9)
        assert table["event_id"].to_pylist() == ["e0", "e1", "e2", "e3"]
        assert "loss" not in table.column_names  # the mean of models has none
        assert (folder / f"ensemble_seed{seed}" / "val_scores.parquet").is_file()
    # Mean of seed 5 for the second event: (0.5 + 0.5)/2, of which the log-odds are 0; of the first 0.35: ln(0.35/0.65).
    first = read_scores(folder / "ensemble_seed5" / "test_scores.parquet", SCHEMA)
    assert first.log_odds[:2, 1] == pytest.approx([math.log(0.35 / 0.65), 0.0], abs=1e-12)


def test_it_is_judged_as_any_finalist_and_stands_before_the_baseline(found: Confirmation) -> None:
    assert [one.name for one in found.contenders] == ["t0000", "t0004", "ensemble", "baseline"]
    one = found.contenders[2]
    assert (one.role, one.params, list(one.members)) == ("finalist", {}, ["t0000", "t0004"])
    assert one.members["t0004"] == found.contenders[1].params
    # Pairs of signal and background that are ranked rightly, of 4: seed 5 all; seed 6, means (0.3, 0.6, 0.2, 0.7), all.
    assert [run.metrics["test_auc"] for run in one.runs] == [1.0, 1.0]
    assert [run.metrics["test_auc"] for run in found.contenders[0].runs] == [0.75, 1.0]
    assert [run.metrics["val_auc"] for run in one.runs] == [1.0, 1.0]
    assert [(run.seed, run.checkpoint) for run in one.runs] == [(5, None), (6, None)]
    assert "test_loss" not in one.estimates
    assert [one.contender for one in found.comparisons] == ["t0000", "t0004", "ensemble"]
    # The baseline ranks two pairs of four rightly.
    assert found.comparisons[2].difference.mean == pytest.approx(1 - 0.5)
    assert contender_lines(found)[2] == "ensemble  mean of t0000, t0004"
    results, parameters = contenders(found)
    assert "ensemble is the mean of t0000, t0004, paired by seed." in results.notes
    assert [row[0] for row in parameters.rows] == ["t0000", "t0004", "baseline"]


def test_the_gate_takes_it_by_validation(found: Confirmation) -> None:
    candidate, run = choose(found)
    assert (candidate.name, run.trial_id) == ("ensemble", "ensemble_seed5")
    members = found.trained(candidate, run)
    assert [own.trial_id for _, own in members] == ["t0000_seed5", "t0004_seed5"]
    alone = found.model_copy(
        update={"contenders": tuple(one for one in found.contenders if one.name != "t0004")}
    )
    with raises(StorageError, "ensemble", "t0004", "seed 5"):
        alone.trained(candidate, run)
    # What is best by validation is taken, whatever the test split says.
    lower = (one.model_copy(update={"metrics": {**one.metrics, "val_auc": 0.4}}) for one in candidate.runs)
    worse = candidate.model_copy(update={"runs": tuple(lower)})
    behind = found.model_copy(
        update={"contenders": tuple(worse if one.name == "ensemble" else one for one in found.contenders)}
    )
    assert choose(behind)[0].name == "t0000"


def test_of_a_search_by_folds_the_first_of_its_ranking_is_taken(found: Confirmation) -> None:
    def judged(**of: float) -> Confirmation:
        """The confirmation with these validation values, by contender."""
        changed = []
        for one in found.contenders:
            runs = (
                run.model_copy(update={"metrics": {**run.metrics, "val_auc": of.get(one.name, 0.5)}})
                for run in one.runs
            )
            changed.append(one.model_copy(update={"runs": tuple(runs)}))
        return found.model_copy(update={"contenders": tuple(changed)})

    second_leads = judged(t0000=0.7, t0004=0.9, ensemble=0.6)
    assert choose(second_leads)[0].name == "t0004"
    assert choose(second_leads.model_copy(update={"folds": 5}))[0].name == "t0000"
    # The mean of the finalists was on no fold, and is compared with that one by the confirmed trainings.
    mean_leads = judged(t0000=0.7, t0004=0.9, ensemble=0.8)
    assert choose(mean_leads.model_copy(update={"folds": 5}))[0].name == "ensemble"


def test_a_member_that_failed_takes_it_along_and_both_count(tmp_path: Path) -> None:
    plan = made_plan(tmp_path)
    state = trained(plan, lost="t0004")
    causes = failures(plan, state)
    assert causes["t0004"] == "seed 6: Lost: it"
    assert "t0004" in causes["ensemble"]
    assert "Lost" in causes["ensemble"]
    found = summarise(plan, state, {})
    assert [one.name for one in found.contenders] == ["t0000", "baseline"]
    (only,) = found.comparisons
    assert only.p_value is not None
    assert only.adjusted_p_value == pytest.approx(
        min(1.0, 3 * only.p_value)
    )  # Holm, of three that were asked for


def test_scores_of_other_events_have_no_mean(plan: ConfirmPlan) -> None:
    trained(plan)
    other = plan.folder / "trials" / "t0004_seed6" / "test_scores.parquet"
    write_scores(other, SCHEMA, kept(SIGNAL["t0004"][6], first=1))
    with raises(StorageError, "t0004_seed6", "same events"):
        keep_means(plan)
    assert not (plan.folder / "trials" / "ensemble_seed6" / "test_scores.parquet").exists()
    weighted = kept(SIGNAL["t0004"][6], weights=np.ones(4))
    assert mean_scores([kept(SIGNAL["t0000"][6]), weighted]) is None


def test_what_is_not_validated_yet_is_known(plan: ConfirmPlan) -> None:
    trained(plan)
    assert not_validated(plan) == []
    (plan.folder / "trials" / "t0000_seed6" / "val_scores.parquet").unlink()
    assert not_validated(plan) == ["t0000_seed6"]


def test_it_is_judged_under_variations(tmp_path: Path) -> None:
    varied = SCHEMA.model_copy(update={"variations": {"down": Variation(scale={"x": 0.9})}})
    plan = made_plan(tmp_path, schema=varied)
    state = trained(plan)
    keep_means(plan)
    path = plan.folder / "trials" / "ensemble_seed6" / "test_scores.parquet"
    mean = 0.9 * np.mean([SIGNAL["t0000"][6], SIGNAL["t0004"][6]], axis=0)
    assert read_scores(varied_scores(path, "down"), varied).probabilities[:, 1] == pytest.approx(mean)
    assert not varied_scores(
        path.with_name("val_scores.parquet"), "down"
    ).exists()  # which ranks by no worst value
    found = summarise(plan, state, {})
    assert {"test_worst_auc"} <= found.contenders[2].runs[0].metrics.keys()
    assert ["down", "ensemble"] in [[row[0], row[2]] for row in variation_rows(found)]
    worst = dataclasses.replace(plan, metric="val_worst_auc")
    assert not_validated(worst) == [trial_id(name, seed) for seed in SEEDS for name in ("t0000", "t0004")]


def test_records_without_one_are_as_they_were(tmp_path: Path, found: Confirmation) -> None:
    save_confirmation(tmp_path, found)
    assert load_confirmation(tmp_path) == found
    written = json.loads((tmp_path / "confirm/confirmation.json").read_text())
    assert [one["name"] for one in written["contenders"] if "members" in one] == ["ensemble"]
    del written["contenders"][2]
    for one in written["contenders"]:
        assert set(one) == {"name", "role", "params", "runs", "estimates"}
    assert Contender.model_validate(written["contenders"][0]) == found.contenders[0]


def begun_as(plan: ConfirmPlan, **changed: Any) -> SearchState:
    state = SearchState()
    first = {**plan.identity, "options": plan.told["options"], **changed}
    state.apply(started("c", **first, provenance={"confirms": "searched"}))
    return state


def test_another_confirmation_is_not_gone_on_with_and_the_flags_that_differ_are_told(
    tmp_path: Path, plan: ConfirmPlan
) -> None:
    assert plan.opening(begun_as(plan), print) == []
    nine = {**plan.told["options"], "seeds": 9}
    with raises(CannotResume, "--ensemble was typed and is left out now", "--again") as refused:
        made_plan(tmp_path, ensemble=False).opening(begun_as(plan, options=nine), print)
    assert tells(str(refused.value), "--seeds was 9 and is 5 now")
    for same in ("--top", "learning_rate"):
        assert same not in str(refused.value)


def test_where_no_flag_differs_the_parameters_that_do_are_told(plan: ConfirmPlan) -> None:
    params = {name: dict(one) for name, one in plan.identity["contenders"].items()}
    params["t0004"]["learning_rate"] = 0.5
    with raises(
        CannotResume, "'t0004', 'learning_rate': recorded is 0.5", "hep-ray confirm searched"
    ) as refused:
        plan.opening(begun_as(plan, contenders=params), print)
    for same in ("t0000", "optimizer"):
        assert same not in str(refused.value)


def test_a_confirmation_without_its_scores_is_not_told_as_if_they_were_there(plan: ConfirmPlan) -> None:
    state = trained(plan)
    state.started = begun_as(plan).started
    assert plan.opening(state, print) == []
    (plan.folder / "trials" / "t0004_seed6" / "test_scores.parquet").unlink()
    with raises(StorageError, "t0004_seed6", "test_scores.parquet", "--again"):
        plan.opening(state, print)


def test_it_is_seedless_where_all_members_are() -> None:
    def mean(*models: dict[str, Any]) -> Contender:
        members = {f"t{place}": one for place, one in enumerate(models)}
        return Contender(name="ensemble", role="finalist", params={}, runs=(), estimates={}, members=members)

    fitted = {"model": "gradient_boosting"}
    assert seedless(mean(fitted, {"model": "likelihood"}))
    assert not seedless(mean(fitted, BASE))
    assert same_contender(mean(fitted, BASE), mean({**BASE, "seed": 3}, fitted))
    assert not same_contender(mean(fitted, fitted), mean(fitted, BASE))
    alone = Contender(name="t0", role="finalist", params=BASE, runs=(), estimates={})
    assert not same_contender(mean(BASE, BASE), alone)
    assert same_contender(alone, alone)


def test_the_mean_of_alike_members_has_their_error() -> None:
    """Two members with the same scores: the ensemble compares with the baseline as either does."""
    random = np.random.default_rng(1)
    ours, theirs = random.normal(1, 1, (3, 50)), random.normal(0, 1, (3, 50))
    one, both = (crossed(values, theirs, paired=True) for values in (ours, (ours + ours) / 2))
    assert one == both


REFUSED: list[tuple[Callable[[], object], tuple[str, ...]]] = [
    (lambda: check_ensemble([configuration(1)], started("s")), ("t0001", "2 finalists", "--ensemble")),
    (lambda: ConfirmOptions("s", top=1, ensemble=True), ("--top", "two finalists")),
    *(
        (lambda metric=metric: check_ensemble(TWO, started("s", metric=metric)), (metric, "loss", "val_auc"))  # type: ignore[misc]
        for metric in ("val_loss", "val_decorrelated_loss", "val_worst_loss")
    ),
    (
        lambda: check_ensemble(TWO, started("s", constraints={"parameters": 1000.0})),
        ("parameters 1400", "1000", "--top"),
    ),
]
TWO = [configuration(1, parameters=600.0), configuration(2, parameters=800.0)]


@pytest.mark.parametrize(("ask", "facts"), REFUSED)
def test_what_cannot_be_an_ensemble_is_refused(ask: Callable[[], object], facts: tuple[str, ...]) -> None:
    with raises(CannotConfirm, *facts):
        ask()


def test_finalists_that_keep_a_constraint_together_may_be_one() -> None:
    check_ensemble(TWO, started("s", constraints={"parameters": 1400.0, "latency_ms": 1.0}))
