"""Columns that give the class away, identifiers, weights and stand-ins are named, with what to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from hep_ray.conversion.cli import app
from hep_ray.conversion.columns import set_aside, weight_like
from hep_ray.conversion.convert import convert
from hep_ray.conversion.readers import Part
from hep_ray.conversion.schema_file import SchemaFile
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset import leakage
from hep_ray.dataset.check import CheckReport, check
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.leakage import one_vs_rest
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import InvalidConfig
from tests.dataset.of_split import split_of
from tests.facts import raises, tells

EVENTS = 400
LABELS = np.arange(EVENTS) * 2 // EVENTS  # sorted by class
RANDOM = np.random.default_rng(5)
PT = RANDOM.normal(size=EVENTS).astype(np.float32)


def report(
    folder: Path, x: Any, name: str = "x", labels: Any = LABELS, accept: tuple[str, ...] = ()
) -> CheckReport:
    """What is said of a dataset with a random column `pt` and the values `x`, made of one file."""
    x = np.asarray(x)
    columns = (Column(name="pt"), Column(name=name, dtype=str(x.dtype), shape=x.shape[1:]))
    classes = tuple("abcdef"[: int(labels.max()) + 1])
    schema = EventSchema(task="toy", columns=columns, classes=classes)
    with ShardWriter(folder, schema, source={}) as writer:
        ids = [f"{classes[label]}/f/{row}" for row, label in enumerate(labels.tolist())]
        writer.write({"event_id": ids, "label": labels, "pt": PT, name: x})
    return check(folder, accept)


def test_the_area_under_the_curve_is_that_of_scikit_learn_ties_included() -> None:
    random = np.random.default_rng(1)
    labels, values = random.integers(0, 3, 500), random.integers(0, 9, 500).astype(float)
    expected = [roc_auc_score(labels == label, values) for label in range(3)]
    np.testing.assert_allclose(one_vs_rest(values, labels, 3), expected, rtol=1e-12)
    # by hand: of the pairs (2, 1), (2, 2), (3, 1), (3, 2) three are in order and one is equal: 3.5 / 4
    assert one_vs_rest(np.array([1.0, 2, 2, 3]), np.array([0, 0, 1, 1]), 2)[1] == 0.875
    assert np.isnan(one_vs_rest(np.array([1.0, 2]), np.array([0, 0]), 2)).all()


GRAVE: dict[str, tuple[Any, str]] = {
    "the row number": (np.arange(EVENTS), "counts up or down with the row"),
    "the row number as float32": (np.arange(EVENTS, dtype=np.float32), "counts up or down with the row"),
    "the row number backwards": (-np.arange(EVENTS), "counts up or down with the row"),
    "a clock": ((1.5e5 + np.arange(EVENTS) / 7).astype(np.float32), "counts up or down with the row"),
    "a shuffled number": (
        np.concatenate([RANDOM.permutation(200), 200 + RANDOM.permutation(200)]), "another whole number in every"),
    "the label": (LABELS, "has one value in each class"),
    "the label turned": (-3.5 * LABELS.astype(np.float32), "has one value in each class"),
}  # fmt: skip


@pytest.mark.parametrize("what", GRAVE)
def test_a_column_that_is_no_measurement_and_separates_the_classes_is_a_problem(
    what: str, tmp_path: Path
) -> None:
    values, said = GRAVE[what]
    found = report(tmp_path / "d", values)
    (problem,) = found.problems
    assert problem.startswith("column 'x' alone separates 'b' from the rest (AUC ")
    for split in ("train", "val", "test"):
        area = "0.0000" if values[-1] < values[0] else "1.0000"
        assert f"{area} in {split}" in problem
    assert said in problem
    assert "--columns pt" in problem
    assert "--accept x" in problem
    assert found.notes == ()
    accepted = check(tmp_path / "d", ("x",))
    assert accepted.problems == ()
    assert accepted.notes == (problem,)


def test_run_numbers_and_weights_that_separate_the_classes_are_told_by_their_names(tmp_path: Path) -> None:
    runs = 1000 * LABELS + RANDOM.integers(0, 5, EVENTS)
    weights = (LABELS * 10 + RANDOM.integers(1, 5, EVENTS) / 8).astype(np.float32)
    for name, values, said in (("run", runs, "identifier"), ("mcWeight", weights, "weight")):
        (problem,) = report(tmp_path / name, values, name).problems
        assert f"is an {said} by its name" in problem or f"is a {said} by its name" in problem


@pytest.mark.parametrize(("sign", "area"), [(1, "1.0000"), (-1, "0.0000")])
def test_a_column_that_separates_the_classes_alone_is_a_problem_unless_it_is_meant(
    sign: int, area: str, tmp_path: Path
) -> None:
    found = report(tmp_path / "d", (PT + sign * 20 * LABELS).astype(np.float32))
    (problem,) = found.problems
    said = [f"AUC {area} in train", f"{area} in val", "hep-ray data convert … --columns pt", "--accept x"]
    assert tells(problem, "'x'", "alone separates", "'b'", *said)
    accepted = check(tmp_path / "d", ("x",))
    assert (accepted.problems, accepted.notes) == ((), (problem,))
    assert CliRunner().invoke(app, ["check", str(tmp_path / "d")]).exit_code == 1
    assert CliRunner().invoke(app, ["check", str(tmp_path / "d"), "--accept", "x"]).exit_code == 0


def test_places_of_one_column_that_separate_the_classes_are_told_at_once(tmp_path: Path) -> None:
    values = np.stack([PT + 20 * LABELS, PT, PT - 30 * LABELS], axis=1).astype(np.float32)
    (problem,) = report(tmp_path / "d", values).problems
    assert tells(problem, "place [0] of column 'x'", "So do 1 more")


def test_a_missing_value_hides_no_column_that_separates_the_classes(tmp_path: Path) -> None:
    values = (PT + 20 * LABELS).astype(np.float32)
    values[::40] = np.nan  # 10 of 400, of both classes
    (problem,) = incomplete(tmp_path / "some", values).problems
    assert tells(problem, "column 'x' alone", "'b'", "AUC 1.0000 in train", "390 of 400", "--accept x")
    only_of_one = np.where(LABELS, np.nan, PT).astype(np.float32)
    (problem,) = incomplete(tmp_path / "one", only_of_one).problems
    assert tells(problem, "whether column 'x' is missing", "'b'", "AUC 1.0000 in train", "--accept x")
    assert check(tmp_path / "one", ("x",)).problems == ()
    by_chance = np.where(RANDOM.random(EVENTS) < 0.3, np.nan, PT).astype(np.float32)
    found = incomplete(tmp_path / "none", by_chance)
    assert (found.problems, found.notes) == ((), ())


def test_an_element_of_lists_is_told_once_and_leads_are_found_among_events_that_have_them(
    tmp_path: Path,
) -> None:
    """Each event has 0 to 3 items; the pT of the second tells the classes apart, and `id` is an identifier."""
    items = np.full((EVENTS, 3, 2), np.nan, np.float32)
    for row, count in enumerate(RANDOM.integers(0, 4, EVENTS)):
        items[row, :count] = np.stack([RANDOM.normal(size=count), RANDOM.integers(0, 5, count)], axis=1)
    items[:, 1, 0] += 30 * LABELS
    column = Column(name="x", shape=(3, 2), lists=True, elements=("pt", "id"), missing=True)
    found = incomplete(tmp_path / "d", items, column)
    (problem,) = found.problems
    present = int(np.isfinite(items[:, 1, 0]).sum())
    assert tells(problem, "place [1, 0] of column 'x'", "'b'", f"{present} of {EVENTS}")
    (note,) = found.notes
    assert tells(note, "column 'x'", "identifier by its name")


def incomplete(folder: Path, x: Any, column: Column | None = None) -> CheckReport:
    """What is said of a dataset with a complete column `pt` and the values `x`, NaN where they are missing."""
    columns = (Column(name="pt"), column or Column(name="x", missing=True))
    schema = EventSchema(task="toy", columns=columns, classes=("a", "b"))
    with ShardWriter(folder, schema, source={}) as writer:
        ids = [f"{'ab'[label]}/f/{row}" for row, label in enumerate(LABELS.tolist())]
        writer.write({"event_id": ids, "label": LABELS, "pt": PT, "x": x})
    return check(folder)


def test_a_very_good_measurement_is_noted_and_blocks_nothing(tmp_path: Path) -> None:
    """Of about 50 test events of each class one pair is in the wrong order: AUC 1 − 1/2500 in test, 1 elsewhere."""
    values = (PT + 20 * LABELS).astype(np.float32)
    ids = [f"{'ab'[label]}/f/{row}" for row, label in enumerate(LABELS.tolist())]
    tested = split_of(ids, SplitRule()) == "test"
    values[np.flatnonzero(tested & (LABELS == 1))[0]] = np.sort(values[tested & (LABELS == 0)])[-2:].mean()
    found = report(tmp_path / "d", values)
    assert found.problems == ()
    (note,) = found.notes
    assert tells(note, "'x'", "alone separates", "'b'", "0.9996 in test")


def test_an_auc_of_one_of_few_events_may_be_luck(tmp_path: Path) -> None:
    labels = np.zeros(EVENTS, np.int64)
    labels[:: EVENTS // 40] = 1  # 40 of 400
    found = report(tmp_path / "d", (PT + 20 * labels).astype(np.float32), labels=labels)
    assert found.problems == ()
    assert any(tells(note, "alone separates", "'x'") for note in found.notes)


def test_of_several_classes_each_is_compared_with_the_rest(tmp_path: Path) -> None:
    labels = np.arange(EVENTS) * 4 // EVENTS
    values = np.where(labels == 2, 50, 0) + PT
    (problem,) = report(tmp_path / "d", values.astype(np.float32), labels=labels).problems
    assert tells(problem, "separates", "'c'")


def test_identifiers_that_separate_nothing_are_noted(tmp_path: Path) -> None:
    mixed = np.arange(EVENTS) % 2
    found = report(tmp_path / "a", RANDOM.permutation(10 * EVENTS)[:EVENTS], labels=mixed)
    assert found.problems == ()
    assert found.notes[0].startswith("column 'x' is another whole number in every event, as identifiers are.")
    (note,) = report(tmp_path / "b", np.arange(EVENTS) / 8.0, labels=mixed).notes
    assert note.startswith("column 'x' counts up or down with the row of its file")
    (note,) = report(tmp_path / "c", RANDOM.integers(0, 3, EVENTS), "lumiBlock", labels=mixed).notes
    assert note.startswith("column 'lumiBlock' is an identifier by its name.")


def test_nothing_is_said_of_measurements(tmp_path: Path) -> None:
    values = np.stack(
        [RANDOM.normal(size=EVENTS), RANDOM.integers(0, 9, EVENTS), RANDOM.exponential(size=EVENTS)], 1
    )
    found = report(tmp_path / "d", (values + 0.3 * LABELS[:, None]).astype(np.float32))
    assert found.problems == found.notes == ()


SENTINELS: dict[str, tuple[float, tuple[float, float]]] = {
    "nines within reach": (-999.0, (0.0, 900.0)),
    "nines above": (9999.0, (0.0, 9000.0)),
    "far below": (-5.5, (0.0, 1.0)),
    "far above": (1e10, (0.0, 900.0)),
}


@pytest.mark.parametrize("what", SENTINELS)
def test_values_that_stand_for_missing_ones_are_noted(what: str, tmp_path: Path) -> None:
    value, (low, high) = SENTINELS[what]
    values = np.linspace(low, high, EVENTS)[RANDOM.permutation(EVENTS)]
    values[::40] = value  # 10 of 400: 2.50 %
    (note,) = report(tmp_path / "d", values.astype(np.float32)).notes
    assert tells(note, "'x'", f"{value:g}", "2.50%")
    assert f'sentinels = [{value:g}], missing = "nan"' in note


def test_repeated_values_that_belong_to_the_others_are_no_sentinels(tmp_path: Path) -> None:
    values = np.linspace(0, 9, EVENTS)[RANDOM.permutation(EVENTS)]
    values[::10] = -1  # nearer than the range of the others
    assert report(tmp_path / "a", values.astype(np.float32)).notes == ()
    assert report(tmp_path / "b", np.where(values > 4, 1000, 0)).notes == ()  # two values
    values[::10] = 5
    values[7] = 500.0  # once
    assert report(tmp_path / "c", values.astype(np.float32)).notes == ()


def test_elements_of_vectors_are_named_and_images_left_to_themselves(tmp_path: Path) -> None:
    vector = np.stack([PT, np.arange(EVENTS)], 1).astype(np.float32)
    (problem,) = report(tmp_path / "a", vector).problems
    assert problem.startswith("place [1] of column 'x' alone separates 'b'")
    image = np.zeros((EVENTS, 17, 17), np.float32) + np.arange(EVENTS, dtype=np.float32)[:, None, None]
    assert report(tmp_path / "b", image).problems == ()


def test_a_sample_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    add = leakage.Leakage.add

    def counted(self: leakage.Leakage, events: Any, hashes: Any, split: int) -> None:
        add(self, events, hashes, split)
        taken.append(len(self._rows[-1]["label"]))

    monkeypatch.setattr(leakage, "MOST_EVENTS", 20)
    monkeypatch.setattr(leakage.Leakage, "add", counted)
    (problem,) = report(tmp_path / "d", np.arange(EVENTS)).problems
    # 20 of each of 2 classes in 3 splits on average: 120 ± 11 of the 400 events
    assert 60 < sum(taken) < 180
    assert "1.0000 in test" in problem


def test_only_columns_of_the_dataset_are_accepted(tmp_path: Path) -> None:
    with raises(InvalidConfig, "'ptt'", "'pt'"):
        report(tmp_path / "d", np.arange(EVENTS), accept=("ptt",))


NAMES = {
    "row number": ("index", "axis1", "__index_level_0__", "level_1", "Unnamed: 0"),
    "identifier": (
        *("run", "Run", "runNumber", "run_number", "lumi", "luminosityBlock", "lumiBlock", "event", "EventId"),
        *("event_number", "EventNumber", "evt", "entry", "row", "id", "bcid", "orbitNumber", "mcChannelNumber", "DSID"),
    ),
    "weight": (
        *("Weight", "weight", "genWeight", "mc_weight", "event_weight", "EventWeight", "weight_2", "puWeight", "wgt"),
    ),
    "feature": (
        *("pt", "eta", "n_jet", "nElectrons", "width", "w_mass", "weightless", "period", "grid", "runtime", "eventful"),
        *("stuff_amount", "idle", "rowan", "height", "m_id", "isolation"),
    ),
}  # fmt: skip


def test_names_tell_row_numbers_identifiers_and_weights() -> None:
    for kind, names in NAMES.items():
        part = Part("", 1, pa.schema([pa.field(name, pa.int64()) for name in names]))
        aside = set_aside(part, SchemaFile(reader="root"))
        assert sorted(aside) == (sorted(names) if kind != "feature" else [])
        assert all(kind in why.reason for why in aside.values())
    # fractions are no row numbers, and no event numbers
    part = Part("", 1, pa.schema([pa.field(name, pa.float64()) for name in ("index", "run", "event", "id")]))
    assert set_aside(part, SchemaFile(reader="root")) == {}
    assert weight_like("Weight")


def frame(folder: Path) -> Path:
    rows = {
        "EventId": np.arange(EVENTS), "pt": PT, "Weight": RANDOM.uniform(1, 2, EVENTS), "label": LABELS,
    }  # fmt: skip
    pq.write_table(pa.table(rows), folder / "f.parquet")
    return folder / "f.parquet"


@pytest.mark.parametrize(
    ("choices", "columns", "weight", "left_out"),
    [
        ({}, ["pt"], None, ["EventId", "Weight"]),
        ({"weight": "Weight"}, ["pt", "Weight"], "Weight", ["EventId"]),
        ({"columns": ["EventId", "pt"]}, ["EventId", "pt"], None, None),
        ({"columns": ["pt"], "weight": "Weight"}, ["pt", "Weight"], "Weight", None),
    ],
)
def test_identifiers_and_weights_are_features_only_when_they_are_named(
    choices: dict[str, Any],
    columns: list[str],
    weight: str | None,
    left_out: list[str] | None,
    tmp_path: Path,
) -> None:
    schema = SchemaFile.model_validate({"reader": "parquet", "label": {"from": "field", "field": "label"}})
    manifest = convert([frame(tmp_path)], None, ["a", "b"], tmp_path / "out", schema=schema, **choices)
    assert [column.name for column in manifest.event_schema.columns] == columns
    assert manifest.event_schema.weight == weight
    said = manifest.source.get("left_out")
    assert (list(said) if isinstance(said, dict) else said) == left_out
    report = check(tmp_path / "out")
    assert [problem.partition(" alone")[0] for problem in report.problems] == ["column 'EventId'"] * (
        "EventId" in columns
    )


def test_the_index_that_pandas_says_it_wrote_is_left_out_whatever_its_name(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(
        {"pt": PT, "label": LABELS}, index=pandas.Index(RANDOM.permutation(EVENTS), name="track")
    )
    (tmp_path / "f").mkdir()
    pq.write_table(pa.Table.from_pandas(rows[:9]).replace_schema_metadata(), tmp_path / "f/0.parquet")
    rows[9:].to_parquet(tmp_path / "f/1.parquet")  # of a folder, one file that says so is enough
    schema = SchemaFile.model_validate({"reader": "parquet", "label": {"from": "field", "field": "label"}})
    manifest = convert([tmp_path / "f"], None, ["a", "b"], tmp_path / "out", schema=schema)
    assert [column.name for column in manifest.event_schema.columns] == ["pt"]
    assert "row number" in str(Manifest.read(tmp_path / "out").source["left_out"])
