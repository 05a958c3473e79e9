"""`hep-ray new`: what it writes is valid, tests itself, plans and runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig, StorageError, UnknownName, UnreadableInput
from hep_ray.models import MODELS
from hep_ray.new import write_project
from hep_ray.search.cli import build_app
from hep_ray.search.find import load_search
from hep_ray.simulate import SIMULATIONS
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.records import SearchFinished
from tests.facts import raises, tells


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test registered is gone after it."""
    MODELS._discover()
    modules, entries, path = set(sys.modules), dict(MODELS._entries), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("_search_"):
            sys.modules.pop(name)
    MODELS._entries = entries


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    """Events of a scalar, a vector of integers, a sequence and a weight, in three classes."""
    columns = (
        Column(name="met", unit="GeV"),
        Column(name="hits", shape=(4,), dtype="int32"),
        Column(name="tracks", shape=(5, 3)),
        Column(name="w"),
    )
    schema = EventSchema(task="vertices", columns=columns, classes=("b", "c", "light"), weight="w")
    random = np.random.default_rng(0)
    with ShardWriter(tmp_path / "tracks", schema, source={}) as writer:
        events = {column.name: random.random((300, *column.shape)) for column in columns}
        values = {column.name: (9 * events[column.name]).astype(column.dtype) for column in columns}
        labels = np.arange(300) % 3
        writer.write({"event_id": [f"e{row}" for row in range(300)], "label": labels, **values})
    return tmp_path / "tracks"


def python(place: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=place, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200", "RAY_ADDRESS": "local"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.ci
def test_the_tests_of_a_new_project_pass(tmp_path, make_dataset, tracks) -> None:
    for name, data in {
        "own_images": make_dataset(60),
        "own_tracks": tracks,
        "own_events": None,
    }.items():
        write_project(name, data=data, out=tmp_path / name)

    told = python(tmp_path, "-m", "pytest", "-q", "own_images", "own_tracks", "own_events")
    assert "15 passed" in told
    python(tmp_path, "-m", "ruff", "check", "--isolated", "--select", "E,F,W,B", "--line-length", "120", ".")


@pytest.mark.parametrize("task", list(SIMULATIONS))
def test_a_project_suits_each_simulation(tmp_path, task) -> None:
    folder = write_project("mine", task=task, out=tmp_path / "mine")

    search = load_search(str(folder / "mine.py"))
    assert search.task == task
    schema = SIMULATIONS[task].schema
    search.space.check()
    for params in search.space.samples():
        entry = MODELS[params["model"]]
        config = entry.config(**{key: params[key] for key in entry.config.field_names() if key in params})
        columns = entry.build(config, schema).columns
        assert set(columns) <= {column.name for column in schema.inputs}
    assert search.points_to_evaluate[0]["model"] == search.baseline["model"]
    command = re.findall("^hep-ray data simulate .*$", (folder / "README.md").read_text(), re.MULTILINE)
    assert command == [f"hep-ray data simulate {task} --events 4000 --seed 1 --out data/{task}"]


@pytest.mark.slow
@pytest.mark.ray
def test_a_new_project_can_be_planned_on_its_data(ray_session, tmp_path, tracks, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["new", "vertex", "--data", "tracks"])
    assert made.exit_code == 0, made.output
    assert tells(
        made.output, "cd vertex", "README.md", "test_vertex.py", f"vertex.py --preset smoke --data {tracks}"
    )

    program = build_app(load_search("vertex/vertex.py"))
    planned = CliRunner().invoke(program, ["--data", "tracks", "--preset", "smoke", "--dry-run"])
    assert planned.exception is None, planned.exception
    told = planned.output
    assert tells(told, "'vertex_network'", "model=gradient_boosting", "4 trials", "2 epochs", "b / c / light")
    # The two kinds of models are timed, or it is said that they were not.
    assert tells(told, "fit of gradient_boosting", "epoch of vertex_network") or tells(
        told, "not timed within 20 s"
    )


@pytest.mark.slow
def test_the_three_commands_of_a_new_project_run(tmp_path, tracks) -> None:
    folder = write_project("vertex", data=tracks, out=tmp_path / "vertex")
    block = (folder / "README.md").read_text().split("```")[1].strip().splitlines()
    for line in block:
        program, *words = line.split()
        main = ["-c", "from hep_ray.cli import main; main()"]
        told = python(folder, *(words if program == "python" else main + words))
    assert tells(told, "4 trials, best first", "hep-ray confirm vertex")
    assert isinstance(list(read_records(folder / "runs" / "vertex"))[-1], SearchFinished)


@pytest.mark.parametrize("name", ["Mine", "my search", "../mine", "1st", "json", "torch", "numpy"])
def test_a_name_that_python_cannot_import_or_knows_is_refused(tmp_path, monkeypatch, name) -> None:
    monkeypatch.chdir(tmp_path)
    with raises(InvalidConfig, name):
        write_project(name)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_told_as_a_shell_takes_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(app, ["new", "vertex", "--out", "my searches/vertex"])
    assert tells(made.output, "cd 'my searches/vertex'")


def test_what_is_there_stays(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with raises(StorageError, "mine", "--out"):
        write_project("mine", out=tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["thesis.tex"]


def test_unknown_events_are_refused_before_anything_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with raises(UnknownName, "'susi'", "susy"):
        write_project("mine", task="susi")
    with raises(UnreadableInput, "nowhere"):
        write_project("mine", data=Path("nowhere"))
    with raises(InvalidConfig, "--data", "--task"):
        write_project("mine", data=Path("nowhere"), task="susy")
    assert list(tmp_path.iterdir()) == []
