"""Simulations as a whole: contract of every registered one, reproducibility, reference distributions."""

import csv
import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.conversion.cli import parse_settings
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import (
    InvalidConfig,
    InvalidEvents,
    MissingPackage,
    SimulationFailed,
    StorageError,
    UnknownName,
)
from hep_ray.simulate import SIMULATIONS, run
from hep_ray.simulate.objects import Objects, event_variables
from tests.facts import raises

needs_pythia = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="Pythia 8 (extra 'sim') is not installed"
)


def seed(*key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(11, spawn_key=key)


IN_TURN = [
    pytest.param(
        name, marks=[pytest.mark.slow, pytest.mark.ci] if name in {"six_hypotheses", "electron_id"} else []
    )
    for name in SIMULATIONS
]
"""Every simulation; those that take a second for a few events are left to the slow tests."""


@needs_pythia
@pytest.mark.parametrize("name", IN_TURN)
def test_contract(name: str) -> None:
    """Schema honoured; same seed, same bytes in any order of calls; another seed, other events."""
    entry = SIMULATIONS[name]
    config, classes = entry.config(), entry.schema.classes
    assert set(entry.schema.class_meaning) == set(classes)
    assert entry.chunk >= 1
    if entry.shares is not None:
        assert len(entry.shares) == len(classes)
        assert min(entry.shares) > 0
    jobs = [(class_name, chunk) for class_name in classes for chunk in range(2)]
    made = {job: entry.generate(config, job[0], 3, seed(job[1])) for job in jobs}
    again = {job: entry.generate(config, job[0], 3, seed(job[1])) for job in reversed(jobs)}
    for job, columns in made.items():
        label = classes.index(job[0])
        ids = np.array([f"{row}" for row in range(3)], dtype=object)
        checked = entry.schema.checked({"event_id": ids, "label": np.full(3, label), **columns})
        for column, values in checked.items():
            if column in columns:
                assert values.tobytes() == again[job][column].tobytes(), (job, column)
    for class_name in classes:
        first, second = (made[class_name, chunk] for chunk in range(2))
        assert any(values.tobytes() != second[column].tobytes() for column, values in first.items())


@pytest.fixture
def equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many events of each class, for so few that rare ones would have none."""
    entries = {name: dataclasses.replace(SIMULATIONS[name], shares=None) for name in SIMULATIONS}
    monkeypatch.setattr(SIMULATIONS, "_entries", entries)


@needs_pythia
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session", "equal_shares")
@pytest.mark.parametrize("name", IN_TURN)
def test_the_dataset_is_the_same_for_any_number_of_workers_and_differs_by_seed(tmp_path, name: str) -> None:
    events = 10 * len(SIMULATIONS[name].schema.classes)
    made = [
        run.simulate(name, events, 5, tmp_path / str(workers), workers=workers, chunk=5) for workers in (1, 2)
    ]
    assert made[0].fingerprint == made[1].fingerprint
    assert sum(made[0].class_counts().values()) == events
    assert [shard.sha256 for shard in made[0].shards] == [shard.sha256 for shard in made[1].shards]
    source = Manifest.load(tmp_path / "1").source
    assert source["seed"] == 5
    assert source["settings"] == SIMULATIONS[name].config().model_dump(mode="json")
    assert set(source["packages"]) == set(SIMULATIONS[name].requires)
    assert run.simulate(name, events, 6, tmp_path / "other", chunk=5).fingerprint != made[0].fingerprint


@needs_pythia
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session", "equal_shares")
@pytest.mark.parametrize("name", IN_TURN)
def test_more_events_leave_the_earlier_ones_in_their_splits(tmp_path, name: str) -> None:
    """With whole chunks, the events of the smaller dataset are those of the larger, split by split."""
    classes = len(SIMULATIONS[name].schema.classes)
    small, large = (
        contents(run.simulate(name, events, 5, tmp_path / str(events), chunk=5), tmp_path / str(events))
        for events in (classes * 20, classes * 30)
    )
    assert len(small) == classes * 20
    assert {event_id: large[event_id] for event_id in small} == small


def contents(manifest: Manifest, folder: Path) -> dict[str, tuple[str, bytes]]:
    """Event id → its split and values."""
    found = {}
    for shard in manifest.shards:
        for batch in pq.read_table(folder / shard.file).to_batches():
            events = manifest.event_schema.decode(batch)
            for row, event_id in enumerate(events.pop("event_id")):
                values = b"".join(column[row].tobytes() for column in events.values())
                found[event_id] = (shard.split, values)
    return found


@needs_pythia
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_setting_that_pythia_refuses_leaves_nothing_behind(tmp_path, capfd) -> None:
    with raises(SimulationFailed, "'No:such = on'"):
        run.simulate("mbh_sph", 10, 5, tmp_path / "out", settings={"pythia": "No:such = on"}, workers=1)
    assert list(tmp_path.iterdir()) == []
    capfd.readouterr()


@pytest.mark.slow
@pytest.mark.ci
@needs_pythia
@pytest.mark.parametrize(
    ("class_name", "file", "leading"),
    [("black_hole", "BH_n4_M10.csv", 0.2), ("sphaleron", "SPH_THR9_NSUBPALL.csv", 0.12)],
)
def test_event_variables_resemble_the_reference(
    real_data, class_name: str, file: str, leading: float
) -> None:
    """Means of 150 events within 12 % (objects) and 15 % (H_T) of the reference's.

    The leading p_T of black holes is 12 % too high in 1,500 events (docs/simulation.md says why), to which 150 events
    add a statistical error of 3 %; so twice that is allowed beside it.
    """
    with (real_data / "black_holes" / "event_variables" / file).open() as lines:
        rows = list(csv.DictReader(lines))
    entry = SIMULATIONS["mbh_sph"]
    columns = entry.generate(entry.config(), class_name, 150, seed(2))
    for ours, theirs, tolerance in (
        ("n_objects", "stuff_amount", 0.12),
        ("leading_pt", "ptmax", leading),
        ("ht", "HT", 0.15),
    ):
        reference = np.mean([float(row[theirs]) for row in rows])
        assert columns[ours].mean() == pytest.approx(reference, rel=tolerance), ours


@pytest.mark.parametrize(
    ("arguments", "error", "facts"),
    [
        ({"name": "mbh_spf"}, UnknownName, ["'mbh_spf'", "'mbh_sph'"]),
        ({"events": 1}, InvalidConfig, ["classes", 1]),
        ({"seed": -1}, InvalidConfig, ["seed", -1]),
        ({"workers": 0}, InvalidConfig, ["workers", 0]),
        ({"chunk": 0}, InvalidConfig, ["chunk", 0]),
        (
            {"events": 4, "rule": SplitRule(train=0.98, val=0.01, test=0.01)},
            InvalidEvents,
            ["'val'", "sphaleron 0", "black_hole 0", "--split"],
        ),
        ({"settings": {"planck_mas": 1}}, InvalidConfig, ["'planck_mas'", "planck_mass"]),
        ({"settings": {"extra_dimensions": 9}}, InvalidConfig, ["extra_dimensions", 9]),
        ({"settings": {"black_hole_mass_min": 3000}}, InvalidConfig, ["planck_mass", "black_hole_mass_min"]),
    ],
)
def test_refusals_come_before_any_work(tmp_path, arguments, error, facts) -> None:
    values = {"name": "mbh_sph", "events": 10, "seed": 1, "out": tmp_path / "out", **arguments}
    with raises(error, *facts):
        run.simulate(**values)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_a_split_without_a_class_by_the_default_fractions_too(tmp_path) -> None:
    words = ["data", "simulate", "susy", "--events", "4", "--out", str(tmp_path / "out")]
    with raises(InvalidEvents, "--split"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


@needs_pythia
def test_an_occupied_folder_is_refused(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(StorageError):
        run.simulate("mbh_sph", 10, 1, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_a_missing_package_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with raises(MissingPackage, "pythia8mc", "pip install 'hep-ray[sim]'"):
        run.simulate("mbh_sph", 10, 1, tmp_path / "out")


def test_the_preselection_s_quantities_come_from_objects_above_70_gev() -> None:
    """Of 100, 80, 70 and 20 GeV two are above 70 GeV: S_T = 100 + 80 + 75 missing; H_T counts all: 345."""
    pt = np.array([100.0, 80.0, 70.0, 20.0])
    objects = Objects(pt, *(np.zeros(4) for _ in range(4)), np.zeros(4, dtype=bool), missing=75.0)
    variables = event_variables(objects)
    assert (variables["st"], variables["n_objects_70"]) == (255.0, 2.0)
    assert (variables["ht"], variables["n_objects"]) == (345.0, 5.0)


@needs_pythia
def test_images_of_objects_are_of_the_same_events() -> None:
    entry = SIMULATIONS["mbh_sph"]
    towers, objects = (
        entry.generate(entry.config(images=kind), "black_hole", 4, seed(3)) for kind in ("towers", "objects")
    )
    assert all(np.array_equal(towers[name], objects[name]) for name in towers if name != "image")
    filled = [(one["image"].max(axis=-1) > 0).sum(axis=(1, 2)) for one in (towers, objects)]
    assert (filled[1] < objects["n_objects"]).all()  # a bin per object, missing momentum has none
    assert (filled[0] > 50).all()


def test_settings_of_the_command_line() -> None:
    assert parse_settings(["a=1", "pythia=PDF:pSet = 14"]) == {"a": "1", "pythia": "PDF:pSet = 14"}
    for words in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(InvalidConfig):
            parse_settings(words)
