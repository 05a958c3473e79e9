"""Which configurations are confirmed, against which baseline, and what is remembered of the test split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from hep_ray.confirm import plan
from hep_ray.confirm.confirmation import (
    TEST_USES,
    SplitUse,
    earlier_uses,
    params_hash,
    record_use,
    uses,
    uses_of_others,
)
from hep_ray.confirm.finalists import choose_baseline, configurations, parse_baseline
from hep_ray.errors import CannotConfirm, StorageError
from hep_ray.search.find import Found
from hep_ray.search.options import ConfirmOptions
from hep_ray.search.sampler import FixedList
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import EpochFinished, SearchStarted, Status, TrialFinished, TrialStarted
from tests.facts import raises

CNN = {"model": "cnn", "optimizer": "adam", "learning_rate": 0.001}
ROOT1 = {**CNN, "loss": "root_softmax", "root_index": 1}
ROOT3 = {**CNN, "loss": "root_softmax", "root_index": 3}
HINGE = {**CNN, "loss": "hinge"}


def search(
    *trials: tuple[Mapping[str, Any], list[float], Status], mode: Literal["max", "min"] = "max"
) -> SearchState:
    """A search of these trials: parameters, validation accuracy after each epoch, how it ended."""
    made = SearchState()
    made.apply(
        SearchStarted(
            time=0, search="s", search_id="i", dataset_fingerprint="f", task="t", metric="val_accuracy", mode=mode,
            epochs=3, sampler="tpe", scheduler="none", seed=0, space={}, options={}, provenance={},
        )
    )  # fmt: skip
    for number, (params, accuracies, status) in enumerate(trials):
        name = f"t{number:04d}"
        made.apply(TrialStarted(time=0, trial_id=name, number=number, params=dict(params), seed=number))
        for epoch, accuracy in enumerate(accuracies, 1):
            made.apply(
                EpochFinished(time=0, trial_id=name, metrics={"epoch": epoch, "val_accuracy": accuracy})
            )
        if status != "running":
            made.apply(TrialFinished(time=0, trial_id=name, status=status))
    return made


SEARCH = search(
    (ROOT1, [0.5, 0.8], "completed"),
    (ROOT3, [0.95], "completed"),
    (HINGE, [0.99], "failed"),
    (ROOT3, [0.6, 0.7], "completed"),
    (dict(reversed(ROOT1.items())), [0.9], "stopped"),
    ({**ROOT1, "learning_rate": 0.01}, [0.86], "completed"),
    ({**ROOT3, "root_index": 5}, [0.99], "running"),
)


def test_seeds_are_not_configurations() -> None:
    """Means of best epochs: root 1 (0.8 + 0.9)/2 = 0.85, root 3 (0.95 + 0.7)/2 = 0.825, the faster root 1 0.86."""
    found = configurations(SEARCH)
    assert [(one.name, pytest.approx(one.value)) for one in found] == [
        ("t0005", 0.86),
        ("t0000", 0.85),
        ("t0001", 0.825),
    ]
    assert [trial.trial_id for trial in found[1].trials] == ["t0000", "t0004"]


def test_least_is_best_where_the_mode_is_min() -> None:
    found = configurations(search((ROOT1, [0.4, 0.2], "completed"), (ROOT3, [0.3], "completed"), mode="min"))
    assert [(one.name, one.value) for one in found] == [("t0000", 0.2), ("t0001", 0.3)]


def test_the_baseline_is_the_best_drawn_one_with_the_values_asked_for() -> None:
    ranked = configurations(SEARCH)
    for wanted in ({"root_index": 1}, {}, {"loss": "root_softmax", "batch_size": 100, "root_index": 1.0}):
        found = choose_baseline(ranked, wanted)
        assert found.drawn is ranked[0]
        assert "t0005" in found.origin
    assert choose_baseline(ranked, {"trial": "t0004"}).drawn is ranked[1]
    assert choose_baseline(ranked, {"root_index": 3}).drawn is ranked[2]


def test_a_baseline_that_was_not_drawn_is_the_best_one_with_the_values_put_in() -> None:
    found = choose_baseline(configurations(SEARCH)[1:], {"loss": "hinge"})
    assert found.params == HINGE
    assert found.drawn is None
    assert "none drawn has it" in found.origin
    fitted = choose_baseline(configurations(SEARCH), {"model": "likelihood"})
    assert fitted.params == {"model": "likelihood"}


@pytest.mark.parametrize(
    ("expression", "facts"),
    [
        ("", ["KEY=VALUE"]),
        ("loss=", ["KEY=VALUE"]),
        ("loss=hinge,root_index=3", ["'root_index'"]),
        ("loss=nothing", ["'nothing'", "hinge"]),
        ("trial=t0002", ["t0002", "t0005, t0000, t0001"]),
        ("trial=t0000,loss=hinge", ["trial=t0000,loss=hinge"]),
    ],
)
def test_a_baseline_that_cannot_be_is_refused(expression: str, facts: list[str]) -> None:
    with raises(CannotConfirm, *facts):
        choose_baseline(configurations(SEARCH), parse_baseline(expression))


def test_contenders_of_different_strengths_are_not_compared_by_the_loss_with_their_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any is trained, although the search was by one strength: the baseline that is asked for has another."""
    net = {**HINGE, "decorrelate": "mass", "decorrelation": 10.0}
    state = search((net, [0.8], "completed"), ({**net, "learning_rate": 0.01}, [0.7], "completed"))
    ranked = configurations(state)
    assert state.started is not None
    state.started = state.started.model_copy(update={"metric": "val_decorrelated_loss"})
    monkeypatch.setattr(plan, "find_search", lambda *_: Found(tmp_path / "s", None))
    monkeypatch.setattr(Found, "stated", lambda *_: None)
    monkeypatch.setattr(plan, "ended", lambda *_: state)
    monkeypatch.setattr(plan, "configurations", lambda _: ranked)
    monkeypatch.setattr(plan, "searched_dataset", lambda *_: None)
    options = ConfirmOptions(search="s", storage=tmp_path, baseline="decorrelation=0.0")
    with raises(CannotConfirm, "val_decorrelated_loss", "0.0, 10.0", "val_auc"):
        plan.prepare_confirmation(options)


def test_values_of_an_expression_have_types() -> None:
    assert parse_baseline("loss=hinge, root_index=3,learning_rate=1e-3,frozen=true") == {
        "loss": "hinge",
        "root_index": 3,
        "learning_rate": 1e-3,
        "frozen": True,
    }


def test_a_list_hands_out_the_unfinished_first_and_the_ended_never() -> None:
    runs = [
        TrialStarted(time=0, trial_id=f"t{number:04d}", number=number, params=CNN, seed=number)
        for number in range(8)
    ]
    state = search(
        *((CNN, [0.5], status) for status in ("completed", "running", "failed", "stopped", "running"))
    )
    begun: list[Any] = []
    searcher = FixedList(runs, state, begun.append)
    assert len(searcher) == 5
    handed = [searcher.suggest("x") for _ in range(6)]
    assert [one["trial_id"] for one in handed[:5] if isinstance(one, dict)] == [
        "t0001",
        "t0004",
        "t0005",
        "t0006",
        "t0007",
    ]
    assert handed[5] == FixedList.FINISHED
    assert [record.trial_id for record in begun] == ["t0005", "t0006", "t0007"]
    assert all(record.time > 0 for record in begun)


def use(confirmation: str, fingerprint: str = "f") -> SplitUse:
    contenders = (params_hash(ROOT1),)
    return SplitUse(
        time=1.5,
        purpose="confirm",
        dataset_fingerprint=fingerprint,
        contenders=contenders,
        confirmation_id=confirmation,
    )


def test_every_look_at_the_test_split_is_remembered_once(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "other").mkdir()
    assert uses(tmp_path / "s") == []
    for one in (use("a"), use("b", "g"), use("a"), use("c")):
        record_use(tmp_path / "s", one)
    record_use(tmp_path / "other", use("d"))
    assert uses(tmp_path / "s") == [use("a"), use("b", "g"), use("c")]
    assert earlier_uses(tmp_path / "s", "f", "a") == []
    assert earlier_uses(tmp_path / "s", "f", "c") == [use("a")]
    assert earlier_uses(tmp_path / "s", "f", "not yet") == [use("a"), use("c")]
    assert uses_of_others(tmp_path, "s", "f") == {"other": 1}
    (tmp_path / "s" / TEST_USES).write_text("{\n")
    with raises(StorageError, TEST_USES, "line 1"):
        uses(tmp_path / "s")


def test_the_hash_of_a_configuration_knows_no_seed_and_no_order() -> None:
    assert params_hash({**ROOT1, "seed": 3}) == params_hash(dict(reversed(ROOT1.items())))
    assert params_hash(ROOT1) != params_hash(ROOT3)
