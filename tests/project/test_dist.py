"""What is released: a wheel that holds all that hep_ray needs, and works in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import hep_ray

REPOSITORY = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tracked(folder: str) -> set[str]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name for name in listing.stdout.splitlines() if (REPOSITORY / name).is_file()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    words = ["build", "--quiet", "--no-build-isolation", "--offline", "--python", sys.executable]
    subprocess.run([UV, *words, "--out-dir", folder, REPOSITORY], check=True)
    return folder


def test_the_wheel_holds_the_whole_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == tracked("hep_ray")


def test_the_sdist_holds_what_building_and_testing_need(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= tracked("hep_ray") | tracked("tests") | {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CITATION.cff",
    }


def test_one_version_is_stated() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] == hep_ray.__version__
    assert citation["license"] == PROJECT["license"]


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    """Its commands, and the data of the package: schemas and templates, from another folder."""
    python = tmp_path / "env/bin/python"
    (wheel,) = dist.glob("*.whl")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words: object) -> str:
        done = subprocess.run(
            [*map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(UV, "venv", "--quiet", "--no-project", "--python", sys.executable, tmp_path / "env")
    lock = REPOSITORY / "requirements/lock.txt"
    run(UV, "pip", "sync", "--quiet", "--python", python, "--require-hashes", lock)
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", wheel)

    assert run(python.with_name("hep-ray"), "--version").split() == ["hep_ray", PROJECT["version"]]
    assert "predict" in run(python, "-m", "hep_ray", "--help")
    assert "root_softmax" in run(python.with_name("hep-ray"), "components", "loss")
    (tmp_path / "susy.csv").write_text(
        "".join(f"{row % 2},{','.join('0.5' for _ in range(18))}\n" for row in range(200))
    )
    run(python.with_name("hep-ray"), "data", "convert", "susy.csv", "--schema", "uci_susy", "--out", "susy")
    run(python.with_name("hep-ray"), "data", "show", "susy", "--out", "susy.html")
    assert "<html" in (tmp_path / "susy.html").read_text(encoding="utf-8")
