"""What `--verbose` tells, and to whom."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hep_ray.log
from hep_ray.cli import app
from hep_ray.console import command_line
from hep_ray.errors import InvalidConfig

SAY = "import logging; import hep_ray; logging.getLogger('hep_ray.search').{level}('{text}')"


def told(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_every_command_takes_verbose_and_debug() -> None:
    def walk(command: object) -> None:
        options = [option for parameter in command.params for option in parameter.opts]
        assert {"-v", "--verbose", "--debug"} <= set(options)
        assert len(options) == len(set(options))
        for below in getattr(command, "commands", {}).values():
            walk(below)

    walk(command_line(app))


@pytest.mark.parametrize(
    ("flags", "levels"),
    [((), []), (("-v",), ["INFO"]), (("-vv",), ["INFO", "DEBUG"]), (("-v", "-v"), ["INFO", "DEBUG"])],
)
def test_verbose_shows_the_log_on_stderr(flags: tuple[str, ...], levels: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import logging, typer\n"
        "from hep_ray.console import run_app\n"
        "app = typer.Typer(add_completion=False)\n"
        "@app.command()\n"
        "def work() -> None:\n"
        "    logging.getLogger('hep_ray.search').info('a phase')\n"
        "    logging.getLogger('hep_ray.search').debug('a detail')\n"
        "    logging.getLogger('another').warning('of another library')\n"
        "    print('a result')\n"
        "run_app(app, prog='script')\n"
    )
    done = told(str(script), *flags)
    assert done.returncode == 0
    assert done.stdout == "a result\n"
    assert [level for level in ("INFO", "DEBUG") if f" {level} hep_ray.search: " in done.stderr] == levels


def test_the_log_is_silent_unless_asked_and_workers_are_asked_by_the_environment() -> None:
    say = ("-c", SAY.format(level="info", text="at postgresql://ana:s3cret@db/mlflow"))
    assert told(*say).stderr == ""
    shown = told(*say, **{hep_ray.log.LEVEL: "info"}).stderr
    assert " INFO hep_ray.search: at postgresql://ana:***@db/mlflow" in shown


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(InvalidConfig) as caught:
        hep_ray.log.show("loud")
    assert "loud" in str(caught.value)
    assert "DEBUG" in str(caught.value)
    assert logging.getLogger("hep_ray").level == logging.NOTSET


def test_the_version() -> None:
    assert told("-m", "hep_ray", "--version").stdout == f"hep_ray {hep_ray.__version__}\n"


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.ray
def test_rays_workers_tell_the_driver(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time, ray\n"
        "from hep_ray.cluster import connect\n"
        "from hep_ray.log import show\n"
        "show('INFO')\n"
        "connect()\n"
        "@ray.remote\n"
        "def work():\n"
        "    import logging, hep_ray\n"
        "    logging.getLogger('hep_ray.training').info('an epoch in a worker')\n"
        "ray.get(work.remote())\n"
        "time.sleep(2)\n"
    )
    assert "INFO hep_ray.training: an epoch in a worker" in told(str(script), RAY_ADDRESS="local").stderr
