"""Fits by processes of this machine: when, that they are those of this process, and what one that is lost leaves."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.stream import load_resident
from hep_ray.plugins import Plugin
from hep_ray.search import local_fits
from hep_ray.search.local_fits import fit_here, fit_processes, fit_trials
from hep_ray.search.options import SearchOptions
from hep_ray.search.recorder import Recorder
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.sampler import FixedList
from hep_ray.search.state import LOG
from hep_ray.search.trial import METRICS, TrialJob, TrialRun
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import TrialLost, TrialStarted
from hep_ray.training.checkpoint import BEST

TREES = {"model": "gradient_boosting", "trees": 5}
LONG = {"model": "gradient_boosting", "trees": 100_000}
BAD = {"model": "gradient_boosting", "inputs": "absent"}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    random, labels = np.random.default_rng(0), np.arange(300) % 2
    schema = EventSchema(task="toy", columns=(Column(name="x", shape=(2,)),), classes=("b", "s"))
    x = (random.normal(size=(300, 2)) + labels[:, None]).astype(np.float32)
    with ShardWriter(tmp_path / "d", schema, source={}) as writer:
        writer.write({"event_id": [f"e{row}" for row in range(300)], "label": labels, "x": x})
    return Dataset.open(tmp_path / "d")


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another test of this process may have joined one, and this machine may have noted one."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.mark.usefixtures("no_cluster")
def test_fits_alone_and_few_events_need_no_ray(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = dataset.manifest
    options = SearchOptions(data=dataset.folder)

    def here(*params, events=manifest, own=(), **given):  # type: ignore[no-untyped-def]
        return fit_here(params or (TREES,), [events], dataclasses.replace(options, **given), own)

    assert here()
    assert here(TREES, {"model": "logistic_regression"}, cpus_per_trial=1, cache="resident")
    assert not here(TREES, {"model": "mlp"})
    assert not here(own=(Plugin(module="own", path="own.py", sha256="f" * 64),))
    for asked in ({"workers_per_trial": 2}, {"gpus_per_trial": 0.5}, {"cpus_per_trial": 4096}):
        assert not here(**asked)
    for asked in ({"cache": "streaming"}, {"memory_budget": 1.0}, {"readers": 1}):
        assert not here(**asked)
    held = sum(manifest.rows(split) for split in ("train", "val", "test")) * manifest.event_bytes
    for bytes_, few in ((held, True), (held - 1, False)):
        monkeypatch.setattr(local_fits, "LOCAL_BYTES", bytes_)
        assert here() == few


@pytest.mark.usefixtures("no_cluster")
def test_a_cluster_that_is_named_or_noted_is_joined(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here() -> bool:
        return fit_here([TREES], [dataset.manifest], SearchOptions(data=dataset.folder), ())

    for named, alone in (("local", True), ("auto", False), ("10.0.0.1:6379", False)):
        monkeypatch.setenv("RAY_ADDRESS", named)
        assert here() == alone
    monkeypatch.delenv("RAY_ADDRESS")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379")
    assert not here()


def test_fits_are_those_of_one_process_and_the_one_whose_process_is_lost_is_left(
    dataset: Dataset, tmp_path: Path
) -> None:
    job = TrialJob(
        str(tmp_path / "trials"), dataset.schema, load_resident(dataset, here=True), 1, "val_auc", "max", 1, gpu=False
    )  # fmt: skip
    tried = [LONG, TREES, {"model": "logistic_regression"}, BAD, {**TREES, "shrinkage": 0.3}]
    runs = [
        TrialStarted(time=0, trial_id=f"t{place}", number=place, params=params, seed=place)
        for place, params in enumerate(tried)
    ]

    def kill() -> None:
        log = job.folder("t0") / LOG
        while not log.exists() or "in process" not in log.read_text():
            time.sleep(0.05)
        while not (job.folder("t4") / BEST).exists():
            time.sleep(0.05)
        os.kill(int(log.read_text().split("in process ")[1].split()[0]), signal.SIGKILL)

    with Journal(tmp_path) as journal:
        recorder = Recorder(journal, "val_auc", "max", 1, tmp_path / "trials")
        searcher = FixedList(runs, recorder.state, recorder.write)
        plan = ResourcePlan(
            trials=5, concurrent=2, cpus_per_trial=1, gpus_per_trial=0, cpus=2, gpus=0, here=True
        )
        threading.Thread(target=kill, daemon=True).start()
        with fit_processes(plan) as lines:
            assert len(lines) == 2
            assert fit_trials(lines, job, recorder, searcher)
        state = recorder.state
    assert [trial.status for trial in state.trials.values()] == [
        "running",
        *["completed"] * 2,
        "failed",
        "completed",
    ]
    assert [one.trial_id for one in state.records if isinstance(one, TrialLost)] == ["t0"]
    assert "absent" in state.trials["t3"].finished.cause
    for name in ("t1", "t2", "t4"):
        run = state.trials[name].started
        config = {"trial_id": f"again_{name}", "params": run.params, "seed": run.seed}
        job.folder(config["trial_id"]).mkdir(parents=True)
        alone = dict(TrialRun(job, config, "cpu").report()[METRICS])
        told = state.trials[name].history[0]
        assert {key: value for key, value in told.items() if "seconds" not in key} == {
            key: value for key, value in alone.items() if "seconds" not in key
        }


SEARCH = """
from hep_ray import Choice, Preset, Search, Space, main

space = Space(model="gradient_boosting", trees=100_000, leaves=Choice(4, 8))
presets = {"smoke": Preset(epochs=1, trials=2, sampler="random", scheduler="none")}
main(Search("trees", task="toy", title="Trees.", space=space, presets=presets, metric="val_auc"))
"""


def lives(process: int) -> bool:
    """Whether a process is there that has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("cpus", [1, 2])
def test_copies_of_a_driver_hold_none_of_its_files_and_end_with_it(
    dataset: Dataset, tmp_path: Path, cpus: int
) -> None:
    # A fit of one core is a copy of the driver, one of two a process of its own.
    (tmp_path / "trees.py").write_text(SEARCH)
    words = ["trees.py", "--data", str(dataset.folder), "--preset", "smoke", "--cpus-per-trial", str(cpus)]
    driver = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, env={**os.environ, "RAY_ADDRESS": "local"}, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        until, fits = time.monotonic() + 120, []
        while len(fits) < 2 // cpus:
            assert driver.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
            logs = [one.read_text() for one in (tmp_path / "runs/trees/trials").glob(f"*/{LOG}")]
            fits = [int(one.split("in process ")[1].split()[0]) for one in logs if "in process" in one]
        for fit in fits:
            told = Path(f"/proc/{fit}/cmdline").read_text()
            assert ("trees.py" in told, "fit_process" in told) == (cpus == 1, cpus == 2)
            held = [str(one.readlink()) for one in Path(f"/proc/{fit}/fd").iterdir()]
            assert any(LOG in one for one in held)
            assert not [one for one in held if any(name in one for name in ("journal", "optuna", "mlflow"))]
    finally:
        driver.kill()
        driver.wait()
    until = time.monotonic() + 30
    while any(lives(fit) for fit in fits):
        assert time.monotonic() < until
        time.sleep(0.1)


HERE = """
import io, sys, threading
from contextlib import redirect_stderr
from hep_ray import Choice, Preset, Search, Space, run

space = Space(model="gradient_boosting", trees=5, leaves=Choice(4, 8))
presets = {"smoke": Preset(epochs=1, trials=2, sampler="random", scheduler="none")}
search = Search("trees", task="toy", title="Trees.", space=space, presets=presets, metric="val_auc")
with redirect_stderr(io.StringIO()):
    result = run(search, data=sys.argv[1], preset="smoke")
assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
assert not [one for one in result.state.records if one.kind == "trial_lost"]
"""


def test_a_copy_has_streams_of_its_own_whatever_those_of_the_driver_are(
    dataset: Dataset, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HERE, str(dataset.folder)], cwd=tmp_path, env={**os.environ, "RAY_ADDRESS": "local"},
        capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_a_plan_for_them_no_process_is_started() -> None:
    plan = ResourcePlan(trials=5, concurrent=2, cpus_per_trial=1, gpus_per_trial=0, cpus=2, gpus=0)
    with fit_processes(plan) as lines:
        assert lines == []
