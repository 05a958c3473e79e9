"""The page that sets hep_ray beside other tools: its scripts compile, its counts are true, and ours runs."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "docs/scripts/comparison"
PAGE = (REPOSITORY / "docs/comparison.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| [^|]+ \| `(\w+\.py)` \| (\d+) \|", re.MULTILINE)


def lines_of(script: Path) -> int:
    """Lines of code: neither empty, nor a comment, nor the docstring of the module."""
    text = script.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text), clean=False) or ""
    code = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return len(code) - len(docstring.splitlines())


def test_the_page_counts_the_lines_of_every_script():
    stated = {name: int(lines) for name, lines in ROW.findall(PAGE)}
    assert stated == {script.name: lines_of(script) for script in SCRIPTS.glob("*.py")}


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_its_scripts_state_the_same_search(script):
    text = script.read_text(encoding="utf-8")
    compile(text, str(script), "exec")
    numbers = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    # trials, epochs, batch, widths, largest dropout, learning rates: as the page says
    assert numbers >= {12, 10, 128, 16, 32, 64, 0.4, 2e-4, 1e-2}


@pytest.mark.slow
def test_ours_runs_as_it_stands(tmp_path):
    data, storage = tmp_path / "susy", tmp_path / "runs"
    commands = (
        ["-m", "hep_ray", "data", "simulate", "susy", "--events", "1200", "--out", str(data)],
        [str(SCRIPTS / "with_hep_ray.py"), "--data", str(data), "--storage", str(storage), "--trials", "2"],
    )
    alone = {**os.environ, "RAY_ADDRESS": "local"}
    for command in commands:
        subprocess.run([sys.executable, *command], check=True, timeout=400, cwd=tmp_path, env=alone)
    assert (storage / "comparison" / "leaderboard.json").is_file()
