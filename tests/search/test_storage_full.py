"""A full or read-only disk, refused by the kernel itself: told when it happens, and what was finished stays whole."""

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
from rich.console import Console

from hep_ray.errors import StorageError
from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import named_when_full, run_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import LogUniform
from hep_ray.search.plan import prepare
from hep_ray.search.room import check_room
from hep_ray.search.space import Space
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.mlflow import PATIENCE
from hep_ray.training.checkpoint import load_checkpoint
from tests.facts import raises

QUIET = Console(quiet=True)
MEBIBYTE = 2**20
LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from hep_ray.errors import StorageError
from hep_ray.tracking.journal import Journal, read_records
from hep_ray.tracking.records import EpochFinished
from hep_ray.training.checkpoint import load_checkpoint, save_checkpoint
folder = Path(sys.argv[1])
save_checkpoint(folder / "last.pt", {"weights": torch.zeros(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
with Journal(folder) as journal:
    try:
        for epoch in range(1, 1000):
            journal.append(EpochFinished(time=1.0, trial_id="t0000", metrics={"epoch": epoch}))
    except StorageError as fault:
        print(fault)
    try:
        save_checkpoint(folder / "last.pt", {"weights": torch.ones(10_000)})
    except OSError as fault:
        print(fault.strerror)
    kept = len(journal)
    assert kept == len(read_records(folder)) == epoch - 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
with Journal(folder) as journal:
    assert len(journal) == kept
assert torch.equal(load_checkpoint(folder / "last.pt")["weights"], torch.zeros(10))
assert not list(folder.glob(".*"))
"""


def test_a_record_or_a_checkpoint_for_which_there_is_no_room_leaves_what_was_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    record, checkpoint = done.stdout.splitlines()
    assert record.startswith("cannot write to ")
    assert "File too large" in record
    assert "make room, then resume" in record
    assert checkpoint == "File too large"


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, with the command that makes it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], check=False)
    if made.returncode != 0:
        pytest.skip("this system does not let root mount a file system")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)


SEARCH = Search(
    name="full",
    task="toy",
    title="A toy.",
    space=Space(
        model="cnn", loss="hinge", optimizer="adam", learning_rate=LogUniform(1e-4, 1e-2), batch_size=16
    ),
    presets={
        "smoke": Preset(trials=4, epochs=3, scheduler="none"),
    },
)


@pytest.mark.slow
@pytest.mark.ray
def test_a_disk_that_fills_up_ends_the_search_with_all_kept_and_it_goes_on_when_there_is_room(
    ray_session, make_dataset, disk, monkeypatch
):
    monkeypatch.setenv(PATIENCE, "1")
    folder, _ = disk
    options = SearchOptions(data=make_dataset(events=96, size=28), storage=folder / "runs", preset="smoke")
    plan, ballast = prepare(SEARCH, options), folder / "ballast"
    done = threading.Event()

    def fill():
        while not done.wait(0.05):
            if (plan.folder / "journal.jsonl").exists() and len(read_records(plan.folder)) > 4:
                with ballast.open("wb", buffering=0) as file:
                    try:
                        while file.write(b"\0" * 65536):
                            pass
                    except OSError:
                        return

    filler = threading.Thread(target=fill)
    filler.start()
    try:
        with pytest.raises(StorageError, match=r"make room|No space left"):
            run_search(plan, console=QUIET)
    finally:
        done.set()
        filler.join()
    before = read_records(plan.folder)
    assert not [record for record in before if record.kind == "trial_finished" and record.status == "failed"]
    for checkpoint in plan.folder.rglob("*.pt"):
        load_checkpoint(checkpoint)

    ballast.unlink()
    result = run_search(prepare(SEARCH, options), resume=True, console=QUIET)
    assert result.untracked is None
    assert [trial.status for trial in result.state.trials.values()] == ["completed"] * 4
    assert [len(trial.history) for trial in result.state.trials.values()] == [3] * 4
    assert read_records(plan.folder)[: len(before)] == before


@pytest.mark.ray
def test_no_room_or_no_leave_to_write_is_told_before_a_trial_starts(
    ray_session, make_dataset, disk, tmp_path
):
    folder, make_read_only = disk
    data = make_dataset(events=96, size=28)
    with raises(StorageError, folder, "10 kept models", "50 MB"):
        check_room(folder, 10 * MEBIBYTE, 2)
    with (folder / "ballast").open("wb") as file:
        file.write(np.zeros(40 * MEBIBYTE, np.uint8).tobytes())
    with raises(StorageError, folder / "runs", "33 MB"):
        prepare(SEARCH, SearchOptions(data=data, storage=folder / "runs", preset="smoke"))
    make_read_only()
    with raises(StorageError, folder / "runs", "Read-only file system"):
        prepare(SEARCH, SearchOptions(data=data, storage=folder / "runs", preset="smoke"))


def test_room_is_named_however_deep_the_fault(tmp_path, monkeypatch):
    fault = sqlite3.OperationalError("database or disk is full")
    fault.sqlite_errorcode = sqlite3.SQLITE_FULL
    with raises(StorageError, tmp_path, "disk is full"), named_when_full(tmp_path):
        raise RuntimeError("a trial failed") from fault
    with raises(RuntimeError, "anything else"), named_when_full(tmp_path):
        raise RuntimeError("anything else")

    def refuse(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    # What comes from another process is text: then the storage itself says that it is full.
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with raises(StorageError, tmp_path, "No space left"), named_when_full(tmp_path):
        raise RuntimeError("anything else")
