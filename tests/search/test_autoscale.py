import pytest
import yaml

from hep_ray.errors import InvalidConfig
from hep_ray.search.resources import plan_resources, to_come
from tests.facts import raises

HEAD = {"CPU": 8.0, "memory": 1e9}
GPU = {"CPU": 8.0, "GPU": 1.0}


def launched(**changes):
    """What Ray's launcher leaves on the head, in short."""
    kinds = {
        "head": {"max_workers": 0, "resources": {"CPU": 8}},
        "gpu": {"max_workers": 4, "resources": {"CPU": 8, "GPU": 1, "memory": 10**10}},
    }
    return {"max_workers": 4, "head_node_type": "head", "available_node_types": kinds, **changes}


@pytest.mark.parametrize(
    ("stated", "alive", "coming"),
    [
        ("", [HEAD], []),
        ("4 x CPU=8 GPU=1", [HEAD], [GPU] * 4),
        ("4 x CPU=8 GPU=1", [HEAD, {**GPU, "memory": 1e9}], [GPU] * 3),  # one has come already
        ("1 x CPU=8 GPU=1", [HEAD, GPU, GPU], []),
        ("1 x CPU=8 GPU=1, 2 x CPU=32", [], [GPU, {"CPU": 32.0}, {"CPU": 32.0}]),
    ],
)
def test_nodes_in_words(stated, alive, coming):
    assert to_come(alive, stated) == coming


@pytest.mark.parametrize(("changes", "many"), [({}, 4), ({"max_workers": 2}, 2)])
def test_the_file_that_the_head_was_started_with(tmp_path, changes, many):
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(launched(**changes)))

    assert to_come([HEAD], str(path)) == [GPU] * many


def test_a_search_plans_for_gpus_that_no_node_has_yet():
    plan = plan_resources([HEAD, *to_come([HEAD], "4 x CPU=8 GPU=1")], 64, 1, 0.5)

    assert plan.concurrent == 8


@pytest.mark.parametrize("stated", ["four", "4 x GPU", "4 x CPU=8 TPU=1", "4xCPU=8"])
def test_words_that_say_nothing_are_refused(stated):
    with raises(InvalidConfig, "HEP_RAY_AUTOSCALE", f"'{stated}'"):
        to_come([HEAD], stated)


@pytest.mark.parametrize("text", ["a: [", "max_workers: 4", "- 1"])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)

    with raises(InvalidConfig, path):
        to_come([HEAD], str(path))
    with raises(InvalidConfig, tmp_path / "absent.yaml"):
        to_come([HEAD], str(tmp_path / "absent.yaml"))
