"""From searches to a champion, its successor and a refusal: every step by the commands that a user types."""

import os
import subprocess
import sys

import pytest

from hep_ray.confirm.confirmation import load_confirmation
from hep_ray.tracking.client import default_uri
from hep_ray.tracking.registry import ModelRegistry
from tests.facts import tells

SCRIPT = """
from hep_ray import Choice, Preset, Search, Space, main

space = Space(
    model="mlp",
    hidden_layers={layers},
    hidden_features=64,
    scalar_scaling="standardize",
    loss="cross_entropy",
    optimizer="adam",
    learning_rate=Choice(0.02, 1e-4),
    batch_size=64,
)
search = Search(
    name="{name}",
    task="quadrants",
    title="A network of {layers} hidden layers.",
    space=space,
    presets={{"smoke": Preset(epochs=5, sampler="grid", scheduler="none")}},
    baseline={{"learning_rate": 1e-4}},
)
if __name__ == "__main__":
    main(search)
"""


def hep_ray(place, *words, code=0):
    """Run `hep-ray …` in a place; returns what it printed."""
    start = [sys.executable, "-c", "from hep_ray.cli import main; main()"]
    return run(place, *start, *words, code=code)


def run(place, *words, code=0):
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def aliases(place):
    return ModelRegistry(default_uri(place / "runs")).aliases("quadrants")


def accuracies_on_test(place, search):
    confirmation = load_confirmation(place / "runs" / search)
    return [run.metrics["test_accuracy"] for run in confirmation.finalists[0].runs]


@pytest.mark.slow
@pytest.mark.usefixtures("committed_hep_ray")
def test_a_champion_is_replaced_by_a_truly_better_one_and_by_no_other(make_search_place, tmp_path):
    linear, deep = (SCRIPT.format(name=name, layers=layers) for name, layers in (("linear", 0), ("deep", 2)))
    place = make_search_place(tmp_path, linear=linear, deep=deep)
    for search in ("linear", "deep"):
        run(place, sys.executable, f"searches/{search}.py", "--data", "data", "--preset", "smoke")
        hep_ray(place, "confirm", search, "--top", "1", "--seeds", "6")
        told = hep_ray(place, "promote", search)
    # What the second one is promoted for is a real gain, of every seed over every other.
    assert min(accuracies_on_test(place, "deep")) > max(accuracies_on_test(place, "linear"))
    assert "against the champion" in told
    assert "models:/quadrants@champion is version 2; version 1 is now `previous`" in told
    assert aliases(place) == {"champion": 2, "previous": 1}

    for search in ("deep", "linear"):
        told = hep_ray(place, "promote", search, code=1)
        assert "FAIL  gain: " in told
        assert "seed noise" in told
        assert aliases(place) == {"champion": 2, "previous": 1}

    told = hep_ray(place, "predict", "models:/quadrants@champion", "data", "--out", "scores")
    assert tells(told, "1500 events", "models:/quadrants/2")
