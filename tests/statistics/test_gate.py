"""The gate passes a candidate that is no better as rarely as it says, and one that is better often enough."""

from __future__ import annotations

import pytest

from tests.statistics.gate import false_alarms, gate_false_alarms, gate_power, passing


def test_a_test_over_seeds_alone_would_pass_too_often_where_the_gate_does_not() -> None:
    """3 seeds and 500 events, 1,500 confirmations in both directions: 2.5 ± 0.3 %."""
    line = false_alarms("accuracy", 3, 500, 1_500)
    assert 0.015 < line["measured"] < 0.035
    assert line["error"] < 0.004


def test_a_large_gain_passes_and_a_stricter_level_passes_less() -> None:
    up, down, error = passing("accuracy", 5, 500, 60, gain=0.5)
    assert (up, down) == (60, 0)
    assert 0 < error < 0.03
    assert (
        passing("accuracy", 5, 500, 200, gain=0.1, level=0.001)[0]
        < passing("accuracy", 5, 500, 200, gain=0.1)[0]
    )


@pytest.mark.slow
def test_false_alarms_are_between_two_and_three_per_cent() -> None:
    lines = list(gate_false_alarms())
    assert {(line["seeds"], line["events"]) for line in lines if line["metric"] == "accuracy"} == {
        (seeds, events) for seeds in (3, 5, 10) for events in (500, 5_000, 50_000)
    }
    assert [line["seeds"] for line in lines if line["metric"] == "auc"] == [3, 5, 10]
    for line in lines:
        assert 0.02 - 2 * line["error"] < line["measured"] < 0.03 + 2 * line["error"], line
        assert line["error"] < 0.004


@pytest.mark.slow
def test_a_gain_of_three_standard_errors_passes_more_often_than_not() -> None:
    for line in gate_power():
        assert line["standard_errors"] == pytest.approx(3, abs=0.4), line
        assert line["measured"] > (0.35 if line["seeds"] == 3 else 0.6), line
