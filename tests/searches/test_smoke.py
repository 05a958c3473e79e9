"""Every search to its end, as `make searches-smoke` runs them."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SEARCHES = Path(__file__).parents[2] / "searches"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    importlib.util.find_spec("pythia8mc") is None, reason="Pythia 8 (extra 'sim') is not installed"
)
def test_every_search_runs_to_its_end(tmp_path: Path) -> None:
    script = Path(__file__).with_name("smoke.py")
    done = subprocess.run(
        [sys.executable, str(script), "--data", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"^(\d+) searches ran to the end .*, (\d+) skipped", done.stdout, re.MULTILINE)
    assert ran is not None, done.stdout
    assert int(ran[1]) >= 10
    assert int(ran[1]) + int(ran[2]) == len(list(SEARCHES.glob("*.py")))
    on_files = re.search(r"(\d+) runs on real events; (\d+) trials, none failed", done.stdout)
    assert on_files is not None, done.stdout
    assert int(on_files[2]) >= int(ran[1])
    assert (int(on_files[1]) > 0) is (int(ran[2]) == 0), "particle_id has no other events than real ones"
