"""The driver of a confirmation is killed in the middle; the same command goes on as if it had not been."""

import json
import signal
import subprocess
import sys
import time

import pytest

from hep_ray.confirm.confirmation import load_confirmation, uses
from hep_ray.tracking.journal import read_records

SCRIPT = """
from hep_ray import Choice, Preset, Search, Space, main

space = Space(
    model="mlp", loss="root_softmax", root_index=Choice(1, 3), optimizer="adam", learning_rate=0.01, batch_size=32
)
search = Search(
    name="killed",
    task="quadrants",
    title="A toy.",
    space=space,
    presets={"smoke": Preset(epochs=12, sampler="grid", scheduler="none")},
)
if __name__ == "__main__":
    main(search)
"""
EPOCHS, CONTENDERS, SEEDS = 12, 2, 4
HEP_RAY = (sys.executable, "-c", "from hep_ray.cli import main; main()")
BASELINE = ("--baseline", "root_index=3")
CONFIRM = (*HEP_RAY, "confirm", "killed", "--top", "1", "--seeds", str(SEEDS), *BASELINE)


def start(place, *words):
    with (place / "log").open("ab") as log:
        return subprocess.Popen(words, cwd=place, stdout=log, stderr=log, start_new_session=True)


def records(folder, kind):
    if not (folder / "journal.jsonl").exists():
        return []
    return [record for record in read_records(folder) if record.kind == kind]


@pytest.mark.slow
def test_killed_in_mid_training_nothing_is_lost_or_trained_twice_and_the_test_is_read_once(
    make_search_place, tmp_path
):
    place = make_search_place(tmp_path, killed=SCRIPT)
    search = start(place, sys.executable, "searches/killed.py", "--data", "data", "--preset", "smoke")
    assert search.wait(timeout=240) == 0, (place / "log").read_text()
    folder = place / "runs/killed/confirm"

    driver = start(place, *CONFIRM)
    deadline = time.monotonic() + 240
    while len(records(folder, "trial_finished")) < 3:
        assert driver.poll() is None, (place / "log").read_text()
        assert time.monotonic() < deadline, "the confirmation did not get going"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    before = {(one.trial_id, one.epoch): one.metrics for one in records(folder, "epoch_finished")}
    ended = [one.trial_id for one in records(folder, "trial_finished")]
    assert len(ended) < CONTENDERS * SEEDS
    assert not records(folder, "trial_tested")
    assert not uses(place / "runs/killed")
    models = {
        path: path.stat().st_mtime_ns for name in ended for path in [folder / "trials" / name / "best.pt"]
    }

    again = start(place, *CONFIRM)
    assert again.wait(timeout=240) == 0, (place / "log").read_text()

    epochs = records(folder, "epoch_finished")
    after = {(one.trial_id, one.epoch): one.metrics for one in epochs}
    assert len(epochs) == len(after) == CONTENDERS * SEEDS * EPOCHS
    assert before.items() <= after.items()
    assert {path: path.stat().st_mtime_ns for path in models} == models
    for kind in ("trial_started", "trial_finished", "trial_tested"):
        told = [one.trial_id for one in records(folder, kind)]
        assert len(told) == len(set(told)) == CONTENDERS * SEEDS
    (use,) = uses(place / "runs/killed")
    assert use.time > max(one.time for one in records(folder, "trial_finished"))
    found = load_confirmation(place / "runs/killed")
    assert [len(one.runs) for one in found.contenders] == [SEEDS] * CONTENDERS
    assert json.loads((folder / "confirmation.json").read_text())["confirmation_id"] == use.confirmation_id
