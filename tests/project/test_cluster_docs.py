"""Every command that the README and docs/clusters.md type for a cluster is one that its program takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from hep_ray.cli import app
from hep_ray.search.cli import build_app
from hep_ray.search.find import load_search
from tests.project.test_readme import PRIVATE

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGE = REPOSITORY / "docs/clusters.md"
FENCE = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def cluster_section() -> str:
    return README.read_text(encoding="utf-8").split("## On a cluster\n")[1].split("\n## ")[0]


def commands(text: str) -> Iterator[str]:
    for block in FENCE.findall(text):
        yield from (line for line in block.splitlines() if line)


LINES = sorted({*commands(cluster_section()), *commands(PAGE.read_text(encoding="utf-8"))})


def parse(command: Any, words: list[str]) -> Any:
    """Read words as a click program does, and run nothing."""
    context = command.make_context("program", list(words))
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        name, child, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert child is not None, name
        return parse(child, rest)
    return context


def check_search(script: str, words: list[str]) -> None:
    path = REPOSITORY / "searches" / Path(script).name
    parse(typer.main.get_command(build_app(load_search(str(path)))), words)


def check_remote(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "hep-ray":
        parse(typer.main.get_command(app), words[1:])
    else:
        assert words == ["ray", "status"]


def check_ray(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    context = parse(cli, words)
    given = context.params
    file = given.get("cluster_config_file")
    if file is not None:
        assert re.fullmatch(r"clusters/[\w-]+\.yaml", file)
        assert (REPOSITORY / file).is_file()
    if words[0] == "submit":
        assert (REPOSITORY / given["script"]).is_file()
        check_search(given["script"], list(given["script_args"]))
    elif words[0] == "exec":
        check_remote(given["cmd"])
    elif words[:2] == ["job", "submit"]:
        shell, flag, line = given["entrypoint"]
        script, search, *flags = shlex.split(line)
        assert [shell, flag, script] == ["bash", "-c", "~/hep_ray/clusters/bin/search.sh"]
        check_search(search, flags)


def check(line: str) -> None:
    words = shlex.split(PRIVATE.sub(r"\1", line))
    program, rest = words[0], words[1:]
    if program == "ray":
        check_ray(rest)
    elif program == "hep-ray":
        check_remote(line)
    elif program == "sbatch":
        at = rest.index("clusters/slurm/search.sbatch")
        assert set(rest[:at:2]) <= {"--nodes", "--time"}
        check_search(rest[at + 1], rest[at + 2 :])
    elif program == "condor_submit":
        assert (REPOSITORY / rest[0]).is_file()
        settings = dict(word.split("=", 1) for word in rest[1:])
        assert set(settings) == {"search", "workers"}
        script, *flags = settings["search"].split()
        check_search(script, flags)
    elif program == "kubectl":
        assert rest[0] in {"apply", "get"}
        assert rest[0] == "get" or (REPOSITORY / rest[2]).is_file()
    else:
        assert words == ["make", "env"]


@pytest.mark.parametrize("line", LINES)
def test_every_command_is_one_that_its_program_takes(line: str) -> None:
    check(line)


@pytest.mark.parametrize(
    "line",
    [
        "ray up -y clusters/absent.yaml",
        "ray up --yess clusters/onprem.yaml",
        "ray exec clusters/onprem.yaml 'hep-ray docter'",
        "ray exec clusters/onprem.yaml 'hep-ray doctor --gpus 1'",
        "ray submit clusters/onprem.yaml searches/absent.py",
        "ray submit clusters/onprem.yaml searches/resnet_loss.py -- --presets smoke",
        "sbatch --node 2 clusters/slurm/search.sbatch searches/resnet_loss.py",
        "condor_submit clusters/htcondor/search.sub searches=searches/resnet_loss.py workers=1",
        "make environment",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    with pytest.raises((AssertionError, click.ClickException, Exception)):
        check(line)
