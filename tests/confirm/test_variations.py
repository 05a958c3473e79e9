"""Systematic variations: named in the schema, varied as physical values, told beside what models do nominally."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from hep_ray.confirm.comparison import summarise, values_of
from hep_ray.confirm.confirmation import (
    Confirmation,
    ConfirmedRun,
    Contender,
    load_confirmation,
    save_confirmation,
)
from hep_ray.confirm.table import variation_rows, worst_variations
from hep_ray.conversion.cli import app
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import parse_schema
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset, Manifest, fingerprint_of
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.variations import Change, Variation
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema, UnreadableInput
from hep_ray.loading.batches import BatchRequest, Events
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.loading.varied import changed, varied
from hep_ray.metrics import METRICS, larger_is_better, metric, nominal_key
from hep_ray.metrics.labels import metric_words
from hep_ray.promote.package import Description, Evidence, model_card
from hep_ray.report import tables
from hep_ray.search.preflight import check_metrics
from hep_ray.tracking.records import SearchStarted, TrialTested
from hep_ray.training.checkpoint import save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import Goal, start_trial
from hep_ray.training.testing import (
    SCORES,
    evaluate_once,
    metric_keys,
    read_scores,
    varied_scores,
    worst_metrics,
)
from tests.confirm.test_summary import plan, state  # noqa: F401 - fixtures
from tests.facts import raises

UP = {"scale": {"pt": 1.1, "vector.a": 0.5}, "shift": {"b": 2.0, "pt": -1.0}}
ODD = {"weight": "w_up"}
PARAMS: dict[str, Any] = {
    "model": "mlp",
    "inputs": "pt+vector",
    "hidden_layers": 1,
    "hidden_features": 8,
    "scalar_scaling": "standardize",
    "loss": "cross_entropy",
    "optimizer": "adam",
    "learning_rate": 0.01,
    "batch_size": 64,
}


def schema(**variations: Any) -> EventSchema:
    return EventSchema(
        task="toy",
        columns=(
            Column(name="pt", unit="GeV"),
            Column(name="vector", shape=(2,), elements=("a", "b")),
            Column(name="jets", shape=(3, 1), lists=True),
            Column(name="count", dtype="int64"),
            Column(name="w"),
            Column(name="w_up"),
            Column(name="mass"),
        ),
        classes=("background", "signal"),
        weight="w",
        spectators=("w_up", "mass"),
        variations={name: Variation.model_validate(one) for name, one in variations.items()},
    )


def arrays(events: int = 600) -> dict[str, Any]:
    random = np.random.default_rng(7)
    labels = np.arange(events) % 2
    made = {
        "pt": random.normal(30 + 10 * labels, 10),
        "vector": random.normal(labels[:, None], 2, (events, 2)),
        "jets": np.where(np.arange(3)[None, :, None] < 1 + labels[:, None, None], 40.0, np.nan),
        "w": random.uniform(0.5, 1.5, events),
        "w_up": random.uniform(0.5, 1.5, events) * (1 + labels),
        "mass": random.normal(size=events),
    }
    single = {name: one.astype(np.float32) for name, one in made.items()}
    return {"event_id": [f"e{row}" for row in range(events)], "label": labels, "count": labels + 3, **single}


def written(folder: Path, made: EventSchema, events: dict[str, Any]) -> Dataset:
    with ShardWriter(folder, made, source={}) as writer:
        writer.write(events)
    return Dataset.open(folder)


def events_of(dataset: Dataset, split: Any) -> tuple[pa.Array, Events]:
    found = dataset.arrays(split, purpose="check")
    ids = pa.array(found.pop("event_id"))
    labels = found.pop("label")
    return ids, Events.from_arrays(found, labels)


def test_values_are_scaled_then_shifted_and_what_is_missing_stays() -> None:
    values = torch.tensor([[1.0, 2.0], [float("nan"), -999.0]])
    whole = changed(values, Change("x", None, 2.0, 10.0), fill=-999.0)
    assert whole[0].tolist() == [12.0, 14.0]
    assert torch.isnan(whole[1, 0])
    assert whole[1, 1] == -999.0
    one = changed(values, Change("x", 1, 0.5, 1.0))
    assert one[0].tolist() == [1.0, 2.0]
    assert one[1, 1] == -498.5
    assert values[0].tolist() == [1.0, 2.0]
    assert changed(torch.ones(2, dtype=torch.float16), Change("x", None, 3.0)).dtype == torch.float16


def test_names_are_columns_elements_or_both() -> None:
    made = schema(up=UP).variations["up"]
    assert str(made) == "pt × 1.1, vector.a × 0.5, b + 2, pt − 1"
    assert made.changes({"pt": (), "vector": ("a", "b")}) == (
        Change("pt", None, 1.1, -1.0),
        Change("vector", 0, 0.5, 0.0),
        Change("vector", 1, 1.0, 2.0),
    )
    with raises(InvalidSchema, "'a'", "'v.a'", "'w.a'"):
        Variation(scale={"a": 2.0}).changes({"v": ("a",), "w": ("a",)})


@pytest.mark.parametrize("table", ["scale", "shift"])
@pytest.mark.parametrize("names", [("a", "vector.a"), ("vector", "vector.a"), ("b", "vector")])
def test_a_place_that_a_table_names_twice_is_refused(table: str, names: tuple[str, str]) -> None:
    with raises(InvalidSchema, "'up'", table, *(f"'{name}'" for name in names)):
        schema(up={table: {names[0]: 2.0, names[1]: 3.0}})


@pytest.mark.parametrize(
    ("variation", "expected"),
    [
        ({"scale": {"vector": 2.0}, "shift": {"a": 1.0}}, [21.0, 20.0]),
        ({"scale": {"a": 2.0}, "shift": {"vector": 1.0}}, [21.0, 11.0]),
    ],
)
def test_a_column_and_its_element_in_two_tables_are_scaled_before_they_are_shifted(
    variation: Any, expected: list[float]
) -> None:
    values = torch.tensor([[10.0, 10.0]])
    for one in schema(up=variation).variations["up"].changes({"vector": ("a", "b")}):
        values = changed(values, one)
    assert values[0].tolist() == expected


@pytest.mark.parametrize(
    ("name", "variation", "facts"),
    [
        ("up", {"scale": {"met": 1.1}}, ("'up'", "'met'", "vector.a")),
        ("up", {"scale": {"pt": 1.0}}, ("'up'", "changes nothing")),
        ("up", {}, ("'up'", "changes nothing")),
        ("up", {"weight": "w"}, ("'up'", "changes nothing")),
        ("up", {"weight": "absent"}, ("'up'", "'absent'")),
        ("up", {"weight": "pt"}, ("'up'", "'pt'", "spectators")),
        ("up", {"scale": {"mass": 2.0}}, ("'up'", "no model reads 'mass'")),
        ("up", {"scale": {"count": 2.0}}, ("'up'", "int64", "float32")),
        ("nominal", {"scale": {"pt": 2.0}}, ("'nominal'",)),
        ("a b", {"scale": {"pt": 2.0}}, ("'a b'",)),
    ],
)
def test_what_no_variation_can_be_is_named(name: str, variation: Any, facts: tuple[str, ...]) -> None:
    with raises(InvalidSchema, *facts):
        schema(**{name: variation})


def test_a_schema_file_names_them_and_the_fingerprint_stays(tmp_path: Path) -> None:
    rows = arrays()
    np.savez(
        tmp_path / "e.npz",
        pt=rows["pt"],
        w=rows["w"],
        w_up=rows["w_up"],
        label=rows["label"].astype(np.int64),
    )
    head = 'reader = "npz"\nclasses = ["b", "s"]\nweight = "w"\nspectators = ["w_up"]\n'
    head += '[label]\nfrom = "field"\nfield = "label"\n'
    text = '[variations.energy_up]\nscale = {"pt" = 1.02}\n[variations.scale_choice]\nweight = "w_up"\n'
    plain = convert([tmp_path / "e.npz"], None, None, tmp_path / "plain", schema=parse_schema(head, "x"))
    made = convert([tmp_path / "e.npz"], None, None, tmp_path / "made", schema=parse_schema(head + text, "x"))
    assert [*made.event_schema.variations] == ["energy_up", "scale_choice"]
    assert made.fingerprint == plain.fingerprint
    assert [column.name for column in made.event_schema.inputs] == ["pt"]
    unweighted = Dataset.open(tmp_path / "made", weights=False).schema
    assert [*unweighted.variations] == ["energy_up"]
    # A dataset of before gets them by a conversion of its own, and stays the dataset that was searched.
    (tmp_path / "v.toml").write_text(f'reader = "parquet"\n{text}')
    words = ["convert", tmp_path / "plain", "--schema", tmp_path / "v.toml", "--out", tmp_path / "later"]
    told = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert told.exit_code == 0
    later = Manifest.load(tmp_path / "later")
    assert later.event_schema.variations == made.event_schema.variations
    assert later.fingerprint == plain.fingerprint
    with raises(UnreadableInput, "TOML"):
        parse_schema(head + text + text, "x")


@pytest.mark.parametrize("name", ["jets", "jets.jpt", "jpt"])
@pytest.mark.parametrize(("pad", "change"), [(-999.0, "shift"), (-999.0, "scale"), (0.0, "shift")])
def test_padding_is_never_varied_by_whatever_name(name: str, pad: float, change: str, tmp_path: Path) -> None:
    head = padded(tmp_path, pad)
    inputs = [tmp_path / f"{one}.parquet" for one in ("b", "s")]
    text = f'[variations.up]\n{change} = {{"{name}" = 1.5}}\n'
    with raises(InvalidSchema, "'up'", "'jets'", f"{pad:g}", "pad_to", "max_length"):
        convert(inputs, None, None, tmp_path / "no", schema=parse_schema(head + text, "x"))
    plain = convert(inputs, None, None, tmp_path / "d", schema=parse_schema(head, "x"))
    (column,) = plain.event_schema.columns
    assert column.padding == pad
    alone = parse_schema(f'reader = "parquet"\n{text}', "x")
    with raises(InvalidSchema, "'up'", "'jets'", "pad_to"):  # known when the dataset is converted again
        convert([tmp_path / "d"], None, None, tmp_path / "no", schema=alone)


def test_padding_of_zero_may_be_scaled_and_no_fingerprint_or_package_tells_of_it(tmp_path: Path) -> None:
    head = padded(tmp_path, 0.0)
    inputs = [tmp_path / f"{one}.parquet" for one in ("b", "s")]
    text = '[variations.up]\nscale = {"jpt" = 1.5}\n'
    made = convert(inputs, None, None, tmp_path / "d", schema=parse_schema(head + text, "x"))
    assert [*made.event_schema.variations] == ["up"]
    old = made.event_schema.unpadded
    assert [column.padding for column in old.columns] == [None]
    assert fingerprint_of(old, made.split_rule, made.shards) == made.fingerprint
    package = Description(event_schema=old, params={}, dataset_fingerprint="")
    assert "padding" not in package.dumps()  # which an earlier release reads
    # Joined with the same events of a dataset made before, the padding is still known.
    for name, one in (("old", old), ("new", made.event_schema)):
        events = {"event_id": [f"{name}{row}" for row in range(60)], "label": np.arange(60) % 2}
        written(
            tmp_path / name,
            one,
            {**events, "jets": np.random.default_rng(2).random((60, 4, 2)).astype(np.float32)},
        )
    both = convert([tmp_path / "old", tmp_path / "new"], "parquet", None, tmp_path / "both")
    assert both.event_schema == made.event_schema


def padded(folder: Path, pad: float) -> str:
    """Write lists of two classes, one file each, and return the schema that makes arrays of them."""
    lengths = np.arange(60) % 5
    for name, value in (("b", 20.0), ("s", 30.0)):
        lists = {one: [[value] * length for length in lengths] for one in ("jpt", "jm")}
        pq.write_table(pa.table(lists), folder / f"{name}.parquet")
    return (
        'reader = "parquet"\nclasses = ["b", "s"]\n[[columns]]\nname = "jets"\nsources = ["jpt", "jm"]\n'
        f"pad_to = 4\npad_value = {pad}\n"
    )


def test_variations_go_with_the_columns_that_they_need_and_a_note_says_so(tmp_path: Path) -> None:
    made = schema(up=UP, odd=ODD, mixed={**ODD, "scale": {"jets": 2.0}}, jes={"scale": {"b": 2.0}})
    written(tmp_path / "d", made, arrays())
    names = ("vector", "w", "count", "w_up", "mass")
    later = convert([tmp_path / "d"], "parquet", None, tmp_path / "later", columns=names)
    assert later.event_schema.variations == {name: made.variations[name] for name in ("odd", "jes")}
    assert later.source["notes"] == [
        "variation 'up' (pt × 1.1, vector.a × 0.5, b + 2, pt − 1) is left out with the column pt",
        "variation 'mixed' (jets × 2, weights by w_up) is left out with the column jets",
    ]
    whole = convert([tmp_path / "d"], "parquet", None, tmp_path / "whole")
    assert (whole.event_schema.variations, whole.source["notes"]) == (made.variations, [])
    text = 'reader = "parquet"\n[variations.up]\nscale = {"pt" = 1.1}\n'
    with raises(InvalidSchema, "'up'", "'pt'"):  # one that is stated is no accident
        convert(
            [tmp_path / "d"],
            None,
            None,
            tmp_path / "no",
            schema=parse_schema(text, "x"),
            columns=("vector", "w"),
        )


def test_weights_of_a_variation_have_the_normalisation_of_the_nominal_ones(tmp_path: Path) -> None:
    for name, weight in (("bkg", 2.0), ("sig", 1.0)):
        full = np.full(300, weight, np.float32)
        np.savez(tmp_path / f"{name}.npz", x=np.arange(300.0) + weight, w=full, w_up=1.1 * full)
    text = 'reader = "npz"\nclasses = ["bkg", "sig"]\nweight = "w"\nspectators = ["w_up"]\n'
    text += '[variations.up]\nweight = "w_up"\n[normalisation]\nluminosity = 10.0\n'
    text += '[[normalisation.processes]]\nfiles = "*.npz"\ncross_section = 9.0\n'
    files = [f"{name}={tmp_path / name}.npz" for name in ("bkg", "sig")]
    convert(files, None, None, tmp_path / "d", schema=parse_schema(text, "x"))
    found = Dataset.open(tmp_path / "d").arrays("train")
    # 10 × 9 / (600 + 300) = 0.1
    assert np.unique(found["w"]).tolist() == pytest.approx([0.1, 0.2])
    assert np.unique(found["w_up"]).tolist() == pytest.approx([0.11, 0.22])


@pytest.fixture(scope="module", params=["mlp", "gradient_boosting"])
def tested(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that scales its inputs by nominal events, tested nominally and under two variations."""
    folder = tmp_path_factory.mktemp("tested")
    made = schema(up=UP, odd=ODD)
    dataset = written(folder / "data", made, arrays())
    params = PARAMS if request.param == "mlp" else {"model": request.param, "inputs": "pt+vector"}
    config = TrialConfig.from_params(params)
    trial = start_trial(
        config, made, events_of(dataset, "train")[1], events_of(dataset, "val")[1], epochs=2, seed=1
    )
    metrics = [trial.run_epoch() for _ in range(1 if config.fitted else 2)][-1]
    kept = {"model": trial.kept.state_dict(), "params": trial.config.resolved(), "metrics": metrics}
    save_checkpoint(folder / "best.pt", kept)
    ids, events = events_of(dataset, "test")
    outcome = evaluate_once(folder, dataset.schema, events, ids, variations=made.variations)
    return folder, dataset, outcome


def test_a_variation_is_that_of_events_with_other_physical_values(tested: Any, tmp_path: Path) -> None:
    folder, dataset, outcome = tested
    ids, events = events_of(dataset, "test")
    other = dict(events.inputs)
    other["pt"] = other["pt"] * 1.1 - 1.0
    other["vector"] = other["vector"] * [0.5, 1.0] + [0.0, 2.0]
    single = {
        name: np.asarray(one).astype(np.asarray(events.inputs[name]).dtype) for name, one in other.items()
    }
    (tmp_path / "best.pt").write_bytes((folder / "best.pt").read_bytes())
    expected = evaluate_once(tmp_path, dataset.schema, Events.from_arrays(single, events.labels), ids)
    assert outcome.variations["up"] == pytest.approx(expected.metrics, rel=1e-4)
    assert outcome.variations["up"]["test_loss"] != pytest.approx(outcome.metrics["test_loss"], rel=1e-3)
    nominal, up = (
        read_scores(path, dataset.schema) for path in (folder / SCORES, varied_scores(folder / SCORES, "up"))
    )
    assert nominal.event_ids == up.event_ids
    assert not np.allclose(nominal.probabilities, up.probabilities)


def test_other_weights_keep_the_scale_of_the_nominal_ones(tested: Any) -> None:
    folder, dataset, outcome = tested
    nominal, odd = (
        read_scores(path, dataset.schema) for path in (folder / SCORES, varied_scores(folder / SCORES, "odd"))
    )
    assert np.array_equal(nominal.probabilities, odd.probabilities)
    raw = events_of(dataset, "test")[1].inputs
    for label in (0, 1):
        own = nominal.labels == label
        scale = nominal.weights[own] / np.asarray(raw["w"])[own]  # to the events expected of the class
        assert odd.weights[own] == pytest.approx(np.asarray(raw["w_up"])[own] * scale, rel=1e-5)
    assert outcome.variations["odd"]["test_auc"] != outcome.metrics["test_auc"]


def test_streamed_events_vary_alike(tested: Any, tmp_path: Path) -> None:
    folder, dataset, outcome = tested
    names = tuple(column.name for column in dataset.schema.columns)
    groups = RowGroups.of(dataset, "test", "check")
    stream = ShardStream(dataset.schema, groups, names, class_sums(dataset, "test"), groups_per_block=1)
    (tmp_path / "best.pt").write_bytes((folder / "best.pt").read_bytes())
    ids = events_of(dataset, "test")[0]
    found = evaluate_once(tmp_path, dataset.schema, stream, ids, variations=dataset.schema.variations)
    assert found.variations.keys() == outcome.variations.keys()
    assert all(
        found.variations[name] == pytest.approx(outcome.variations[name]) for name in outcome.variations
    )


def test_lists_and_heads_vary(tmp_path: Path) -> None:
    made = schema(jes={"scale": {"jets": 1.5}})
    _, events = events_of(written(tmp_path / "d", made, arrays()), "test")
    source = varied(events.select(("jets", "pt")), made, made.variations["jes"])
    batch = next(source.batches(BatchRequest(16)))
    assert set(batch.inputs["jets"][~torch.isnan(batch.inputs["jets"])].tolist()) == {60.0}
    assert torch.isnan(batch.inputs["jets"]).any()
    head = source.head(8)
    assert len(head) == 8
    assert np.nanmax(np.asarray(head.inputs["jets"])) == 60.0
    assert np.array_equal(np.asarray(head.inputs["pt"]), np.asarray(events.inputs["pt"])[:8])
    assert (len(source), source.memory) == (len(events), None)


def test_weights_that_cancel_in_a_class_are_refused_before_any_training(tmp_path: Path) -> None:
    events = arrays()
    dataset = written(tmp_path / "sound", schema(up=UP, odd=ODD), events)
    assert [*dataset.schema.variations] == ["up", "odd"]
    bad = {**events, "w_up": np.where(events["label"], -1, 1).astype(np.float32)}
    with raises(InvalidEvents, "'odd'", "signal"):
        written(tmp_path / "bad", schema(up=UP, odd=ODD), bad)
    assert Dataset.open(tmp_path / "bad", weights=False).schema.variations.keys() == {"up"}


@pytest.mark.parametrize("model", ["mlp", "gradient_boosting"])
def test_trials_of_a_search_by_the_worst_variation_report_it(model: str, tmp_path: Path) -> None:
    dataset = written(tmp_path / "data", schema(up=UP, odd=ODD), arrays())
    config = TrialConfig.from_params(PARAMS if model == "mlp" else {"model": model, "inputs": "pt+vector"})
    train, val = (events_of(dataset, split)[1] for split in ("train", "val"))
    first, other = (
        start_trial(
            config, dataset.schema, train, val, epochs=1, seed=1, goal=Goal(metric, "max")
        ).run_epoch()
        for metric in ("val_auc", "val_worst_auc")
    )
    assert {key: first[key] for key in first if "seconds" not in key} == {
        key: other[key] for key in first if "seconds" not in key
    }  # nothing else changes
    added = other.keys() - first.keys()
    assert added == {"val_worst_auc", "val_worst_auc_error", "val_auc_under_up", "val_auc_under_odd"}
    values = [other[key] for key in ("val_auc", "val_auc_under_up", "val_auc_under_odd")]
    assert other["val_worst_auc"] == min(values)
    assert len(set(values)) == 3
    trial = start_trial(
        config, dataset.schema, train, val, epochs=1, seed=1, goal=Goal("val_worst_loss", "min")
    )
    loss = trial.run_epoch()
    assert loss["val_worst_loss"] == max(loss[key] for key in loss if key.startswith("val_loss"))


def test_a_confirmation_by_the_worst_takes_each_run_where_it_is_worst(tested: Any) -> None:
    folder, dataset, outcome = tested
    metrics = {"nominal": outcome.metrics, **outcome.variations}
    for key, worst in (("test_auc", min), ("test_loss", max), ("test_background_rejection_at_50", min)):
        name = f"test_worst_{key.removeprefix('test_')}"
        assert outcome.metrics[name] == worst(one[key] for one in metrics.values())
        assert name in metric_keys(dataset.schema)
        assert name not in metric_keys(dataset.schema.model_copy(update={"variations": {}}))
    run = ConfirmedRun(trial_id="t", seed=1, epoch=1, metrics={}, checkpoint="best.pt", scores=SCORES)
    contender = Contender(name="t", role="finalist", params=PARAMS, runs=(run,), estimates={})
    values = values_of(folder, dataset.schema, contender, "test_worst_auc")
    assert values is not None
    assert values.values.mean() == pytest.approx(outcome.metrics["test_worst_auc"])
    absent = contender.model_copy(update={"runs": (run.model_copy(update={"scores": "none.parquet"}),)})
    assert values_of(folder, dataset.schema, absent, "test_worst_auc") is None


def test_a_worst_variation_has_a_direction_words_and_events_with_variations() -> None:
    assert larger_is_better("val_worst_auc") is True
    assert larger_is_better("val_worst_loss") is False
    assert metric_words("val_worst_auc") == "validation worst AUC"
    assert nominal_key("test_worst_auc") == "test_auc"
    check_metrics("val_worst_auc", None, schema(up=UP))
    with raises(InvalidConfig, "'val_worst_auc'", "[variations.NAME]", "'val_auc'"):
        check_metrics("val_worst_auc", None, schema())
    with raises(InvalidConfig, "'val_worst_nothing'"):
        check_metrics("val_worst_nothing", None, schema(up=UP))
    with raises(InvalidConfig, "'val_confusion_signal_signal'", "better"):
        check_metrics("val_worst_confusion_signal_signal", None, schema(up=UP))


def test_a_metric_of_the_users_own_may_be_named_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "auc" in METRICS  # discovers them
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))

    @metric("worst_class_recall", larger_is_better=True, label="recall of the worst class")
    def worst_class_recall(scores: Any, labels: Any) -> float:
        answers = scores.argmax(1) == labels
        return min(float(answers[labels == label].mean()) for label in range(scores.shape[1]))

    check_metrics("val_worst_class_recall", None, schema())
    assert nominal_key("val_worst_class_recall") == "val_worst_class_recall"
    assert larger_is_better("val_worst_class_recall") is True
    assert metric_words("val_worst_class_recall") == "validation recall of the worst class"
    assert nominal_key("val_worst_worst_class_recall") == "val_worst_class_recall"
    assert metric_words("val_worst_worst_class_recall") == "validation worst recall of the worst class"
    check_metrics("val_worst_worst_class_recall", None, schema(up=UP))
    metric("worst_auc", larger_is_better=True)(lambda scores: 0.5)
    nominal = {"test_auc": 0.9, "test_auc_error": 0.1, "test_worst_auc": 0.5}
    under = {"test_auc": 0.8, "test_auc_error": 0.2, "test_worst_auc": 0.4}
    assert worst_metrics(nominal, {"up": under}) == {"test_worst_worst_auc": 0.4}


@pytest.fixture
def found(plan: Any, state: Any) -> Confirmation:  # noqa: F811
    """A confirmation whose losses rise by 0.02, 0.03, 0.04 over the seeds under `up` and fall by 0.01 under `odd`."""
    for trial in state.trials.values():
        if trial.tested is not None:
            place = plan.seeds.index(trial.started.seed)
            loss = trial.tested.metrics["test_loss"]
            variations = {"up": {"test_loss": loss + 0.02 + 0.01 * place}, "odd": {"test_loss": loss - 0.01}}
            trial.tested = TrialTested.model_validate({**trial.tested.model_dump(), "variations": variations})
    varied_plan = dataclasses.replace(plan, variations=schema(up=UP, odd=ODD).variations)
    assert "variations" in varied_plan.identity
    return summarise(varied_plan, state, {})


def test_a_confirmation_tells_the_paired_difference_to_nominal(found: Confirmation, tmp_path: Path) -> None:
    assert [(one.variation, one.contender) for one in found.variations] == [
        (name, contender) for name in ("up", "odd") for contender in ("t0000", "t0004", "baseline")
    ]
    first = found.variations[0]
    assert first.estimates["test_loss"].mean == pytest.approx(0.31 + 0.03)
    # Differences 0.02, 0.03, 0.04: mean 0.03, s.d. 0.01, of the mean 0.01/√3.
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert (first.difference.low, first.difference.high) == pytest.approx((0.03 - half, 0.03 + half))
    assert first.loss("min") == pytest.approx(0.03)
    assert first.loss("max") == pytest.approx(-0.03)
    save_confirmation(tmp_path, found)
    assert load_confirmation(tmp_path) == found


def test_table_report_and_card_show_them_beside_nominal(found: Confirmation) -> None:
    rows = variation_rows(found)
    assert [row[0] for row in rows] == ["nominal"] * 3 + ["up"] * 3 + ["odd"] * 3
    assert rows[3][1:5] == [str(Variation.model_validate(UP)), "t0000", "0.340 ± 0.017", "+0.0300 ± 0.0058"]
    (first, *_) = worst_variations(found)
    assert "t0000" in first
    assert "up" in first
    page = tables.variations(found)
    assert page.rows == rows
    assert variation_rows(found.model_copy(update={"variations": ()})) == []
    evidence = Evidence(
        metric="test_loss", mode="min", level=0.95, epochs=2, contender=found.finalists[0],
        baseline=found.baseline, comparison=found.comparisons[0], variations=found.variations[:1],
    )  # fmt: skip
    described = Description(
        event_schema=schema(), params={}, dataset_fingerprint="f", evidence=evidence, origin={"search": "s"}
    )
    card = model_card("toy", described)
    assert "| up | pt × 1.1, vector.a × 0.5, b + 2, pt − 1 | t0000 | 0.340 ± 0.017" in card


def test_records_and_packages_without_variations_are_as_before(found: Confirmation) -> None:
    before = json.loads(found.model_dump_json())
    del before["variations"]
    assert Confirmation.model_validate(before).variations == ()
    evidence = Evidence(
        metric="test_loss", mode="min", level=0.95, epochs=2, contender=found.finalists[0],
        baseline=found.baseline, comparison=found.comparisons[0],
    )  # fmt: skip
    described = Description(event_schema=schema(), params={}, dataset_fingerprint="f", evidence=evidence)
    assert '"variations"' not in described.dumps()  # whose hash names the model
    assert SearchStarted.model_fields["variations"].default == {}
