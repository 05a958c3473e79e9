"""A search whose trials are trained as stacked networks: the same search as one whose trials are trained one by one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import run_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice
from hep_ray.search.plan import prepare
from hep_ray.search.space import Space
from hep_ray.tracking.client import open_client
from hep_ray.tracking.journal import read_records
from hep_ray.training.checkpoint import BEST, load_checkpoint

SEARCH = Search(
    name="stacked",
    task="toy",
    title="A toy.",
    space=Space(
        model="mlp", inputs="image", hidden_features=Choice(4, 6), loss="cross_entropy", optimizer="adam",
        learning_rate=Choice(1e-3, 3e-3, 1e30), batch_size=16,
    ),
    metric="val_loss",
    mode="min",
    points_to_evaluate=({"model": "logistic_regression", "inputs": "image"},),
    presets={"laptop": Preset(epochs=2, sampler="grid", scheduler="asha", grace_epochs=1)},
)  # fmt: skip
SUMMED_OTHERWISE = ("epoch_seconds", "train_loss", "train_accuracy")


def of_kind(folder: Path, kind: str) -> list[Any]:
    return [record for record in read_records(folder) if record.kind == kind]


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.ray
def test_trials_of_a_search_are_the_same_together_and_one_by_one(ray_session, make_dataset, tmp_path) -> None:
    data = make_dataset(events=96)
    one_by_one = SearchOptions(data=data, storage=tmp_path / "alone", fuse="off", trials=6)
    together = SearchOptions(data=data, storage=tmp_path / "together", fuse="3", trials=6)
    run_search(prepare(SEARCH, one_by_one), console=Console(quiet=True))
    known = {(one.trial_id, one.epoch): one for one in of_kind(tmp_path / "alone/stacked", "epoch_finished")}
    folder = tmp_path / "together/stacked"

    def check(result: Any) -> None:
        assert [one.trial_id for one in of_kind(folder, "trial_started")] == [f"t{k:04d}" for k in range(7)]
        ends = {one.trial_id: one for one in of_kind(folder, "trial_finished")}
        assert ends.keys() == {f"t{place:04d}" for place in range(7)}
        failed = [one for one in ends.values() if one.status == "failed"]
        assert [result.state.trials[one.trial_id].started.params["learning_rate"] for one in failed] == [
            1e30,
            1e30,
        ]
        assert all("NonFiniteLoss" in one.cause for one in failed)
        done = of_kind(folder, "epoch_finished")
        assert len(done) == len({(one.trial_id, one.epoch) for one in done}) >= 6
        for one in done:  # which of them ASHA stops depends on who came first
            if (one.trial_id, one.epoch) in known:
                expected = known[one.trial_id, one.epoch].metrics
                own = {key: one.metrics[key] for key in SUMMED_OTHERWISE if key in one.metrics}
                assert one.metrics == {**expected, **own}
                if "train_loss" in own:  # a fitted model has none
                    assert own["train_loss"] == pytest.approx(expected["train_loss"], rel=0, abs=1e-6)
        for name, trial in result.state.trials.items():
            if trial.history:
                kept = load_checkpoint(folder / "trials" / name / BEST)["metrics"]
                assert kept == trial.best("val_loss", "min")

    said = io.StringIO()
    plan = prepare(SEARCH, together)
    assert (
        "networks of one architecture are trained together as --fuse says" in dict(plan.rows())["resources"]
    )
    result = run_search(plan, console=Console(file=said, width=200))
    check(result)
    assert sorted(len(one.trial_ids) for one in of_kind(folder, "trials_fused")) == [3, 3]
    client = open_client(result.tracking_uri)
    parent = client.get_run(str(result.parent_run_id))
    runs = client.search_runs([parent.info.experiment_id])
    statuses = [run.info.status for run in runs]
    assert (len(statuses), statuses.count("FAILED")) == (8, 2)
    assert not {"RUNNING", "SCHEDULED"} & {*statuses}

    # Killed after the second epoch that was recorded: the checkpoints of others may be ahead of the journal.
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kept = [place for place, line in enumerate(lines) if json.loads(line)["kind"] == "epoch_finished"][1]
    (folder / "journal.jsonl").write_bytes(b"".join(lines[: kept + 1]))
    check(run_search(prepare(SEARCH, together), resume=True, console=Console(quiet=True)))
