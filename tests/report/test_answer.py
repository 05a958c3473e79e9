"""The first screen of a report: the answer, what it is compared with, and what to type next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from hep_ray.confirm.confirmation import load_confirmation, save_confirmation
from hep_ray.metrics import METRICS, metric
from hep_ray.metrics.labels import metric_words
from hep_ray.report.answer import Answer, answer
from hep_ray.report.report_data import gather
from hep_ray.report.tables import leaderboard
from hep_ray.search.naming import Naming


def told(place: Any) -> Answer:
    return answer(gather(place.search, place.storage))


def test_a_gain_that_was_not_shown_is_called_so(workplace: Callable[..., Any]) -> None:
    place = workplace()
    place.write_journal()
    place.write_confirmation()
    found = load_confirmation(place.folder)
    against = found.comparisons[0].model_copy(update={"p_value": 0.3, "adjusted_p_value": 0.3})
    save_confirmation(place.folder, found.model_copy(update={"comparisons": (against,)}))
    one = told(place)
    assert one.real is False
    assert one.headline == "No finalist is better than the baseline at the 5 % level."
    assert one.facts["What won"].startswith("Nothing; the best by validation is t0001")
    assert one.facts["Is it real?"].startswith("Not shown, at the 5% level: p = 0.3,")


def with_a_second_finalist(place: Any, *, second_by_validation: float, first_p: float) -> Any:
    """Confirm `t0001`, which has 0.8 by validation, and `t0005`, which is better on the test split."""
    place.write_journal()
    place.write_confirmation()
    found = load_confirmation(place.folder)
    first, baseline = found.contenders

    def validated(one: Any, name: str, value: float) -> Any:
        runs = tuple(
            run.model_copy(update={"metrics": {**run.metrics, "val_accuracy": value}}) for run in one.runs
        )
        return one.model_copy(update={"name": name, "runs": runs})

    contenders = (
        validated(first, "t0001", 0.8),
        validated(first, "t0005", second_by_validation),
        validated(baseline, "baseline", 0.7),
    )
    against = found.comparisons[0].model_copy(update={"p_value": 0.01, "adjusted_p_value": 0.02})
    comparisons = (
        against.model_copy(update={"p_value": first_p, "adjusted_p_value": first_p}),
        against.model_copy(update={"contender": "t0005"}),
    )
    changed = {"contenders": contenders, "comparisons": comparisons}
    save_confirmation(place.folder, found.model_copy(update=changed))
    return place


def test_what_won_is_the_candidate_of_the_gate(workplace: Callable[..., Any]) -> None:
    """Two finalists are better than the baseline: the one that validation ranks first would be promoted."""
    one = told(with_a_second_finalist(workplace(), second_by_validation=0.9, first_p=0.02))
    assert one.real is True
    assert one.headline.startswith("t0005 beats the baseline")
    assert one.facts["What won"].startswith("t0005")
    assert one.facts["Also better"].startswith("t0001 is")


def test_a_gain_of_another_than_the_candidate_is_none(workplace: Callable[..., Any]) -> None:
    """The test split shows a gain of t0005, validation chose t0001: nothing may be promoted."""
    one = told(with_a_second_finalist(workplace(), second_by_validation=0.7, first_p=0.4))
    assert one.real is False
    assert one.headline == "t0001, the best by validation, is not better than the baseline; t0005 is."
    assert one.facts["What won"].startswith("Nothing; the best by validation is t0001")
    assert one.facts["Is it real?"].startswith("Not shown, at the 5% level: p = 0.4,")


def test_the_baseline_that_leads_is_compared_with_what_comes_next(workplace: Callable[..., Any]) -> None:
    place = workplace(table=False)
    place.write_journal([({}, 0, [0.9], "completed"), ({"root_index": 3}, 0, [0.8], "completed")])
    against = told(place).facts["Against what"]
    assert against.startswith("It is the baseline itself; next comes t0001: root_index=3, with 0.800 ± 0.020")
    assert "ahead by 0.1" in against


def test_a_baseline_that_no_trial_has_is_named(workplace: Callable[..., Any]) -> None:
    place = workplace(table=False)
    place.write_journal([({"root_index": 3}, 0, [0.8], "completed")])
    one = told(place)
    assert one.facts["Against what"].startswith("The baseline, root_index=1: no trial has it yet")
    assert one.command == f"hep-ray confirm toy_search --storage {place.storage}"


def test_what_leads_over_its_seeds_is_told_by_their_mean(workplace: Callable[..., Any]) -> None:
    """A search with repeats ranks by the mean over seeds: (0.90 + 0.80) / 2 ± 0.1 / √2 / √2, not by the luckiest."""
    place = workplace(table=False)
    once, twice = {"optimizer": "sgd"}, {"optimizer": "adam"}
    journal = [(once, 0, [0.5], "completed"), (once, 1, [0.6], "completed")]
    journal += [(twice, 2, [0.9], "completed"), (twice, 3, [0.8], "completed"), (twice, 4, [0.7], "running")]
    place.write_journal(journal, repeats=2)
    one = told(place)
    assert (
        one.headline
        == "Not confirmed yet: t0002 leads with mean validation accuracy 0.850 ± 0.050 over 2 seeds."
    )
    assert one.facts["By how much"].endswith("; its 2 seeds give 0.850 ± 0.071")
    table = leaderboard(gather(place.search, place.storage))
    assert [table.head[column] for column in table.text] == ["trial", "optimizer", "end"]


def test_the_only_configuration_is_compared_with_nothing(workplace: Callable[..., Any]) -> None:
    place = workplace(table=False)
    place.search = dataclasses.replace(place.search, baseline={})
    place.write_journal([({}, 0, [0.8], "completed")])
    one = told(place)
    assert one.facts["Against what"] == "Nothing: there is no other configuration."
    assert one.command is None
    assert one.real is None


def test_a_metric_of_ones_own_is_called_by_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))

    @metric("purity", larger_is_better=True, label="purity at ε_s = {}")
    def purity(scores: Any) -> dict[str, float]:
        return {"purity_at_85": 0.5}

    assert metric_words("val_purity_at_85") == "validation purity at ε_s = 0.85"


def test_a_parameter_that_follows_another_tells_nothing() -> None:
    sgd = {"model": "mlp", "optimizer": "sgd", "momentum": 0.9}
    adam = {"model": "mlp", "optimizer": "adam"}
    naming = Naming.among([sgd, adam])
    assert naming.varied == ("optimizer",)
    assert naming.words(sgd) == "optimizer=sgd"
    # One that was not drawn is called by what none of these has.
    assert naming.words({"model": "logistic_regression"}) == "model=logistic_regression"
