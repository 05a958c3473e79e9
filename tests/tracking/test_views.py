import json
import time
from urllib.parse import parse_qs

import pytest

from hep_ray.tracking.records import SearchStarted
from hep_ray.tracking.views import LONGEST_TAG, experiment_tags, link, metric_key, note, run_name, varied

SPACE = {
    "model": "mlp",
    "learning_rate": "0.005 … 0.03 (log)",
    "root_index": "1 | 3",
    "dropout": "0.1 when model=mlp|cnn",
}


def started(space=None, **changed):
    values = {
        "time": time.time(),
        "search": "toy",
        "search_id": "a" * 32,
        "dataset_fingerprint": "f" * 64,
        "task": "toy",
        "metric": "val_auc",
        "mode": "max",
        "epochs": 3,
        "sampler": "tpe",
        "scheduler": "none",
        "seed": 0,
        "space": SPACE if space is None else space,
        "options": {},
        "provenance": {},
    }
    return SearchStarted(**{**values, **changed})


def views(tags):
    """Key → (name, state), decoded as MLflow does."""
    found = {}
    for key, value in tags.items():
        if key.startswith("mlflow.sharedViewState."):
            assert len(value) <= LONGEST_TAG
            envelope = json.loads(value)
            found[key.rpartition(".")[2]] = (envelope["name"], json.loads(envelope["state"]))
    return found


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("val_accuracy", "val/accuracy"),
        ("train_loss", "train/loss"),
        ("test_accuracy_error", "test/accuracy_error"),
        ("val_confusion_black_hole_sphaleron", "val/confusion/black_hole_sphaleron"),
        ("val_background_rejection_at_50_error", "val/background_rejection/at_50_error"),
        ("confirmed_auc_sd", "confirmed/auc_sd"),
        ("learning_rate", "learning_rate"),
        ("epoch", "epoch"),
    ],
)
def test_metrics_of_a_split_share_a_folder(ours, theirs):
    assert metric_key(ours) == theirs


def test_a_run_is_named_by_what_varied():
    params = {"model": "mlp", "learning_rate": 0.01472350, "root_index": 3, "dropout": 0.1}

    space = started().space
    assert varied(space) == ("learning_rate", "root_index")
    assert run_name("t0003", params, space) == "t0003 learning_rate=0.0147 root_index=3"
    assert run_name("t0004", {"model": "logistic_regression"}, space) == "t0004"
    many = started({f"p{number}": "1 | 2" for number in range(6)}).space
    assert run_name("t0005", dict.fromkeys(many, 1), many) == "t0005 p0=1 p1=1 p2=1 p3=1 …"


def test_a_search_offers_its_trials_best_first_and_their_means_by_root_index():
    tags = experiment_tags(started(), "7")
    found = views(tags)

    name, trials = found["hep_ray-trials"]
    assert name == "trials, best first"
    assert trials["orderByKey"] == "metrics.`best/auc`"
    assert trials["orderByAsc"] is False
    assert trials["selectedColumns"] == [
        "metrics.`best/auc`",
        "metrics.`val/auc`",
        "metrics.`val/auc_error`",
        "metrics.`confirmed/auc`",
        "params.`learning_rate`",
        "params.`root_index`",
        "tags.`hep_ray.status`",
    ]
    curves = [card["metricKey"] for card in trials["compareRunCharts"] if card["type"] == "LINE"]
    assert curves == ["val/auc", "val/loss", "train/loss"]
    (sections,) = ({card["metricSectionId"] for card in trials["compareRunCharts"]},)
    assert sections == {section["uuid"] for section in trials["compareRunSections"]}
    name, groups = found["hep_ray-groups"]
    assert name == "means by root_index"
    assert groups["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "root_index"}]
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "hep-ray confirm toy" in tags["mlflow.note.content"]


def test_less_is_better_where_the_search_says_so():
    (_, state) = views(experiment_tags(started(metric="val_loss", mode="min"), "7"))["hep_ray-trials"]

    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/loss`", True)
    assert [card["metricKey"] for card in state["compareRunCharts"] if card["type"] == "LINE"] == [
        "val/loss",
        "train/loss",
    ]


def test_nothing_is_grouped_where_nothing_is_a_choice():
    assert set(views(experiment_tags(started({"learning_rate": "0.1 … 0.2"}), "7"))) == {"hep_ray-trials"}


def test_a_confirmation_adds_its_views_and_leaves_those_of_its_search():
    space = {
        "t0001": {"model": "mlp", "root_index": 3, "loss": "root_softmax"},
        "baseline": {"model": "mlp", "root_index": 1, "loss": "root_softmax"},
    }
    header = started(space, search_id="b" * 32, provenance={"confirms": "a" * 32})
    tags = experiment_tags(header, "7")
    found = views(tags)

    assert set(tags) == {f"mlflow.sharedViewState.{key}" for key in found}
    _, confirmed = found["hep_ray-confirmed"]
    assert "a" * 32 in confirmed["searchFilter"]
    assert confirmed["orderByKey"] == "metrics.`confirmed/auc`"
    _, contenders = found["hep_ray-contenders"]
    assert "b" * 32 in contenders["searchFilter"]
    assert contenders["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "contender"}]
    assert contenders["selectedColumns"][-1] == "params.`root_index`"
    assert "hep-ray promote toy" in note(header, "7")


def test_a_space_of_many_parameters_still_fits_into_a_tag():
    space = {f"a_parameter_with_a_rather_long_name_{number}": "0.1 … 0.2" for number in range(60)}

    (_, state) = views(experiment_tags(started(space), "7"))["hep_ray-trials"]

    assert state["orderByKey"] == "metrics.`best/auc`"


def test_the_address_of_a_view_opens_the_pages_of_model_training():
    page, _, query = link("7", "hep_ray-trials", charts=True).partition("?")

    assert page == "#/experiments/7/runs"
    assert parse_qs(query) == {
        "workflowType": ["machine_learning"],
        "viewStateShareKey": ["hep_ray-trials"],
        "compareRunsMode": ["CHART"],
    }
