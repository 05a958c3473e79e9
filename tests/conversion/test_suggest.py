from pathlib import Path

import pytest

from hep_ray.conversion import cli
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.simulate import SIMULATIONS


def schema(task, shape=(50, 50, 3), column="image"):
    return EventSchema(task=task, columns=(Column(name=column, shape=shape),), classes=("a", "b"))


@pytest.mark.parametrize(
    ("given", "script"),
    [
        (schema("jet_images", (25, 25, 1)), "searches/jet_images.py"),
        (schema("mbh_sph"), "searches/cnn_loss.py"),
        (schema("electron_id_binary", (7, 11, 6)), "searches/electron_id.py"),
        (schema("mine"), "searches/cnn_loss.py"),
        (schema("mine", (7, 11, 6)), None),
        (schema("mine", (18,), "features"), "searches/particle_id.py"),
        (
            schema("susy", (18,), "features"),
            "searches/particle_id.py",
        ),  # susy.py names columns that are not there
    ],
)
def test_the_search_that_is_meant_for_the_task_comes_first(given, script, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])

    assert cli.suggested_search(given) == script


def test_a_search_of_ones_own_is_offered_where_none_reads_the_events(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert cli.next_command(schema("jets+2", (7, 11, 6)), Path("my data")) == (
        "hep-ray new jets_2_search --data 'my data'"
    )
    assert cli.next_command(schema("8 jets", (7, 11, 6)), Path("d")) == "hep-ray new my_search --data d"


def test_events_of_which_a_search_asks_for_a_conversion_are_to_be_converted(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    made = SIMULATIONS["electron_id"].schema
    command = cli.next_command(made, Path("my data/six"))
    assert command == (
        "hep-ray data convert 'my data/six' --reader parquet --classes background=others,electron "
        "--task electron_id_binary --out 'my data/electron_id_binary'"
    )
    binary = made.model_copy(update={"task": "electron_id_binary"})
    assert "searches/electron_id.py" in cli.next_command(binary, Path("d"))


def test_without_scripts_there_is_nothing_to_suggest(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "SCRIPTS", (tmp_path / "absent",))

    assert cli.suggested_search(schema("mbh_sph")) is None
