"""The components of docs/howto/own_code.md: through their whole life, by the commands that a user types."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hep_ray.simulate import SIMULATIONS
from hep_ray.tracking.journal import read_records
from hep_ray.tracking.records import CodeAccepted, EpochFinished, SearchStarted
from tests.facts import tells

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own_code.md"
SCRIPT = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]  # type: ignore[index]
SCRIPT = SCRIPT.replace('task="susy"', 'task="quadrants"').replace('"quadratic_susy"', '"own_code"')


def run(place: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        words, cwd=place, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def hep_ray(place: Path, *words: str, code: int = 0) -> str:
    return run(place, sys.executable, "-c", "from hep_ray.cli import main; main()", *words, code=code)


def test_the_readers_code_is_at_most_forty_lines() -> None:
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 40


def test_the_readers_network_takes_the_events_that_the_page_simulates() -> None:
    simulation = re.search(r"^hep-ray data simulate (\w+)", PAGE.read_text(), re.MULTILINE)
    schema = SIMULATIONS[simulation[1]].schema  # type: ignore[index]
    code: dict[str, Any] = {"__name__": "quadratic"}
    exec(re.sub(r"^@\w+\(.*\)\n", "", SCRIPT.partition("search = ")[0], flags=re.MULTILINE), code)
    inputs = [torch.ones(5, *column.shape) for column in schema.inputs]
    for products in (False, True):
        assert code["Quadratic"](schema, products)(*inputs).shape == (5, 2)


@pytest.mark.slow
def test_the_page_does_what_it_says_when_it_is_typed(tmp_path: Path) -> None:
    page = PAGE.read_text()
    name = re.search(r"^`(\w+\.py)`:$", page, re.MULTILINE)[1]  # type: ignore[index]
    (tmp_path / name).write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])  # type: ignore[index]
    commands = re.search(r"```\n(hep-ray.*?)```", page, re.DOTALL)[1].splitlines()  # type: ignore[index]
    told = {}
    for line in commands:
        program, *words = shlex.split(line)
        told[line] = (
            hep_ray(tmp_path, *words) if program == "hep-ray" else run(tmp_path, sys.executable, *words)
        )
    simulated, planned, searched, listed = told.values()
    assert "4000" in simulated
    assert tells(
        planned, "quadratic_susy.py: model 'quadratic', loss 'brier', metric 'separation'", "Nothing was run"
    )
    assert tells(searched, "quadratic_susy: 2 trials", "hep-ray confirm quadratic_susy")
    assert tells(listed, "products", "dropout", "0.9")


@pytest.mark.slow
@pytest.mark.usefixtures("committed_hep_ray")
def test_components_of_the_script_live_through_search_confirmation_promotion_and_prediction(
    make_search_place, tmp_path
) -> None:
    place = make_search_place(tmp_path, own_code=SCRIPT)
    script = place / "searches" / "own_code.py"
    told = run(
        place, sys.executable, "searches/own_code.py", "--data", "data", "--preset", "smoke", "--dry-run"
    )
    assert "own_code.py: model 'quadratic', loss 'brier', metric 'separation'" in told
    assert "max val_separation" in told
    run(place, sys.executable, "searches/own_code.py", "--data", "data", "--preset", "smoke")

    # The products of the features decide the quadrant: the network of the script has learnt, not something else.
    named = ("--plugin", "searches/own_code.py")  # the user's own copy, which is the same
    told = hep_ray(place, "confirm", "own_code", "--top", "1", "--seeds", "3", *named)
    assert "own_code" in told

    hep_ray(place, "report", "own_code", *named)
    page = (place / "runs" / "own_code" / "report.html").read_text()
    assert "Figures of scores are left out" not in page

    told = hep_ray(place, "promote", "own_code", *named)
    assert "models:/quadrants@champion is version 1" in told

    told = hep_ray(place, "predict", "models:/quadrants@champion", "data", "--out", "scores", code=2)
    assert "code of own_code.py" in told
    assert not (place / "scores").exists()
    told = hep_ray(place, "predict", "models:/quadrants@champion", "data", "--out", "scores", "--trust-code")
    assert tells(told, "1500 events", "models:/quadrants/1")
    told = hep_ray(place, "predict", "models:/quadrants@champion", "data", "--out", "named", *named)
    assert tells(told, "1500 events", "models:/quadrants/1")
    told = hep_ray(place, "predict", "models:/quadrants@champion", "--onnx", "own.onnx", "--trust-code")
    assert "ONNX Runtime and torch differ by" in told

    started, *records = read_records(place / "runs" / "own_code")
    assert isinstance(started, SearchStarted)
    assert started.plugins[0].source == ""
    epochs = [one for one in records if isinstance(one, EpochFinished)]
    assert epochs
    assert all(-1 < one.metrics["val_separation"] < 1 for one in epochs)

    script.write_text(script.read_text().replace("0.03", "0.03 "))
    resume = (sys.executable, "searches/own_code.py", "--resume")
    told = run(place, *resume, code=2)
    assert "own_code.py has changed" in told
    assert "--accept-changed-code" in told
    told = hep_ray(place, "confirm", "own_code", "--again", code=2)
    assert tells(" ".join(told.split()), "own_code.py", "changed")
    run(place, *resume, "--accept-changed-code")
    accepted = [one for one in read_records(place / "runs" / "own_code") if isinstance(one, CodeAccepted)]
    assert len(accepted) == 1
    assert "own_code.py has changed" in accepted[0].changes[0]
    run(place, *resume)  # what was accepted is what the search is now


@pytest.mark.slow
@pytest.mark.ci
def test_a_component_that_no_node_can_import_is_refused_before_any_trial(make_search_place, tmp_path) -> None:
    script = "import sys\nassert sys.argv[0].endswith('own_code.py')\n" + SCRIPT
    place = make_search_place(tmp_path, own_code=script)
    told = run(place, sys.executable, "searches/own_code.py", "--data", "data", "--preset", "smoke", code=2)
    assert f"cannot import {place / 'searches' / 'own_code.py'}, line 2: AssertionError" in " ".join(
        told.split()
    )
    assert not (place / "runs" / "own_code" / "journal.jsonl").exists()
