"""Scores go back beside the tree that they are of, entry by entry."""

import json

import fsspec
import numpy as np
import pandas as pd
import pytest
import uproot
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.errors import (
    InvalidConfig,
    InvalidEvents,
    ModelMismatch,
    StorageError,
    UnknownName,
    UnreadableInput,
)
from hep_ray.predict import inputs as inputs_module
from hep_ray.predict.friend import plan_friends, write_friends
from hep_ray.predict.inputs import Ways
from hep_ray.predict.output import score_columns
from hep_ray.predict.run import predict
from hep_ray.predict.shift import ShiftSettings
from tests.facts import raises, tells

PIECE = 100
"""Events; so that a file is of several pieces."""


@pytest.fixture
def cut_small(monkeypatch):
    monkeypatch.setattr(inputs_module, "PIECE_BYTES", PIECE * 16)


def write(path, events, rows, tree="tree", more=()):
    columns = {name: events["features"][rows, place] for place, name in enumerate(("pt", "eta", "phi"))}
    columns |= dict.fromkeys(("mass", *more), events["mass"][rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path) as file:
        file.mktree(tree, dict.fromkeys(columns, np.dtype(np.float32))).extend(columns)
    return path


def friend_of(path, out, tree="scores"):
    return out / "_friends" / tree / path.parent.name / path.name


def read_tree(path, tree="scores"):
    with uproot.open(path) as file:
        return file[tree].arrays(library="np")


def friends_in(out):
    return json.loads((out / "_predictions.json").read_text())["friends"]


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
        'AddFriend("scores", "' + str(out / "_friends/scores/job_1/output.root") + '")',
    )
    wanted = package.build().predict(events)
    start = 0
    for path in two:
        with uproot.open(path) as file, uproot.open(friend_of(path, out)) as own:
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
    assert [(one["file"], one["of"], one["events"]) for one in friends_in(out)] == [
        ("_friends/scores/job_1/output.root", str(two[0]), 250),
        ("_friends/scores/job_2/output.root", str(two[1]), 50),
    ]


@pytest.mark.usefixtures("cut_small")
def test_scores_that_are_there_get_their_friends_later_and_keep_those_they_have(tmp_path, package, two):
    out = tmp_path / "scores"
    assert predict(package, two, out).friends == ()
    again = predict(package, two, out, friend="scores")
    assert (again.reused, [one.events for one in again.friends]) == (4, [250, 50])
    first = friends_in(out)
    predict(package, two, out, friend="mine")
    files = [
        f"_friends/{tree}/{job}/output.root" for tree in ("scores", "mine") for job in ("job_1", "job_2")
    ]
    assert [one["file"] for one in friends_in(out)] == files
    assert friends_in(out)[:2] == first
    # A rerun without any keeps the records, but of a file that is gone.
    (out / files[1]).unlink()
    predict(package, two, out)
    assert [one["file"] for one in friends_in(out)] == [files[0], *files[2:]]


def test_a_named_friend_has_its_name_before_every_branch(tmp_path, package, two):
    out = tmp_path / "scores"
    predict(package, two, out, friend="pid")
    assert list(read_tree(friend_of(two[0], out, "pid"), "pid")) == [
        f"pid_{kind}_{name}" for kind in ("score", "log_odds") for name in ("background", "signal")
    ]
    assert friends_in(out)[0]["tree"] == "pid"
    assert friends_in(out)[0]["branches"]["score_signal"] == "pid_score_signal"


@pytest.mark.parametrize("name", ["2nd", "a-b", "", "a b", "é"])
def test_a_name_that_root_cannot_use_is_refused(tmp_path, package, two, name):
    with raises(InvalidConfig, f"'{name}'", "--friend-name"):
        predict(package, two, tmp_path / "scores", friend=name)
    assert not (tmp_path / "scores").exists()


def test_branches_of_classes_that_root_would_take_for_sums_are_renamed(tmp_path, make_package, two):
    folder, out = tmp_path / "model", tmp_path / "scores"
    package = make_package(classes=("W+jets", "t-tbar"))
    package.write(folder, "card")
    words = ["predict", str(folder), *map(str, two), "--friend", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert tells(done.output, "score_W_jets", "score_W+jets")
    assert list(read_tree(friend_of(two[0], out))) == [
        "score_W_jets",
        "score_t_tbar",
        "log_odds_W_jets",
        "log_odds_t_tbar",
    ]
    assert friends_in(out)[0]["branches"] == {
        "score_W+jets": "score_W_jets",
        "score_t-tbar": "score_t_tbar",
        "log_odds_W+jets": "log_odds_W_jets",
        "log_odds_t-tbar": "log_odds_t_tbar",
    }
    assert "score_W+jets" in pd.read_parquet(out)


def test_classes_that_would_be_one_branch_are_refused(tmp_path, make_package, two):
    with raises(InvalidConfig, "'score_W+'", "'score_W-'", "'score_W_'", "--friend"):
        predict(make_package(classes=("W+", "W-")), two, tmp_path / "scores", friend="scores")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("tree", "branch"),
    [("tree", "score_signal"), ("tree", "scores"), ("scores", None), ("deep/scores", None)],
)
def test_names_that_the_tree_has_already_are_refused_and_another_name_mends_it(
    tmp_path, events, package, tree, branch
):
    path = write(tmp_path / "a" / "a.root", events, slice(0, 20), tree, (branch,) if branch else ())
    out = tmp_path / "scores"
    with raises(InvalidConfig, f"'{branch or 'scores'}'", path, "--friend-name"):
        predict(package, [path], out, friend="scores")
    assert not out.exists()
    predict(package, [path], out, friend="mine")
    assert len(read_tree(out / "_friends/mine/a.root", "mine")["mine_score_signal"]) == 20


def test_friends_whose_files_would_clash_are_refused(tmp_path, events, package):
    names = ("x.root/a.root", "y/a.root", "y/x.root")
    paths = [write(tmp_path / name, events, slice(0, 20)) for name in names]
    with raises(InvalidConfig, paths[0], paths[2], "_friends/scores/x.root", "--out"):
        predict(package, paths, tmp_path / "scores", friend="scores")
    assert not (tmp_path / "scores").exists()


def test_a_file_in_place_of_their_folder_is_found_before_anything_is_scored(tmp_path, package, two):
    out = tmp_path / "scores"
    predict(package, two, out)
    before = sorted(path.name for path in out.iterdir())
    (out / "_friends").touch()
    with raises(StorageError, out / "_friends", "--out"):
        predict(package, two, out, friend="scores")
    assert sorted(path.name for path in out.iterdir()) == ["_friends", *before]


def test_an_rntuple_can_have_no_friend(tmp_path, events, package):
    path = tmp_path / "new.root"
    with uproot.recreate(path) as file:
        columns = dict(zip(("pt", "eta", "phi"), events["features"].T, strict=True))
        file.mkrntuple("Events", {**columns, "mass": events["mass"]})
    with raises(InvalidConfig, "RNTuple", "'Events'", path, "--friend"):
        predict(package, [path], tmp_path / "scores", friend="scores")
    assert not (tmp_path / "scores").exists()


def test_an_input_without_events_gets_a_tree_without_entries(tmp_path, events, package, two):
    empty = write(tmp_path / "job_3" / "output.root", events, slice(0, 0))
    out = tmp_path / "scores"
    done = predict(package, [*two, empty], out, friend="scores")
    assert [one.events for one in done.friends] == [250, 50, 0]
    values = read_tree(friend_of(empty, out))
    assert {name: (len(one), one.dtype) for name, one in values.items()} == {
        **dict.fromkeys(("score_background", "score_signal"), (0, np.float32)),
        **dict.fromkeys(("log_odds_background", "log_odds_signal"), (0, np.float64)),
    }


@pytest.mark.usefixtures("cut_small")
def test_entries_that_are_not_selected_have_no_scores_and_keep_their_place(tmp_path, events, package):
    events["mass"][[3, 120, 249]] = np.nan
    path = write(tmp_path / "job" / "a.root", events, slice(0, 250))
    package.write(tmp_path / "model", "card")
    out = tmp_path / "scores"
    words = ["predict", str(tmp_path / "model"), str(path), "--friend", "--out", str(out)]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, InvalidEvents)
    selection = "isfinite(mass) and pt > 0"
    done = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "some"), "--select", selection])
    assert done.exit_code == 0, done.output
    out = tmp_path / "some"
    kept = np.isfinite(events["mass"][:250]) & (events["features"][:250, 0] > 0)
    assert tells(done.output, f"{250 - kept.sum()} entries", "NaN")
    values = read_tree(out / "_friends/scores/a.root")
    wanted = package.build().predict({name: events[name][:250][kept] for name in ("features", "mass")})
    for name in values:
        np.testing.assert_array_equal(np.isfinite(values[name]), kept)
    np.testing.assert_allclose(values["score_signal"][kept], wanted[:, 1], rtol=0, atol=1e-6)
    assert len(pd.read_parquet(out)) == kept.sum()
    assert (friends_in(out)[0]["events"], friends_in(out)[0]["scored"]) == (250, kept.sum())


def test_inputs_at_addresses_are_fetched_and_recorded_by_their_addresses(tmp_path, package, two):
    system = fsspec.filesystem("memory")
    try:
        for path in two:
            system.put_file(str(path), f"/store/{path.parent.name}/output.root")
        words = [f"memory://store/{path.parent.name}/output.root" for path in two]
        package.write(tmp_path / "model", "card")
        common = ["predict", str(tmp_path / "model"), "--friend"]
        done = CliRunner().invoke(app, [*common, *words, "--out", str(tmp_path / "far")])
        assert done.exit_code == 0, done.output
        assert (
            CliRunner().invoke(app, [*common, *map(str, two), "--out", str(tmp_path / "near")]).exit_code == 0
        )
        globbed = predict(
            package, ["memory://store/job_*/output.root"], tmp_path / "globbed", friend="scores"
        )
    finally:
        system.rm("/", recursive=True)
    near = pd.read_parquet(tmp_path / "near")
    for name in ("far", "globbed"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / name), near)
        assert [one["of"] for one in friends_in(tmp_path / name)] == words
    assert json.loads((tmp_path / "far" / "_predictions.json").read_text())["addresses"] == words
    assert [one.events for one in globbed.friends] == [250, 50]
    for path in two:
        far, own = (read_tree(friend_of(path, tmp_path / name)) for name in ("far", "near"))
        np.testing.assert_array_equal(far["log_odds_signal"], own["log_odds_signal"])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("more", "error", "fact"),
    [
        ({"out": "full"}, StorageError, "full"),
        ({"out": "file"}, StorageError, "file"),
        ({"out": "others"}, StorageError, "model_digest"),
        ({"ways": Ways(schema="nope")}, UnknownName, "'nope'"),
        ({"ways": Ways(reader="rot")}, UnknownName, "'rot'"),
        ({"ways": Ways(reader="root", options={"trees": "a"})}, InvalidConfig, "trees"),
        ({"ways": Ways(selection="pt >")}, InvalidConfig, "pt >"),
        ({"friend": "my friend"}, InvalidConfig, "my friend"),
        ({"shift": ShiftSettings("columns", 0.05, "tau")}, ModelMismatch, "reference"),
    ],
)
def test_what_no_input_can_change_is_refused_before_any_is_fetched(more, error, fact, tmp_path, package, two):
    """The file at the address is not there: who fetched first would tell of it."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    predict(package, two, tmp_path / "others")
    manifest = tmp_path / "others" / "_predictions.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "model_digest": "f"}))
    given = {"out": "new", **more}
    with raises(error, fact):
        predict(package, ["memory://store/none.root"], tmp_path / given.pop("out"), **given)
    assert not list(tmp_path.glob(".*"))


def test_an_address_without_a_file_is_named(tmp_path, package):
    with raises(UnreadableInput, "memory://store/none.root"):
        predict(package, ["memory://store/none.root"], tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_what_has_no_tree_is_refused_before_anything_is_written(tmp_path, package, dataset):
    out = tmp_path / "scores"
    with raises(InvalidConfig, "'parquet'", "--friend"):
        predict(package, [dataset], out, friend="scores")
    assert not out.exists()


def test_a_file_of_scores_that_lacks_entries_makes_no_friend(tmp_path, package, two):
    out, classifier = tmp_path / "scores", package.build()
    prediction = inputs_module.open_inputs(two, classifier)
    plan = plan_friends(prediction, score_columns(classifier), out)
    with raises(ModelMismatch, two[0], "250", "249"):
        write_friends(prediction, plan, {piece.file: 249 for piece in prediction.pieces}, out)
    assert not out.exists()


@pytest.mark.parametrize(
    "words", [["--onnx", "toy.onnx", "--friend"], ["a.root", "--out", "o", "--friend-name", "a"]]
)
def test_words_that_go_with_no_friend_are_refused(tmp_path, words):
    done = CliRunner().invoke(app, ["predict", str(tmp_path), *words])
    assert isinstance(done.exception, InvalidConfig)
    assert tells(str(done.exception), "--friend")
