"""What is kept of rivals, and how ours is set beside it."""

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
