"""The models of folds as one: an event of the folds is scored by the model that never saw it, others by the mean."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confirmed import make_folds
from typer.testing import CliRunner

from hep_ray.bundle.write import write_bundle
from hep_ray.cli import app
from hep_ray.confirm.confirmation import Contender
from hep_ray.confirm.folds import FILE_NAME, OF_ALL, CrossValidation
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import (
    CorruptModel,
    InvalidConfig,
    ModelMismatch,
    StorageError,
    UnreadableInput,
    UntrustedCode,
)
from hep_ray.loading.batches import Events
from hep_ray.metrics.roc import mean_of
from hep_ray.plugins import Plugin, digest
from hep_ray.predict.cli import with_own_code
from hep_ray.predict.onnx_export import export_onnx
from hep_ray.predict.run import predict
from hep_ray.promote.classifier import Membership
from hep_ray.promote.fold_set import check_folds, read_folds
from hep_ray.promote.package import Package, load_model
from tests.confirm.test_other_events import PARAMS
from tests.facts import raises, tells

FOLDS = 3
CLASSES = ("a", "b", "c")


def write(folder: Path, names: list[str], seed: int) -> Dataset:
    random, labels = np.random.default_rng(seed), np.arange(len(names)) % 3
    schema = EventSchema(task="toy", columns=(Column(name="x", shape=(2,), unit="GeV"),), classes=CLASSES)
    x = (random.normal(size=(len(names), 2)) + labels[:, None]).astype(np.float32)
    with ShardWriter(folder, schema, source={}) as writer:
        writer.write({"event_id": names, "label": labels, "x": x})
    return Dataset.open(folder)


def events_of(dataset: Dataset, split: Any) -> tuple[pa.Array, Events]:
    found = dataset.arrays(split, purpose="check")
    return pa.array(found["event_id"]), Events.from_arrays({"x": found["x"]}, found["label"])


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three trained folds of 300 events as `hep-ray folds` leaves them, and 60 of these among 120 new events."""
    base = tmp_path_factory.mktemp("fold_set")
    dataset, folder = write(base / "d", [f"e{row}" for row in range(300)], 1), base / "folds3"
    make_folds(folder, dataset, PARAMS, FOLDS)
    names = [f"e{row}" for row in range(60)] + [f"new{row}" for row in range(60)]
    return folder, dataset, write(base / "mixed", names, 2)


def scored(out: Path) -> Any:
    return pq.read_table(out).to_pandas().set_index("event_id")


def test_events_of_the_folds_have_the_scores_of_the_models_that_never_saw_them(
    folds: Any, tmp_path: Path
) -> None:
    folder, dataset, _ = folds
    done = predict(read_folds(folder), [dataset.folder], tmp_path / "s")
    assert done.events == 300
    found, kept = scored(tmp_path / "s"), pq.read_table(folder / OF_ALL).to_pandas().set_index("event_id")
    kept = kept.loc[found.index]
    assert found["fold"].tolist() == kept["fold"].tolist()
    for name in CLASSES:
        assert found[f"score_{name}"].to_numpy() == pytest.approx(kept[f"score_{name}"].to_numpy(), abs=1e-6)
        assert found[f"log_odds_{name}"].to_numpy() == pytest.approx(
            kept[f"log_odds_{name}"].to_numpy(), abs=1e-5
        )
    # The ids are the proof: the model was neither trained nor chosen on its events.
    for number in range(1, FOLDS + 1):
        fold = Dataset.open(folder / "data" / f"fold_{number}")
        saw = {one for split in ("train", "val") for one in events_of(fold, split)[0].to_pylist()}
        assert not saw & set(found.index[found["fold"] == number])


def test_other_events_have_the_mean_of_all_models(folds: Any, tmp_path: Path) -> None:
    folder, _, mixed = folds
    package = read_folds(folder)
    predict(package, [mixed.folder], tmp_path / "s")
    found = scored(tmp_path / "s")
    arrays = [mixed.arrays(split, purpose="check") for split in ("train", "val", "test")]
    x = np.concatenate([one["x"] for one in arrays])
    ids = [name for one in arrays for name in one["event_id"]]
    each = np.stack([one.build().predict({"x": x}) for one in package.members]).astype(np.float64)
    assert np.abs(each[0] - each[1]).max() > 0.01  # the models differ
    found = found.loc[ids]
    scores = found[[f"score_{name}" for name in CLASSES]].to_numpy()
    new = np.array([name.startswith("new") for name in ids])
    assert (found["fold"][new] == 0).all()
    assert scores[new] == pytest.approx(each.mean(axis=0)[new], abs=1e-6)
    odds = found[[f"log_odds_{name}" for name in CLASSES]].to_numpy()
    assert odds[new] == pytest.approx(np.log(scores[new]) - np.log1p(-scores[new]), abs=1e-4)
    own = found["fold"][~new].to_numpy() - 1
    assert set(own) == {0, 1, 2}
    assert scores[~new] == pytest.approx(each[own, np.flatnonzero(~new)], abs=1e-6)


def test_the_command_takes_their_folder_and_says_who_scored_what(folds: Any, tmp_path: Path) -> None:
    folder, _, mixed = folds

    def typed(*words: Any) -> Any:
        return CliRunner().invoke(app, ["predict", str(folder), *map(str, words)])

    told = typed(mixed.folder, "--out", tmp_path / "s")
    assert told.exit_code == 0, told.output
    assert "60 events" in told.output
    assert "60 by the mean of all 3" in told.output
    for words in (("--onnx", tmp_path / "m.onnx"), (mixed.folder, "--out", tmp_path / "c", "--calibrated")):
        refused = typed(*words)
        assert refused.exit_code != 0
        assert isinstance(refused.exception, InvalidConfig | SystemExit)
    assert not (tmp_path / "m.onnx").exists()
    assert not (tmp_path / "c").exists()


def test_models_that_are_not_those_of_the_folds_are_refused(folds: Any, tmp_path: Path) -> None:
    folder, _, _ = folds
    package = read_folds(folder)
    assert package.digest == read_folds(folder).digest
    assert package.membership is not None
    other = Package.of_several(package.description, package.members[:2], package.membership)
    assert other.digest != package.digest
    with raises(InvalidConfig, "--calibrated"):
        dataclasses.replace(package, calibrated=True).build()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    best = copy / "fold_2/trials/model/best.pt"
    whole = best.read_bytes()
    best.write_bytes(whole[:-100])
    with raises(CorruptModel, "fold 2"):
        read_folds(copy)
    best.write_bytes(whole)
    found = CrossValidation.model_validate_json((copy / FILE_NAME).read_text())
    late = tuple(one.model_copy(update={"epoch": 7}) for one in found.folds)
    (copy / FILE_NAME).write_text(found.model_copy(update={"folds": late}).model_dump_json())
    with raises(CorruptModel, "fold 1", "epoch 7", "hep-ray folds"):
        read_folds(copy)
    (copy / FILE_NAME).unlink()
    with raises(StorageError, FILE_NAME):
        read_folds(copy)


def test_a_written_set_scores_as_before_and_a_spoilt_one_is_refused(folds: Any, tmp_path: Path) -> None:
    folder, dataset, mixed = folds
    package = read_folds(folder)
    package.write(tmp_path / "data" / "set")
    again = Package.read(tmp_path)  # as MLflow stores it
    assert again.digest == package.digest
    events = mixed.arrays("train", purpose="check")
    events = {"x": events["x"], "event_id": events["event_id"]}
    found = load_model(tmp_path).predict(events)
    assert found == pytest.approx(package.build().predict(events), abs=1e-7)
    assert np.abs(found - load_model(tmp_path).predict({"x": events["x"]})).max() > 0.01  # ids are heard
    with raises(InvalidConfig, "3 folds", "--folds"):
        write_bundle(again, "models:/toy/1", dataset, tmp_path / "bundle")
    place = tmp_path / "data" / "set"
    shutil.rmtree(place / "folds" / "2")
    shutil.copytree(place / "folds" / "1", place / "folds" / "2")
    with raises(CorruptModel, "fold 2"):
        Package.read(place)
    content = (place / "membership.safetensors").read_bytes()
    (place / "membership.safetensors").write_bytes(content[:-1] + b"x")
    with raises(CorruptModel, "membership.safetensors"):
        Package.read(place)
    (place / "membership.safetensors").unlink()
    with raises(UnreadableInput, "membership.safetensors"):
        Package.read(place)


def test_models_are_handed_on_that_give_every_event_its_recorded_score(folds: Any, tmp_path: Path) -> None:
    folder, dataset, mixed = folds
    copy = tmp_path / "toy" / "folds3"
    shutil.copytree(folder, copy)
    single = read_folds(folder).members[0]

    def check(data: Dataset = dataset, **params: Any) -> Any:
        candidate = Contender(
            name="t0003", role="finalist", params={**PARAMS, **params, "seed": 7}, runs=(), estimates={}
        )
        return check_folds(copy, candidate, single, data, "cpu")

    package, answer = check_folds(
        tmp_path / "toy/folds4",
        Contender(name="t0003", role="finalist", params={}, runs=(), estimates={}),
        single,
        dataset,
        "cpu",
        Path("moved"),
    )
    assert package is None
    assert not answer.passed
    command = f"hep-ray folds toy --folds 4 --trial t0003 --storage {tmp_path} --data moved"
    assert tells(answer.text, "folds.json", command)
    package, answer = check()
    assert package is not None
    assert tells(answer.text, "300 events", "3 models", "1e-05")
    for found, facts in (
        (check(hidden_features=9), ("t0000", "'t0003'", "--folds 3 --trial t0003 --again")),
        (check(mixed), (mixed.fingerprint[:12], dataset.fingerprint[:12])),
    ):
        package, answer = found
        assert package is None
        assert not answer.passed
        assert tells(answer.text, *facts)
    scores = pq.read_table(copy / OF_ALL)
    first = scores.column_names.index("score_a")
    turned = scores.set_column(first, "score_a", scores["score_a"].take(pa.array(np.arange(300)[::-1])))
    labels = pa.array(1 - (scores["label"].to_numpy() > 0).astype(np.int64))
    relabelled = scores.set_column(scores.column_names.index("label"), "label", labels)
    for changed, fact in (
        (scores.slice(1), "1 events of"),
        (pa.concat_tables([scores, scores.slice(0, 1)]), "301 events"),
        (turned, "is allowed"),
        (relabelled, "labels"),
    ):
        pq.write_table(changed.replace_schema_metadata(scores.schema.metadata), copy / OF_ALL)
        package, answer = check()
        assert package is None
        assert fact in answer.text
    pq.write_table(scores, copy / OF_ALL)
    package, _ = check()
    assert package is not None
    assert package.description.metrics["test_accuracy"] == pytest.approx(
        (
            np.argmax([scores[f"score_{name}"] for name in CLASSES], axis=0) == scores["label"].to_numpy()
        ).mean()
    )
    other = Plugin(module="of_mine", path="of_mine.py", sha256="0" * 64)
    single = dataclasses.replace(
        single, description=single.description.model_copy(update={"plugins": (other,)})
    )
    assert tells(check()[1].text, "other code", "--again")
    found = CrossValidation.model_validate_json((copy / FILE_NAME).read_text())
    (copy / FILE_NAME).write_text(found.model_copy(update={"provenance": {}}).model_dump_json())
    assert "not known how" in check()[1].text
    shutil.rmtree(copy)
    assert tells(check()[1].text, "folds.json")


MINE = """
from pathlib import Path
Path({path!r}).write_text("ran")
"""


def test_code_that_a_fold_carries_is_not_run_unasked(folds: Any, tmp_path: Path) -> None:
    folder, _, _ = folds
    package = read_folds(folder)
    ran = tmp_path / "ran"
    source = MINE.format(path=str(ran))
    mine = Plugin(
        module="mine_of_folds",
        path="mine_of_folds.py",
        sha256=digest(source),
        source=source,
        registers=("model x",),
    )

    def carrying(one: Package) -> Package:
        return dataclasses.replace(one, description=one.description.model_copy(update={"plugins": (mine,)}))

    assert package.membership is not None
    several = Package.of_several(
        carrying(package).description, [carrying(one) for one in package.members], package.membership
    )
    assert [one.description.plugins for one in several.members] == [()] * 3
    several.write(tmp_path / "set")
    with raises(UntrustedCode, "--trust-code"):
        with_own_code(Package.read(tmp_path / "set"), None, trust=False).build()
    # Crafted: one of the models alone has it, so that nothing above says so.
    crafted = dataclasses.replace(package, members=tuple(carrying(one) for one in package.members))
    folds_of = tuple(one.digest for one in crafted.members)
    crafted = dataclasses.replace(
        crafted, description=package.description.model_copy(update={"folds": folds_of})
    )
    crafted.write(tmp_path / "crafted")
    with raises(CorruptModel, "fold 1"):
        Package.read(tmp_path / "crafted")
    assert not ran.exists()


def test_ids_and_values_that_do_not_belong_together_are_refused(folds: Any) -> None:
    folder, dataset, _ = folds
    classifier = read_folds(folder).build()
    x = dataset.arrays("train", purpose="check")["x"][:4]
    with raises(ModelMismatch, "event_id"):
        classifier.predict({"event_id": ["e1", "e2"], "x": x})
    found = classifier.predict({"event_id": [1, 2, 3, 4], "x": list(x), "ignored": ["a", [1], None]})
    assert found == pytest.approx(classifier.predict({"x": x}), abs=1e-7)
    with raises(InvalidConfig, "3 folds"):
        export_onnx(classifier, folder / "m.onnx")
    many = Membership.of(pa.array(["a", "b"]), np.array([150, 3]))
    assert Membership.loads(many.dumps())(["a", "b"]).tolist() == [150, 3]


def test_a_mean_tells_events_apart_where_probabilities_are_one() -> None:
    odds = [
        np.array([[30.0, -30.0], [50.0, -50.0], [0.0, 0.0]]),
        np.array([[30.0, -30.0], [40.0, -40.0], [2.0, -2.0]]),
    ]
    several = [((1 / (1 + np.exp(-one))).astype(np.float32), one) for one in odds]
    probabilities, found = mean_of(several)
    assert probabilities[:2, 0].tolist() == [1.0, 1.0]
    assert found[0, 0] == pytest.approx(30.0)
    # 1 − p is (e^−50 + e^−40)/2, so that the log-odds are 40 + ln 2 but for e^−10.
    assert found[1, 0] == pytest.approx(40 + np.log(2), abs=1e-4)
    p = (0.5 + 1 / (1 + np.exp(-2.0))) / 2
    assert found[2, 0] == pytest.approx(np.log(p / (1 - p)))
    assert found[:, 1] == pytest.approx(-found[:, 0])


def test_events_that_are_in_no_fold_are_known() -> None:
    found = Membership.of(pa.array(["a", "b", "c"]), np.array([2, 0, 1]))
    assert found(["c", "x", "a", "b"]).tolist() == [1, -1, 2, 0]
    assert found([]).tolist() == []
    assert Membership(np.empty(0, np.uint64), np.empty(0, np.int16))(["a"]).tolist() == [-1]
