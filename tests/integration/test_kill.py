"""The driver is killed in mid-search; --resume goes on as if it had not been."""

import json
import signal
import subprocess
import sys
import time

import pytest

from hep_ray.search.audit import compare, hand_over
from hep_ray.search.curves_searcher import searcher_of
from hep_ray.search.find import load_search
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import default_uri, open_client
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.mlflow_writer import SEARCH_TAG, TRIAL_TAG
from tests.facts import tells

SCRIPT = """
from hep_ray import Choice, Preset, Search, Space, main

space = Space(
    model="cnn",
    loss="root_softmax",
    root_index=Choice(1, 3, 5),
    optimizer="adam",
    learning_rate=Choice(1e-3, 1e-4),
    batch_size=16,
)
search = Search(
    name="killed",
    task="toy",
    title="A toy.",
    space=space,
    presets={"smoke": Preset(trials=5, epochs=4, scheduler="none")},
)
if __name__ == "__main__":
    main(search)
"""
TRIALS, EPOCHS = 5, 4
PAUSING = """
from hep_ray import Choice, LogUniform, Preset, Search, Space, main

space = Space(
    model=Choice("mlp", "gradient_boosting"),
    trees=Choice(2, 4, 8).when(model="gradient_boosting"),
    hidden_layers=Choice(1, 2).when(model="mlp"),
    loss=Choice("root_softmax", "cross_entropy"),
    root_index=Choice(1, 3).when(loss="root_softmax"),
    optimizer="adam",
    learning_rate=Choice(1e-3, 1e30),
    weight_decay=LogUniform(1e-6, 1e-2),
    batch_size=16,
)
search = Search(
    name="paused",
    task="quadrants",
    title="A toy whose trainings diverge, or are fitted in one go.",
    space=space,
    points_to_evaluate=({"model": "gradient_boosting", "trees": 3},),
    presets={
        "curves": Preset(trials=5, epochs=4, scheduler="curves"),
        "asha": Preset(
            trials=6, epochs=4, sampler="random", scheduler="asha_pausing", grace_epochs=1, reduction_factor=2
        ),
    },
)
if __name__ == "__main__":
    main(search)
"""


def epochs(folder):
    if not (folder / "journal.jsonl").exists():
        return {}
    return {
        (record.trial_id, record.epoch): record.metrics
        for record in read_records(folder)
        if record.kind == "epoch_finished"
    }


def start(script, *flags):
    words = [sys.executable, str(script), *flags]
    with (script.parent / "log").open("ab") as log:
        return subprocess.Popen(words, cwd=script.parent, stdout=log, stderr=log, start_new_session=True)


@pytest.mark.slow
@pytest.mark.ci
def test_killed_in_mid_search_and_resumed_nothing_is_lost_or_done_twice(make_dataset, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(SCRIPT)
    folder = tmp_path / "runs" / "killed"
    driver = start(script, "--data", str(make_dataset(events=96, size=28)), "--preset", "smoke")
    deadline = time.monotonic() + 240
    while len(epochs(folder)) < 7:
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, "the search did not get going"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = epochs(folder)
    assert len(before) < TRIALS * EPOCHS

    resumed = start(script, "--resume")
    assert resumed.wait(timeout=240) == 0, (tmp_path / "log").read_text()

    records = [record for record in read_records(folder) if record.kind == "epoch_finished"]
    after = epochs(folder)
    assert len(records) == len(after) == TRIALS * EPOCHS
    assert before.items() <= after.items()
    drawn = [record for record in read_records(folder) if record.kind == "trial_started"]
    assert [record.trial_id for record in drawn] == [f"t{number:04d}" for number in range(TRIALS)]
    board = json.loads((folder / "leaderboard.json").read_text())
    assert [trial["epochs"] for trial in board["trials"]] == [EPOCHS] * TRIALS

    client = open_client(default_uri(tmp_path / "runs"))
    experiment = client.get_experiment_by_name("killed")
    runs = client.search_runs([experiment.experiment_id], f"tags.`{SEARCH_TAG}` != ''")
    children = {run.data.tags[TRIAL_TAG]: run.info.run_id for run in runs if TRIAL_TAG in run.data.tags}
    assert len(runs) == TRIALS + 1
    assert len(children) == TRIALS
    for trial in board["trials"]:
        assert children[trial["trial_id"]] == trial["mlflow_run_id"]
        points = client.get_metric_history(trial["mlflow_run_id"], "val/loss")
        assert [point.value for point in points] == [metrics["val_loss"] for metrics in trial["history"]]


@pytest.mark.slow
def test_an_extended_search_that_is_killed_goes_on_to_its_new_number_of_trials(make_dataset, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(SCRIPT.replace("epochs=4", "epochs=2"))
    folder = tmp_path / "runs" / "killed"
    data = str(make_dataset(events=96, size=28))
    first = start(script, "--data", data, "--preset", "smoke", "--trials", "3")
    assert first.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    assert len(epochs(folder)) == 3 * 2

    driver = start(script, "--resume", "--trials", "9", "--epoch-timeout", "500")
    deadline = time.monotonic() + 240
    while len(epochs(folder)) < 4 * 2 + 1:  # in the middle of the fifth or sixth trial
        assert driver.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, "the search did not get going"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(epochs(folder)) < 9 * 2

    resumed = start(script, "--resume")
    assert resumed.wait(timeout=240) == 0, (tmp_path / "log").read_text()

    state = SearchState.read(folder)
    assert state.finished
    assert {name: len(trial.history) for name, trial in state.trials.items()} == {
        f"t{number:04d}": 2 for number in range(9)
    }
    assert (state.started.options["trials"], state.started.options["epoch_timeout"]) == (9, 500)
    kinds = [record.kind for record in read_records(folder)]
    assert kinds.count("options_changed") == 1
    uri = default_uri(tmp_path / "runs")
    assert compare(folder, uri).findings == ()
    assert hand_over(folder, uri).trials == 9
    refused = start(script, "--resume", "--trials", "4")
    assert refused.wait(timeout=240) == 2
    assert tells((tmp_path / "log").read_text(), "--trials 4", "--trials 9")


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--preset", "smoke", "--data", "absent"], 2, ["error:", "absent"]),
        pytest.param(["--cpus", "1"], 2, ["--cpus"], marks=[pytest.mark.slow, pytest.mark.ci]),
        pytest.param(["--preset", "huge"], 2, ["error:", "smoke"], marks=[pytest.mark.slow, pytest.mark.ci]),
    ],
)
def test_errors_are_one_paragraph_and_exit_with_two(tmp_path, flags, status, words):
    script = tmp_path / "killed.py"
    script.write_text(SCRIPT)

    done = subprocess.run(
        [sys.executable, str(script), *flags], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == status
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "runs" / "killed").exists()
    assert not [entry for entry in tmp_path.rglob("*") if entry.name not in {"killed.py", "runs"}]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["curves", "asha"])
def test_killed_while_trials_pause_and_resumed_it_decides_as_it_would_have(
    make_search_place, tmp_path, preset
):
    script = make_search_place(tmp_path, 200, paused=PAUSING) / "searches" / "paused.py"
    folder = script.parent / "runs" / "paused"
    driver = start(script, "--data", str(tmp_path / "data"), "--preset", preset)
    deadline = time.monotonic() + 240
    while not any(record.kind == "trial_goes_on" for record in journal_of(folder)):
        assert driver.poll() is None, (script.parent / "log").read_text()
        assert time.monotonic() < deadline, "the search did not get going"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = journal_of(folder)
    search = load_search(str(script))
    made = search.presets[preset]

    resumed = start(script, "--resume")
    assert resumed.wait(timeout=240) == 0, (script.parent / "log").read_text()
    assert "[I " not in (script.parent / "log").read_text()  # of Optuna, about its study
    records = read_records(folder)
    state = SearchState.fold(records)
    assert (
        len(epochs(folder))
        == sum(record.kind == "epoch_finished" for record in records)
        == made.trials * made.epochs + 1
    )
    assert max(len(trial.history) for trial in state.trials.values()) == 4
    assert {trial.status for trial in state.trials.values()} >= {"completed", "stopped"}
    decided = [
        place
        for place, record in enumerate(records)
        if record.kind == "trial_goes_on" or getattr(record, "reason", "")
    ]
    assert decided[0] < len(before) < decided[-1]
    for place in decided:  # each is what the records before it, told to a new searcher, lead to
        known = SearchState.fold(records[:place])
        due = searcher_of(search, made)(search, made, search.space, 0, None, known, known.apply)._going_on()
        assert due.model_dump(exclude={"time"}) == records[place].model_dump(exclude={"time"})
    assert list(compare(folder, default_uri(folder.parent)).findings) == []


def journal_of(folder):
    return read_records(folder) if (folder / "journal.jsonl").exists() else []
