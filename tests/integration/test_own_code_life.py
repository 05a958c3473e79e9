"""Components of one script through their whole life: killed, resumed, confirmed, promoted, and used elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

from hep_ray.metrics import classification_metrics
from hep_ray.search.audit import compare
from hep_ray.tracking.client import default_uri
from hep_ray.tracking.journal import read_records
from tests.facts import tells

SCRIPT = Path(__file__).with_name("own_search.py")
SEARCH = (sys.executable, "searches/own_search.py")
HEP_RAY = (sys.executable, "-c", "from hep_ray.cli import main; main()")
EPOCHS, TRIALS = 30, 4
FEWER_BY_KILL = EPOCHS * TRIALS - 20


def run(place: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        words, cwd=place, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def epochs(folder: Path) -> list[tuple[tuple[str, int], dict[str, float]]]:
    """(trial, epoch) → what it learnt, without what the clock says."""
    if not (folder / "journal.jsonl").exists():
        return []
    return [
        (
            (one.trial_id, one.epoch),
            {key: value for key, value in one.metrics.items() if key.startswith(("val_", "train_"))},
        )
        for one in read_records(folder)
        if one.kind == "epoch_finished"
    ]


def killed_after(epochs_seen: int, place: Path, folder: Path, *words: str) -> None:
    """Start a command and end its driver, as kill -9 does, once so many epochs are in the journal."""
    log = place / "log"
    with log.open("ab") as file:
        driver = subprocess.Popen(words, cwd=place, stdout=file, stderr=file, start_new_session=True)
    deadline = time.monotonic() + 400
    while len(epochs(folder)) < epochs_seen:
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "the search did not get going"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("committed_hep_ray")
def test_a_search_of_own_code_is_killed_resumed_confirmed_promoted_and_used(
    make_search_place, tmp_path
) -> None:
    place = make_search_place(tmp_path, own_search=SCRIPT.read_text())
    flags = ("--data", "data", "--preset", "smoke", "--epochs", str(EPOCHS))
    folder = place / "runs/own_search"

    killed_after(EPOCHS + 5, place, folder, *SEARCH, *flags)
    before = epochs(folder)
    assert len(before) < FEWER_BY_KILL
    assert "own_search: 4 trials" in run(place, *SEARCH, "--resume")
    after = epochs(folder)
    assert after[: len(before)] == before
    assert len(after) == len(dict(after)) == EPOCHS * TRIALS
    assert compare(folder, default_uri(folder.parent)).findings == ()
    # It went on as if nobody had killed it: the same search again, uninterrupted, learns the same to the last digit.
    run(place, *SEARCH, *flags, "--storage", "uninterrupted")
    assert dict(epochs(place / "uninterrupted/own_search")) == dict(after)

    confirmed = run(place, *HEP_RAY, "confirm", "own_search", "--top", "1", "--seeds", "3")
    assert "own_search" in confirmed
    run(place, *HEP_RAY, "report", "own_search")
    page = (folder / "report.html").read_text()
    assert tells(page, "yield significance", "residual_blocks", "soft_margin_power")
    assert "Figures of scores are left out" not in page
    assert "models:/quadrants@champion is version 1" in run(place, *HEP_RAY, "promote", "own_search")

    # Somewhere else, in a fresh process, without the script.
    (place / "searches/own_search.py").rename(tmp_path / "away")
    champion = ("models:/quadrants@champion", "data", "--out", "scores")
    refused = run(place, *HEP_RAY, "predict", *champion, code=2)
    assert tells(
        refused, "model 'residual_blocks'", "loss 'soft_margin_power'", "own_search.py", "--trust-code"
    )
    assert not (place / "scores").exists()
    run(place, *HEP_RAY, "predict", *champion, "--trust-code")
    scores = pq.read_table(place / "scores").to_pandas().set_index("event_id")
    events = (
        pq.read_table(sorted((place / "data").glob("*.parquet")))
        .to_pandas()
        .set_index("event_id")
        .loc[scores.index]
    )
    probabilities = scores[["score_background", "score_signal"]].to_numpy()
    found = classification_metrics(
        probabilities, events["label"].to_numpy(), ("background", "signal"), "signal"
    )
    assert found["auc"] > 0.95  # the sign of x·y, which no linear model sees

    run(place, *HEP_RAY, "predict", champion[0], "--onnx", "own.onnx", "--trust-code")
    session = onnxruntime.InferenceSession(str(place / "own.onnx"))
    features = np.stack(events["features"].to_numpy()).astype(np.float32)
    (onnx,) = session.run(["probabilities"], {"features": features})
    assert np.abs(onnx - probabilities).max() < 1e-5

    description = json.loads(next((place / "runs/mlartifacts").rglob("model.json")).read_text())
    (plugin,) = description["plugins"]
    assert plugin["source"] == SCRIPT.read_text()
    own = {
        "model 'residual_blocks'",
        "loss 'soft_margin_power'",
        "schedule 'warm_up'",
        "augmentation 'swap_signs'",
    }
    assert set(plugin["registers"]) == own | {"metric 'yield_significance'"}
    assert description["params"]["share"] == 0.25
