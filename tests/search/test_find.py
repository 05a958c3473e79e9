"""One rule for a search's name, folder and script; what it stated is in its journal, not in what lies about."""

import time

import pytest
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.confirm.plan import prepare_confirmation
from hep_ray.errors import CannotConfirm, InvalidConfig, NotRun, UnknownSearch
from hep_ray.search.definition import Preset, Search, Stated, stated_by, stated_in
from hep_ray.search.find import find_search
from hep_ray.search.options import ConfirmOptions
from hep_ray.search.published import StudyTable
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState, words_to_confirm
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, SearchFinished, SearchStarted, TrialFinished, TrialStarted
from tests.facts import raises

SPACE = Space(model="mlp", loss="cross_entropy", optimizer="adam", learning_rate=0.01)
SEARCH = Search(
    name="named_otherwise", task="toy", title="Which?", space=SPACE, presets={"laptop": Preset(1, 1)},
    baseline={"learning_rate": 0.1},
    tables=(StudyTable("By rate", ("learning_rate",), epochs=(1,), published={"learning_rate=0.1": "0.7"},
                       published_on="ATLAS"),),
)  # fmt: skip
SCRIPT = """
from hep_ray import Preset, Search, Space
search = Search(
    name="named_otherwise", task="toy", title="Which?", presets={"laptop": Preset(1, 1)},
    baseline={"learning_rate": 0.1},
    space=Space(model="mlp", loss="cross_entropy", optimizer="adam", learning_rate=0.01),
)
"""


def ran(storage, search=SEARCH, rates=(0.01, 0.1, 0.001), *, older=False):
    """The journal of a search whose first trial is the best."""
    with Journal(storage / search.name) as journal:
        journal.append(
            SearchStarted(
                time=time.time(), search=search.name, search_id="a" * 32, dataset_fingerprint="f", task="toy",
                metric="val_accuracy", mode="max", epochs=1, sampler="random", scheduler="none", seed=0, space={},
                options={"data": str(storage / "data")}, provenance={},
                **({} if older else {"stated": stated_by(search)}),
            )
        )  # fmt: skip
        for number, rate in enumerate(rates):
            name = f"t{number:04d}"
            params = {**SPACE.samples()[0], "learning_rate": rate}
            journal.append(TrialStarted(time=1.0, trial_id=name, number=number, params=params, seed=0))
            metrics = {"epoch": 1, "val_accuracy": 0.9 - 0.1 * number, "epoch_seconds": 1.0}
            journal.append(EpochFinished(time=1.0, trial_id=name, metrics=metrics))
            journal.append(TrialFinished(time=1.0, trial_id=name, status="completed"))
        journal.append(SearchFinished(time=1.0))
    return storage / search.name


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my scripts").mkdir()
    (tmp_path / "my scripts/s.py").write_text(SCRIPT)
    (tmp_path / "searches").mkdir()
    return tmp_path


def test_name_folder_and_script_are_the_same_search(here):
    folder = ran(here / "my runs")
    storage = folder.parent
    for target, given in (
        ("named_otherwise", storage),
        ("my scripts/s.py", storage),
        ("my runs/named_otherwise", storage),
        ("my runs/named_otherwise/", storage),
        (str(folder), here / "runs"),
    ):
        if given == storage:
            assert find_search(target, storage).folder.resolve() == folder
    (here / "my scripts/it's mine.py").write_text(SCRIPT)
    assert find_search("my scripts/it's mine.py", storage).folder == folder
    (here / "searches/s.py").write_text(SCRIPT)
    assert find_search("s", storage).folder == folder
    assert find_search("my runs/named_otherwise").storage.resolve() == storage
    with raises(InvalidConfig, folder, here / "other", "--storage"):
        find_search(str(folder), here / "other")


def test_what_is_none_of_them_is_named_with_what_there_is(here):
    ran(here / "runs")
    with raises(UnknownSearch, "'nothing'", "runs", "named_otherwise"):
        find_search("nothing")
    with raises(NotRun, here / "elsewhere" / "named_otherwise", "--storage"):
        find_search("my scripts/s.py", here / "elsewhere")
    for command in ("report", "promote", "confirm", "audit", "track"):
        assert isinstance(CliRunner().invoke(app, [command, "nothing"]).exception, UnknownSearch)


def test_the_journal_tells_what_was_stated_and_a_changed_script_does_not(here):
    started = SearchState.read(ran(here / "runs")).started
    other = Search(
        name="named_otherwise",
        task="toy",
        title="Another",
        space=SPACE,
        presets={},
        baseline={"loss": "hinge"},
    )
    assert stated_in(started, other) == Stated("named_otherwise", "Which?", SEARCH.baseline, SEARCH.tables)


def test_an_older_journal_takes_its_script_or_nothing(here):
    found = find_search(ran(here / "runs", older=True).name)
    started = found.state().started
    assert not found.stated(started).known
    (here / "searches/named_otherwise.py").write_text(SCRIPT)
    assert found.stated(started).baseline == {"learning_rate": 0.1}
    (here / "searches/named_otherwise.py").unlink()
    assert find_search("my scripts/s.py").stated(started).baseline == {"learning_rate": 0.1}


def refused(**options):
    with pytest.raises(CannotConfirm) as caught:
        prepare_confirmation(ConfirmOptions(**options))
    return str(caught.value)


def test_a_search_that_another_process_holds_is_not_confirmed(here):
    with Journal(ran(here / "runs")) as journal:
        assert str(journal.path.relative_to(here)) in refused(search=SEARCH.name)


def test_what_wins_is_never_what_is_to_be_beaten_by_default(here):
    """As it was where the script lay outside `searches/`, or the search ran in a notebook."""
    nothing = Search(name="plain", task="toy", title="Plain.", space=SPACE, presets={"laptop": Preset(1, 1)})
    older = ran(here / "older", older=True)
    plain = ran(here / "runs", nothing)

    for folder, why in ((older, "earlier version"), (plain, "states no baseline")):
        words = refused(search=folder.name, storage=folder.parent)
        assert why in words
        assert "--baseline trial=t0001" in words


@pytest.mark.parametrize(
    ("baseline", "rates", "words"),
    [
        ({"learning_rate": 0.1}, (0.01, 0.1), ["confirm", "named_otherwise"]),
        ({"learning_rate": 0.1}, (0.01,), ["confirm", "named_otherwise"]),
        ({"learning_rate": 0.1}, (0.1,), None),
        ({}, (0.01, 0.01, 0.1), ["confirm", "named_otherwise", "--baseline", "trial=t0002"]),
        ({}, (0.01,), None),
        ({"loss": "cross_entropy"}, (0.01, 0.1), ["confirm", "named_otherwise"]),
    ],
)
def test_the_command_that_confirms_is_one_that_is_not_refused(here, baseline, rates, words):
    search = Search(name="named_otherwise", task="toy", title="T", space=SPACE, presets={}, baseline=baseline)
    state = SearchState.read(ran(here / "runs", search, rates))
    assert words_to_confirm(state, stated_in(state.started)) == words
