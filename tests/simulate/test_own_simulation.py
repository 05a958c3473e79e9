"""A simulation and a reader of a user's own file, by `--plugin`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hep_ray import plugins
from hep_ray.conversion.convert import convert
from hep_ray.conversion.readers import READERS
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Manifest
from hep_ray.sources import digest
from tests.facts import tells

SIMULATION = """
import numpy as np
from hep_ray.config import Config
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.simulate import simulation

SCHEMA = EventSchema(task="bumps", columns=(Column(name="x", shape=(2,)),), classes=("low", "high"), signal="high")

class BumpsConfig(Config):
    gap: float = 1.0

@simulation("bumps", BumpsConfig, SCHEMA, chunk=50)
def bumps(config, class_name, events, seed):
    \"\"\"Two bumps.\"\"\"
    values = np.random.default_rng(seed).normal(config.gap * (class_name == "high"), 1, (events, 2))
    return {"x": values.astype(np.float32)}
"""
READER = """
from hep_ray.conversion.readers import reader
from hep_ray.config import Config

@reader("nothing", Config)
def open_nothing(path, options):
    raise SystemExit(7)
"""


def hep_ray(place: Path, *words: str, code: int = 0) -> str:
    typed = (sys.executable, "-c", "from hep_ray.cli import main; main()", *words)
    done = subprocess.run(typed, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.ci
def test_a_reader_and_a_simulation_of_ones_own_are_known_by_their_file(tmp_path: Path) -> None:
    (tmp_path / "my_readers.py").write_text(READER)
    (tmp_path / "events.bin").write_text("")
    words = (
        "data",
        "convert",
        "events.bin",
        "events.bin",
        "--reader",
        "nothing",
        "--classes",
        "a,b",
        "--out",
        "d",
    )
    told = hep_ray(tmp_path, *words, code=2)
    assert tells(told, "'nothing'")
    hep_ray(tmp_path, *words, "--plugin", "my_readers.py", code=7)

    assert "nothing" in hep_ray(tmp_path, "components", "reader", "--plugin", "my_readers.py")

    (tmp_path / "my_bumps.py").write_text(SIMULATION)
    listing = ("data", "simulate", "--list")
    assert "Two bumps." not in hep_ray(tmp_path, *listing)
    assert "Two bumps." in hep_ray(tmp_path, *listing, "--plugin", "my_bumps.py")


@pytest.mark.slow
def test_a_simulation_of_ones_own_runs_in_every_worker(tmp_path: Path) -> None:
    scripts = tmp_path / "elsewhere"  # where no worker would find the file by itself
    scripts.mkdir()
    (scripts / "my_bumps.py").write_text(SIMULATION)
    words = ("--events", "200", "--out", "d", "--plugin", "elsewhere/my_bumps.py", "--set", "gap=2")
    hep_ray(tmp_path, "data", "simulate", "bumps", *words)
    manifest = Manifest.load(tmp_path / "d")
    assert sum(manifest.split_counts().values()) == 200
    assert manifest.source["own_code"] == {"my_bumps": digest(SIMULATION)}


COMPONENTS = Path(__file__).parents[2] / "docs/howto/components.md"


@pytest.fixture
def forget() -> Iterator[None]:
    """What a test registered is gone after it."""
    assert len(READERS)
    entries, named, searched = dict(READERS._entries), dict(plugins._NAMED), list(sys.path)
    yield
    READERS._entries, plugins._NAMED, sys.path[:] = entries, named, searched
    sys.modules.pop("my_raw", None)


@pytest.mark.usefixtures("forget")
def test_a_dataset_tells_which_file_read_its_events_and_when_that_has_changed(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", COMPONENTS.read_text(), re.DOTALL)
    text = next(block for block in blocks if '@reader("raw"' in block)
    file = tmp_path / "my_raw.py"
    file.write_text(text)
    for start, name in enumerate(("signal", "background")):
        np.arange(start, start + 160, dtype="<f4").tofile(tmp_path / f"{name}.raw")
    plugins.import_named([str(file)])
    inputs = [f"{name}={tmp_path / name}.raw" for name in ("signal", "background")]
    out = tmp_path / "made"
    made = convert(inputs, "raw", None, out, options={"shape": [2, 2, 1]})
    assert made.source["own_code"] == {str(file): digest(text)}
    assert not [note for note in check(out).notes if "changed" in note]

    file.write_text(text + "\n# as the detector was in 2026\n")
    (note,) = [note for note in check(out).notes if "changed" in note]
    assert tells(note, file, "has changed", digest(text)[:12], digest(file.read_text())[:12])
    assert check(out).problems == ()
    again = convert(inputs, "raw", None, out, options={"shape": [2, 2, 1]}, overwrite=True)
    assert note in again.source["notes"]
    assert again.fingerprint == made.fingerprint
