"""Small inputs at which comparable tools, and once this one, went wrong: each ends as its `expected.md` says.

The cases lie beside the checkout in `../shared/cases`, or where `HEP_RAY_TEST_CASES` says; each is a script that types
commands, whose output is looked at here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CASES = Path(os.environ.get("HEP_RAY_TEST_CASES", REPOSITORY / "../shared/cases")).resolve()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases in {CASES}; set HEP_RAY_TEST_CASES"),
]


def ended(case: str, **environment: str) -> str:
    """What a case prints."""
    (script,) = CASES.glob(f"{case}_*/run.sh")
    variables = {"HEP_RAY_SRC": str(REPOSITORY), "PY": sys.executable, "COLUMNS": "300", **environment}
    done = subprocess.run(
        ["bash", script],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    return done.stdout + done.stderr


def exits(told: str) -> dict[str, int]:
    """Name of each command of a case → its exit code."""
    return {name: int(code) for name, code in re.findall(r"^\[(.*)\] exit (\d+)$", told, re.MULTILINE)}


def columns(told: str) -> list[list[str]]:
    """Columns of each dataset that a case made."""
    return [re.findall(r"'(\w+)'", found) for found in re.findall(r"^COLUMNS (.*)$", told, re.MULTILINE)]


def test_01_a_field_that_cannot_be_typed_is_read_or_named() -> None:
    told = ended("01")
    wanted = {
        "decimal_comma": {"pt", "eta"},
        "na_first": {"d0"},
        "fortran": {"pt"},
        "true_false": {"is_tight"},
        "percent": {"iso"},
    }
    for name, fields in wanted.items():
        part = told.partition(f"[{name}]")
        after = part[2].split("[")[0] + part[2].partition("COLUMNS")[2].split("\n")[0]
        before = part[0].rpartition("] exit")[2]
        if exits(told)[name] == 0:
            assert all(f"'{field}'" in after or f"left out: {field}" in before for field in fields), name
        else:
            assert exits(told)[name] == 2, name
            assert any(f"'{field}'" in before for field in fields), name
    assert "Traceback" not in told


def test_03_the_order_of_the_inputs_decides_nothing() -> None:
    told = ended("03")
    one, two = exits(told).values()
    assert one == two == 2
    for part in told.split("] exit 2")[:2]:
        assert "eta" in part
        assert "a.root" in part


def test_04_a_row_number_is_no_feature() -> None:
    assert columns(ended("04")) == [["pt", "eta"]] * 3


def test_05_a_label_of_two_numbers_ends_without_a_traceback() -> None:
    told = ended("05")
    assert "Traceback" not in told
    assert set(exits(told).values()) <= {0, 2}
    assert exits(told)["text column"] == 2
    assert "'sample'" in told


def test_06_equal_file_names_in_two_folders() -> None:
    assert set(exits(ended("06")).values()) == {0}


def test_07_rntuples_are_read() -> None:
    assert exits(ended("07")) == {"rntuple": 0}


def test_08_an_empty_file_among_many_is_passed_over() -> None:
    told = ended("08")
    assert exits(told) == {"empty": 0}
    assert "1 of 4 inputs" in told
    assert "sig_2.root" in told


def test_10_dotted_branches_can_be_read_and_cut_on() -> None:
    assert set(exits(ended("10")).values()) == {0}


def test_12_labels_that_are_words() -> None:
    told = ended("12")
    codes = exits(told)
    assert {codes[name] for name in ("csv:text", "parquet:parquet", "npz:npz", "h5:hdf5")} == {0}
    assert codes["-1 and +1"] == 0 or "[-1, 1]" in told
    assert "np.float64" not in told


def test_15_a_partitioned_folder_is_read() -> None:
    assert set(exits(ended("15")).values()) == {0}


def test_17_negative_weights_are_taken_as_they_are() -> None:
    told = ended("17")
    assert exits(told) == {"as they are": 0, "their size": 0}


def test_18_one_core_runs_one_trial() -> None:
    told = ended("18")
    assert "cores this process may use: 1 of" in told
    assert "of a cluster with 1 CPU" in told


def test_20_an_address_without_an_answer_is_named_within_a_minute() -> None:
    told = ended("20", SECONDS_EACH="120")
    found = re.findall(r"^(\S+): exit (\d+) after (\d+) s; last line: (.*)$", told, re.MULTILINE)
    assert [address for address, *_ in found] == ["127.0.0.1:9", "192.0.2.77:6379"]
    for address, code, seconds, line in found:
        assert code == "1"
        assert int(seconds) < 60
        assert address in line or "RAY_ADDRESS" in line


def test_21_any_path_may_hold_a_storage() -> None:
    told = ended("21")
    assert re.findall(r"exit (\d+)", told) == ["0", "0", "0"]
    found = set(re.findall(r"^\./(\S.*)$", told, re.MULTILINE))
    assert "wh" not in found


def test_23_a_component_in_the_script_is_trained() -> None:
    assert exits(ended("23")) == {"dry run": 0, "run": 0}


def test_24_missing_values_can_be_filled() -> None:
    told = ended("24")
    codes = exits(told)
    assert codes["scalar, where()"] == 0
    assert codes["tracks"] == codes["scalar"] == 2
    assert "missing" in told
    assert "Traceback" not in told


def test_25_a_copy_writes_into_itself() -> None:
    told = ended("25")
    counts = [
        dict(re.findall(r"\('(\w+)/mlartifacts[^']*', (\d+)\)", line))
        for line in told.splitlines()
        if line.startswith("[(")
    ]
    assert counts == [{"copy": "1", "first": "1"}, {"copy": "2", "first": "1"}]
    assert "attached" in told
    where = told.rpartition("attached")[2]
    assert "first/" not in where
    assert re.search(r"^new/mlartifacts/.*report\.html$", told, re.MULTILINE)


def test_27_a_second_interrupt_ends_in_good_order() -> None:
    told = ended("27")
    assert re.search(r"^exit (1|130)$", told, re.MULTILINE)
    assert "Traceback" not in told
    assert "resume --dry-run: exit 0" in told
