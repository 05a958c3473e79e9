"""Components of an installed package: a wheel, built and installed here, whose network and metric a search uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hep_ray.tracking.journal import read_records
from hep_ray.tracking.records import SearchStarted
from tests.facts import tells

UV = Path(sys.executable).with_name("uv")
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"

[project.entry-points."hep_ray.components"]
nets = "{name}.nets"
"""
NETS = """
import torch
from torch import nn

from hep_ray.metrics import metric
from hep_ray.models import model

from .widths import WIDTH


@model("of_a_wheel")
class OfAWheel(nn.Module):
    \"\"\"One hidden layer.\"\"\"

    def __init__(self, schema, width: int = WIDTH):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, len(schema.classes)))

    def forward(self, features):
        return self.layers(features)


@metric("wheel_gap", larger_is_better=True)
def wheel_gap(scores, labels):
    return scores[labels == 1, 1].mean() - scores[labels == 0, 1].mean()
"""
SEARCH = """
from hep_ray import Choice, Preset, Search, Space, main

search = Search(
    name="by_wheel",
    task="quadrants",
    title="A network of an installed package.",
    space=Space(
        model="of_a_wheel", width=Choice(4, 16), loss="cross_entropy", optimizer="adam", learning_rate=0.02,
        batch_size=32,
    ),
    presets={"smoke": Preset(epochs=2, sampler="grid", scheduler="none")},
    metric="val_wheel_gap",
)
if __name__ == "__main__":
    main(search)
"""


def installed(folder: Path, name: str, version: str, nets: str = NETS) -> Path:
    """Build a wheel of a package and install it into a folder."""
    project, site = folder / f"{name}-{version}", folder / f"site-{name}-{version}"
    (project / name).mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT.format(name=name, version=version))
    for file, text in {"__init__.py": "", "nets.py": nets, "widths.py": "WIDTH = 8\n"}.items():
        (project / name / file).write_text(text)
    offline = ["--quiet", "--offline", "--python", sys.executable]
    build = [UV, "build", "--wheel", "--no-build-isolation", *offline, "--out-dir", project / "dist", project]
    subprocess.run(build, check=True)
    (wheel,) = (project / "dist").glob("*.whl")
    subprocess.run([UV, "pip", "install", "--no-deps", *offline, "--target", site, wheel], check=True)
    return site


def run(place: Path, sites: list[Path], *words: str, code: int = 0) -> str:
    path = os.pathsep.join([*map(str, sites), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": path}
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False, env=environment)
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == code, told
    return told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_uses_what_a_wheel_installed_and_records_its_release(
    make_search_place, tmp_path: Path
) -> None:
    first = installed(tmp_path, "of_a_test_wheel", "1.2")
    place = make_search_place(tmp_path / "place", 300, by_wheel=SEARCH)
    script = (sys.executable, "searches/by_wheel.py")
    flags = ("--data", "data", "--preset", "smoke")

    # Without the package the search is refused; where another claims the name too, with both.
    refused = run(place, [], *script, *flags, code=2)
    assert tells(refused, "unknown model 'of_a_wheel'") or tells(refused, "val_wheel_gap")
    other = installed(tmp_path, "of_a_test_rival", "0.4")
    refused = run(place, [first, other], *script, *flags, code=2)
    assert tells(refused, "'of_a_wheel' is registered twice", "of_a_test_wheel 1.2", "of_a_test_rival 0.4")
    assert tells(refused, "uninstall one")
    assert not (place / "runs/by_wheel").exists()

    told = run(place, [first], *script, *flags)
    assert "by_wheel: 2 trials" in told
    started, *records = read_records(place / "runs/by_wheel")
    assert isinstance(started, SearchStarted)
    assert {(one.module, one.distribution, one.version, one.source) for one in started.plugins} == {
        (f"of_a_test_wheel{part}", "of_a_test_wheel", "1.2", "") for part in ("", ".nets", ".widths")
    }
    gaps = [one.metrics["val_wheel_gap"] for one in records if one.kind == "epoch_finished"]
    assert len(gaps) == 4
    assert all(-1 < gap < 1 for gap in gaps)

    # Another release of it is a change of the code of this search.
    second = installed(tmp_path, "of_a_test_wheel", "1.3", NETS.replace("nn.Tanh", "nn.ReLU"))
    refused = run(place, [second], *script, "--resume", code=2)
    assert tells(refused, "of_a_test_wheel/nets.py has changed", "of_a_test_wheel 1.2", "of_a_test_wheel 1.3")
    assert "by_wheel: 2 trials" in run(place, [first], *script, "--resume")
