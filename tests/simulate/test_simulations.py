"""Simulations as a whole: contract of every registered one, reproducibility, reference distributions."""

import csv
import importlib.util
import sys

import numpy as np
import pytest

from hep_ray.data.manifest import Manifest
from hep_ray.errors import InvalidConfig, MissingPackage, SimulationFailed, StorageError, UnknownName
from hep_ray.simulate import SIMULATIONS, run
from hep_ray.simulate.cli import parse_settings

needs_pythia = pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="Pythia 8 (extra 'sim') is not installed"
)


def seed(*key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(11, spawn_key=key)


@needs_pythia
@pytest.mark.parametrize("name", SIMULATIONS)
def test_contract(name: str) -> None:
    entry = SIMULATIONS[name]
    assert entry.summary.endswith((".", "images."))
    for class_name in entry.schema.classes:
        columns = entry.generate(entry.config(), class_name, 3, seed(1))
        assert set(columns) == {column.name for column in entry.schema.columns}
        for column in entry.schema.columns:
            values = columns[column.name]
            assert values.shape == (3, *column.shape)
            assert values.dtype == np.dtype(column.dtype)
            assert np.isfinite(values).all()


@needs_pythia
@pytest.mark.parametrize("name", SIMULATIONS)
def test_chunks_do_not_depend_on_what_ran_before(name: str) -> None:
    entry = SIMULATIONS[name]
    config, classes = entry.config(), entry.schema.classes
    jobs = [(class_name, chunk) for class_name in classes for chunk in range(2)]
    forwards = {job: entry.generate(config, job[0], 4, seed(job[1])) for job in jobs}
    backwards = {job: entry.generate(config, job[0], 4, seed(job[1])) for job in reversed(jobs)}
    for job in jobs:
        for column, values in forwards[job].items():
            assert values.tobytes() == backwards[job][column].tobytes(), (job, column)
    first, second = (forwards[classes[0], chunk]["image"] for chunk in range(2))
    assert first.tobytes() != second.tobytes()


@needs_pythia
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_dataset_is_the_same_for_any_number_of_workers(tmp_path) -> None:
    made = [
        run.simulate("mbh_sph", 40, 5, tmp_path / str(workers), workers=workers, chunk=5)
        for workers in (1, 2)
    ]
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].class_counts() == {"sphaleron": 20, "black_hole": 20}
    assert [shard.sha256 for shard in made[0].shards] == [shard.sha256 for shard in made[1].shards]
    source = Manifest.load(tmp_path / "1").source
    assert source["seed"] == 5
    assert source["settings"]["planck_mass"] == 4000.0
    assert "pythia8mc" in source["packages"]


@needs_pythia
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_setting_that_pythia_refuses_leaves_nothing_behind(tmp_path, capfd) -> None:
    with pytest.raises(SimulationFailed, match="No:such = on"):
        run.simulate("mbh_sph", 10, 5, tmp_path / "out", settings={"pythia": "No:such = on"}, workers=1)
    assert list(tmp_path.iterdir()) == []
    capfd.readouterr()


@needs_pythia
@pytest.mark.parametrize(
    ("class_name", "file"), [("black_hole", "BH_n4_M10.csv"), ("sphaleron", "SPH_THR9_NSUBPALL.csv")]
)
def test_event_variables_resemble_the_reference(real_data, class_name: str, file: str) -> None:
    """Means of 150 events within 12 % (objects, leading p_T) and 15 % (H_T) of the reference's."""
    with (real_data / "black_holes" / "event_variables" / file).open() as lines:
        rows = list(csv.DictReader(lines))
    entry = SIMULATIONS["mbh_sph"]
    columns = entry.generate(entry.config(), class_name, 150, seed(2))
    for ours, theirs, tolerance in (
        ("n_objects", "stuff_amount", 0.12),
        ("leading_pt", "ptmax", 0.12),
        ("ht", "HT", 0.15),
    ):
        reference = np.mean([float(row[theirs]) for row in rows])
        assert columns[ours].mean() == pytest.approx(reference, rel=tolerance), ours


def test_events_are_split_over_classes_and_chunks() -> None:
    chunks = run.plan(25, 2, 10)
    assert [(one.label, one.number, one.events) for one in chunks] == [
        (0, 0, 10),
        (1, 0, 10),
        (0, 1, 3),
        (1, 1, 2),
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "mbh_spf"}, UnknownName, "mbh_sph"),
        ({"events": 1}, InvalidConfig, "got 1 in all"),
        ({"seed": -1}, InvalidConfig, "got -1"),
        ({"workers": 0}, InvalidConfig, "got 0"),
        ({"chunk": 0}, InvalidConfig, "got 0"),
        ({"settings": {"planck_mas": 1}}, InvalidConfig, "planck_mass"),
        ({"settings": {"extra_dimensions": 9}}, InvalidConfig, "9"),
        ({"settings": {"black_hole_mass_min": 3000}}, InvalidConfig, "planck_mass < black_hole_mass_min"),
    ],
)
def test_refusals_come_before_any_work(tmp_path, arguments, error, message) -> None:
    values = {"name": "mbh_sph", "events": 10, "seed": 1, "out": tmp_path / "out", **arguments}
    with pytest.raises(error, match=message):
        run.simulate(**values)
    assert list(tmp_path.iterdir()) == []


@needs_pythia
def test_an_occupied_folder_is_refused(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(StorageError):
        run.simulate("mbh_sph", 10, 1, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_a_missing_package_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(MissingPackage, match=r"pip install 'hep-ray\[sim\]'"):
        run.simulate("mbh_sph", 10, 1, tmp_path / "out")


def test_settings_of_the_command_line() -> None:
    assert parse_settings(["a=1", "pythia=PDF:pSet = 14"]) == {"a": "1", "pythia": "PDF:pSet = 14"}
    for words in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(InvalidConfig):
            parse_settings(words)
