"""Files of the training among the inputs of the models of folds: each event by the model that never saw it."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import uproot

from hep_ray.confirm.folds import CrossValidation
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import SchemaFile
from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import InvalidConfig
from hep_ray.predict.run import predict
from hep_ray.promote.classifier import Membership
from hep_ray.promote.fold_set import Training, training_of
from hep_ray.promote.package import Description, Package
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import SearchStarted
from tests.facts import raises, tells

EVENTS = 40


def write(path, events, rows):
    columns = {name: events["features"][rows, place] for place, name in enumerate(("pt", "eta", "phi"))}
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path) as file:
        tree = file.mktree("tree", dict.fromkeys((*columns, "mass"), np.dtype(np.float32)))
        tree.extend({**columns, "mass": events["mass"][rows]})
    return path


@pytest.fixture
def trained(tmp_path, events, make_package):
    """Files of two classes, all called alike, the dataset of them, and models of two folds of its events."""
    files = [
        write(tmp_path / "raw" / name / job / "output.root", events, slice(start, start + EVENTS))
        for start, (name, job) in enumerate(
            [(name, job) for name in ("background", "signal") for job in ("job_1", "job_2")]
        )
    ]
    words = [f"{path.parts[-3]}={path}" for path in files]
    convert(words, "root", None, tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    ids = np.concatenate(
        [dataset.arrays(split, purpose="check")["event_id"] for split in ("train", "val", "test")]
    )
    folds = np.arange(len(ids)) % 2
    members = [make_package(hidden_features=size) for size in (8, 4)]
    package = Package.of_several(
        members[0].description, members, Membership.of(pa.array(ids, pa.string()), folds)
    )
    return files, dataset, dict(zip(ids, folds, strict=True)), package


def of_dataset(dataset):
    digests = frozenset(one["sha256"] for one in dataset.manifest.source["files"])
    return Training(digests, by_file=True, events=dataset.folder)


def friend(out, file):
    with uproot.open(out / "_friends" / "scores" / file) as found:
        return found["scores"].arrays(library="np")


def test_events_of_a_file_of_the_training_are_scored_by_the_model_that_never_saw_them(
    trained, events, tmp_path
):
    files, dataset, folds, package = trained
    # Typed alone, its ids are output/0, and background/job_1/output/0 is an id too.
    done = predict(package, [files[2]], tmp_path / "s", friend="scores", training=of_dataset(dataset))
    assert tells("\n".join(done.notes), files[2], "signal/job_1/output")
    found = friend(tmp_path / "s", "output.root")
    wanted = np.array([folds[f"signal/job_1/output/{row}"] for row in range(EVENTS)])
    assert set(wanted) == {0, 1}
    np.testing.assert_array_equal(found["fold"], wanted + 1)
    some = {name: events[name][2 : 2 + EVENTS] for name in ("features", "mass")}
    each = np.stack([one.build().predict(some)[:, 1] for one in package.members])
    assert np.abs(each[0] - each[1]).max() > 0.01
    np.testing.assert_allclose(found["score_signal"], each[wanted, np.arange(EVENTS)], atol=1e-6)


def test_a_file_of_the_training_whose_ids_remain_unknown_gets_no_friend_and_a_warning(trained, tmp_path):
    files, dataset, _, package = trained
    moved = tmp_path / "else" / "mine.root"
    moved.parent.mkdir()
    shutil.copy(files[2], moved)
    with raises(InvalidConfig, moved, "'mine/0'", "--friend"):
        predict(package, [moved], tmp_path / "s", friend="scores", training=of_dataset(dataset))
    assert not (tmp_path / "s").exists()
    done = predict(package, [moved], tmp_path / "s", training=of_dataset(dataset))
    assert tells("\n".join(done.notes), moved, "'mine/0'")


def test_where_the_files_of_the_training_are_not_known_an_id_that_would_be_of_the_folds_warns(
    trained, events, tmp_path
):
    files, _, _, package = trained
    with raises(InvalidConfig, files[0], "'output/0'", "'background/job_1/output/0'"):
        predict(package, [files[0]], tmp_path / "s", friend="scores")
    other = write(tmp_path / "new" / "fresh.root", events, slice(100, 120))
    assert predict(package, [other], tmp_path / "s", friend="scores").notes == ()


def promoted(package, dataset):
    """The same models as a promotion hands them on, which know the files of their dataset."""
    source = dataset.manifest.source
    files = tuple(one["sha256"] for one in source["files"])
    ids = {digest: tuple(own) for digest, own in source["ids"].items()}
    description = package.description.model_copy(update={"files": files, "ids": ids})
    return replace(package, description=Description.model_validate_json(description.dumps()))


def test_a_file_of_the_training_is_known_by_promoted_models_whatever_its_name(trained, events, tmp_path):
    files, dataset, folds, package = trained
    moved = tmp_path / "else" / "mine.root"
    moved.parent.mkdir()
    shutil.copy(files[2], moved)
    package = promoted(package, dataset)
    training = training_of(tmp_path / "models:" / "toy@champion", package.description)
    done = predict(package, [moved], tmp_path / "s", friend="scores", training=training)
    assert tells("\n".join(done.notes), moved, "signal/job_1/output")
    wanted = [folds[f"signal/job_1/output/{row}"] + 1 for row in range(EVENTS)]
    np.testing.assert_array_equal(friend(tmp_path / "s", "mine.root")["fold"], wanted)
    other = write(tmp_path / "new" / "job_1" / "output.root", events, slice(100, 120))
    done = predict(package, [other], tmp_path / "other", friend="scores", training=training)
    assert done.notes == ()


def test_events_of_a_file_of_several_classes_are_known_one_by_one(trained, events, tmp_path):
    """Their ids begin with the class, which a prediction does not read; each is that by which it is of the folds."""
    _, _, _, package = trained
    labels = np.arange(EVENTS) // 3 % 2
    path = tmp_path / "both.csv"
    table = pd.DataFrame(events["features"][:EVENTS], columns=["pt", "eta", "phi"])
    table.assign(mass=events["mass"][:EVENTS], y=labels).to_csv(path, index=False)
    rules = SchemaFile(reader="text", label={"from": "field", "field": "y"})
    convert([path], None, ["background", "signal"], tmp_path / "csv", schema=rules, selection="pt > -1")
    dataset = Dataset.open(tmp_path / "csv")
    splits = ("train", "val", "test")
    ids = np.concatenate([dataset.arrays(split, purpose="check")["event_id"] for split in splits])
    assert 0 < len(ids) < EVENTS
    folds = dict(zip(ids, np.arange(len(ids)) % 2, strict=True))
    membership = Membership.of(pa.array(ids, pa.string()), np.array(list(folds.values())))
    package = promoted(Package.of_several(package.description, package.members, membership), dataset)
    renamed = path.rename(tmp_path / "renamed.csv")
    predict(package, [renamed], tmp_path / "s", training=training_of(tmp_path, package.description))
    found = pd.read_parquet(tmp_path / "s")
    names = [f"{('background', 'signal')[label]}/both/{row}" for row, label in enumerate(labels)]
    assert found["fold"].tolist() == [folds.get(name, -1) + 1 for name in names]
    known = found[found["fold"] > 0]["event_id"].tolist()
    assert sorted(known) == sorted(ids)


def test_a_dataset_that_is_converted_anew_keeps_what_is_known_of_the_files(trained, tmp_path):
    _, dataset, _, _ = trained
    convert([dataset.folder], "parquet", None, tmp_path / "cut", selection="pt > 0")
    known = Dataset.open(tmp_path / "cut").manifest.source["ids"]
    assert known == dataset.manifest.source["ids"]
    assert sorted(known.values()) == [
        [f"{name}/job_{job}/output/"] for name in ("background", "signal") for job in (1, 2)
    ]


def test_other_files_count_as_new_whatever_they_are_called(trained, events, tmp_path):
    _, dataset, _, package = trained
    other = write(tmp_path / "new" / "job_1" / "output.root", events, slice(100, 120))
    done = predict(package, [other], tmp_path / "s", friend="scores", training=of_dataset(dataset))
    assert done.notes == ()
    assert (friend(tmp_path / "s", "output.root")["fold"] == 0).all()


def test_the_files_of_the_training_are_found_by_the_search(trained, tmp_path):
    _, dataset, _, _ = trained
    folder = tmp_path / "runs" / "toy" / "folds2"
    folder.mkdir(parents=True)
    assert training_of(folder) is None
    common = {"search": "toy", "search_id": "1", "dataset_fingerprint": dataset.fingerprint, "seed": 0}
    started = {**common, "time": 0.0, "task": "toy", "metric": "val_auc", "mode": "max", "epochs": 1}
    started |= {
        "sampler": "random",
        "scheduler": "none",
        "options": {"data": str(dataset.folder)},
        "provenance": {},
    }
    with Journal(folder.parent) as journal:
        journal.append(SearchStarted(**started))
    folds = {
        **common,
        "trial": "t1",
        "params": {},
        "metric": "test_auc",
        "folds": (),
        "metrics": {},
        "held_out": {},
    }
    found = CrossValidation(**folds, scores="scores.parquet", provenance={})
    (folder / "folds.json").write_text(found.model_dump_json())
    known = training_of(folder)
    assert (known.digests, known.by_file) == (of_dataset(dataset).digests, True)
    assert set(known.ids) == known.digests
    # That of another dataset tells nothing.
    (folder / "folds.json").write_text(
        found.model_copy(update={"dataset_fingerprint": "f"}).model_dump_json()
    )
    assert training_of(folder) is None
