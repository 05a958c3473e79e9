"""What is read of an input, in this process: formats, ids, and what is refused."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import ColumnRule, SchemaFile
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset, fingerprint_of
from hep_ray.dataset.schema import EVENT_ID, Column, EventSchema
from hep_ray.dataset.values import ListColumn, offsets_of
from hep_ray.errors import (
    InvalidConfig,
    InvalidEvents,
    ModelMismatch,
    NoEvents,
    ShardMismatch,
    UnreadableInput,
)
from hep_ray.predict import inputs as inputs_module
from hep_ray.predict.inputs import Ways, open_inputs
from hep_ray.predict.output import read_events, score_piece
from hep_ray.promote.classifier import Classifier
from hep_ray.training.config import TrialConfig
from tests.facts import raises

ELEMENTS = ("pt", "eta", "phi")


def flat(events):
    columns = {name: events["features"][:, place] for place, name in enumerate(ELEMENTS)}
    return {**columns, "mass": events["mass"]}


def as_dataset(folder, events, dataset):
    return dataset, {}


def as_parquet(folder, events, dataset):
    pq.write_table(pa.table({"event_id": events["event_id"], **flat(events)}), folder / "events.parquet")
    return folder / "events.parquet", {}


def as_tensors(folder, events, dataset):
    features = pa.FixedSizeListArray.from_arrays(pa.array(events["features"].ravel()), 3)
    table = pa.table({"event_id": events["event_id"], "features": features, "mass": events["mass"]})
    pq.write_table(table, folder / "events.parquet")
    return folder / "events.parquet", {}


def as_hdf5(folder, events, dataset):
    with h5py.File(folder / "events.h5", "w") as file:
        file["features"], file["mass"] = events["features"], events["mass"]
    return folder / "events.h5", {}


def as_root(folder, events, dataset):
    with uproot.recreate(folder / "events.root") as file:
        file.mktree("tree", dict.fromkeys(flat(events), np.dtype(np.float32))).extend(flat(events))
    return folder / "events.root", {}


def as_csv(folder, events, dataset):
    columns = flat(events)
    lines = [
        ",".join(columns),
        *(",".join(map(repr, map(float, row))) for row in zip(*columns.values(), strict=True)),
    ]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    return folder / "events.csv", {}


def as_renamed_csv(folder, events, dataset):
    path, _ = as_csv(folder, events, dataset)
    path.write_text(path.read_text().replace("pt,eta,phi,mass", "e,h,f,m"))
    (folder / "mine.toml").write_text(
        'reader = "text"\nclasses = ["background", "signal"]\n[label]\nfrom = "field"\nfield = "truth"\n'
        '[[columns]]\nname = "features"\nsources = ["e", "h", "f"]\nelements = ["pt", "eta", "phi"]\n'
        'element_units = ["GeV", "", "rad"]\n[[columns]]\nname = "mass"\nsources = ["m"]\nunit = "GeV"\n'
    )
    return path, {"schema": str(folder / "mine.toml")}


def as_npz(folder, events, dataset):
    np.savez(folder / "events.npz", features=events["features"], mass=events["mass"])
    return folder / "events.npz", {}


FORMATS = [as_dataset, as_parquet, as_tensors, as_hdf5, as_root, as_csv, as_renamed_csv, as_npz]


@pytest.mark.parametrize("write", FORMATS)
def test_the_same_scores_from_every_format(tmp_path, events, dataset, package, write, monkeypatch):
    monkeypatch.setattr(inputs_module, "PIECE_BYTES", 100 * 16)  # 100 events
    path, ways = write(tmp_path, events, dataset)
    classifier = package.build()
    prediction = open_inputs([path], classifier, Ways(**ways))

    rows = sum(score_piece(classifier, prediction, piece, tmp_path, "d", 64) for piece in prediction.pieces)

    assert rows == 300
    table = pa.concat_tables(
        [pq.read_table(tmp_path / piece.file) for piece in prediction.pieces]
    ).to_pandas()
    names = [f"{kind}_{name}" for kind in ("score", "log_odds") for name in ("background", "signal")]
    assert list(table.columns) == ["event_id", *names]
    own = write in {as_dataset, as_parquet, as_tensors}
    wanted = events["event_id"] if own else [f"events/{row}" for row in range(300)]
    assert sorted(table["event_id"]) == sorted(wanted)
    reference = classifier.predict(events)
    scores = table.set_index("event_id").loc[wanted].to_numpy()
    np.testing.assert_allclose(scores[:, :2], reference, rtol=0, atol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-scores[:, 2:])), reference, rtol=0, atol=1e-5)
    if write is not as_dataset:
        assert len(prediction.pieces) == 3


def test_a_selection_leaves_out_events_and_keeps_their_ids(tmp_path, events, dataset, package):
    path, _ = as_csv(tmp_path, events, dataset)
    classifier = package.build()
    prediction = open_inputs([path], classifier, Ways(selection="mass > 0.5"))

    ids = [
        name for part in read_events(classifier, prediction, prediction.pieces[0]) for name in part[EVENT_ID]
    ]

    assert ids == [f"events/{row}" for row in np.flatnonzero(events["mass"] > 0.5)]


def test_a_dataset_of_other_units_is_refused(tmp_path, events, package, make_schema):
    with ShardWriter(tmp_path / "mev", make_schema("MeV")) as writer:
        writer.write(events)
    with raises(ModelMismatch, "element_units", "'features'", "('GeV', '', 'rad')", "('MeV', '', 'rad')"):
        open_inputs([tmp_path / "mev"], package.build())


def rename(table):
    return table.rename_columns({"eta": "theta"})


def narrow(table):
    features = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(600, np.float32)), 2)
    return table.drop_columns(list(ELEMENTS)).append_column("features", features)


def rescale(table):
    fields = [
        field.with_metadata({"unit": "MeV"}) if field.name == "mass" else field for field in table.schema
    ]
    return table.cast(pa.schema(fields))


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        (rename, ["'features'", "(3,)", "eta"]),
        (narrow, ["'features'", "2", "['pt', 'eta', 'phi']"]),
        (rescale, ["'mass'", "'GeV'", "'MeV'"]),
    ],
)
def test_columns_shapes_and_units_that_do_not_match_are_refused(
    tmp_path, events, dataset, package, change, facts
):
    path, _ = as_parquet(tmp_path, events, dataset)
    pq.write_table(change(pq.read_table(path)), path)

    with raises(ModelMismatch, *facts):
        open_inputs([path], package.build())


def test_a_schema_file_that_makes_other_units_is_refused(tmp_path, events, dataset, package):
    path, ways = as_renamed_csv(tmp_path, events, dataset)
    text = (tmp_path / "mine.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace('unit = "GeV"', 'unit = "MeV"'))

    with raises(ModelMismatch, "'mass'", "'GeV'", "'MeV'"):
        open_inputs([path], package.build(), Ways(**ways))


def test_units_that_an_input_does_not_state_are_said_to_be_unknown(tmp_path, events, dataset, package):
    path, _ = as_csv(tmp_path, events, dataset)

    assert open_inputs([path], package.build()).units.startswith("not stated")
    assert open_inputs([dataset], package.build()).units == "checked"


def test_what_cannot_be_predicted_is_named(tmp_path, events, dataset, package):
    classifier = package.build()
    with raises(UnreadableInput, tmp_path / "absent.h5"):
        open_inputs([tmp_path / "absent.h5"], classifier)
    (tmp_path / "events.dat").touch()
    with raises(InvalidConfig, tmp_path / "events.dat", "--reader"):
        open_inputs([tmp_path / "events.dat"], classifier)
    with raises(InvalidConfig, "2 inputs"):
        open_inputs([dataset, dataset], classifier)
    shard = next(dataset.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with raises(ShardMismatch, shard.name, "truncated"):
        open_inputs([dataset], classifier)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    first, second = (as_csv(tmp_path / folder, events, dataset)[0] for folder in ("one", "two"))
    assert [piece.prefix for piece in open_inputs([first, second], classifier).pieces] == [
        "one/events/",
        "two/events/",
    ]
    with raises(InvalidConfig, first, "twice"):
        open_inputs([first, first], classifier)


def test_a_value_that_is_not_finite_is_named_and_no_file_is_left(tmp_path, events, dataset, package):
    events["mass"][17] = np.nan
    path, _ = as_root(tmp_path, events, dataset)
    classifier = package.build()
    prediction = open_inputs([path], classifier)

    with raises(InvalidEvents, "'mass'", "'events/17'"):
        score_piece(classifier, prediction, prediction.pieces[0], tmp_path, "d", 64)
    assert not list(tmp_path.glob("*.parquet")) + list(tmp_path.glob(".*.tmp"))


def test_globs_folders_empty_files_and_odd_names_are_predicted_too(tmp_path, events, package):
    classifier = package.build()
    for number, rows in enumerate((100, 0, 200)):
        folder = tmp_path / "runs" / f"job_{9 + number}"
        folder.mkdir(parents=True)
        with uproot.recreate(folder / "out.root") as file:
            names = {"pt": "pt", "eta": "|eta|", "phi": "phi", "mass": "mass"}
            tree = file.mktree("t", dict.fromkeys(names.values(), "f4"))
            if rows:
                first = 0 if number == 0 else 100
                values = {**flat(events), "mass": events["mass"]}
                tree.extend({names[name]: values[name][first : first + rows] for name in names})
    for word in (tmp_path / "runs", tmp_path / "runs/*/out.root", tmp_path / "runs/job_*"):
        prediction = open_inputs([word], classifier)
        assert [piece.prefix for piece in prediction.pieces] == ["job_9/out/", "job_11/out/"]
        assert prediction.notes == (f"1 of 3 inputs holds no events: {tmp_path}/runs/job_10/out.root",)
        features = [
            read["features"]
            for piece in prediction.pieces
            for read in read_events(classifier, prediction, piece)
        ]
        np.testing.assert_array_equal(np.concatenate(features), events["features"])
    with raises(NoEvents, tmp_path / "runs/job_10/out.root"):
        open_inputs([tmp_path / "runs/job_10"], classifier)


def test_lists_are_read_from_datasets_and_from_fields_of_their_elements(tmp_path):
    named, lengths = ("pt", "delta_eta", "delta_phi"), np.random.default_rng(0).integers(0, 6, 60)
    column = Column(name="jets", shape=(5, 3), elements=named, lists=True)
    schema = EventSchema(task="toy", columns=(column,), classes=("a", "b"))
    items = np.random.default_rng(1).random((int(lengths.sum()), 3)).astype(np.float32)
    values = np.asarray(ListColumn((5, 3), offsets_of(lengths), items))
    ids = [f"e{row}" for row in range(60)]
    with ShardWriter(tmp_path / "toy", schema) as writer:
        writer.write({"event_id": ids, "label": np.arange(60) % 2, "jets": values})
    offsets = pa.array(offsets_of(lengths), pa.int32())
    fields = {
        name: pa.ListArray.from_arrays(offsets, pa.array(items[:, place])) for place, name in enumerate(named)
    }
    pq.write_table(pa.table({"event_id": ids, **fields}), tmp_path / "fields.parquet")
    params = {"model": "pfn", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    config = TrialConfig.from_params(params)
    classifier = Classifier(config.resolved(), schema, config.build_model(schema).state_dict())
    wanted = dict(zip(ids, classifier.predict({"jets": values}), strict=True))
    for source in (tmp_path / "toy", tmp_path / "fields.parquet"):
        prediction = open_inputs([source], classifier)
        found = {}
        for piece in prediction.pieces:
            for events in read_events(classifier, prediction, piece):
                found.update(
                    zip(np.asarray(events[EVENT_ID]).tolist(), classifier.predict(events), strict=True)
                )
        assert found.keys() == wanted.keys()
        for event, scores in wanted.items():
            np.testing.assert_allclose(found[event], scores, rtol=0, atol=1e-6)
    longer = classifier.schema.model_copy(update={"columns": (column.model_copy(update={"shape": (2, 3)}),)})
    short = Classifier(config.resolved(), longer, classifier.model.state_dict())
    with raises(ModelMismatch, "'jets'", "(2, 3)", "(5, 3)"):
        open_inputs([tmp_path / "toy"], short)
    prediction = open_inputs([tmp_path / "fields.parquet"], short)
    with raises(InvalidEvents, "jets", "max_length = 2"):
        list(read_events(short, prediction, prediction.pieces[0]))


@pytest.mark.parametrize("missing", ["nan", 7.0])
def test_a_sentinel_of_the_training_events_is_missing_in_new_ones_too(missing, tmp_path):
    for number, name in enumerate("ab"):
        mass = np.random.default_rng(number).normal(90 + number, 1, 80).astype(np.float32)
        mass[::4] = -999
        pq.write_table(pa.table({"mass": mass}), tmp_path / f"{name}.parquet")
    rule = ColumnRule(name="mass", sentinels=(-999,), missing=missing)
    rules = SchemaFile(task="toy", reader="parquet", columns=(rule,))
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    schema = convert(files, None, ["a", "b"], tmp_path / "d", schema=rules).event_schema
    params = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
    config = TrialConfig.from_params(params)
    model = config.build_model(schema)
    if missing == "nan":
        model.fit({"mass": Dataset.open(tmp_path / "d").arrays("train")["mass"]})
    classifier = Classifier(config.resolved(), schema, model.state_dict())
    prediction = open_inputs([tmp_path / "a.parquet"], classifier)
    (events,) = read_events(classifier, prediction, prediction.pieces[0])
    assert np.isnan(events["mass"]).sum() == (20 if missing == "nan" else 0)
    assert (events["mass"] == 7.0).sum() == (0 if missing == "nan" else 20)
    raw = schema.columns[0].model_copy(update={"sentinels": (), "fill": None})
    plain = schema.model_copy(update={"columns": (raw,)})
    manifest = Dataset.open(tmp_path / "d").manifest
    assert fingerprint_of(plain, manifest.split_rule, manifest.shards) == manifest.fingerprint
