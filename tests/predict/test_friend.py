"""Scores go back beside the tree that they are of, entry by entry."""

import json

import numpy as np
import pandas as pd
import pytest
import uproot
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.errors import InvalidConfig, ModelMismatch
from hep_ray.predict import inputs as inputs_module
from hep_ray.predict.run import predict
from tests.facts import raises, tells

PIECE = 100
"""Events; so that a file is of several pieces."""


@pytest.fixture
def cut_small(monkeypatch):
    monkeypatch.setattr(inputs_module, "PIECE_BYTES", PIECE * 16)


def write(path, events, rows):
    columns = {name: events["features"][rows, place] for place, name in enumerate(("pt", "eta", "phi"))}
    columns["mass"] = events["mass"][rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path) as file:
        file.mktree("tree", dict.fromkeys(columns, np.dtype(np.float32))).extend(columns)
    return path


@pytest.fixture
def two(tmp_path, events):
    """Two files of one name, of 250 and 50 events."""
    return [
        write(tmp_path / name / "output.root", events, rows)
        for name, rows in (("job_1", slice(0, 250)), ("job_2", slice(250, 300)))
    ]


@pytest.mark.usefixtures("cut_small")
def test_each_tree_gets_a_friend_with_the_scores_of_its_entries_in_their_order(
    tmp_path, events, package, two
):
    package_folder, out = tmp_path / "model", tmp_path / "scores"
    package.write(package_folder, "card")
    words = ["predict", str(package_folder), *map(str, two), "--friend", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert tells(
        done.output,
        "2 friend trees",
        'AddFriend("scores", "' + str(out / "_friends/job_1/output.root") + '")',
    )
    wanted = package.build().predict(events)
    start = 0
    for path in two:
        with uproot.open(path) as file, uproot.open(out / "_friends" / path.parent.name / path.name) as own:
            tree, friend = file["tree"], own["scores"]
            assert friend.num_entries == tree.num_entries
            assert friend.keys() == [
                f"{kind}_{name}" for kind in ("score", "log_odds") for name in ("background", "signal")
            ]
            rows = slice(start, start + tree.num_entries)
            scores = friend.arrays(library="np")
            np.testing.assert_array_equal(tree["mass"].array(library="np"), events["mass"][rows])
        np.testing.assert_allclose(scores["score_signal"], wanted[rows, 1], rtol=0, atol=1e-6)
        assert (scores["score_signal"].dtype, scores["log_odds_signal"].dtype) == (np.float32, np.float64)
        start = rows.stop
    assert start == 300
    # Readers of a folder of Parquet pass them over, and the manifest has them.
    assert len(pd.read_parquet(out)) == 300
    listed = json.loads((out / "_predictions.json").read_text())["friends"]
    assert [(one["file"], one["events"]) for one in listed] == [
        ("_friends/job_1/output.root", 250),
        ("_friends/job_2/output.root", 50),
    ]


@pytest.mark.usefixtures("cut_small")
def test_scores_that_are_there_get_their_friends_later(tmp_path, package, two):
    out = tmp_path / "scores"
    assert predict(package, two, out).friends == ()
    again = predict(package, two, out, friend=True)
    assert (again.reused, [one.events for one in again.friends]) == (4, [250, 50])


def test_what_has_no_entry_for_each_is_refused_before_anything_is_written(
    tmp_path, events, package, two, dataset
):
    out = tmp_path / "scores"
    with raises(InvalidConfig, "mass > 0.5", "--friend"):
        predict(package, two, out, ways=inputs_module.Ways(selection="mass > 0.5"), friend=True)
    with raises(InvalidConfig, "'parquet'", "--friend"):
        predict(package, [dataset], out, friend=True)
    assert not out.exists()


def test_a_file_of_scores_that_lacks_entries_makes_no_friend(tmp_path, package, two):
    from hep_ray.predict.friend import write_friends

    prediction = inputs_module.open_inputs(two, package.build())
    with raises(ModelMismatch, two[0], "250", "249"):
        write_friends(prediction, {piece.file: 249 for piece in prediction.pieces}, tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_the_command_alone_with_onnx_refuses_it(tmp_path):
    done = CliRunner().invoke(app, ["predict", str(tmp_path), "--onnx", "toy.onnx", "--friend"])
    assert isinstance(done.exception, InvalidConfig)
    assert tells(str(done.exception), "--friend")
