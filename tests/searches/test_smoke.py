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


def test_runs_on_a_file_that_is_absent_are_left_out_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("smoke_script", Path(__file__).with_name("smoke.py"))
    assert spec is not None
    assert spec.loader is not None
    smoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smoke)
    monkeypatch.setattr(smoke, "REAL", tmp_path)
    (tmp_path / "susy_uci").mkdir()
    (tmp_path / "susy_uci/SUSY_1K.csv").touch()
    assert smoke.absent_files("uci_susy") == []
    assert smoke.absent_files("uci_susy_text") == ["susy_uci/X_train_5000.txt"]
    assert smoke.absent_files("alice_pid") == [f"alice_pid/{name}.root" for name in smoke.ALICE]
