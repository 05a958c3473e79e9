"""What is kept of rivals, and how ours is set beside it."""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("HEP_RAY_TEST_DATA") or REPOSITORY.parent / "shared" / "data")


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import rival_methods
    import rivals
    import search_efficiency

    yield rivals, rival_methods, search_efficiency
    for name in ("rivals", "rival_methods", "search_efficiency", "lcbench"):
        sys.modules.pop(name, None)


def runs(values, seeds=2):
    """Task → regret, the same after 520 epochs of every seed."""
    return {(task, seed): {520: value} for task, value in values.items() for seed in range(seeds)}


def test_ratio_is_of_the_runs_that_both_have(modules):
    *_, efficiency = modules
    mine = runs({3945: 0.1, 34539: 0.3})
    other = {(3945, 0): {520: 0.2}, (34539, 1): {520: 0.6}, (34539, 5): {520: 9.0}}
    found = efficiency.beside(mine, other, 520, np.random.default_rng(0))
    assert (found["ours"], found["peer"], found["ratio"], found["pairs"]) == (0.2, 0.4, 0.5, 2)
    assert found["interval"] == [0.5, 0.5]
    assert found["tasks_ahead"] == 2


def test_a_rival_without_a_run_of_every_task_is_not_compared(modules):
    *_, efficiency = modules
    mine = runs({3945: 0.1, 34539: 0.3})
    rng = np.random.default_rng(0)
    assert efficiency.beside(mine, runs({3945: 0.2}), 520, rng) is None
    assert efficiency.beside(mine, {key: {260: 0.2} for key in mine}, 520, rng) is None


def test_interval_is_of_tasks_and_not_of_seeds_alone(modules):
    *_, efficiency = modules
    mine, other = runs({3945: 0.1, 34539: 0.4}, 20), runs({3945: 0.4, 34539: 0.4}, 20)
    low, high = efficiency.beside(mine, other, 520, np.random.default_rng(0))["interval"]
    assert (low, high) == pytest.approx((0.25, 1.0))


def test_ranks_are_over_the_runs_that_all_have(modules):
    *_, efficiency = modules
    ranks, ranked = efficiency.ranks_among(
        {
            "ours": runs({1: 0.1, 2: 0.2}, 1),
            "a": runs({1: 0.2, 2: 0.2}, 3),
            "b": runs({1: 0.3, 2: 0.1, 3: 0.0}, 2),
        },
        520,
    )
    assert ranked == 2
    assert ranks == {"ours": 1.5, "a": 2.0, "b": 2.0}


def test_longer_runs_replace_shorter_ones_and_not_the_reverse(modules, tmp_path, monkeypatch):
    rivals, *_ = modules
    monkeypatch.setattr(rivals, "FILE", tmp_path / "rivals.json")
    made = tmp_path / "runs.jsonl"
    line = {"rival": "dehb", "version": "dehb 1", "run": "3945/0", "setting": "8", "decision": 0.5}
    for regrets in ([5, 4], [5, 4, 3], [9]):
        made.write_text(json.dumps(line | {"regrets": regrets}) + "\n")
        rivals.gather([made])
    stored = rivals.kept(tmp_path / "rivals.json")["dehb"]
    assert (stored.version, stored.decision, stored.runs) == ("dehb 1", 0.5, {"8": {"3945/0": [5, 4, 3]}})


def test_kept_runs_are_of_open_tasks_and_known_rivals(modules):
    rivals, *_ = modules
    for name, stored in rivals.kept().items():
        assert name in rivals.RIVALS
        for run in (run for runs in stored.runs.values() for run in runs.items()):
            assert int(run[0].partition("/")[0]) in rivals.SCALE
            assert len(run[1]) <= len(rivals.MARKS)
            assert run[1] == sorted(run[1], reverse=True)


def test_a_leg_goes_on_where_the_configuration_was(modules):
    _, methods, _ = modules

    class Asks(methods.Legs):
        def __init__(self):
            super().__init__()
            self.wanted, self.told = [("a", 2), ("a", 3), ("a", 2), ("b", 1)], []

        def ask(self):
            config, until = self.wanted.pop(0)
            return (config, until), {"x": config}, until

        def tell(self, asked, value):
            self.told.append((*asked, value))

    asks = Asks()
    first, params, start = asks.start()
    assert (params, start) == ({"x": "a"}, 0)
    assert [asks.report(first, 1, 0.9), asks.report(first, 2, 0.5)] == [False, True]
    second, _, start = asks.start()
    assert start == 2
    assert asks.report(second, 3, 0.7)
    assert asks.start()[1:] == ({"x": "b"}, 0)
    assert asks.told == [("a", 2, 0.9), ("a", 3, 0.9), ("a", 2, 0.9)]


def test_a_curve_in_parts_is_the_curve(modules):
    rivals, *_ = modules
    pytest.importorskip("onnxruntime")
    if not (DATA / "lcbench").is_dir():
        pytest.skip("the surrogate of LCBench is not there")
    params = rivals.drawn(np.random.default_rng(1))
    whole = rivals.Surrogate(DATA).curve_and_seconds(3945, params)
    for row, part in zip(whole, rivals.InParts(DATA).curve_and_seconds(3945, params), strict=True):
        assert [part[place] for place in range(52)] == pytest.approx(list(row), abs=1e-3)


@pytest.fixture
def simulated(modules, monkeypatch):
    """Searches that are pretended: which ones were made, and what each could learn from."""
    *_, efficiency = modules
    made = []

    class Pretended:
        def __init__(self, seed, priors=None, lessons=(), per_second=False):
            assert not per_second
            self.seed, self.lessons = seed, [int(one.search_id) for one in lessons]

        def lesson(self, task):
            trials = [({"x": 0.5}, {1: 60.0, 52: 90.0})]
            names = {"search": "lcbench", "search_id": str(task), "metric": "val_accuracy", "mode": "max"}
            return {**names, "epochs": 52, "trials": trials}

    def simulate(_, task, method, marks, **__):
        made.append((task, method.seed, method.lessons))
        return [50.0 + place for place, _ in enumerate(marks)]

    monkeypatch.setattr(efficiency, "Ours", Pretended)
    monkeypatch.setattr(efficiency, "simulate", simulate)
    return efficiency, made


def options_of(tmp_path, **given):
    stated = {"tasks": [3945, 34539], "seeds": 2, "budgets": [156], "workers": 8, "seconds": False}
    return argparse.Namespace(
        **{**stated, "learn_from": None, "prior": None, "keep": tmp_path / "ours.jsonl", **given}
    )


def test_a_benchmark_that_was_ended_goes_on_with_what_is_not_there(simulated, tmp_path, monkeypatch):
    efficiency, made = simulated
    first = efficiency.ours(None, options_of(tmp_path))
    assert [one[:2] for one in made] == [(3945, 0), (34539, 0), (3945, 1), (34539, 1)]
    file = tmp_path / "ours.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-20])  # ended while it wrote the last line
    assert efficiency.ours(None, options_of(tmp_path)) == first
    assert [one[:2] for one in made[4:]] == [(34539, 1)]
    assert file.read_text() == whole
    for changed in ({"workers": 2}, {"budgets": [260]}, {"learn_from": tmp_path / "lessons.jsonl"}):
        del made[:]
        efficiency.ours(None, options_of(tmp_path, **changed))
        assert len([one for one in made if one[1] < 2]) == 4
    monkeypatch.setattr(efficiency, "code_of_ours", lambda: "other")
    del made[:]
    efficiency.ours(None, options_of(tmp_path))
    assert len(made) == 4


def test_ours_learns_from_every_task_but_its_own(simulated, tmp_path):
    efficiency, made = simulated
    given = options_of(tmp_path, learn_from=tmp_path / "lessons.jsonl", tasks=[3945], seeds=1)
    efficiency.ours(None, given)
    *searched, (task, seed, taught) = made
    assert [one[:2] for one in searched] == [(one, efficiency.SEED_OF_LESSONS) for one in efficiency.SCALE]
    assert (task, seed) == (3945, 0)
    assert sorted(taught) == sorted(one for one in efficiency.SCALE if one != 3945)
    del made[:]
    efficiency.ours(None, options_of(tmp_path, learn_from=given.learn_from, tasks=[34539], seeds=1))
    assert [one[0] for one in made] == [34539]
