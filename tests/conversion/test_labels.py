"""Labels as people keep them: words, -1 and +1, one-hot; names as other programs give them; signed weights."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from typer.testing import CliRunner, Result

from hep_ray.conversion.cli import app
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import parse_schema
from hep_ray.dataset.dataset import Dataset, Manifest
from hep_ray.dataset.schema import legal_name
from hep_ray.dataset.splits import SPLITS
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema
from tests.facts import raises, tells

ROWS = 60
PT = np.random.default_rng(3).normal(size=ROWS).astype(np.float32)
SIGNAL = np.arange(ROWS) % 3 == 0  # 20 of 60
WORDS = np.where(SIGNAL, "sig", "bkg")


def root(path: Path, fields: dict[str, np.ndarray]) -> None:
    import awkward

    types = {
        name: "string" if values.dtype.kind == "U" else np.dtype((values.dtype, values.shape[1:]))
        for name, values in fields.items()
    }
    with uproot.recreate(path) as file:
        file.mktree("t", types).extend(
            {
                name: awkward.Array(values.tolist()) if values.dtype.kind == "U" else values
                for name, values in fields.items()
            }
        )


def hdf5(path: Path, fields: dict[str, np.ndarray], *, fixed: bool = False) -> None:
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            kind = "S8" if fixed else h5py.string_dtype()
            file.create_dataset(name, data=values.astype(kind) if values.dtype.kind == "U" else values)


def hdf5_fixed(path: Path, fields: dict[str, np.ndarray]) -> None:
    hdf5(path, fields, fixed=True)


def hdf5_compound(path: Path, fields: dict[str, np.ndarray]) -> None:
    stored = {
        name: values.astype("S8") if values.dtype.kind == "U" else values for name, values in fields.items()
    }
    rows = np.zeros(ROWS, [(name, values.dtype, values.shape[1:]) for name, values in stored.items()])
    for name, values in stored.items():
        rows[name] = values
    with h5py.File(path, "w") as file:
        file["events"] = rows


def npz(path: Path, fields: dict[str, np.ndarray]) -> None:
    np.savez(path.with_suffix(".npz"), **fields)
    path.with_suffix(".npz").rename(path)


def npz_bytes(path: Path, fields: dict[str, np.ndarray]) -> None:
    npz(
        path,
        {
            name: values.astype("S8") if values.dtype.kind == "U" else values
            for name, values in fields.items()
        },
    )


def parquet(path: Path, fields: dict[str, np.ndarray]) -> None:
    columns = {
        name: pa.array(values)
        if values.ndim == 1
        else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        for name, values in fields.items()
    }
    pq.write_table(pa.table(columns), path)


def text(path: Path, fields: dict[str, np.ndarray]) -> None:
    rows = zip(*(values.tolist() for values in fields.values()), strict=True)
    path.write_text("\n".join([",".join(fields), *(",".join(map(str, row)) for row in rows)]) + "\n")


Write = Callable[[Path, dict[str, np.ndarray]], None]
FORMS: list[tuple[str, Write]] = [
    *(("hdf5", hdf5), ("hdf5", hdf5_fixed), ("hdf5", hdf5_compound), ("npz", npz), ("npz", npz_bytes)),
    *(("parquet", parquet), ("root", root), ("text", text)),
]
WIDE = [form for form in FORMS if form[0] != "text"]


def labelled(reader: str, field: str = "y", more: str = "") -> Any:
    return parse_schema(
        f'reader = "{reader}"\nclasses = ["bkg", "sig"]\n[label]\nfrom = "field"\nfield = "{field}"\n{more}',
        "t",
    )


def events(folder: Path, column: str) -> dict[float, str]:
    """Values of a column → class of the event."""
    dataset = Dataset.open(folder)
    tables = [
        pq.read_table(path, columns=["label", column])
        for split in SPLITS
        for path in dataset.paths(split, purpose="check")
    ]
    rows = pa.concat_tables(tables)
    return {
        value: dataset.schema.classes[label]
        for value, label in zip(rows[column].to_pylist(), rows["label"].to_pylist(), strict=True)
    }


TRUTH = {float(value): str(word) for value, word in zip(PT, WORDS, strict=True)}


@pytest.mark.parametrize(("reader", "write"), FORMS)
def test_words_that_are_the_classes_are_labels(reader: str, write: Write, tmp_path: Path) -> None:
    write(tmp_path / "f", {"pt": PT, "y": WORDS})
    convert([tmp_path / "f"], None, None, tmp_path / "d", schema=labelled(reader))
    assert events(tmp_path / "d", "pt") == TRUTH
    rules = labelled(reader).model_copy(update={"classes": ("qcd", "tt")})
    with raises(InvalidEvents, "'y'", "['qcd', 'tt']", "row 0", "'sig'") as raised:
        convert([tmp_path / "f"], None, None, tmp_path / "e", schema=rules)
    assert "--label-values=bkg,sig or `[label] values = ['bkg', 'sig']`" in str(raised.value)


@pytest.mark.parametrize(("reader", "write"), WIDE)
def test_one_hot_labels_are_read(reader: str, write: Write, tmp_path: Path) -> None:
    hot = np.eye(2)[SIGNAL.astype(int)]
    write(tmp_path / "f", {"pt": PT, "y": hot})
    convert([tmp_path / "f"], None, None, tmp_path / "d", schema=labelled(reader))
    assert events(tmp_path / "d", "pt") == TRUTH
    hot[7] = [1, 1]
    write(tmp_path / "g", {"pt": PT, "y": hot})
    with raises(InvalidEvents, "'y'", "row 7", "[1.0, 1.0]"):
        convert([tmp_path / "g"], None, None, tmp_path / "e", schema=labelled(reader))
    write(tmp_path / "h", {"pt": PT, "y": np.eye(3)[np.arange(ROWS) % 3]})
    with raises(InvalidSchema, "'y'", tmp_path / "h", "2 classes", "3 values"):
        convert([tmp_path / "h"], None, None, tmp_path / "e", schema=labelled(reader))


def typed(*words: object) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, words)])


@pytest.mark.parametrize(("reader", "write"), FORMS)
def test_other_numbers_are_named_and_what_to_type_works(reader: str, write: Write, tmp_path: Path) -> None:
    write(tmp_path / "f", {"pt": PT, "y": np.where(SIGNAL, 1.0, -1.0)})
    words = [
        tmp_path / "f",
        "--reader",
        reader,
        "--label",
        "y",
        "--classes",
        "bkg,sig",
        "--out",
        tmp_path / "d",
    ]
    with raises(InvalidEvents, "'y'", "[0, 1]", "row 1", -1, "`[label] values = [-1, 1]`") as told:
        CliRunner().invoke(app, ["convert", *map(str, words)], catch_exceptions=False)
    (remedy,) = [word for word in str(told.value).split() if word.startswith("--label-values=")]
    result = typed(*words, remedy)
    assert result.exit_code == 0, result.output
    assert events(tmp_path / "d", "pt") == TRUTH
    assert typed(*words, "--label-values", "-1,1", "--overwrite").exit_code == 0


def test_classes_that_are_numbers_are_the_labels_values(tmp_path: Path) -> None:
    text(tmp_path / "f", {"pt": PT, "y": np.where(SIGNAL, 1, 0)})
    rules = labelled("text").model_copy(update={"classes": ("1", "0")})
    convert([tmp_path / "f"], None, None, tmp_path / "d", schema=rules)
    assert events(tmp_path / "d", "pt") == {
        value: {"sig": "1", "bkg": "0"}[word] for value, word in TRUTH.items()
    }
    # A dataset of ours has its own labels, whatever its classes are called.
    convert([tmp_path / "d"], "parquet", None, tmp_path / "e")
    assert events(tmp_path / "e", "pt") == events(tmp_path / "d", "pt")


@pytest.mark.parametrize("names", [("True", "False"), ("1", "0")])
@pytest.mark.parametrize(("reader", "write"), [("text", text), ("parquet", parquet), ("npz", npz)])
def test_classes_called_true_and_false_are_what_the_label_says(
    reader: str, write: Write, names: tuple[str, str], tmp_path: Path
) -> None:
    truths = names[0] == "True"
    write(tmp_path / "f", {"pt": PT, "y": SIGNAL if truths else SIGNAL.astype(float)})
    rules = labelled(reader).model_copy(update={"classes": names})
    convert([tmp_path / "f"], None, None, tmp_path / "d", schema=rules)
    called = {"sig": names[0], "bkg": names[1]}
    assert events(tmp_path / "d", "pt") == {value: called[word] for value, word in TRUTH.items()}
    if truths:
        flag = ["--label-values", "false,true", "--out", str(tmp_path / "e")]
        result = typed(str(tmp_path / "f"), "--reader", reader, "--label", "y", "--classes", "bkg,sig", *flag)
        assert result.exit_code == 0, result.output
        assert events(tmp_path / "e", "pt") == TRUTH


def test_the_class_of_an_event_is_stated_once(tmp_path: Path) -> None:
    parquet(tmp_path / "f", {"pt": PT, "y": SIGNAL.astype(int)})
    with raises(InvalidConfig, "'y'", f"'sig={tmp_path / 'f'}'", "'sig='", "--classes"):
        convert([f"sig={tmp_path / 'f'}"], None, None, tmp_path / "d", schema=labelled("parquet"))
    convert([tmp_path / "f"], None, None, tmp_path / "d", schema=labelled("parquet"))
    with raises(InvalidConfig, "label", f"'sig={tmp_path / 'd'}'"):
        convert([f"sig={tmp_path / 'd'}"], "parquet", None, tmp_path / "e")


def test_events_without_label_or_id_are_left_out_as_the_message_says(tmp_path: Path) -> None:
    """Ids stay whole numbers whether or not others of their batch are missing."""
    ids = [None if row == 5 else 10 * row for row in range(ROWS)]
    label = [None if row == 3 else int(value) for row, value in enumerate(SIGNAL)]
    pq.write_table(pa.table({"pt": PT, "y": label, "event_id": ids}), tmp_path / "f")
    words = [str(tmp_path / "f"), "--reader", "parquet", "--label", "y", "--classes", "bkg,sig"]
    words += ["--out", str(tmp_path / "d")]
    tests: list[str] = []
    for row in (5, 3):
        result = typed(*words, *(("--select", " and ".join(tests)) if tests else ()))
        assert isinstance(result.exception, InvalidEvents)
        assert f"f, row {row} is empty" in str(result.exception)
        flag, test = shlex.split(str(result.exception).partition("is empty: ")[2].partition(" leaves")[0])
        assert flag == "--select"
        tests.append(test)
    assert tests == ["isfinite(event_id)", "isfinite(y)"]
    result = typed(*words, "--select", " and ".join(tests))
    assert result.exit_code == 0, result.output
    dataset = Dataset.open(tmp_path / "d")
    found = {
        one
        for split in SPLITS
        for path in dataset.paths(split, purpose="check")
        for one in pq.read_table(path, columns=["event_id"])["event_id"].to_pylist()
    }
    rows = set(range(ROWS)) - {3, 5}
    assert found == {f"{'sig' if SIGNAL[row] else 'bkg'}/f/{10 * row}" for row in rows}


def test_values_of_another_kind_or_number_are_refused_before_reading(tmp_path: Path) -> None:
    text(tmp_path / "f", {"pt": PT, "y": SIGNAL.astype(int), "kind": WORDS})
    with raises(InvalidSchema, "'y'", "numbers", "['b', 's']"):
        convert(
            [tmp_path / "f"], None, None, tmp_path / "d", schema=labelled("text", more='values = ["b", "s"]')
        )
    with raises(InvalidSchema, "'kind'", "text", "[0, 1]"):
        convert(
            [tmp_path / "f"], None, None, tmp_path / "d", schema=labelled("text", "kind", "values = [0, 1]")
        )
    with raises(InvalidSchema, "bkg, sig", "[0, 1, 2]"):
        convert(
            [tmp_path / "f"], None, None, tmp_path / "d", schema=labelled("text", more="values = [0, 1, 2]")
        )
    text(tmp_path / "g", {"pt": PT + 1, "y": WORDS})
    with raises(InvalidSchema, "'y'", tmp_path / "f", tmp_path / "g"):
        convert([tmp_path / "f", tmp_path / "g"], None, None, tmp_path / "d", schema=labelled("text"))


@pytest.mark.parametrize(("reader", "write"), FORMS)
def test_a_column_is_of_numbers(reader: str, write: Write, tmp_path: Path) -> None:
    write(tmp_path / "f", {"pt": PT, "kind": WORDS, "y": SIGNAL.astype(int)})
    rules = labelled(reader, more='[[columns]]\nname = "kind"\n')
    with raises(InvalidSchema, "'kind'", "text", "'sig'"):
        convert([tmp_path / "f"], None, None, tmp_path / "d", schema=rules)
    # Beside that, a text is a field like others: it can be cut on.
    kept = convert(
        [tmp_path / "f"],
        None,
        None,
        tmp_path / "d",
        schema=labelled(reader),
        selection="kind == 'sig' or pt > 0",
    )
    assert kept.class_counts() == {"bkg": int((~SIGNAL & (PT > 0)).sum()), "sig": 20}


def test_texts_of_another_length_are_no_field(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", x=PT, y=SIGNAL.astype(int), names=np.array(["x", "y"]))
    convert([tmp_path / "f.npz"], None, None, tmp_path / "d", schema=labelled("npz"))
    assert [column.name for column in Manifest.load(tmp_path / "d").event_schema.columns] == ["x"]


ODD = {
    "MissingET.MET": "MissingET_MET",
    "jet pt": "jet_pt",
    "|eta|": "eta",
    "m [GeV]": "m_GeV",
    "4mu": "_4mu",
}


@pytest.mark.parametrize(("reader", "write"), FORMS)
def test_fields_of_any_name_become_columns_and_are_told(reader: str, write: Write, tmp_path: Path) -> None:
    fields = {name: PT * scale for scale, name in enumerate(ODD, 1)}
    write(tmp_path / "f", {**fields, "y": SIGNAL.astype(int)})
    words = [
        tmp_path / "f",
        "--reader",
        reader,
        "--label",
        "y",
        "--classes",
        "bkg,sig",
        "--out",
        tmp_path / "d",
    ]
    result = typed(
        *words, "--select", "MissingET.MET > -1 and `jet pt` > -3 and eta < 6 and abs(`m [GeV]`) < 9"
    )
    assert result.exit_code == 0, result.output
    for field, column in ODD.items():
        assert tells(result.stdout, f"'{field}'", f"'{column}'")
    expected = PT[(PT > -1) & (PT * 2 > -3) & (PT * 3 < 6) & (abs(PT * 4) < 9)]
    assert set(events(tmp_path / "d", "MissingET_MET")) == set(map(float, expected))
    columns = Manifest.load(tmp_path / "d").event_schema.columns
    assert {column.name for column in columns} == set(ODD.values())


def test_names_that_would_be_the_same_are_refused(tmp_path: Path) -> None:
    text(tmp_path / "f", {"eta": PT, "|eta|": abs(PT), "y": SIGNAL.astype(int)})
    with raises(InvalidSchema, "'eta'", "'|eta|'", '`sources = ["|eta|"]`'):
        convert([tmp_path / "f"], None, None, tmp_path / "d", schema=labelled("text"))
    convert([tmp_path / "f"], None, None, tmp_path / "d", schema=labelled("text"), columns=("|eta|",))
    text(tmp_path / "g", {"%": PT, "y": SIGNAL.astype(int)})
    with raises(InvalidSchema, "'%'", '`sources = ["%"]`'):
        convert([tmp_path / "g"], None, None, tmp_path / "e", schema=labelled("text"))


def test_a_schema_file_names_the_remedy_for_an_odd_name() -> None:
    with raises(InvalidSchema, "'a.b'", "'a_b'", '`sources = ["a.b"]`'):
        labelled("root", more='[[columns]]\nname = "a.b"\n')
    assert legal_name("pt") == "pt"
    assert legal_name("_x.y") == "x_y"


def test_odd_names_are_stacked_and_cut_on_by_the_columns_name(tmp_path: Path) -> None:
    root(tmp_path / "f", {"MET.pt": abs(PT), "MET.phi": PT, "y": SIGNAL.astype(int)})
    more = (
        '[[columns]]\nname = "met"\nsources = ["MET.pt", "MET.phi"]\n[[columns]]\nname = "phi"\nsources = ["MET.phi"]\n'
        '[[columns]]\nname = "twice"\nexpression = "2 * MET.phi"\n'
    )
    convert(
        [tmp_path / "f"], None, None, tmp_path / "d", schema=labelled("root", more=more), selection="phi > -1"
    )
    schema = Dataset.open(tmp_path / "d").schema
    assert schema.column("met").elements == ("MET_pt", "MET_phi")
    assert set(events(tmp_path / "d", "twice")) == {float(value) for value in 2 * PT[PT > -1]}


@pytest.mark.parametrize("field", ["w", "gen.weight"])
def test_negative_weights_are_kept(field: str, tmp_path: Path) -> None:
    weight = np.where(np.arange(ROWS) % 5 == 0, -1, 1).astype(np.float32)  # 12 of 60 are negative
    root(tmp_path / "f", {"pt": PT, field: weight, "y": SIGNAL.astype(int)})
    head = 'reader = "root"\nclasses = ["bkg", "sig"]\nweight = "w"\n[label]\nfrom = "field"\nfield = "y"\n'
    columns = f'[[columns]]\nname = "pt"\n[[columns]]\nname = "w"\nsources = ["{field}"]\n'
    (tmp_path / "w.toml").write_text(head + columns)
    words = [tmp_path / "f", "--schema", tmp_path / "w.toml", "--out", tmp_path / "d"]
    assert typed(*words).exit_code == 0
    dataset = Dataset.open(tmp_path / "d")
    assert sum(dataset.manifest.class_counts().values()) == 60
    signs = {"bkg": float(weight[~SIGNAL].sum()), "sig": float(weight[SIGNAL].sum())}
    assert dataset.schema.expected == signs
    assert [column.name for column in dataset.schema.inputs] == ["pt"]
    left_out = Dataset.open(tmp_path / "d", weights=False).schema
    assert left_out.weight is None
    assert [column.name for column in left_out.inputs] == ["pt"]


def test_weights_that_sum_to_nothing_in_a_split_are_named(tmp_path: Path) -> None:
    root(tmp_path / "f", {"pt": PT, "w": np.where(SIGNAL, -1, 1).astype(np.float32), "y": SIGNAL.astype(int)})
    head = 'reader = "root"\nclasses = ["bkg", "sig"]\nweight = "w"\n[label]\nfrom = "field"\nfield = "y"\n'
    (tmp_path / "w.toml").write_text(head + '[[columns]]\nname = "pt"\n[[columns]]\nname = "w"\n')
    words = [tmp_path / "f", "--schema", tmp_path / "w.toml", "--out", tmp_path / "d"]
    typed(*words)
    with raises(InvalidEvents, "weights", "'train'", "sig", "--weights off", "--split"):
        Dataset.open(tmp_path / "d")
    assert Dataset.open(tmp_path / "d", weights=False).schema.weight is None


def test_label_values_need_a_label(tmp_path: Path) -> None:
    with raises(InvalidConfig, "--label-values", "--label", "'0,1'"):
        CliRunner().invoke(
            app,
            ["convert", "f", "--reader", "text", "--label-values", "0,1", "--out", str(tmp_path / "d")],
            catch_exceptions=False,
        )


def table_of(path: Path, labels: list[str], first: int = 0) -> list[str]:
    """Write a table with a label and return the words that convert it."""
    path.write_text(
        "\n".join(["x,n,proc", *(f"{row / 7},{row},{one}" for row, one in enumerate(labels, first))]) + "\n"
    )
    return ["convert", str(path), "--reader", "text", "--label", "proc", "--columns", "x"]


@pytest.mark.parametrize(
    ("labels", "classes", "values"),
    [
        (["ttbar", " higgs", "W jets"], ("W_jets", "higgs", "ttbar"), ("W jets", "higgs", "ttbar")),
        (["11", "-11", "2"], ("-11", "2", "11"), (-11, 2, 11)),
        (["true", "false", "true"], ("false", "true"), None),
    ],
)
def test_the_values_of_a_label_are_the_classes_where_none_are_named(
    labels: list[str], classes: tuple[str, ...], values: Any, tmp_path: Path
) -> None:
    words = table_of(tmp_path / "f.csv", labels * 100)
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "d")], catch_exceptions=False)
    assert result.exit_code == 0
    assert tells(
        result.output.replace("\n", " "), f"'proc' says the classes, {', '.join(classes)}", "--signal"
    )
    manifest = Manifest.load(tmp_path / "d")
    assert manifest.event_schema.classes == classes
    for name, count in manifest.class_counts().items():
        place = classes.index(name)
        own = sorted(labels, key=str.strip)[place] if values is None else str(values[place])
        assert count == 100 * sum(one.strip() == (own if values else name) for one in labels)
    if values is not None:
        stated = manifest.source["schema"]["label"]["values"]  # type: ignore[index, call-overload]
        assert tuple(stated) == values


def test_a_label_that_no_input_has_or_that_is_not_read_is_named(tmp_path: Path) -> None:
    words = table_of(tmp_path / "f.csv", ["a", "b"] * 10)
    words[words.index("proc")] = "process"
    with raises(InvalidSchema, "'process'", "'proc'"):
        CliRunner().invoke(app, [*words, "--out", str(tmp_path / "d")], catch_exceptions=False)
    table = pa.table({"x": np.arange(20.0), "when": pa.array([row % 2 for row in range(20)], pa.date32())})
    pq.write_table(table, tmp_path / "f.parquet")
    words = ["convert", str(tmp_path / "f.parquet"), "--reader", "parquet", "--label", "when"]
    with raises(InvalidSchema, "'when'", "date32"):
        CliRunner().invoke(app, [*words, "--out", str(tmp_path / "d")], catch_exceptions=False)


def test_values_that_are_selected_away_are_no_classes_and_test_files_have_the_same(tmp_path: Path) -> None:
    words = table_of(tmp_path / "f.csv", ["a b", "c", "data"] * 40)
    table_of(tmp_path / "held.csv", ["c", "a b"] * 10, first=1000)
    words += ["--select", "proc != 'data' and n >= 0", "--test-file", str(tmp_path / "held.csv")]
    CliRunner().invoke(
        app, [*words, "--split", "75/25/0", "--out", str(tmp_path / "d")], catch_exceptions=False
    )
    manifest = Manifest.load(tmp_path / "d")
    assert manifest.class_counts() == {"a_b": 50, "c": 50}
    assert manifest.class_counts("test") == {"a_b": 10, "c": 10}


@pytest.mark.parametrize(
    ("labels", "facts"),
    [
        ([f"run{number}" for number in range(101)], ["100", "--classes run0,run1", "proc == 'run0'"]),
        (["0.5", "1"], ["0.5", "[label] where"]),
        (["a", "a"], ["'a'", "two"]),
        (["a b", "a_b"], ["--classes", "--label-values=a b,a_b"]),
        (['"a,b"', "a_b"], ["--classes", "`[label] values = ['a,b', 'a_b']`"]),
        (["1e300", "2"], ["1e+300", "whole numbers"]),
    ],
)
def test_labels_that_make_no_classes_are_refused_with_what_to_type(
    labels: list[str], facts: list[str], tmp_path: Path
) -> None:
    words = table_of(tmp_path / "f.csv", labels * 2)
    with raises(InvalidConfig, "'proc'", *facts):
        CliRunner().invoke(app, [*words, "--out", str(tmp_path / "d")], catch_exceptions=False)
    assert not (tmp_path / "d").exists()
