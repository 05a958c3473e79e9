"""Every benchmark runs and tells what it promises; at these sizes its figures mean nothing."""

import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.facts import tells

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("HEP_RAY_TEST_DATA") or REPOSITORY.parent / "shared" / "data")


def run(script, *flags):
    command = [sys.executable, REPOSITORY / "benchmarks" / f"{script}.py", *map(str, flags)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": "local"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def lines(script, *flags):
    """What a benchmark prints at this size."""
    done = run(script, *flags)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in found:
        assert line["what"].startswith(script)
        assert line["ratio"] > 0
        assert {"ours", "peer"} <= line.keys()
    return found


def test_make_bench_runs_every_benchmark_and_tells_what_failed(monkeypatch, capsys):
    together = importlib.import_module("benchmarks.all")
    scripts = {path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")}
    assert {script for script, *_ in together.PROGRAMS} == scripts - {
        *("all", "gpu", "lcbench", "rivals", "rival_methods")
    }
    monkeypatch.setattr(
        together, "PROGRAMS", (("many_nodes", "--unknown"), ("sparse_images", "--events", "64"))
    )
    monkeypatch.setattr(sys, "argv", ["all.py"])
    assert together.main() == 1
    assert tells(capsys.readouterr().out, "failed: many_nodes --unknown", "sparse_images", "ratio")


@pytest.mark.slow
def test_trial_overhead():
    (line,) = lines("trial_overhead", "--trials", 5, "--peer-trials", 1)
    assert line["ratio"] == pytest.approx(line["peer"] / line["ours"], rel=0.1)
    assert line["more_than_optuna_loop"] == pytest.approx(line["ours"] - line["optuna_loop"], abs=0.002)
    assert 0 < line["ours_marginal"] < line["ours"]  # the whole search has the start of its workers in it


@pytest.mark.slow
def test_baselines():
    (line,) = lines("baselines", "--trials", 2, "--events", 1000)
    assert line["ratio"] == pytest.approx(line["peer"] / line["ours"], abs=0.02)
    assert (
        line["cpu_ours"] > 1
    )  # of Python, torch and Ray: it counts processes that the search leaves behind too


@pytest.mark.slow
@pytest.mark.ci
def test_fused_trials():
    (line,) = lines("fused_trials", "--shape", "2x16", "--trials", 3, "--events", 600, "--rounds", 1)

    assert line["ratio"] > 0
    assert line["validation_losses_equal"]
    assert line["largest_difference_of_train_loss"] < 1e-6


@pytest.mark.slow
@pytest.mark.ci
def test_shift_test():
    """`make bench` types no flag that names a dataset."""
    done = run("shift_test", "--events", 300, "--samples", 10, "--shifts", "0,1")
    assert done.returncode == 0, done.stderr
    none, large = map(json.loads, done.stdout.splitlines())
    assert (none["shift"], large["shift"], large["warned"], large["named"]) == (0, 1, 1, 1)
    assert none["warned"] < 0.5


@pytest.mark.slow
@pytest.mark.ci
def test_many_nodes():
    flags = ("--trials", 3, 6, "--epochs", 2, "--nodes", 1, "--in-memory", "--kinds", "random/none")
    done = run("many_nodes", *flags)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["workers"], line["begun"], line["results"]) == (8, [3, 6], [6, 12])
    slope = math.log(line["ours"][1] / line["ours"][0]) / math.log(2)
    assert line["exponent"] == pytest.approx(slope, abs=0.02)


@pytest.mark.slow
@pytest.mark.ci
def test_epoch_overhead():
    cnn, mlp = lines("epoch_overhead", "--images", 100, "--rows", 1024, "--rounds", 1, "--threads", 1)
    for line in (cnn, mlp):
        assert line["ratio"] == pytest.approx(line["peer"] / line["ours"], rel=0.1)
        assert line["ratio_to_data_loader"] == pytest.approx(line["data_loader"] / line["ours"], rel=0.1)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("sampler", ["tpe", "curves"])
def test_search_cost(tmp_path, sampler):
    """A grid of two configurations of three epochs: 0.99 is the best, and is seen in the first's third epoch."""
    table = tmp_path / "curves.csv"
    table.write_text(
        "learning_rate,cpu_seconds,epoch_1,epoch_2,epoch_3\n0.1,0.1,0.7,0.8,0.99\n0.2,0.1,0.5,0.6,0.7\n"
    )
    table.with_suffix(".json").write_text(json.dumps({"validation_events": {"a": 100, "b": 100}}))
    (line,) = lines("search_cost", "--seeds", 1, "--grace", 3, "--sampler", sampler, "--table", table)
    assert line["peer"] == 6
    # Two workers take a trial each and none is stopped before its third epoch: theirs end as the fifth and the sixth.
    # Learning curves train them epoch by epoch, in whatever order.
    assert line["ours"] in ({5, 6} if sampler == "tpe" else {3, 4, 5, 6})
    assert line["ratio"] == pytest.approx(6 / line["ours"], abs=0.01)
    assert line["best"] == 0.99


@pytest.mark.slow
def test_search_efficiency():
    if not (DATA / "lcbench").is_dir():
        pytest.skip("the surrogate of LCBench is not there")
    (line,) = lines(
        "search_efficiency", "--tasks", 3945, "--seeds", 1, "--budgets", 104, "--rivals", "random"
    )
    assert (line["what"], line["budget"], line["tasks"]) == ("search_efficiency", 104, [3945])
    assert line["peer_is"] in {"random", "random_asha"}
    assert line["ratio"] == pytest.approx(line["ours"] / line["peer"], rel=0.05)
    assert line["interval"][0] <= line["ratio"] <= line["interval"][1]
    assert 1 <= line["rank"] <= 3


@pytest.mark.slow
def test_search_efficiency_says_where_its_data_are_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("HEP_RAY_TEST_DATA", str(tmp_path))
    done = run("search_efficiency")
    assert done.returncode == 2
    assert tells(done.stderr, tmp_path, "lcbench/model.onnx")


def test_the_learning_curves_are_those_of_a_whole_grid():
    folder = REPOSITORY / "benchmarks" / "grid"
    made = json.loads((folder / "learning_curves.json").read_text())
    header, *rows = (folder / "learning_curves.csv").read_text().splitlines()
    varied = [name for name in header.split(",") if name in made["space"]]
    values = math.prod(len(made["space"][name].split(" | ")) for name in varied)
    assert len({tuple(row.split(",")[: len(varied)]) for row in rows}) == len(rows) == values


def test_gpu_is_refused_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("gpu")
    assert done.returncode == 2
    assert tells(done.stderr, "Infeasible", "NVIDIA GPU")


@pytest.mark.slow
def test_gpu_without_one():
    tiny = ("--device", "cpu", "--events", 100, "--batch-size", 50, "--rounds", 1)
    habits = ("plain", "bfloat16", "host_fed")  # to compile takes half a minute on a processor
    *trials, one, two = lines("gpu", *tiny, "--models", "cnn", "--together", 1, 2, "--habits", *habits)
    assert [line["what"].split(", ")[2] for line in trials] == list(habits)
    assert trials[0]["over_ours_plain"] == 1
    assert [line["trials"] for line in (one, two)] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("ddp_scaling", ("--events", 300, "--epochs", 2)),
        ("ingest", ("--images", 500, "--rows", 5000, "--large", 500)),
        ("memory", ("--events", 45056)),  # a tenth of them are the eight row groups that a stream holds
        ("predict", ("--events", 600, "--shard", 300, "--repeats", 1, "--workers", 0)),
        ("sparse_images", ("--events", 512, "--occupancies", 0.1)),
    ],
)
def test_the_others_tell_what_they_promise(script, flags):
    assert lines(script, *flags)


@pytest.mark.slow
def test_ingest_to_batches_compares_each_form_with_the_scan_of_its_own_shards():
    (line,) = lines("ingest_to_batches", "--events", 8192)
    for form, over in line["over_scan"].items():
        measured = line["events_per_s"][form]
        assert over["streaming"] == pytest.approx(measured["streaming"] / measured["scan"], abs=0.01)
    assert line["ratio"] == line["over_scan"]["whole"]["streaming"]


def test_hours_of_a_cluster_are_those_of_its_slowest_part(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    scale_model = importlib.import_module("scale_model")
    cluster = scale_model.Cluster(nodes=2, cores=10, gpus=4, storage=2e9, network=1e10, dollars=30.0)
    rates = scale_model.Rates(convert=1e-4, read=1e-5, bytes=1000.0, train=1e-3, parameters=5_000_000)
    # Twenty cores need 5 s for a million events of 0.1 ms; a gigabyte takes 0.25 s at 4 GB/s.
    assert scale_model.conversion_seconds(1e6, rates, cluster) == pytest.approx(5.0)
    slow = dataclasses.replace(cluster, storage=5e7)
    assert scale_model.conversion_seconds(1e6, rates, slow) == pytest.approx(10.0)
    epoch = scale_model.epoch_seconds(1e6, rates, cluster, batch=250)
    # 8 GPUs: 125 s of computing; 500 steps exchange 2 · 7/8 · 20 MB at 10 GB/s, 3.5 ms each; ten cores decode in 1 s.
    expected = {"compute": 125.0, "exchange": 1.75, "read": 0.25, "decode": 1.0, "whole": 126.75}
    assert epoch == pytest.approx(expected)
    assert scale_model.epoch_seconds(1e6, rates, dataclasses.replace(cluster, storage=1e6), batch=250)[
        "whole"
    ] == pytest.approx(500.0)


@pytest.mark.slow
def test_scale_model():
    (line,) = lines("scale_model", "--measured", 4096, "--gpus", 8, 64)
    assert line["ratio"] == pytest.approx(line["ours"] / line["peer"], rel=0.02)
    small, large = line["forecasts"]
    assert (small["nodes"], large["nodes"]) == (1, 8)
    assert small["epoch_hours"] > large["epoch_hours"] > 0
