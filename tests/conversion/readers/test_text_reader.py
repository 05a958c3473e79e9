"""Text: delimiters, headers, gzip, labels in a second file, and faults named by file and line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.conversion.readers import READERS, Opened, text_rows
from hep_ray.errors import HepRayError, InvalidConfig, InvalidEvents, UnreadableInput
from tests.facts import raises


def opened(path: Path, **options: Any) -> Opened:
    return READERS["text"].open(path, READERS["text"].options(**options))


def table(path: Path, **options: Any) -> dict[str, list[Any]]:
    found = opened(path, **options)
    names = found.parts[0].fields.names
    batches = list(found.read(found.parts[0], 0, None, names))
    return {name: [value for batch in batches for value in batch.column(name).to_pylist()] for name in names}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("pt,eta\n1,2\n3,4.5\n", {"pt": [1, 3], "eta": [2, 4.5]}),
        ("pt\teta\n1\t2\n", {"pt": [1], "eta": [2]}),
        ("1;2\n3;4\n", {"c0": [1, 3], "c1": [2, 4]}),
        ("  1   2\n\t3\t4 \n", {"c0": [1, 3], "c1": [2, 4]}),
        ("# pt eta\n1 2\n", {"pt": [1], "eta": [2]}),
        ("1e3\r\n-inf\r\n\r\n", {"c0": [1000, float("-inf")]}),
        (",pt\n0,7\n1,8\n", {"c0": [0, 1], "pt": [7, 8]}),
        ('"kind",pt\nGT,1\n"T,T",2\n', {"kind": ["GT", "T,T"], "pt": [1, 2]}),
        ("\ufeffpt,eta\n1,2", {"pt": [1], "eta": [2]}),
        ("\n\npt,eta\n\n1,2\n", {"pt": [1], "eta": [2]}),
    ],
)
def test_layouts_are_recognised(tmp_path: Path, content: str, expected: dict[str, list[Any]]) -> None:
    (tmp_path / "f").write_bytes(content.encode())
    assert table(tmp_path / "f") == expected
    (tmp_path / "f").write_bytes(gzip.compress(content.encode()))
    assert table(tmp_path / "f") == expected


@pytest.mark.parametrize(("mark", "end"), [(",", "\n"), (" ", "\n"), (";", "\r\n")])
@pytest.mark.parametrize("block", [64, 10_000])
def test_ranges_of_lines_are_read_on_their_own(
    mark: str, end: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", block)
    lines = [f"pt{mark}eta", *(f"{row}{mark}{row / 8}" for row in range(200))]
    (tmp_path / "f").write_bytes(end.join([*lines[:100], "", *lines[100:]]).encode())
    found = opened(tmp_path / "f")
    assert found.parts[0].rows == 200
    read: list[Any] = []
    rows = text_rows._rows_of_range
    monkeypatch.setattr(text_rows, "_rows_of_range", lambda *given: read.append(given[-1]) or rows(*given))
    for start, stop in ((0, 7), (93, 108), (150, None), (199, 200), (200, 200)):
        batches = found.read(found.parts[0], start, stop, ["eta"])
        values = [value for batch in batches for value in batch.column("eta").to_pylist()]
        assert values == [row / 8 for row in range(200)][start:stop]
    size = (tmp_path / "f").stat().st_size
    assert max(first + length for first, length in read) <= size
    if block == 64:
        assert sum(length for _, length in read) < 0.7 * size


@pytest.mark.parametrize(("line", "names"), [("0,1,2", ["0", "1", "2"]), (",0,1,2", ["c0", "0", "1", "2"])])
def test_a_first_line_that_counts_is_no_event_unless_that_is_said(
    line: str, names: list[str], tmp_path: Path
) -> None:
    """As `pandas.DataFrame(array).to_csv` writes it, without and with its index."""
    cells = [str(place / 2) for place in range(len(names))]
    (tmp_path / "f").write_text(f"{line}\n{','.join(cells)}\n")
    with raises(InvalidConfig, "f:1", f"'{line}'", "--set header=true", "--set header=false"):
        opened(tmp_path / "f")
    assert table(tmp_path / "f", header=True) == {
        name: [float(cell)] for name, cell in zip(names, cells, strict=True)
    }
    assert len(table(tmp_path / "f", header=False)["c0"]) == 2
    (tmp_path / "f").write_text("0,1\n1,0\n")  # two whole numbers may be an event
    assert table(tmp_path / "f") == {"c0": [0, 1], "c1": [1, 0]}


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"BZh91AY&SY\xff", "bunzip2"),
        ("pt,eta\n1,2\n".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        (b"PK\x03\x04\xff\xfe", "zip"),
        (b"p\xe9\n1\n", "UTF-8"),
        (b"pt|eta\n1 2|3\n", "--set 'delimiter=|'"),
        (b"# made by me\npt,eta\n1,2\n", "grep -v '^#'"),
        (b"pt,eta\n1,2\n# end\n", "grep -v '^#'"),
    ],
)
def test_other_files_say_what_to_do_with_them(content: bytes, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    with raises(HepRayError, remedy):
        table(tmp_path / "f")


def test_numbers_are_read_to_the_last_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=500) * 10.0 ** np.arange(-250, 250)
    np.savetxt(tmp_path / "f", values, fmt="%.18e")
    assert table(tmp_path / "f")["c0"] == values.tolist()


def test_a_column_may_turn_from_integers_to_fractions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", 1000)
    (tmp_path / "f").write_text("1\n" * 5000 + "1.5\n")
    assert table(tmp_path / "f")["c0"][-2:] == [1.0, 1.5]


def test_options_settle_what_would_be_guessed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a,1\nb,2\n")
    assert table(tmp_path / "f", header=False) == {"c0": ["a", "b"], "c1": [1, 2]}
    assert table(tmp_path / "f", columns=["kind", "n"]) == {"kind": ["a", "b"], "n": [1, 2]}
    assert table(tmp_path / "f", delimiter="|", header=False) == {"c0": ["a,1", "b,2"]}


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("1,2\n\n3,4\n5,6,7\n", ["f:4", 3]),
        ("1 2\n3\n", ["f:2", 1]),
        ("pt,eta\n1,2\n3,1e\n", ["'eta'", "f:3", "'1e'"]),
        ("pt,eta\n1,2\n3,4\nx,6\n", ["'pt'", "f:4", "'x'"]),
        ("pt,eta\n1,2\n1_0,4\n", ["f:3", "'1_0'"]),
        ('pt,eta\n1,2\n"3,4\n', ["f:3", 1]),
    ],
)
def test_faults_are_named_by_file_and_line(tmp_path: Path, content: str, facts: list[object]) -> None:
    (tmp_path / "f").write_text(content)
    with raises(InvalidEvents, *facts):
        table(tmp_path / "f")


@pytest.mark.parametrize("block", [40, 2**20])
def test_a_quotation_mark_that_nothing_ends_loses_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", block)
    rows = [f"{row},cell" for row in range(30)]
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["x,s", *rows[:19], '19,"cell', *rows[20:]]) + "\n")
    with raises(InvalidEvents, f"{path}:21", "quotation mark"):
        opened(path)
    path.write_text("\n".join(["x,s", *rows[:19], '19,5" cell', *rows[20:]]) + "\n")  # inches
    assert table(path)["x"] == list(range(30))


def test_a_fault_far_into_a_file_keeps_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", 1000)
    (tmp_path / "f").write_text("1,2\n" * 5000 + "1,x\n" + "1,2\n" * 10)
    with raises(InvalidEvents, "f:5001", "'x'"):
        table(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "options", "error", "facts"),
    [
        ("pt,eta\n", {}, UnreadableInput, ["f", "header"]),
        ("\n\n", {}, UnreadableInput, ["f"]),
        ("1,2\n", {"columns": ["a"]}, InvalidConfig, ["f:1", 2, 1]),
        ("a,b\n1,2\n", {"columns": ["a", "b"], "header": True}, InvalidConfig, ["columns", "header"]),
        ("a,a\n1,2\n", {}, InvalidConfig, ["f:1", "['a', 'a']"]),
        ("1,2\n", {"delimiter": "::"}, InvalidConfig, ["'::'"]),
        ("a\0b\n", {}, UnreadableInput, ["f", "zero bytes"]),
        ("a,label_value\n1,2\n", {"label_file": "y"}, InvalidConfig, ["f", "label_value"]),
        ("1\n", {"label_file": "none"}, UnreadableInput, ["none"]),
    ],
)
def test_files_and_options_that_do_not_fit(
    tmp_path: Path, content: str, options: dict[str, Any], error: type[HepRayError], facts: list[object]
) -> None:
    (tmp_path / "f").write_text(content)
    (tmp_path / "y").write_text("1\n")
    with raises(error, *facts):
        opened(tmp_path / "f", **options)


def test_a_gzip_that_ends_early_is_named(tmp_path: Path) -> None:
    lines = "".join(f"{value!r}\n" for value in np.random.default_rng(1).uniform(size=20_000).tolist())
    content = gzip.compress(lines.encode())
    (tmp_path / "f.gz").write_bytes(content[: len(content) // 2])
    with raises(UnreadableInput, tmp_path / "f.gz"):
        table(tmp_path / "f.gz")


def test_labels_of_a_second_file_stand_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "BLOCK_BYTES", 64)
    (tmp_path / "x").write_text("".join(f"{row} {row / 4}\n" for row in range(50)))
    (tmp_path / "y").write_text("".join(f"{row % 3}\n" for row in range(50)))
    found = table(tmp_path / "x", label_file="y")
    assert found["label_value"] == [row % 3 for row in range(50)]
    assert found["c0"] == list(range(50))


@pytest.mark.parametrize(("labels", "facts"), [(3, ["x", "y", 3]), (5, ["x", "y", 4])])
def test_labels_of_another_number_are_refused(tmp_path: Path, labels: int, facts: list[object]) -> None:
    (tmp_path / "x").write_text("1 2\n" * 4)
    (tmp_path / "y").write_text("1\n" * labels)
    with raises(InvalidEvents, *facts):
        table(tmp_path / "x", label_file="y")
