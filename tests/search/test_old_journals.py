"""Journals before 2026-11-28 hold space and scheduler in words; these were written by the commit before the change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hep_ray.search.parameters import Choice, Integer, LogUniform, Mapped, Uniform
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import FILE_NAME, Journal
from hep_ray.tracking.records import SearchStarted
from hep_ray.tracking.views import choices, ranges, varied

JOURNALS = Path(__file__).parent / "journals"
SPACE = Space(
    model=Choice("mlp", "gradient_boosting"),
    loss=Choice("cross_entropy", "root_softmax"),
    root_index=Choice(3, 4).when(loss="root_softmax"),
    optimizer=Choice("adam", "sgd"),
    momentum=Uniform(0.8, 0.987654321).when(optimizer="sgd"),
    weight_decay=Mapped("optimizer", {"adam": 0.0, "sgd": 0.0001}),
    learning_rate=LogUniform(1e-4, 1e-2),
    batch_size=64,
    hidden_features=Integer(8, 64).when(model="mlp"),
)
"""What the script stated from which the journals were written."""


def first_record(name: str, folder: Path) -> SearchStarted:
    """The first record of a journal, read as a resumed search reads it."""
    shutil.copy(JOURNALS / f"{name}_2026_11_28.jsonl", folder / FILE_NAME)
    with Journal(folder) as journal:
        started = SearchState.fold(journal).started
    assert started is not None
    return started


def test_words_become_a_structure(tmp_path: Path) -> None:
    space = first_record("interrupted", tmp_path).space
    assert varied(space) == tuple(name for name in SPACE if name != "batch_size")
    assert ranges(space) == ("momentum", "learning_rate", "hidden_features")
    assert choices(space) == ("model", "loss", "root_index", "optimizer", "weight_decay")
    assert [name for name, one in space.items() if one.is_log] == ["learning_rate"]
    assert space["root_index"].values == (3, 4)
    assert space["weight_decay"].when == {"optimizer": ("adam", "sgd")}
    assert {name: str(one) for name, one in space.items()} == {
        name: str(one) for name, one in SPACE.parameters.items()
    }
    read = Space.from_json(space).parameters
    exact = {"momentum": Uniform(0.8, 0.987654), "weight_decay": Choice(0.0, 0.0001)}
    for name, parameter in SPACE.parameters.items():  # six digits, and what follows looks like what is drawn
        expected = exact.get(name, parameter)
        assert read[name] == expected.when(**parameter.condition)


def test_the_same_space_goes_on_and_another_is_told(tmp_path: Path) -> None:
    space = first_record("interrupted", tmp_path).space
    assert SPACE.changes_since(space) == []
    (change,) = SPACE.replace(momentum=Uniform(0.8, 0.99).when(optimizer="sgd")).changes_since(space)
    assert change.startswith("momentum was 0.8 … 0.987654 when optimizer=sgd")
    (change,) = SPACE.replace(root_index=Choice(3, 5).when(loss="root_softmax")).changes_since(space)
    assert change.startswith("root_index was 3 | 4")


def test_scheduler_and_contenders_are_read(tmp_path: Path) -> None:
    search = first_record("interrupted", tmp_path)
    assert (search.scheduler, search.grace_epochs, search.reduction_factor) == ("asha", 3, 3)
    assert search.stopping == "asha, grace 3, factor 3"
    assert [one["optimizer"] for one in search.points_to_evaluate] == ["adam"]
    assert search.second_objective is None
    (tmp_path / "confirm").mkdir()
    confirmation = first_record("confirmation", tmp_path / "confirm")
    assert confirmation.scheduler == confirmation.stopping == "none"
    assert confirmation.space == {}
    assert confirmation.contenders["t0001"] == {"model": "gradient_boosting"}
    assert confirmation.contenders["baseline"]["learning_rate"] == pytest.approx(0.001)


def test_what_was_read_is_written_and_read_again(tmp_path: Path) -> None:
    started = first_record("interrupted", tmp_path)
    assert SearchStarted.model_validate_json(started.model_dump_json()) == started
