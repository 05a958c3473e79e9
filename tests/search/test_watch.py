"""A second dataset that a search watches: opened where it suits, refused by name where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, NonFiniteLoss
from hep_ray.loading.stream import plan_ingest
from hep_ray.search.definition import Preset, Search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice
from hep_ray.search.plan import CHECKS, Draft
from hep_ray.search.space import Space
from hep_ray.training.evaluation import watched_metrics
from tests.facts import raises

SPACE = Space(
    model="mlp", loss="cross_entropy", optimizer="adam", learning_rate=Choice(0.01, 0.001), batch_size=16
)
SEARCH = Search(
    name="watching", task="toy", title="Toy.", space=SPACE, presets={"smoke": Preset(epochs=1, trials=2)}
)
X = Column(name="x", shape=(3,), unit="GeV")


def write(folder: Path, column: Column = X, classes: tuple[str, ...] = ("a", "b"), events: int = 120) -> Path:
    labels = np.arange(events) % len(classes)
    values = np.random.default_rng(1).normal(size=(events, *column.shape)).astype(column.dtype)
    schema = EventSchema(task="toy", columns=(column,), classes=classes)
    with ShardWriter(folder, schema, source={"by": "hand"}) as writer:
        ids = [f"{folder.name}{row}" for row in range(events)]
        writer.write({"event_id": ids, "label": labels, column.name: values})
    return folder


def draft(data: Path, watch: Path | None) -> Draft:
    return Draft(SEARCH, SEARCH.presets["smoke"], SearchOptions(data=data, watch=watch))


def test_a_dataset_of_the_same_columns_is_watched_and_none_unless_asked_for(tmp_path: Path) -> None:
    own, other = write(tmp_path / "own"), write(tmp_path / "other", events=200)
    filled = X.model_copy(
        update={"fill": 0.0, "sentinels": (-999.0,)}
    )  # of the input: the events are the same
    assert draft(own, write(tmp_path / "filled", filled)).watched is not None
    watched = draft(own, other).watched
    assert watched is not None
    assert (watched.folder, watched.schema.classes) == (other, ("a", "b"))
    assert draft(own, None).watched is None


@pytest.mark.parametrize(
    ("column", "classes", "said"),
    [
        (Column(name="y", shape=(3,), unit="GeV"), ("a", "b"), "no column 'x'"),
        (Column(name="x", shape=(4,), unit="GeV"), ("a", "b"), "no column 'x'"),
        (Column(name="x", shape=(3,), unit="MeV"), ("a", "b"), "unit 'GeV'"),
        (X, ("a", "c"), r"has classes ('a', 'c')"),
        (X, ("b", "a"), r"has classes ('b', 'a')"),
    ],
)
def test_other_events_are_refused_before_anything_starts(
    column: Column, classes: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    wrong = draft(write(tmp_path / "own"), write(tmp_path / "other", column, classes))
    with raises(InvalidConfig, "--watch", said):
        for check in CHECKS:
            check(wrong)


def test_what_is_watched_is_asked_of_every_node_and_counts_in_the_memory_budget(tmp_path: Path) -> None:
    own, other = draft(write(tmp_path / "own"), write(tmp_path / "other", events=300)), tmp_path / "other"
    assert [one.folder for one in own.trials.datasets] == [tmp_path / "own", other]
    first, watched = own.dataset.manifest, Dataset.open(other).manifest
    node = [{"CPU": 2.0, "object_store_memory": 1e9}]
    alone, both = plan_ingest(first, node), plan_ingest(first, node, beside=[watched])
    assert both.held == alone.held + watched.rows("val") * watched.event_bytes
    budget = (alone.held + 1) / 1e9
    assert plan_ingest(first, node, budget=budget).cache == "resident"
    assert plan_ingest(first, node, budget=budget, beside=[watched]).cache == "streaming"


def test_a_resumed_search_watches_what_it_watched(tmp_path: Path) -> None:
    recorded = SearchOptions(data=tmp_path / "own", watch=tmp_path / "other").record()
    given_up = SearchOptions.from_flags({"watch": Path("none")}, recorded, "toy")
    assert given_up.watch is None
    assert SearchOptions.from_flags({}, given_up.record(), "toy").watch is None
    assert recorded["watch"] == str(tmp_path / "other")
    assert SearchOptions.from_flags({}, recorded, "toy").watch == tmp_path / "other"
    assert (
        SearchOptions.from_flags({}, {"data": "d"}, "toy").watch is None
    )  # a journal from before there was one


def test_watched_events_whose_loss_is_not_finite_end_no_trial(caplog: pytest.LogCaptureFixture) -> None:
    def infinite() -> dict[str, float]:
        raise NonFiniteLoss("validation loss is inf")

    assert watched_metrics(infinite) == {}
    assert "inf" in caplog.text
    sound = {"val_loss": 0.5, "val_accuracy": 0.7, "val_auc": 0.8, "val_f1": 0.6}
    assert watched_metrics(lambda: sound) == {
        "watched_loss": 0.5, "watched_accuracy": 0.7, "watched_auc": 0.8
    }  # fmt: skip
