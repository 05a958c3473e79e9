"""Components of installed packages, by the entry-point group `hep_ray.components`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.facts import tells

pytestmark = [pytest.mark.slow, pytest.mark.ci]

NETS = """
from torch import nn
from hep_ray.models import model
from .widths import WIDTH

@model("{name}")
class Packaged(nn.Module):
    \"""A network of a package.\"""
    def __init__(self, schema, hidden: int = WIDTH):
        super().__init__()
"""


def install(site: Path, package: str, name: str, nets: str = NETS, version: str = "1.2") -> None:
    """Put a package with an entry point where pip would, with what a wheel records."""
    files = {"__init__.py": "", "nets.py": nets.format(name=name), "widths.py": "WIDTH = 7\n"}
    info = site / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (site / package).mkdir()
    for file, text in files.items():
        (site / package / file).write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[hep_ray.components]\nnets = {package}.nets\n")
    (info / "RECORD").write_text("".join(f"{package}/{file},,\n" for file in files))


def python(site: Path, code: str) -> str:
    """Output of a process that has the packages of a folder."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=site.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else done.stderr


def test_an_installed_component_is_known_by_its_name_and_recorded_with_its_release(tmp_path: Path) -> None:
    install(tmp_path / "site", "of_a_test_dist", "packaged")
    code = """
import json, sys
import hep_ray
assert "of_a_test_dist" not in sys.modules
from hep_ray.components import component
from hep_ray.plugins import registered, with_source
assert not [one for one in registered({"mlp"}) if one.distribution == "of_a_test_dist"]
(key,) = component("model", "packaged").keys
found = registered({"packaged"})
print(json.dumps({"key": str(key), "found": [one.model_dump() for one in found],
                  "carried": [one.model_dump() for one in with_source(found)]}))
"""
    told = json.loads(python(tmp_path / "site", code))
    assert "hidden" in told["key"]
    assert "7" in told["key"]
    found = {one["module"]: one for one in told["found"]}
    assert set(found) == {"of_a_test_dist", "of_a_test_dist.nets", "of_a_test_dist.widths"}
    assert {(one["distribution"], one["version"], one["source"]) for one in found.values()} == {
        ("of_a_test_dist", "1.2", "")
    }
    assert found["of_a_test_dist.nets"]["registers"] == ["model 'packaged'"]

    # A model carries the text; it is loaded where the same files are installed, else only where they are trusted.
    (tmp_path / "carried.json").write_text(json.dumps(told["carried"]))
    load = """
import json
from hep_ray.plugins import Plugin, trust
from hep_ray.models import MODELS
carried = [Plugin(**one) for one in json.load(open("carried.json"))]
try:
    trust(carried, trust_code=False)
    print("loaded", MODELS["packaged"].build.__module__)
except Exception as exc:
    print(type(exc).__name__, exc)
    trust(carried, trust_code=True)
    print("trusted", MODELS["packaged"].config().hidden)
"""
    assert python(tmp_path / "site", load).splitlines() == ["loaded of_a_test_dist.nets"]
    (tmp_path / "empty").mkdir()
    refused, trusted = python(tmp_path / "empty", load).splitlines()
    assert refused.startswith("UntrustedCode")
    assert tells(refused, "install of_a_test_dist 1.2", "model 'packaged'", "--trust-code")
    assert trusted == "trusted 7"

    # Another version is installed: it is not taken for the one that trained the model.
    install(tmp_path / "other", "of_a_test_dist", "packaged", NETS + "\n# changed\n", version="1.3")
    told_lines = python(tmp_path / "other", load).splitlines()
    assert len(told_lines) == 2, told_lines
    refused, trusted = told_lines
    assert refused.startswith("UntrustedCode")
    assert trusted == "trusted 7"


def test_a_name_that_two_packages_claim_is_refused_with_both(tmp_path: Path) -> None:
    install(tmp_path / "site", "of_a_test_one", "packaged")
    install(tmp_path / "site", "of_a_test_two", "packaged", version="0.4")
    told = python(tmp_path / "site", "from hep_ray.models import MODELS\nMODELS['mlp']")
    assert tells(
        told.splitlines()[-1], "DuplicateName", "model 'packaged'", "of_a_test_one 1.2", "of_a_test_two 0.4"
    )
    assert tells(told.splitlines()[-1], "uninstall one")


def test_a_package_cannot_take_a_name_of_hep_rays_own(tmp_path: Path) -> None:
    install(tmp_path / "site", "of_a_test_one", "cnn")
    told = python(tmp_path / "site", "from hep_ray.models import MODELS\nMODELS['mlp']")
    assert tells(told.splitlines()[-1], "DuplicateName", "hep_ray/models/cnn.py", "of_a_test_one 1.2")


def test_a_package_that_cannot_be_imported_is_named_with_its_line(tmp_path: Path) -> None:
    install(tmp_path / "site", "of_a_test_one", "packaged", nets="x = 1\nimport no_such_package\n")
    told = python(tmp_path / "site", "from hep_ray.models import MODELS\nMODELS['mlp']")
    assert tells(
        told.splitlines()[-1],
        f"{tmp_path}/site/of_a_test_one/nets.py, line 2: ModuleNotFoundError",
        "of_a_test_one 1.2",
        "mend or uninstall it",
    )
