"""Every command that is printed to be typed next runs as printed: with spaces in paths, and a storage of its own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from hep_ray import LogUniform, Preset, Search, Space, main

search = Search(
    name="spaced",
    task="quadrants",
    title="Lies where it likes.",
    space=Space(
        model="mlp", hidden_layers=1, hidden_features=16, scalar_scaling="standardize", loss="cross_entropy",
        optimizer="adam", learning_rate=LogUniform(1e-3, 1e-2), batch_size=64,
    ),
    presets={"laptop": Preset(trials=3, epochs=2, scheduler="none", sampler="random")},
)
if __name__ == "__main__":
    main(search)
"""


@pytest.fixture
def shell(tmp_path, make_search_place):
    """`shell(command)`: as a user types it, in a folder with spaces, where `hep-ray` and `python` are on the path."""
    place = make_search_place(tmp_path, events=900, committed=SCRIPT.replace('"spaced"', '"committed"'))
    (place / "my scripts").mkdir()
    (place / "my scripts" / "it's mine.py").write_text(SCRIPT)
    shutil.move(place / "data", place / "my data")
    commands = place / "bin"
    commands.mkdir()
    ours = commands / "hep-ray"
    ours.write_text(f"#!{sys.executable}\nfrom hep_ray.cli import main\nmain()\n")
    ours.chmod(0o755)
    paths = [str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(paths), "RAY_ADDRESS": "local", "COLUMNS": "200"}

    def run(command, expected=(0,)):
        done = subprocess.run(
            command,
            shell=True,
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode in expected, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    return run


def following(told):
    """Commands below a line `Next:`, or behind `next: `."""
    below = re.search(r"^Next:\n((?:  .*\n?)+)", told, re.MULTILINE)
    found = [line.strip() for line in below[1].splitlines()] if below else []
    return found + re.findall(r"^next: (.*)$", told, re.MULTILINE)


def words(command):
    return [word for word in shlex.split(command) if not word.endswith("python")][:3]


@pytest.mark.slow
def test_every_printed_command_runs_as_printed(shell):
    """Nothing of the chain is typed by hand but its first command; a refusal by the gate (exit 1) is an answer too."""
    waiting = ["python \"my scripts/it's mine.py\" --data 'my data' --storage 'my runs' --trials 3"]
    waiting += ["hep-ray data show 'my data'"]
    ran = {}
    while waiting:
        command = waiting.pop(0)
        kind = " ".join(words(command)[:2]) + (" --resume" if "--resume" in command else "")
        if kind in ran or command.startswith("hep-ray ui"):  # which serves until it is ended
            ran.setdefault(kind, command)
            continue
        ran[kind] = command
        waiting += following(shell(command, expected=(0, 1) if "promote" in command else (0,)))
    kinds = {kind.replace("my scripts/it's mine.py", "script") for kind in ran}
    assert {"hep-ray ui", "hep-ray confirm", "hep-ray report", "hep-ray promote", "hep-ray data"} <= kinds
    assert any(kind.endswith("--resume") for kind in kinds)
    assert "--baseline trial=" in ran["hep-ray confirm"]
    for kind in ("hep-ray ui", "hep-ray confirm", "hep-ray report", "hep-ray promote"):
        assert "--storage 'my runs'" in ran[kind], ran[kind]
    for name in ("spaced", "'my runs/spaced'", '"my scripts/it\'s mine.py"'):
        assert "the same everywhere" in shell(f"hep-ray audit {name} --storage 'my runs'")
        next_one = following(shell(f"hep-ray track {name} --storage 'my runs'"))
        assert next_one == ["hep-ray ui --storage 'my runs'"]
