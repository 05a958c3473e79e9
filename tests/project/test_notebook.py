"""The tutorial in a notebook: as it is shipped, and executed from its first cell to its last."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from hep_ray import Result
from tests.facts import tells

NOTEBOOK = Path(__file__).parents[2] / "docs/tutorial.ipynb"
LARGEST = 150_000
"""Bytes of the file with its outputs."""


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs(book: Any) -> list[dict[str, Any]]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def html(book: Any) -> str:
    return "\n".join(one["data"]["text/html"] for one in outputs(book) if "text/html" in one.get("data", {}))


def test_the_notebook_is_valid_small_and_tells_nothing_of_the_machine_it_was_made_on() -> None:
    nbformat.validate(read())
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    assert not re.findall(r"/(?:home|root|work|tmp|Users)/|\b\d+\.\d+\.\d+\.\d+\b", text)
    assert not [one for one in outputs(read()) if one["output_type"] == "error"]
    assert not [one for one in outputs(read()) if one.get("name") == "stderr"]


def test_what_its_cells_import_is_there() -> None:
    code = [cell.source for cell in read().cells if cell.cell_type == "code"]
    trees = [ast.parse(re.sub(r"^[!%].*$", "", source, flags=re.MULTILINE)) for source in code]
    found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {str(node.module) for node in found} == {"hep_ray"}
    names = {alias.name for node in found for alias in node.names}
    assert {"plan", "run", "Space"} <= names
    assert all(hasattr(importlib.import_module("hep_ray"), name) for name in names)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    book = read()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        book, timeout=500, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()

    result = Result.open(tmp_path / "runs/notebook")
    assert (result.finished, len(result.trials)) == (True, 9)
    pages = html(book)
    # The space, the plan, and the result; the table that renewed itself while the search ran is one line now.
    assert tells(pages, "loss=focal", "9 trials × 6 epochs", "gradient_boosting")
    assert tells(pages, "notebook: 9 trials", result.best.trial_id)
    assert pages.count("epoch 1/6") == 0
    figures = [one for one in outputs(book) if "image/png" in one.get("data", {})]
    assert len(figures) == 3
    assert not [one for one in outputs(book) if one.get("name") == "stderr"], (
        "nothing is printed beside the table"
    )
