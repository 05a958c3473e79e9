"""Configurations that would lead are trained again with other seeds, within the budget; the best mean leads."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hep_ray.confirm.finalists import configurations
from hep_ray.errors import InvalidConfig
from hep_ray.report.groups import groups_of
from hep_ray.search import cli
from hep_ray.search.definition import Preset, Search, Stated
from hep_ray.search.draws import REPEATED, to_repeat
from hep_ray.search.execute import SearchResult
from hep_ray.search.leaderboard import leaderboard
from hep_ray.search.notebook import leaderboard_html
from hep_ray.search.parameters import Choice
from hep_ray.search.preflight import check_sampler
from hep_ray.search.state import SearchState
from hep_ray.search.study import StoredStudy, study_of
from hep_ray.tracking.records import EpochFinished, Record, TrialFinished, TrialStarted
from tests.facts import raises
from tests.search.simulated import RANGES, Simulated, height
from tests.search.test_constraints import started

NOISE = 0.03
SCHEDULERS = ("none", "asha", "asha_pausing", "hyperband", "median", "curves")


def preset(scheduler: str, **given: Any) -> Preset:
    sampler = "curves" if scheduler == "curves" else given.pop("sampler", "random")
    return Preset(
        **{"epochs": 9, "trials": 24, "repeats": 3, "sampler": sampler, "scheduler": scheduler, **given}
    )


def played(made: Preset, records: Any = (), **given: Any) -> tuple[Simulated, list[dict[str, Any]]]:
    run = Simulated(made, RANGES, records, noise=NOISE, **given)
    return run, run.run()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_would_lead_is_trained_again_within_the_budget(scheduler: str) -> None:
    made = preset(scheduler)
    run, _ = played(made)
    trials = run.state.drawn()
    again = [trial for trial in trials if trial.started.repeat_of]
    assert len(again) >= 2
    for trial in again:
        first = run.state.trials[trial.started.repeat_of]
        assert trial.started.params == first.started.params
        assert len(trial.history) == len(first.history) == 9
        assert trial.trial_id.startswith(f"{first.trial_id}-")
        assert "of 3: " in trial.started.reason
    for alike in run.state.alike():
        seeds = [trial.started.seed for trial in alike]
        assert len(set(seeds)) == len(seeds) <= 3
    spent = sum(len(trial.history) for trial in trials)
    assert sum(len(trial.history) for trial in again) <= REPEATED * spent + 9
    if run.searcher.pauses:
        assert spent == 24 * 9
    else:
        assert len(trials) == 24
    assert max(Counter(trial.started.number for trial in trials).values()) == 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_search_with_repeats_goes_on_as_it_would_have(scheduler: str) -> None:
    made = preset(scheduler, trials=12)
    run, expected = played(made, seed=1, diverges=("t0003",))
    cuts = range(1, len(expected), max(1, len(expected) // 12))
    for cut in [*cuts, len(expected) - 1]:
        assert played(made, run.state.records[:cut], seed=1, diverges=("t0003",))[1] == expected


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "cmaes", "nsga2"])
def test_samplers_draw_as_without_repeats_until_they_learn(sampler: str) -> None:
    """The k-th draw is of the k-th configuration: repeats are none of them, and each resumes exactly."""
    made = preset("none", sampler=sampler, epochs=2, trials=10)
    run, expected = played(made)
    assert any(trial.started.repeat_of for trial in run.state.drawn())
    drawn = [trial.started.params for trial in run.state.drawn() if not trial.started.repeat_of]
    without, _ = played(preset("none", sampler=sampler, epochs=2, trials=10, repeats=1))
    few = 10 if sampler == "qmc" else 3
    assert drawn[:few] == [trial.started.params for trial in without.state.drawn()][: len(drawn)][:few]
    for cut in (len(expected) // 2, len(expected) - 3):
        assert played(made, run.state.records[:cut])[1] == expected


def test_a_reference_that_leads_is_trained_again_and_is_no_draw() -> None:
    reference = {
        "model": "cnn",
        "loss": "cross_entropy",
        "optimizer": "sgd",
        "learning_rate": 0.2,
        "momentum": 0.6,
    }
    for scheduler in ("none", "curves", "asha_pausing"):
        made = preset(scheduler, trials=9)
        run = Simulated(
            made, RANGES, references=(reference,), value=lambda params, epoch: 2 * (params == reference)
        )
        expected = run.run()
        again = [trial for trial in run.state.drawn() if trial.started.repeat_of]
        assert [trial.trial_id for trial in again] == ["t0000-2", "t0000-3"][: len(again)]
        assert again
        rebuilt = StoredStudy(run.search, RANGES, None, run.state)  # as after the file was lost
        assert rebuilt.add(rebuilt._study.get_trials()[0]) == len(run.state.trials)
        half = Simulated(
            made,
            RANGES,
            run.state.records[: len(expected) // 2],
            references=(reference,),
            value=lambda params, epoch: 2 * (params == reference),
        )
        assert half.run() == expected


@pytest.mark.parametrize("count", [5, 6])
@pytest.mark.parametrize(
    ("scheduler", "sampler"), [("none", "tpe"), ("asha_pausing", "random"), ("curves", "")]
)
def test_all_references_begin_before_the_first_repeat(count: int, scheduler: str, sampler: str) -> None:
    """The first trials are the references; so many that a fifth of their epochs is a repeat's, and they lead."""
    fixed = {"model": "cnn", "loss": "cross_entropy", "optimizer": "adam", "momentum": 0.5}
    references = tuple({**fixed, "learning_rate": 0.01 / (2 + place)} for place in range(count))

    def run(records: Any = ()) -> tuple[Simulated, list[dict[str, Any]]]:
        def value(params: dict[str, Any], _: int) -> float:
            return 2 - params["learning_rate"] if params in references else height(params)

        return played(
            preset(scheduler, sampler=sampler, trials=12), records, references=references, value=value
        )

    whole, expected = run()
    trials = whole.state.drawn()
    assert [trial.started.params for trial in trials[:count]] == list(references)
    assert {trial.started.repeat_of for trial in trials[:count]} == {""}
    assert any(trial.started.repeat_of in {"t0000", f"t{count - 1:04d}"} for trial in trials[count:])
    for cut in range(3, len(expected), len(expected) // 6):
        assert run(whole.state.records[:cut])[1] == expected


def fold(trials: dict[str, tuple[str, list[float], str]], **given: Any) -> SearchState:
    """Trial → first of its configuration, values, status; of a search that asks for three seeds."""
    records: list[Record] = [started(repeats=3, **given)]
    for number, (name, (first, values, status)) in enumerate(trials.items()):
        params = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": len(first)}
        again = "" if first == name else first
        records.append(
            TrialStarted(time=0, trial_id=name, number=number, params=params, seed=number, repeat_of=again)
        )
        for epoch, value in enumerate(values, start=1):
            metrics = {"epoch": epoch, "val_auc": value, "epoch_seconds": 1.0}
            records.append(EpochFinished(time=0, trial_id=name, metrics=metrics))
        if status == "failed":
            records.append(
                TrialFinished(time=0, trial_id=name, status="failed", cause="x", failure="diverged")
            )
        elif status != "running":
            records.append(TrialFinished(time=0, trial_id=name, status=status))  # type: ignore[arg-type]
    return SearchState.fold(records)


LUCKY = {
    "a": ("a", [0.80], "completed"),
    "a-2": ("a", [0.82], "completed"),
    "a-3": ("a", [0.84], "completed"),
    "bb": ("bb", [0.90], "completed"),
    "bb-2": ("bb", [0.72], "completed"),
    "ccc": ("ccc", [0.83], "stopped"),
    "dddd": ("dddd", [0.70], "completed"),
}


def test_the_best_mean_leads_less_its_error() -> None:
    """By hand: a has 0.82 of three seeds, bb 0.81 of two, though its first training is the best of all.

    Pooled over both, the standard deviation is √((2 · 0.0004 + 0.0162) / 3) = 0.0753. So a is ranked by 0.82 - 0.0435,
    bb by 0.81 - 0.0532, ccc by 0.83 - 0.0753.
    """
    state = fold(LUCKY)
    ranked = [trial.trial_id for trial in state.ranked("val_auc", "max")]
    assert ranked == ["a-3", "a-2", "a", "bb", "bb-2", "ccc", "dddd"]
    assert [one.name for one in configurations(state)] == ["a", "bb", "ccc", "dddd"]
    assert [group.trials[0].trial_id for group in groups_of(Stated("toy", "A toy."), state).ranked] == [
        "a",
        "bb",
        "ccc",
        "dddd",
    ]
    penalties = [state.penalty(state.trials[name]) for name in ("a-2", "bb", "ccc")]
    assert penalties == pytest.approx([0.0435, 0.0532, 0.0753], abs=5e-5)
    told = {one["trial_id"]: one for one in leaderboard(state, {})["trials"]}
    assert told["a-2"]["mean"] == pytest.approx(0.82)
    assert told["a-2"]["mean_error"] == pytest.approx(0.02 / 3**0.5)
    assert (told["a-2"]["seeds"], told["a-2"]["repeat_of"]) == (3, "a")
    assert (told["dddd"]["mean"], told["dddd"]["mean_error"], told["dddd"]["seeds"]) == (0.70, None, 1)
    assert "0.820 ± 0.012 (3)" in leaderboard_html(state)
    assert len(study_of(state).trials) == 7
    one = SearchState.fold([started(), *state.records[1:]])  # the same trials where nothing is repeated
    assert one.ranked("val_auc", "max")[0].trial_id == "bb"
    assert "seeds" not in leaderboard(one, {})["trials"][0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),  # nothing is above the mean of a
        ({"bb-2": ("bb", [0.78], "completed")}, "bb"),  # 0.84 of two seeds
        ({"bb-2": ("bb", [0.78], "running")}, None),  # its second seed is awaited
        ({"bb-2": ("bb", [0.78], "failed")}, None),  # a seed made it fail
        ({"dddd": ("dddd", [0.83], "completed")}, "dddd"),
        ({"dddd": ("dddd", [0.83], "stopped")}, None),
        ({"a-3": ("a", [0.84], "running")}, "bb"),  # nothing leads yet, and what has most waits
    ],
)
def test_what_is_trained_again(change: dict[str, Any], expected: str | None) -> None:
    search = Search(name="toy", task="toy", title="", space=RANGES, presets={}, metric="val_auc")
    found = to_repeat(fold({**LUCKY, **change}), search, 3)
    assert (found and found[0].trial_id) == expected
    if expected == "bb" and "a-3" not in change:
        assert found is not None
        assert found[1] == "seed 3 of 3: 2 seeds have 0.84, ahead of 0.82 of a"


def orders(state: SearchState) -> list[list[str]]:
    """Return the first trials of configurations as leaderboard, confirm and report have them."""
    ranked = [trial for trial in state.ranked("val_auc", "max") if trial.status != "failed"]
    board = dict.fromkeys(trial.started.repeat_of or trial.trial_id for trial in ranked)
    groups = groups_of(Stated("toy", "A toy."), state).ranked
    return [
        list(board),
        [one.name for one in configurations(state)],
        [group.trials[0].trial_id for group in groups],
    ]


def test_what_a_seed_made_fail_leads_nothing() -> None:
    """bb has the best training of all, and diverged with its second seed: it is never trained again."""
    state = fold({**LUCKY, "bb-2": ("bb", [0.3], "failed")})
    assert orders(state) == [["ccc", "a", "dddd", "bb"]] * 3
    assert state.end_of(state.trials["bb"]) == "completed, a seed failed"
    assert state.end_of(state.trials["bb-2"]) == "failed"
    without = SearchState.fold([started(), *state.records[1:]])  # the same trials where nothing is repeated
    assert without.ranked("val_auc", "max")[0].trial_id == "bb"
    worst = fold({"bb": ("bb", [0.9], "completed"), "bb-2": ("bb", [0.3], "failed")})
    assert orders(worst) == [["bb"]] * 3
    three = {f"bb-{seed}": ("bb", [0.9], "completed") for seed in (3, 4)}
    search = Search(name="toy", task="toy", title="", space=RANGES, presets={}, metric="val_auc")
    fallen = {**LUCKY, **three, "bb-2": ("bb", [0.3], "failed"), "dddd": ("dddd", [0.85], "completed")}
    found = to_repeat(fold(fallen), search, 3)
    assert found is not None
    assert found[0].trial_id == "dddd"  # ahead of a, which leads: bb does not


def test_a_leader_of_too_few_seeds_is_told_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(state: SearchState) -> str:
        cli._print_result(SearchResult(state, Path(), ""), SimpleNamespace())  # type: ignore[arg-type]
        return capsys.readouterr().out

    monkeypatch.setattr(cli, "_next", lambda *_: iter(()))
    late = fold({**LUCKY, "bb-2": ("bb", [0.3], "running")})
    assert "bb leads with 1 of 3 seeds: --resume --trials N, or confirm" in end(late)
    assert "leads with" not in end(fold(LUCKY))
    assert "leads with" not in end(SearchState.fold([started(), *late.records[1:]]))  # repeats none


def test_a_report_ranks_by_the_seeds_that_completed() -> None:
    """bb-2 still runs: bb has 0.90 of one seed, less 0.02, and not the mean of both."""
    state = fold({**LUCKY, "bb-2": ("bb", [0.5], "running")})
    ranked = groups_of(Stated("toy", "A toy."), state).ranked
    assert ranked[0].trials[0].trial_id == state.ranked("val_auc", "max")[0].trial_id == "bb"
    assert ranked[0].score("val_auc", "max") == 0.90


def test_losses_are_compared_from_below() -> None:
    values = {name: (first, [1 - one for one in own], status) for name, (first, own, status) in LUCKY.items()}
    state = fold({**values, "bb-2": ("bb", [0.22], "completed")}, mode="min")
    search = Search(name="toy", task="toy", title="", space=RANGES, presets={}, metric="val_auc", mode="min")
    # By hand: 0.16 + 0.0365 of two seeds, 0.18 + 0.0298 of three, with 0.0516 for their standard deviation.
    assert [one.trial_id for one in state.ranked("val_auc", "min")][:3] == ["bb", "bb-2", "a-3"]
    found = to_repeat(state, search, 3)
    assert found is not None
    assert found[0].trial_id == "bb"


def test_what_the_mean_shows_is_nearer_to_the_truth_than_the_best_training() -> None:
    """Of ten searches of 30 trainings, whose noise is as large as what tells the best configurations apart."""
    bias: dict[int, float] = {}
    for repeats in (1, 3):
        found = []
        for seed in range(10):
            made = preset("none", epochs=1, trials=30, repeats=repeats)
            begun = started(repeats=repeats, metric="val_accuracy")
            run = Simulated(
                made, RANGES, [begun], seed=seed, noise=0.1, value=lambda params, _: height(params)
            )
            run.run()
            best = run.state.ranked("val_accuracy", "max")[0]
            found.append(run.state.mean(best, "val_accuracy", "max")[0] - height(best.started.params))
        bias[repeats] = statistics.fmean(found)
    assert bias[1] > 0.1
    assert bias[3] < 0.75 * bias[1]


def test_where_repeats_cannot_be_they_are_refused() -> None:
    with raises(InvalidConfig, "seeds=3", "grid"):
        Preset(epochs=2, sampler="grid", repeats=3)
    with raises(InvalidConfig, "repeats", "at least 1"):
        Preset(epochs=2, trials=2, repeats=0)
    two = Search(name="toy", task="toy", title="", space=RANGES, presets={}, second_objective="flops")
    with raises(InvalidConfig, "two objectives", "leave repeats out"):
        check_sampler(Preset(epochs=2, trials=9, repeats=2), two)
    one = Search(
        name="toy", task="toy", title="", space=RANGES.replace(learning_rate=1e-3, momentum=Choice(0.1, 0.2)),
        presets={},
    )  # fmt: skip
    auto = Preset(epochs=2, trials=9, sampler="auto", scheduler="none", repeats=2)
    assert auto.resolved(one).sampler == "tpe"


@pytest.mark.parametrize(("options", "expected"), [({}, None), ({"events_per_tree": 0.5}, "xg")])
def test_a_fit_that_no_seed_changes_is_not_trained_again(
    options: dict[str, Any], expected: str | None
) -> None:
    records: list[Record] = [started(repeats=3)]
    params = {"xg": {"model": "xgboost", **options}, "net": {"learning_rate": 3}}
    for number, (name, value) in enumerate((("xg", 0.9), ("net", 0.8))):
        begun = TrialStarted(time=number, trial_id=name, number=number, params=params[name], seed=0)
        epoch = EpochFinished(
            time=number, trial_id=name, metrics={"epoch": 1, "val_auc": value}, cpu_seconds=0.0
        )
        records += [begun, epoch, TrialFinished(time=number, trial_id=name, status="completed")]
    search = Search(name="toy", task="toy", title="", space=RANGES, presets={}, metric="val_auc")
    found = to_repeat(SearchState.fold(records), search, 3)
    assert (found and found[0].trial_id) == expected


def test_a_result_tells_what_its_search_stated_when_it_began() -> None:
    begun = {"title": "As it began.", "baseline": {"learning_rate": 3}, "tables": []}
    told = SearchResult(SearchState.fold([started(stated=begun)]), Path(), "").stated
    assert told == Stated("toy", "As it began.", {"learning_rate": 3})
    assert (
        SearchResult(SearchState.fold([started()]), Path(), "").stated is None
    )  # an earlier version said nothing
