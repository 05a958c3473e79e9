"""Checks that can fail: nothing of a target ran, or a test was skipped that must run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]


def run(tmp_path: Path, *words: str, **environment: str) -> tuple[int, str]:
    """Pytest on a machine whose PATH has nothing."""
    clean = {key: value for key, value in os.environ.items() if key != "HEP_RAY_STRICT_SKIPS"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'own'}", *words],
        cwd=REPOSITORY,
        env={**clean, "PATH": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.ci
def test_a_target_of_which_nothing_ran_fails_and_says_what_to_install(tmp_path: Path) -> None:
    code, told = run(tmp_path, "-m", "cluster", "tests/cluster/test_ssh.py")
    assert code == 1
    assert "-m 'cluster' was asked for and nothing of it ran" in told
    assert "apt-get install openssh-server rsync iproute2" in told.rpartition("nothing of it ran")[2]


def test_where_skips_are_strict_one_that_is_not_listed_fails_the_run(tmp_path: Path) -> None:
    words = (
        "tests/cluster/test_scripts.py",
        "tests/conversion/test_real_files.py",
        "-k",
        "shellcheck or real",
    )
    away = {"HEP_RAY_TEST_DATA": str(tmp_path / "absent")}
    code, told = run(tmp_path, *words, HEP_RAY_STRICT_SKIPS="1", **away)
    complaint = told.rpartition("these are not:")[2].partition("short test summary")[0]
    assert code == 1, told
    assert "shellcheck is not installed" in complaint
    assert "no real events" not in complaint


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("processes", [(), ("-n", "1")])
def test_a_whole_file_that_is_skipped_is_seen_from_every_process(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    """A worker of pytest-xdist alone sees that; the run fails all the same."""
    folder = tmp_path / "tests"
    folder.mkdir()
    for name in ("conftest.py", "skips.toml"):
        shutil.copy(REPOSITORY / "tests" / name, folder)
    (folder / "test_ran.py").write_text("def test_it() -> None:\n    pass\n")
    (folder / "test_absent.py").write_text("import pytest\n\npytest.importorskip('no_such_package')\n")
    code, told = run(tmp_path, "--rootdir", str(tmp_path), *processes, str(folder), HEP_RAY_STRICT_SKIPS="1")
    assert code == 1, told
    assert "tests/test_absent.py: could not import 'no_such_package'" in told.rpartition("these are not:")[2]


@pytest.fixture(scope="module")
def conftest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_conftest", REPOSITORY / "tests/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("ran", "markers", "strict", "complains"),
    [
        (0, "cluster", False, True),
        (1, "cluster", False, False),
        (0, "slow and not cluster", False, True),
        (0, "not slow and not cluster", False, False),
        (0, "", False, False),
        (1, "", True, True),
    ],
)
def test_what_is_complained_of(
    conftest: ModuleType, ran: int, markers: str, strict: bool, complains: bool
) -> None:
    told = conftest.complain({"tests/x.py::test_y": "no sshd"}, ran, markers, strict=strict)
    assert bool(told) == complains
    assert ("no sshd" in told) == complains
    assert not conftest.complain({}, 3, markers, strict=strict)
    listed = {"tests/x.py::test_y": "no real events in /data; set HEP_RAY_TEST_DATA"}
    assert not conftest.complain(listed, 1, markers, strict=True)


def test_each_allowed_skip_says_why() -> None:
    allowed = tomllib.loads((REPOSITORY / "tests/skips.toml").read_text(encoding="utf-8"))["allowed"]
    assert allowed
    assert all(set(one) == {"reason", "why"} and one["why"] for one in allowed)


def test_continuous_integration_is_strict_and_needs_its_packages() -> None:
    script = (REPOSITORY / ".ci/run").read_text(encoding="utf-8")
    strict, tests = script.index("export HEP_RAY_STRICT_SKIPS=1"), script.index("make coverage\n")
    assert script.index("cannot be had") < script.index("exit 1") < strict < tests
    assert "are skipped" not in script
