"""A variation that names another dataset: its events are judged in place of the nominal ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hep_ray.confirm.comparison import _under, compared, values_of
from hep_ray.confirm.confirmation import ConfirmedRun, Contender
from hep_ray.confirm.run import EvaluationSetup, _evaluate
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import parse_schema
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.other_events import other_datasets
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.dataset.variations import Variation
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema, ShardMismatch, UnreadableInput
from hep_ray.loading.batches import Events
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.loading.stream import EventData, OtherData
from hep_ray.loading.varied import OtherEvents
from hep_ray.metrics.crossed import Sampled, aligned, crossed
from hep_ray.search.options import SearchOptions
from hep_ray.search.plan import Draft
from hep_ray.training.checkpoint import save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import Goal, start_trial
from hep_ray.training.testing import SCORES, evaluate_once
from tests.facts import raises
from tests.search.test_watch import SEARCH

OTHER = {"data": "../other"}
X = Column(name="x", shape=(2,), unit="GeV")
PARAMS: dict[str, Any] = {
    "model": "mlp",
    "hidden_layers": 1,
    "hidden_features": 8,
    "loss": "cross_entropy",
    "optimizer": "adam",
    "learning_rate": 0.05,
    "batch_size": 64,
}


def schema(*columns: Column, classes: tuple[str, ...] = ("b", "s"), **variations: Any) -> EventSchema:
    return EventSchema(
        task="toy",
        columns=(*(columns or (X,)), Column(name="w")),
        classes=classes,
        weight="w",
        variations={name: Variation.model_validate(one) for name, one in variations.items()},
    )


def write(
    folder: Path,
    made: EventSchema,
    *,
    name: str = "e",
    gain: float = 1.0,
    events: int = 600,
    seed: int = 1,
    rule: SplitRule | None = None,
    labels: Any = None,
) -> Dataset:
    random = np.random.default_rng(seed)
    labels = np.arange(events) % 2 if labels is None else labels
    arrays = {
        one.name: (
            random.normal(size=(events, *one.shape)) + gain * labels.reshape(-1, *[1] * len(one.shape))
        )
        for one in made.columns
    }
    arrays["w"] = random.uniform(0.5, 1.5, events)
    with ShardWriter(folder, made, rule or SplitRule(), source={}) as writer:
        ids = [f"{name}{row}" for row in range(events)]
        single = {key: one.astype(np.float32) for key, one in arrays.items()}
        writer.write({"event_id": ids, "label": labels, **single})
    return Dataset.open(folder, verify=False, splits=("test",))


def events_of(dataset: Dataset, split: Any) -> OtherEvents:
    found = dataset.arrays(split, purpose="check")
    ids, labels = pa.array(found.pop("event_id")), found.pop("label")
    return OtherEvents(Events.from_arrays(found, labels), dataset.schema, ids)


def test_a_schema_names_a_folder_alone_and_records_without_one_are_as_before(tmp_path: Path) -> None:
    plain = Variation(scale={"x": 1.1})
    assert plain.model_dump(mode="json") == {"scale": {"x": 1.1}, "shift": {}, "weight": None}
    own = write(tmp_path / "own", schema(gen=OTHER))
    assert str(own.schema.variations["gen"]) == "events of other"  # which is not there
    other = write(tmp_path / "other", schema(), name="f")
    opened = Dataset.open(tmp_path / "own")
    assert str(opened.schema.variations["gen"]) == f"events of other ({other.fingerprint[:12]})"
    assert opened.manifest.event_schema.variations["gen"].fingerprint == ""
    assert opened.fingerprint == write(tmp_path / "plain", schema()).fingerprint
    for wrong in ({**OTHER, "scale": {"x": 2.0}}, {**OTHER, "weight": "w"}, {"data": ""}):
        with raises(InvalidSchema, "'gen'", "data = "):
            schema(gen=wrong)
    with raises(InvalidSchema, "'gen'", "'fingerprint'"):
        schema(gen={"fingerprint": "1a2b"})


def test_a_conversion_elsewhere_names_the_same_folder(tmp_path: Path) -> None:
    write(tmp_path / "own", schema(gen=OTHER))
    other = write(tmp_path / "other", schema(), name="f")
    made = convert([tmp_path / "own"], "parquet", None, tmp_path / "deep" / "er" / "own")
    assert made.event_schema.variations["gen"].data == "../../../other"
    again = Dataset.open(tmp_path / "deep" / "er" / "own")
    assert other_datasets(again, validated=True)["gen"].fingerprint == other.fingerprint
    rules = parse_schema('reader = "parquet"\n[variations.gen]\ndata = "../other"\n', "x")
    stated = convert([tmp_path / "own"], None, None, tmp_path / "stated", schema=rules)
    assert stated.event_schema.variations["gen"].data == "../other"


Y, LONG, MEV = (X.model_copy(update=one) for one in ({"name": "y"}, {"shape": (3,)}, {"unit": "MeV"}))


@pytest.mark.parametrize(
    ("made", "facts"),
    [
        (schema(Y), ("no column 'x'",)),
        (schema(LONG), ("no column 'x'", "(2,)")),
        (schema(MEV), ("no column 'x'", "unit 'GeV'")),
        (schema(classes=("b", "t")), ("classes ('b', 't')", "('b', 's')")),
        (schema(classes=("s", "b")), ("classes ('s', 'b')",)),
        (schema().model_copy(update={"signal": "b"}), ("signal b",)),
        (schema().model_copy(update={"weight": None}), ("weight None",)),
    ],
)
def test_events_of_another_schema_are_refused(
    made: EventSchema, facts: tuple[str, ...], tmp_path: Path
) -> None:
    own = write(tmp_path / "own", schema(gen=OTHER))
    write(tmp_path / "other", made, name="f")
    with raises(InvalidConfig, "'gen'", "../other", *facts):
        other_datasets(Dataset.open(own.folder), validated=False)


def test_what_is_not_there_or_another_or_the_same_is_refused(tmp_path: Path) -> None:
    own = write(tmp_path / "own", schema(gen=OTHER))
    with raises(UnreadableInput, "'gen'", "../other", "'data'"):
        other_datasets(own, validated=False)
    other = write(tmp_path / "other", schema(Y, X), name="f")
    assert other_datasets(Dataset.open(own.folder), validated=True).keys() == {
        "gen"
    }  # more columns do no harm
    pinned = write(tmp_path / "pinned", schema(gen={**OTHER, "fingerprint": "1a2b"}))
    with raises(ShardMismatch, "'gen'", "1a2b", other.fingerprint):
        other_datasets(pinned, validated=False)
    itself = write(tmp_path / "itself", schema(gen={"data": "."}))
    with raises(InvalidConfig, "'gen'", "changes nothing"):
        other_datasets(Dataset.open(itself.folder), validated=False)


def test_a_split_that_is_judged_has_every_class_and_no_event_that_models_learn_from(tmp_path: Path) -> None:
    own = write(tmp_path / "own", schema(gen=OTHER))
    salted = SplitRule(salt="another")
    write(tmp_path / "other", schema(), rule=salted, gain=0.5)
    with raises(InvalidEvents, "'gen'", "'test'", "'train'", "--split", "[event_id]"):
        other_datasets(Dataset.open(own.folder), validated=False)
    for folder, one, name in (("alike", SplitRule(), "e"), ("apart", salted, "f")):
        named = write(tmp_path / f"own_{folder}", schema(gen={"data": f"../{folder}"}))
        write(tmp_path / folder, schema(), rule=one, name=name, gain=0.5)
        assert other_datasets(Dataset.open(named.folder), validated=True).keys() == {"gen"}
    tested = SplitRule(train=0.5, val=0.0, test=0.5)
    named = write(tmp_path / "own_tested", schema(gen={"data": "../tested"}))
    write(tmp_path / "tested", schema(), rule=tested, name="f")
    assert other_datasets(Dataset.open(named.folder), validated=False).keys() == {"gen"}
    with raises(InvalidEvents, "'gen'", "'val'", "class"):
        other_datasets(Dataset.open(named.folder), validated=True)


@pytest.fixture(scope="module", params=["mlp", "gradient_boosting"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that is validated by the worst of nominal and other events, and tested on both."""
    folder = tmp_path_factory.mktemp("other_events")
    write(folder / "own", schema(gen=OTHER))
    write(folder / "other", schema(), name="f", gain=0.4, events=500, seed=2)
    own = Dataset.open(folder / "own")
    others = other_datasets(own, validated=True)
    config = TrialConfig.from_params(PARAMS if request.param == "mlp" else {"model": request.param})
    val = {name: events_of(one, "val") for name, one in others.items()}
    train, nominal = (events_of(own, split).source for split in ("train", "val"))
    goal = Goal("val_worst_auc", "max")
    trial = start_trial(config, own.schema, train, nominal, epochs=6, seed=1, goal=goal, others=val)
    metrics = [trial.run_epoch() for _ in range(1 if config.fitted else 6)][-1]
    kept = {"model": trial.kept.state_dict(), "params": trial.config.resolved(), "metrics": metrics}
    save_checkpoint(folder / "best.pt", kept)
    test = {name: events_of(one, "test") for name, one in others.items()}
    tested = events_of(own, "test")
    outcome = evaluate_once(
        folder, own.schema, tested.source, tested.event_ids, variations=own.schema.variations, others=test
    )
    return folder, own, others["gen"], metrics, outcome


def test_other_events_are_validated_and_tested_as_those_of_their_own_dataset(
    trained: Any, tmp_path: Path
) -> None:
    folder, _, other, metrics, outcome = trained
    (tmp_path / "best.pt").write_bytes((folder / "best.pt").read_bytes())
    found = events_of(other, "test")
    expected = evaluate_once(tmp_path, other.schema, found.source, found.event_ids)
    assert outcome.variations["gen"] == pytest.approx(expected.metrics)
    assert outcome.metrics["test_worst_auc"] == min(outcome.metrics["test_auc"], expected.metrics["test_auc"])
    assert expected.metrics["test_auc"] < outcome.metrics["test_auc"]  # the classes are nearer
    of_val = tmp_path / "val"
    of_val.mkdir()
    (of_val / "best.pt").write_bytes((folder / "best.pt").read_bytes())
    found = events_of(other, "val")
    expected = evaluate_once(of_val, other.schema, found.source, found.event_ids)
    assert metrics["val_auc_under_gen"] == pytest.approx(expected.metrics["test_auc"])
    assert metrics["val_worst_auc"] == min(metrics["val_auc"], metrics["val_auc_under_gen"])


def test_other_weights_sum_to_what_their_own_dataset_expects(trained: Any) -> None:
    folder, own, other, _, _ = trained
    for file, dataset in (("test_scores.parquet", own), ("test_scores.gen.parquet", other)):
        table = pq.read_table(folder / file)
        labels, weights = table["label"].to_numpy(), table["weight"].to_numpy()
        assert np.bincount(labels, weights) == pytest.approx(list(dataset.schema.expected.values()))
    assert own.schema.expected["s"] > 1.1 * other.schema.expected["s"]


def test_a_trial_that_is_not_given_the_events_is_no_trial(trained: Any) -> None:
    _, own, _, _, _ = trained
    train, val = (events_of(own, split).source for split in ("train", "val"))
    with raises(InvalidConfig, "events of other"):
        start_trial(
            TrialConfig.from_params(PARAMS), own.schema, train, val, epochs=1, seed=1,
            goal=Goal("val_worst_auc", "max"),
        )  # fmt: skip


def test_runs_that_are_worst_on_different_events_are_compared_with_the_errors_of_both(trained: Any) -> None:
    folder, own, _, _, outcome = trained
    run = ConfirmedRun(trial_id="t", seed=1, epoch=1, metrics={}, checkpoint="best.pt", scores=SCORES)
    contender = Contender(name="t", role="finalist", params=PARAMS, runs=(run, run), estimates={})
    worst = values_of(folder, own.schema, contender, "test_worst_auc")
    nominal = values_of(folder, own.schema, contender, "test_auc")
    other = values_of(folder, own.schema, contender, "test_auc", "gen")
    assert worst is not None
    assert nominal is not None
    assert other is not None
    assert worst.values.mean() == pytest.approx(outcome.metrics["test_worst_auc"])
    assert worst.events.equals(other.events)  # where it is worst
    found = compared((contender, worst), (contender, nominal))
    assert found is not None
    assert found.difference == pytest.approx(outcome.metrics["test_worst_auc"] - outcome.metrics["test_auc"])
    errors = [np.std(one.values[0]) / one.values.shape[1] ** 0.5 for one in (nominal, other)]
    assert found.event_error == pytest.approx(np.hypot(*errors), rel=0.01)  # nothing is shared
    # A run may be worst on nominal events where another of the same contender is not.
    mixed = Sampled.of_runs([nominal.values[0], other.values[0]], [nominal.events, other.events])
    assert mixed.values.mean(axis=1) == pytest.approx([nominal.values.mean(), other.values.mean()])
    assert len(mixed.events) == len(nominal.events) + len(other.events)


@pytest.mark.parametrize("shared", [0, 150, 300])
def test_the_error_of_a_difference_is_its_spread_whatever_is_shared(shared: int) -> None:
    """Means of 300 and of 400 events of which some are the same, correlated by 0.8, in 600 pseudo-experiments."""
    random = np.random.default_rng(shared)
    names = pa.array([f"e{row}" for row in range(700 - shared)])
    left, right = names[:300], names[300 - shared :]
    differences, errors = [], []
    for _ in range(600):
        ours = random.normal(0.7, 1.0, (1, 300))
        theirs = random.normal(0.5, 1.5, (1, 400))
        if shared:
            own = ours[:, 300 - shared :] - 0.7
            theirs[:, :shared] = 0.5 + 1.5 * (0.8 * own + 0.6 * random.normal(size=own.shape))
        found = crossed(
            *aligned(Sampled(ours, left), Sampled(theirs, right)), paired=True, seedless=(True, True)
        )
        assert found is not None
        differences.append(found.difference)
        errors.append(found.error)
    # 1/300 + 2.25/400 − 2 · shared · 0.8 · 1.5/(300 · 400)
    expected = (1 / 300 + 2.25 / 400 - 2 * shared * 0.8 * 1.5 / 120_000) ** 0.5
    assert np.mean(errors) == pytest.approx(expected, rel=0.02)
    assert np.std(differences) == pytest.approx(expected, rel=0.1)  # 600 of them tell it to 3 %


def test_a_search_looks_for_them_before_anything_starts(tmp_path: Path) -> None:
    own = write(tmp_path / "own", schema(gen=OTHER))

    def draft(metric: str, mode: Any) -> Draft:
        search = dataclasses.replace(SEARCH, metric=metric, mode=mode)
        return Draft(search, search.presets["smoke"], SearchOptions(data=own.folder))

    for metric, mode in (("val_loss", "min"), ("val_worst_auc", "max")):
        with raises(UnreadableInput, "'gen'", "../other"):
            assert draft(metric, mode).others
    other = write(tmp_path / "other", schema(), name="f")
    assert draft("val_loss", "min").others == {}  # its confirmation will judge them
    by_worst = draft("val_worst_auc", "max")
    assert [one.fingerprint for one in by_worst.others.values()] == [other.fingerprint]
    assert [one.folder.resolve() for one in by_worst.trials.datasets] == [own.folder, other.folder]


def test_a_confirmation_tells_them_with_what_it_paired(trained: Any) -> None:
    folder, own, other, _, outcome = trained

    def stream(dataset: Dataset) -> EventData:
        names = tuple(column.name for column in dataset.schema.columns)
        groups = RowGroups.of(dataset, "test", "check")
        return EventData(
            {"test": ShardStream(dataset.schema, groups, names, class_sums(dataset, "test"))},
            dataset.fingerprint,
        )

    ids = [one.values("event_id", "test", purpose="check").combine_chunks() for one in (own, other)]
    handle = {"gen": OtherData(stream(other), other.schema, ids[1])}
    setup = EvaluationSetup(
        str(folder.parent), own.schema, stream(own), ids[0], 1, False, (), own.schema.variations, handle
    )
    tested = _evaluate(setup, folder.name)
    assert tested.variations["gen"] == pytest.approx(outcome.variations["gen"])
    run = ConfirmedRun(
        trial_id="t", seed=1, epoch=1, metrics=tested.metrics, checkpoint="best.pt", scores=SCORES
    )
    contender = Contender(name="t", role="finalist", params=PARAMS, runs=(run,), estimates={})
    plan: Any = SimpleNamespace(
        test_metric="test_worst_auc", given=SimpleNamespace(level=0.95), folder=folder, dataset=own,
        variations=own.schema.variations, tested={"gen": other},
    )  # fmt: skip
    found = _under(plan, {"t": tested.variations}, contender, "gen")
    assert found.metric == "test_auc"
    assert found.difference.mean == pytest.approx(
        tested.variations["gen"]["test_auc"] - tested.metrics["test_auc"]
    )
    assert (found.events, found.paired_events) == (other.rows("test"), 0)
    assert found.told == f"events of other ({other.fingerprint[:12]}), 0 of {other.rows('test')} paired"
    both = np.hypot(tested.metrics["test_auc_error"], tested.variations["gen"]["test_auc_error"])
    assert found.sample_error == pytest.approx(both, rel=0.1)
