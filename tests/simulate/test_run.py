"""Division of the work, and what is kept of a simulation that was interrupted."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hep_ray.config import Config
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import Infeasible, Interrupted, InvalidConfig, SimulationFailed, StorageError
from hep_ray.simulate import Simulation, run
from tests.facts import raises

SCHEMA = EventSchema(task="dice", columns=(Column(name="pt", unit="GeV"),), classes=("odd", "even"))


class DiceConfig(Config):
    sides: int = 6


class Dice:
    """A simulation that costs nothing, counts its calls and can be told to fail."""

    def __init__(self) -> None:
        self.calls = 0
        self.fail_at: dict[int, BaseException] = {}

    def __call__(
        self, config: DiceConfig, class_name: str, events: int, seed: np.random.SeedSequence
    ) -> dict[str, Any]:
        self.calls += 1
        if self.calls in self.fail_at:
            raise self.fail_at[self.calls]
        return {"pt": np.random.default_rng(seed).random(events, dtype=np.float32) * np.float32(config.sides)}


@pytest.fixture
def dice(monkeypatch: pytest.MonkeyPatch) -> Dice:
    """The simulation `dice`, whose chunks of 5 events run in this process one after the other."""
    generate = Dice()

    def in_turn(work: Callable[[Any], Any], pieces: Iterable[Any], workers: int | None) -> Iterator[Any]:
        for piece in pieces:
            yield piece, work(piece)

    known = {"dice": Simulation("dice", DiceConfig, SCHEMA, generate, chunk=5)}
    monkeypatch.setattr(run, "SIMULATIONS", known)
    monkeypatch.setattr(run, "in_tasks", in_turn)
    return generate


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def interrupt(tmp_path: Path, dice: Dice, name: str = "out", **changes: Any) -> None:
    """Simulate 8 chunks and press Ctrl-C in the fourth."""
    dice.fail_at = {dice.calls + 4: KeyboardInterrupt()}
    with raises(Interrupted, "15 of 40"):
        run.simulate("dice", 40, **{"seed": 7, "out": tmp_path / name, **changes})


def test_a_resumed_simulation_makes_only_what_is_missing_and_the_same_bytes(
    tmp_path: Path, dice: Dice, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run.simulate("dice", 40, 7, tmp_path / "whole")
    interrupt(tmp_path, dice)
    assert not (tmp_path / "out").exists()
    before = dice.calls
    resumed = run.simulate("dice", 40, 7, tmp_path / "out", progress=True)
    assert dice.calls - before == 8 - 3
    assert "3 of 8 chunks (15 of 40 events)" in " ".join(capsys.readouterr().err.split())
    assert resumed.fingerprint == whole.fingerprint
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert hidden(tmp_path) == []


def test_the_command_line_says_what_to_type_after_ctrl_c(tmp_path: Path, dice: Dice) -> None:
    from hep_ray.cli import app

    dice.fail_at = {2: KeyboardInterrupt()}
    words = f"data simulate dice --events 40 --seed 7 --out {tmp_path / 'out'} --set sides=20 --workers 1"
    words += " --split 50/25/25"
    result = CliRunner().invoke(app, words.split())
    assert isinstance(result.exception, Interrupted)
    again = str(result.exception).partition("hep-ray ")[2]
    before = dice.calls
    assert CliRunner().invoke(app, again.split()).exit_code == 0
    assert dice.calls - before == 8 - 1
    assert Manifest.load(tmp_path / "out").split_rule.train == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"settings": {"sides": 20}},
        {"chunk": 4},
        {"out": "elsewhere"},
    ],
    ids=str,
)
def test_another_command_neither_uses_nor_touches_what_is_left(
    tmp_path: Path, dice: Dice, changes: dict[str, Any]
) -> None:
    interrupt(tmp_path, dice)
    (left,) = hidden(tmp_path)
    files = bytes_of(left)
    if "out" in changes:
        changes = {"out": tmp_path / changes["out"]}
    before = dice.calls
    run.simulate("dice", 40, **{"seed": 7, "out": tmp_path / "out", **changes})
    assert dice.calls - before == (10 if "chunk" in changes else 8)
    assert hidden(tmp_path) == [left]
    assert bytes_of(left) == files


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"odd/7", b"odd/8")),
        lambda path: path.rename(path.with_suffix(".partial")),
    ],
    ids=["truncated", "empty", "altered", "unfinished"],
)
def test_a_spoilt_chunk_is_made_again(tmp_path: Path, dice: Dice, spoil: Callable[[Path], Any]) -> None:
    whole = run.simulate("dice", 40, 7, tmp_path / "whole")
    interrupt(tmp_path, dice)
    (left,) = hidden(tmp_path)
    spoil(next(path for path in left.iterdir() if path.name.startswith("0-000000")))
    before = dice.calls
    assert run.simulate("dice", 40, 7, tmp_path / "out").fingerprint == whole.fingerprint
    assert dice.calls - before == 8 - 2


def test_a_refused_setting_leaves_nothing(tmp_path: Path, dice: Dice) -> None:
    dice.fail_at = {3: SimulationFailed("no such die")}
    with pytest.raises(SimulationFailed):
        run.simulate("dice", 40, 7, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_that_mending_the_machine_ends_keeps_the_chunks(
    tmp_path: Path, dice: Dice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Iterator[Any]:
        raise Infeasible("each worker takes 1 CPU; asked for 99 of the 2 in the cluster")

    interrupt(tmp_path, dice)
    (left,) = hidden(tmp_path)
    files = bytes_of(left)
    monkeypatch.setattr(run, "in_tasks", refuse)
    with pytest.raises(Infeasible):
        run.simulate("dice", 40, 7, tmp_path / "out", workers=99)
    assert bytes_of(left) == files


def test_two_processes_do_not_simulate_the_same_dataset(
    tmp_path: Path, dice: Dice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*_: object) -> Iterator[Any]:
        with raises(StorageError, tmp_path / "out", "process"):
            run.simulate("dice", 40, 7, tmp_path / "out")
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "in_tasks", meanwhile)
    with pytest.raises(Interrupted):
        run.simulate("dice", 40, 7, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_occupied_folder_is_refused_before_any_event(tmp_path: Path, dice: Dice) -> None:
    run.simulate("dice", 40, 7, tmp_path / "out")
    calls = dice.calls
    with raises(StorageError, tmp_path / "out", "overwrite"):
        run.simulate("dice", 40, 8, tmp_path / "out")
    assert dice.calls == calls
    assert run.simulate("dice", 40, 8, tmp_path / "out", overwrite=True).source["seed"] == 8


def test_the_default_chunk_is_the_simulation_s_own(tmp_path: Path, dice: Dice) -> None:
    assert run.simulate("dice", 40, 7, tmp_path / "out").source["chunk"] == 5


def test_classes_share_the_events_as_the_simulation_says(
    tmp_path: Path, dice: Dice, monkeypatch: pytest.MonkeyPatch
) -> None:
    uneven = Simulation("dice", DiceConfig, SCHEMA, dice, shares=(1, 3), chunk=5)
    monkeypatch.setattr(run, "SIMULATIONS", {"dice": uneven})
    assert run.simulate("dice", 60, 7, tmp_path / "out").class_counts() == {"odd": 15, "even": 45}


def test_what_rounding_leaves_goes_to_the_classes_that_lost_most() -> None:
    # 10 events as 36.5 : 40 : 23.5 are 3.65, 4.0 and 2.35: one is left, for the first class.
    chunks = run.plan(10, (36.5, 40, 23.5), 3)
    assert [(one.label, one.number, one.events) for one in chunks] == [
        *((0, 0, 3), (1, 0, 3), (2, 0, 2)),
        *((0, 1, 1), (1, 1, 1)),
    ]


@given(
    events=st.integers(10, 5000),
    shares=st.lists(st.floats(0.5, 20), min_size=2, max_size=6),
    chunk=st.integers(1, 300),
)
def test_a_plan_gives_every_event_once(events: int, shares: list[float], chunk: int) -> None:
    try:
        chunks = run.plan(events, shares, chunk)
    except InvalidConfig:
        assert events * min(shares) / sum(shares) < 1
        return
    assert sum(one.events for one in chunks) == events
    assert len({one.name for one in chunks}) == len(chunks)
    for label, share in enumerate(shares):
        own = [one for one in chunks if one.label == label]
        assert abs(sum(one.events for one in own) - events * share / sum(shares)) < 1
        assert [one.number for one in own] == list(range(len(own)))
        assert all(one.events == chunk for one in own[:-1])
        assert 1 <= own[-1].events <= chunk


def test_a_class_without_events_is_refused() -> None:
    with raises(InvalidConfig, 10, "99:1"):
        run.plan(10, (99, 1), 5)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_killed_simulation_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc")
    code = (
        "import sys; from hep_ray.simulate.run import simulate; "
        f"simulate('mbh_sph', 80, 3, {str(tmp_path / 'out')!r}, workers=1, chunk=5)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "RAY_ADDRESS": "local"})
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".out.*.chunks/*.arrow")):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    kept = list(tmp_path.glob(".out.*.chunks/*.arrow"))
    assert 1 <= len(kept) < 16
    assert not (tmp_path / "out").exists()
    resumed = run.simulate("mbh_sph", 80, 3, tmp_path / "out", workers=2, chunk=5)
    whole = run.simulate("mbh_sph", 80, 3, tmp_path / "whole", workers=2, chunk=5)
    assert resumed.fingerprint == whole.fingerprint
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert hidden(tmp_path) == []
