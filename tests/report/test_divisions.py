"""Efficiency and rejection in bins of a quantity and of each kind of background, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import ORIGIN, Column, EventSchema
from hep_ray.errors import InvalidConfig, UnknownName
from hep_ray.report.cli import quantities_of
from hep_ray.report.divisions import Division, divisions_of, passing_parts
from hep_ray.report.figures import FIGURES, Drawn
from hep_ray.report.figures.working_points import shown_points
from hep_ray.report.page import Shown, page
from hep_ray.report.report_data import gather
from hep_ray.report.scores import mean_and_error, performance_of
from hep_ray.report.tables import in_bins, of_kinds
from hep_ray.search.published import StudyTable
from tests.facts import raises

BINS = Division("abs(eta)", "", np.array([0.0, 1.0, 2.0]), (), np.array([0, 0, 1, 1, 0, 0, 1, 1, -1]))
ODDS = np.array([3.0, 2, 1, 0, 3, 1, 0, -1, 9])
SIGNAL = np.array([True] * 4 + [False] * 5)
ROWS = 1200


def events(folder: Path, classes: tuple[str, ...] = ("background", "signal")) -> Path:
    """Write events with η from −2 to 2, p_T that is the same in all, and a background of two kinds of three."""
    schema = EventSchema(
        task="toy",
        columns=(
            Column(name="x", shape=(2,), elements=("px", "py"), unit="GeV"),
            Column(name="eta"),
            Column(name="pt", unit="GeV"),
            Column(name=ORIGIN, dtype="int64", categories=("jet", "never", "photon", "electron")),
        ),
        classes=classes,
        spectators=(ORIGIN,),
    )
    rows = np.arange(ROWS)
    labels = rows % 2
    with ShardWriter(folder, schema, source={"by": "hand"}) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in rows],
                "label": labels,
                "x": np.stack([rows, -rows], axis=1).astype(np.float32),
                "eta": np.linspace(-2, 2, ROWS).astype(np.float32),
                "pt": np.full(ROWS, 20, np.float32),
                ORIGIN: np.where(labels == 1, 3, np.where(rows % 3, 0, 2)),
            }
        )
    return folder


def test_fractions_and_their_errors_are_those_by_hand() -> None:
    found = passing_parts(BINS, ODDS, SIGNAL, None, [1.0])
    # Of two signal events each: both pass, one passes. √(¼·1 + ¼·1)/2 = 0.3536, and as much for one of two events.
    np.testing.assert_allclose(found.efficiency, [[1, 0.5]])
    np.testing.assert_allclose(found.efficiency_error, [[0.5**1.5, 0.5**1.5]])
    # Both background events pass, then none: one is taken to, 1/ε_b ≥ 2 with the error 2²·0.3536.
    np.testing.assert_allclose(found.rejection, [[1, 2]])
    np.testing.assert_allclose(found.rejection_error, [[0.5**1.5, 4 * 0.5**1.5]])
    assert found.limit.tolist() == [[False, True]]
    assert (found.signal.tolist(), found.background.tolist()) == ([2, 2], [2, 2])

    weights = np.array([1.0, 1, 1, 3, 2, 2, 1, 3, 50])
    found = passing_parts(BINS, ODDS, SIGNAL, weights, [1.0])
    # ε_s = 1/4 with √((3/4)²·1² + (1/4)²·3²)/4; one background event has the weight (1² + 3²)/(1 + 3) of 4.
    assert found.efficiency[0, 1] == pytest.approx(0.25)
    assert found.efficiency_error[0, 1] == pytest.approx(np.sqrt(9 / 16 + 9 / 16) / 4)
    assert found.rejection[0, 1] == pytest.approx(4 / 2.5)


def test_a_part_without_a_kind_has_no_fraction_of_it() -> None:
    kinds = Division("", "", np.empty(0), ("jet", "photon"), np.where(SIGNAL, -1, np.arange(9) % 2))
    found = passing_parts(kinds, ODDS, SIGNAL, None, [1.0, 5.0])
    assert np.isnan(found.efficiency).all()
    # Jets (even places): odds 3, 0, 9; photons: 1, −1.
    np.testing.assert_allclose(found.rejection, [[1.5, 2], [3, 2]])
    assert found.limit.tolist() == [[False, False], [False, True]]
    negative = passing_parts(BINS, ODDS, SIGNAL, np.where(ODDS == 2, -3.0, 1.0), [1.0])
    assert np.isnan(negative.efficiency).tolist() == [[True, False]]


def test_the_whole_split_as_one_part_has_the_rejection_of_the_curve() -> None:
    rng = np.random.default_rng(1)
    labels, weights = np.arange(600) % 2, rng.uniform(0.5, 2, 600)
    signal = 1 / (1 + np.exp(-rng.normal(labels, 1)))
    one = Division("pt", "GeV", np.array([0.0, 1.0]), (), np.zeros(600, np.int64))
    scores = np.stack([1 - signal, signal], axis=1)
    for own in (None, weights):
        found = performance_of(scores, labels, 1, None, own, [one])
        for place, point in enumerate(found.points):
            assert found.parts[0].rejection[place, 0] == pytest.approx(point.rejection)
            assert found.parts[0].efficiency[place, 0] == pytest.approx(point.percent / 100, abs=0.01)
            assert found.parts[0].rejection_error[place, 0] <= point.error  # which has the cut's own too


def test_events_are_divided_evenly_by_columns_that_models_may_not_read(tmp_path: Path) -> None:
    dataset = Dataset.open(events(tmp_path / "data"))
    eta, kinds = divisions_of(dataset, "test", purpose="report")  # p_T is the same in all events
    assert (eta.quantity, eta.words, kinds.kinds) == ("abs(eta)", "|η|", ("jet", "photon"))
    rows = dataset.rows("test")
    assert len(eta.part) == rows
    counts = np.bincount(eta.part)
    assert counts.min() >= counts.max() - 2
    arrays = dataset.arrays("test", purpose="report")
    absolute = np.abs(arrays["eta"])
    for part in range(eta.parts):
        own = absolute[eta.part == part]
        assert eta.edges[part] <= own.min() < own.max() <= eta.edges[part + 1] + 1e-6
    assert (kinds.part == np.where(arrays["label"] == 1, -1, arrays[ORIGIN] // 2)).all()
    only, _ = divisions_of(dataset, "val", against=["px - py"], most=100)
    assert (only.words, len(only.part)) == ("px - py [GeV]", 100)
    with raises(InvalidConfig, "test", "report"):
        divisions_of(dataset, "test")
    with raises(UnknownName, "'pz'", "px"):
        divisions_of(dataset, "val", against=["pz"])
    with raises(InvalidConfig, "'x'", "(2,)"):
        divisions_of(dataset, "val", against=["x"])
    assert quantities_of("abs(eta), hypot(px, py)") == ("abs(eta)", "hypot(px, py)")
    with raises(InvalidConfig, "'eta,'"):
        quantities_of("eta,")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("eta > 0", (0.0, 1.0)),
        ("2 * (eta > 0) - 1", (-1.0, 1.0)),
        ("1 * (eta > 0) + 1 * (eta > 1)", (0.0, 1.0, 2.0)),
    ],
)
def test_each_of_few_values_is_a_part(tmp_path: Path, text: str, values: tuple[float, ...]) -> None:
    dataset = Dataset.open(events(tmp_path / "data"))
    found, _ = divisions_of(dataset, "val", against=[text])
    assert (found.values, found.parts, len(found.edges)) == (values, len(values), 0)
    eta = dataset.arrays("val")["eta"]
    for part in range(found.parts):
        low, high = (-np.inf, 0, 1, np.inf)[part], (0, np.inf if len(values) == 2 else 1, np.inf)[part]
        assert (found.part[(eta > low) & (eta <= high)] == part).all()
    assert found.words_of(1) == f"{values[1]:g}"
    assert found.divided == f"for each value of {text}"


def test_a_frequent_value_is_a_bin_of_its_own_and_the_caption_says_so(tmp_path: Path) -> None:
    dataset = Dataset.open(events(tmp_path / "data"))
    eta = dataset.arrays("val")["eta"]
    for text, many, frequent in (
        ("eta * (eta > 1.72)", eta <= 1.72, 0),  # the least of its values, which 93 % have
        ("eta * (eta < -1.72)", eta >= -1.72, 1),  # the largest
    ):
        found, _ = divisions_of(dataset, "val", against=[text])
        assert found.parts == 2
        assert (found.part[many] == frequent).all()
        assert (found.part[~many] == 1 - frequent).all()
        counts = np.bincount(found.part)
        assert f"{counts.min():,} to {counts.max():,} events" in found.divided
        assert "equally" not in found.divided
    assert found.words_of(1) == "0"
    even, _ = divisions_of(dataset, "val", against=["eta"])
    assert even.divided == "in bins of eta of equally many events"


def test_a_named_quantity_that_divides_nothing_is_refused(tmp_path: Path) -> None:
    dataset = Dataset.open(events(tmp_path / "data"))
    with raises(InvalidConfig, "'pt'", "20 in all events", "differs"):
        divisions_of(dataset, "val", against=["eta", "pt"])
    with raises(InvalidConfig, "'px - px'", "0 in all events"):
        divisions_of(dataset, "val", against=["px - px"])


def test_seeds_that_count_the_same_events_have_their_statistical_error() -> None:
    mean, error = mean_and_error([[0.5, 0.2], [0.5, 0.6]], [[0.1, 0.02], [0.3, 0.04]])
    np.testing.assert_allclose(mean, [0.5, 0.4])
    np.testing.assert_allclose(error, [0.2, np.sqrt(0.08)])  # the mean of 0.1 and 0.3; s.d. of 0.2 and 0.6


def test_a_confirmation_is_drawn_and_tabled_in_bins_and_by_kind(workplace: Callable[..., Any]) -> None:
    place = workplace()
    for path in place.data.iterdir():
        path.unlink()
    place.data.rmdir()
    dataset = Dataset.open(events(place.data))
    place.write_journal()
    place.write_confirmation()
    missing = gather(place.search, place.storage)
    assert any("not of this test split" in note for note in missing.notes)
    assert FIGURES["working_points"].draw(missing) is None

    place.write_confirmation(labels=dataset.arrays("test", purpose="report")["label"])
    data = gather(place.search, place.storage)
    left_out = "not of this test split"
    assert set(data.notes) == {note for note in missing.notes if left_out not in note}
    assert shown_points(data) == (90, 70, 50)
    assert data.scores is not None
    bins, kinds = data.scores.divisions
    for name, words in (("working_points", "|η|"), ("background_kinds", "each kind of background")):
        drawn = FIGURES[name].draw(data)
        assert isinstance(drawn, Drawn)
        assert words in drawn.caption
        assert "s.d. over seeds" in drawn.caption
        handles, labels = drawn.figure.axes[0].get_legend_handles_labels()
        assert len(handles) == len(set(labels)) == 6  # two contenders at three points
    table = in_bins(data, data.scores)
    assert len(table.rows) == 2 * bins.parts
    assert sum(int(row[2]) for row in table.rows) == 2 * np.count_nonzero(data.scores.divisions[1].part < 0)
    first = data.scores.contenders[0].runs
    mean = np.mean([run.parts[0].efficiency[5, 0] for run in first])  # at 90 %, the sixth of the points
    assert table.rows[0][4].startswith(f"{mean:.2f}"[:4])
    assert [row[1] for row in of_kinds(data, data.scores).rows] == [*kinds.kinds] * 2
    stated = StudyTable("t", ("root_index",), metrics=("val_accuracy", "val_background_rejection_at_93"))
    same = tuple(
        replace(one, runs=one.runs[:1] * 2) for one in data.scores.contenders
    )  # each seed the same counts
    for made in (in_bins, of_kinds):
        rows = made(data, replace(data.scores, contenders=same)).rows
        assert all(
            "±" in cell for row in rows for cell in row if cell.startswith(("0.", "≥ ", "1.")) and cell != "–"
        )
    valued = gather(place.search, place.storage, against=["eta > 0"])
    drawn = FIGURES["working_points"].draw(valued)
    assert isinstance(drawn, Drawn)
    assert "for each value of eta > 0" in drawn.caption
    assert drawn.figure.axes[0].get_xticks().tolist() == [0, 1]
    assert valued.scores is not None
    assert [row[1] for row in in_bins(valued, valued.scores).rows] == ["eta > 0: 0", "eta > 0: 1"] * 2
    other = gather(place.search, place.storage, against=["py"])
    drawn_here = [FIGURES[name] for name in ("working_points", "background_kinds")]
    figures = [Shown(one.name, one.section, one.title, one.draw(other) or "") for one in drawn_here]
    assert page(other, figures, place.storage).count("py [GeV]: ") == 4  # two bins, two contenders
    assert shown_points(replace(data, search=replace(data.search, tables=(stated,)))) == (93,)
