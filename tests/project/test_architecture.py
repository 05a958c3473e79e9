"""The rules that keep the house in order."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.facts import raises

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "hep_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE = 600
MEDIAN_MODULE = (120, 250)

BASE = {
    *(
        "addresses",
        "config",
        "console",
        "cores",
        "errors",
        "files",
        "flags",
        "log",
        "masking",
        "own_code",
        "plugins",
        "registry",
        "signature",
        "sources",
    ),
}
RAY = {"cluster"}
DATA = {"dataset", "conversion", "loading"}
PARTS = {"models", "losses", "optim", "metrics"}
KNOWS = {
    "drawing": BASE,
    "dataset": BASE | {"drawing"},
    "conversion": BASE | {"cluster", "dataset"},
    "loading": BASE | {"dataset"},
    "simulate": BASE | RAY | DATA,
    **dict.fromkeys(PARTS, BASE),
    "training": BASE | DATA | PARTS,
    "tracking": BASE,
    "search": BASE | {"cluster", *DATA, "drawing", "training", "tracking"} | PARTS,
    "confirm": BASE | {"cluster", *DATA, "training", "search", "tracking", "metrics", "models"},
    "report": BASE | DATA | {"drawing", "losses", "metrics", "training", "search", "confirm", "tracking"},
    "doctor": BASE | {"cluster", *DATA, "search", "tracking"},
    "promote": BASE | DATA | {"training", "search", "confirm", "tracking"} | PARTS,
    "predict": BASE | RAY | DATA | {"metrics", "training", "promote", "tracking"},
    "bundle": BASE
    | DATA
    | {"drawing", "metrics", "search", "confirm", "report", "promote", "predict", "tracking"},
}
"""Folder → what its modules may import of hep_ray, beside the folder itself."""

RAY_MODULES = {
    "cluster.py",
    "loading/stream.py",
    "confirm/run.py",
    "predict/run.py",
}
MLFLOW_MODULES = {
    "tracking/client.py",
    "tracking/mlflow.py",
    "tracking/mlflow_writer.py",
    "tracking/registry.py",
}
HEAVY = {"ray", "torch", "mlflow", "pythia8mc", "sklearn", "uproot", "awkward", "fastjet", "matplotlib"}


TREES = {module: ast.parse(module.read_text(encoding="utf-8")) for module in MODULES}
LINES = {module: len(module.read_text(encoding="utf-8").splitlines()) for module in MODULES}


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imports(module: Path) -> Iterator[str]:
    """Dotted names that a module imports anywhere, in functions and for type checking too."""
    yield from imported(list(ast.walk(TREES[module])))


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(module: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(module)}


def neighbours(module: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(module) if name.startswith("hep_ray.")}


def test_imports_are_absolute() -> None:
    relative = [
        f"{name_of(module)}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_dependencies_point_one_way() -> None:
    wrong = {}
    for module in MODULES:
        folder = module.relative_to(PACKAGE).parts[0]
        allowed = KNOWS[folder] | {folder} if folder in KNOWS else BASE | RAY
        if folder in KNOWS or folder.removesuffix(".py") in BASE | RAY:
            wrong[name_of(module)] = sorted(neighbours(module) - allowed)
    assert not {name: known for name, known in wrong.items() if known}


def test_no_module_imports_itself_through_others() -> None:
    modules = {".".join(module.relative_to(REPOSITORY).with_suffix("").parts): module for module in MODULES}
    modules = {name.removesuffix(".__init__"): module for name, module in modules.items()}
    reads: dict[str, set[str]] = {}
    for name, module in modules.items():
        names = set(imported(TREES[module].body))  # where a module is loaded, not in functions
        reads[name] = {one if one in modules else one.rpartition(".")[0] for one in names} & set(modules) - {
            name
        }
    TopologicalSorter(reads).prepare()  # raises CycleError with the circle


def test_every_folder_has_its_rule() -> None:
    folders = {module.relative_to(PACKAGE).parts[0] for module in MODULES if module.parent != PACKAGE}
    assert folders == set(KNOWS)


def test_ray_and_mlflow_stay_where_they_belong() -> None:
    search = {name_of(module) for module in MODULES if name_of(module).startswith("search/")}
    knows_ray = {name_of(module) for module in MODULES if "ray" in packages(module)}
    knows_mlflow = {name_of(module) for module in MODULES if "mlflow" in packages(module)}
    assert sorted(knows_ray - RAY_MODULES - search) == []
    assert sorted(knows_mlflow - MLFLOW_MODULES) == []


def test_modules_are_neither_long_nor_crumbs() -> None:
    assert {name_of(module): lines for module, lines in LINES.items() if lines > LONGEST_MODULE} == {}
    assert MEDIAN_MODULE[0] <= statistics.median(LINES.values()) <= MEDIAN_MODULE[1]


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(module))
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert not shared


def test_docstrings_begin_with_what_a_thing_does() -> None:
    riddles = [
        f"{name_of(module)}: {text.splitlines()[0]}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and (text := ast.get_docstring(node) or "").startswith(("Of ", "What "))
    ]
    assert not riddles


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


def test_the_spelling_check_leaves_out_what_git_ignores() -> None:
    """Tests write pages of coverage before the spelling is checked."""
    codespell = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "codespell"
    ]
    skipped = codespell["skip"].split(",")
    for line in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split():
        if line.startswith("/"):
            assert f".{line.rstrip('/')}" in skipped
