"""Where all that is trained again is fitted on this machine, confirm, folds and refit start no Ray."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from tests.facts import tells

EVENTS = 600
SCRIPT = """
from hep_ray import Choice, LogUniform, Preset, Search, Space, main
space = Space(model="gradient_boosting", trees=Choice(5, 10), shrinkage=LogUniform(0.03, 0.3))
search = Search(name="trees", task="toy", title="Trees.", space=space, presets={"laptop": Preset(trials=4, epochs=1)},
                metric="val_auc")
if __name__ == "__main__":
    main(search)
"""


@pytest.mark.slow
@pytest.mark.ci
def test_fitted_models_are_confirmed_divided_and_refit_without_ray(tmp_path: Path) -> None:
    random, labels = np.random.default_rng(0), np.arange(EVENTS) % 2
    schema = EventSchema(task="toy", columns=(Column(name="x", shape=(2,)),), classes=("b", "s"), signal="s")
    x = (random.normal(size=(EVENTS, 2)) + labels[:, None]).astype(np.float32)
    with ShardWriter(tmp_path / "d", schema, source={}) as writer:
        writer.write({"event_id": [f"e{row}" for row in range(EVENTS)], "label": labels, "x": x})
    (tmp_path / "trees.py").write_text(SCRIPT)
    environment = {**os.environ, "RAY_TMPDIR": str(tmp_path / "of_ray"), "MLFLOW_TRACKING_URI": ""}
    environment.pop("RAY_ADDRESS", None)

    def typed(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split())

    hep_ray = ("-c", "from hep_ray.cli import main; main()")
    searched = typed("trees.py", "--data", "d", "--preset", "laptop")
    # None has a loss, so the default baseline is none of theirs; the command below the table of the search names one.
    refused = typed(*hep_ray, "confirm", "trees", code=2)
    assert tells(refused, "is fitted and has no loss", "--baseline")
    (baseline,) = re.findall(r"hep-ray confirm trees --baseline (trial=t\d+)", searched)
    told = [
        searched,
        typed(*hep_ray, "confirm", "trees", "--baseline", baseline, "--top", "1", "--seeds", "2"),
        typed(*hep_ray, "folds", "trees", "--folds", "3"),
        typed(*hep_ray, "refit", "trees"),
    ]
    assert [text.count("need no Ray") for text in told] == [1, 1, 1, 1]
    assert not (tmp_path / "of_ray").exists()

    folder = tmp_path / "runs" / "trees"
    confirmed = json.loads((folder / "confirm" / "confirmation.json").read_text())
    runs = [run for one in confirmed["contenders"] for run in one["runs"]]
    assert len(runs) == 2 * 2
    for run in runs:
        kept = pq.read_table(
            folder / "confirm" / "trials" / run["trial_id"] / "test_scores.parquet"
        ).to_pandas()
        assert run["metrics"]["test_auc"] == pytest.approx(
            roc_auc_score(kept["label"], kept["log_odds_s"]), abs=1e-12
        )
    scores = pq.read_table(folder / "folds3" / "scores.parquet").to_pandas()
    assert sorted(scores["event_id"]) == sorted(f"e{row}" for row in range(EVENTS))
    divided = json.loads((folder / "folds3" / "folds.json").read_text())
    assert divided["trial"] in {one["name"] for one in confirmed["contenders"]}
    assert divided["metrics"]["test_auc"] == pytest.approx(
        roc_auc_score(scores["label"], scores["log_odds_s"]), abs=1e-12
    )
    assert json.loads((folder / "refit" / "refit.json").read_text())["trial"] == divided["trial"]
