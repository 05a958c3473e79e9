"""What is typed wrongly is refused at once: torch, Ray and the rest, seconds of imports, come with the work alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, SearchFinished, SearchStarted, TrialFinished, TrialStarted

HEAVY = {
    *(
        "torch",
        "ray",
        "mlflow",
        "optuna",
        "pandas",
        "sklearn",
        "scipy",
        "matplotlib",
        "onnxruntime",
        "uproot",
    ),
    *("lightgbm", "safetensors", "polars", "sqlalchemy", "torchvision", "triton"),
}
OF_MLFLOW = {"sqlalchemy"}
"""Module that looks whether a file is a database of MLflow's."""
OF_A_SPACE = {"optuna"}
"""Package whose distributions a space is made of."""
OF_A_MODEL = {"torch"}
"""Package whose modules models are: without torchvision, which brings torch's compiler along."""
TABLE = {"title": "Losses", "rows": ["loss"], "metrics": ["val_auc"]}

SCRIPT = """
from hep_ray import Choice, LogUniform, Mapped, Preset, Search, Space, main
space = Space(
    model="mlp", loss="cross_entropy", optimizer=Choice("adam", "sgd"), hidden=Choice(8, 16),
    learning_rate=LogUniform(1e-4, 1e-2), momentum=Mapped("optimizer", {"sgd": 0.9}),
)
presets = {"smoke": Preset(trials=2, epochs=1), "long": Preset(trials=9, epochs=9, sampler="auto", scheduler="auto")}
search = Search(name="toy", task="toy", title="A toy.", space=space, presets=presets)
main(search)
"""

REFUSED = {
    "compare nosuch other": ("UnknownSearch", set()),
    "compare first": ("InvalidConfig", set()),
    "audit nosuch": ("UnknownSearch", set()),
    "track nosuch": ("UnknownSearch", set()),
    "report nosuch": ("UnknownSearch", set()),
    "report nosuch.py --table": ("UnknownName", set()),
    "report first --table --out page.html": ("InvalidConfig", set()),
    "report first --against abs(eta),": ("InvalidConfig", set()),
    "confirm nosuch": ("UnknownSearch", set()),
    "confirm first --top 0": ("CannotConfirm", set()),
    "confirm runs/first --storage elsewhere": ("InvalidConfig", set()),
    "confirm toy": ("NotRun", OF_A_SPACE),
    "refit searches/toy.py": ("NotRun", OF_A_SPACE),
    "folds nosuch": ("UnknownSearch", set()),
    "refit nosuch": ("UnknownSearch", set()),
    "promote nosuch": ("UnknownSearch", set()),
    "promote first": ("StorageError", set()),
    "promote first --refit --calibration platt": ("InvalidConfig", set()),
    "predict nosuch events.csv --out scores": ("UnreadableInput", set()),
    "predict models:/toy@champion events.csv --out scores": ("StorageError", set()),
    "predict nosuch --out scores": ("InvalidConfig", set()),
    "bundle nosuch --out kept": ("UnreadableInput", set()),
    "components nosuch": ("UnknownName", set()),
    "components metric nosuch": ("UnknownName", set()),
    "data check nosuch": ("UnreadableInput", set()),
    "new no!name": ("InvalidConfig", set()),
    "ui --storage nosuch": ("StorageError", OF_MLFLOW),
    "searches/toy.py --trials many": ("exit 2", OF_A_SPACE),
}
"""What is typed → the error that refuses it, and what heavy it may import."""
DONE = {
    "--help": set(),
    "confirm --help": set(),
    "compare first second": set(),
    "report first --table": set(),
    "components metric": set(),
    "components reader": set(),
    "searches/toy.py --help": OF_A_SPACE,
    "components model": OF_A_MODEL,
}
"""What needs none of it for its work → what heavy it may import."""

TYPE = """
import contextlib, io, json, runpy, sys
from typer.main import get_command
from hep_ray.cli import app

command, told = get_command(app), {}
for line in json.loads(sys.argv[1]):
    before, ended = set(sys.modules), "done"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            if line.startswith("searches/"):
                sys.argv = line.split()
                runpy.run_path(sys.argv[0], run_name="__main__")
            else:
                command.main(line.split(), prog_name="hep-ray", standalone_mode=False)
        except SystemExit as exc:
            ended = f"exit {exc.code}" if exc.code else "done"
        except Exception as exc:
            ended = type(exc).__name__
    told[line] = [ended, sorted({one.partition(".")[0] for one in set(sys.modules) - before})]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, set[str]]]:
    """Every command, one after the other in one process: how it ended, and what it imported."""
    folder = tmp_path_factory.mktemp("lean")
    (folder / "searches").mkdir()
    (folder / "searches" / "toy.py").write_text(SCRIPT, encoding="utf-8")
    for name in ("first", "second"):
        write(folder / "runs" / name)
    lines = [*DONE, *REFUSED]
    done = subprocess.run(
        [sys.executable, "-c", TYPE, json.dumps(lines)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line: (ended, set(loaded)) for line, (ended, loaded) in json.loads(done.stdout).items()}


def write(folder: Path) -> None:
    started = SearchStarted(
        time=1.0, search=folder.name, search_id=folder.name, task="toy", dataset_fingerprint="f" * 64, metric="val_auc",
        mode="max", epochs=1, sampler="tpe", scheduler="none", seed=1, space={}, options={}, provenance={},
        stated={"title": "Toy", "baseline": {}, "tables": [TABLE]},
    )  # fmt: skip
    with Journal(folder) as journal:
        journal.append(started)
        journal.append(TrialStarted(time=2.0, trial_id="t0000", number=0, params={"loss": "hinge"}, seed=1))
        journal.append(EpochFinished(time=3.0, trial_id="t0000", metrics={"epoch": 1, "val_auc": 0.9}))
        journal.append(TrialFinished(time=4.0, trial_id="t0000", status="completed"))
        journal.append(SearchFinished(time=5.0))


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused_imports_nothing_heavy(line: str, told: dict[str, tuple[str, set[str]]]) -> None:
    error, may = REFUSED[line]
    ended, loaded = told[line]
    assert ended == error
    assert sorted(loaded & HEAVY - may) == []


@pytest.mark.parametrize("line", DONE)
def test_what_needs_no_torch_imports_none(line: str, told: dict[str, tuple[str, set[str]]]) -> None:
    ended, loaded = told[line]
    assert ended == "done"
    assert sorted(loaded & HEAVY - DONE[line]) == []
