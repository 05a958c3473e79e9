"""The rules that keep the house in order."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.facts import raises

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "hep_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE = 600

BASE = {
    *(
        "config",
        "console",
        "cores",
        "errors",
        "files",
        "flags",
        "head",
        "log",
        "masking",
        "plugins",
        "registry",
    ),
}
RAY = {"cluster", "parallel"}
DATA = {"dataset", "conversion", "loading"}
PARTS = {"models", "losses", "optim", "metrics"}
KNOWS = {
    "drawing": BASE,
    "dataset": BASE | {"drawing"},
    "conversion": BASE | {"parallel", "dataset"},
    "loading": BASE | {"parallel", "dataset"},
    "simulate": BASE | RAY | DATA,
    **dict.fromkeys(PARTS, BASE),
    "training": BASE | DATA | PARTS,
    "tracking": BASE,
    "search": BASE | {"cluster", *DATA, "training", "tracking"} | PARTS,
    "confirm": BASE | {"cluster", *DATA, "training", "search", "tracking", "metrics", "models"},
    "report": BASE | DATA | {"drawing", "metrics", "training", "search", "confirm", "tracking"},
    "doctor": BASE | {"cluster", *DATA, "search", "tracking"},
    "promote": BASE | DATA | {"training", "search", "confirm", "tracking"} | PARTS,
    "predict": BASE | RAY | DATA | {"training", "promote", "tracking"},
}
"""Folder → what its modules may import of hep_ray, beside the folder itself."""

RAY_MODULES = {
    "cluster.py",
    "parallel.py",
    "loading/ray_reader.py",
    "loading/stream.py",
    "confirm/run.py",
    "predict/run.py",
}
MLFLOW_MODULES = {
    "tracking/client.py",
    "tracking/confirmed.py",
    "tracking/runs.py",
    "tracking/registered_model.py",
    "tracking/registry.py",
}
HEAVY = {"ray", "torch", "mlflow", "pythia8mc", "sklearn", "uproot", "awkward", "fastjet", "matplotlib"}


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imports(module: Path) -> Iterator[str]:
    """Dotted names that a module imports anywhere, in functions and for type checking too."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(module: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


def neighbours(module: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(module) if name.startswith("hep_ray.")}


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_dependencies_point_one_way(module: Path) -> None:
    folder = module.relative_to(PACKAGE).parts[0]
    if folder in KNOWS:
        assert neighbours(module) <= KNOWS[folder] | {folder}
    elif folder.removesuffix(".py") in BASE | RAY:
        assert neighbours(module) <= BASE | RAY


def test_every_folder_has_its_rule() -> None:
    folders = {module.relative_to(PACKAGE).parts[0] for module in MODULES if module.parent != PACKAGE}
    assert folders == set(KNOWS)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_ray_and_mlflow_stay_where_they_belong(module: Path) -> None:
    name = name_of(module)
    if name not in RAY_MODULES and not name.startswith("search/"):
        assert "ray" not in packages(module)
    if name not in MLFLOW_MODULES:
        assert "mlflow" not in packages(module)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_modules_are_short(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) < LONGEST_MODULE


@pytest.mark.parametrize("entry", ["hep_ray", "hep_ray.cli"])
def test_a_bare_import_is_light(entry: str) -> None:
    code = f"import sys, {entry}; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_public_names_exist() -> None:
    import hep_ray

    for name in hep_ray.__all__:
        assert getattr(hep_ray, name) is not None
        # A folder or module of that name would take its place as soon as it is imported.
        assert not (PACKAGE / name).exists()
        assert not (PACKAGE / f"{name}.py").exists()
    with raises(AttributeError, "'nothing'", "Choice"):
        _ = hep_ray.nothing


def tracked_texts() -> Iterator[tuple[str, str]]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listing.stdout.splitlines():
        path = REPOSITORY / name
        if path.suffix not in {".png", ".h5", ".parquet"} and path.is_file():
            yield name, path.read_text(encoding="utf-8")


def test_no_file_names_a_machine_or_a_package_registry() -> None:
    home = r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+|opt/\w+)/"
    registry = r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|--(?:extra-)?index-url"
    forbidden = re.compile(f"{home}|{registry}")
    found = [
        f"{name}: {match.group()}"
        for name, text in tracked_texts()
        if REPOSITORY / name != Path(__file__)
        for match in forbidden.finditer(text)
    ]
    assert not found
