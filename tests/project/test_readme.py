"""What the README and the documentation promise is there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from hep_ray.cli import app
from hep_ray.console import command_line
from hep_ray.search.cli import build_app
from hep_ray.training.precision import PRODUCTS, multiplies_in_bfloat16

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
COMPONENTS = REPOSITORY / "docs/howto/components.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
PRIVATE = re.compile(r"^\(umask 077; (.*)\)$")
"""A command whose files are for nobody else."""
TARGETS = (
    "env",
    "search",
    "test",
    "test-slow",
    "searches-smoke",
    "test-cluster",
    "test-3.11",
    "test-lowest",
    "coverage",
    "dist",
    "lint",
    "fmt",
    "types",
    "ui",
    "bench",
    "docs",
    "clean",
    "help",
)
OTHER_PROGRAMS = {"git", "make", "pip", ".", "ray", "kubectl", "sbatch", "condor_submit"}


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page, ""):
        for line in block.splitlines():
            if words := shlex.split(PRIVATE.sub(r"\1", line), comments=True):
                yield words


def search_app() -> typer.Typer:
    path = REPOSITORY / "searches/cnn_loss.py"
    spec = importlib.util.spec_from_file_location("cnn_loss", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return build_app(module.search)


def flags_of(command: Any) -> set[str]:
    return {"--help", *(flag for one in command.params for flag in (*one.opts, *one.secondary_opts))}


def leaf(command: Any, words: list[str]) -> tuple[Any, list[str]]:
    """The subcommand that words such as `data check DIR` name, and the words left."""
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.fixture(scope="module")
def programs() -> dict[str, Any]:
    return {"hep-ray": command_line(app), "python": command_line(search_app())}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_flags_exist(page: Path, programs: dict[str, Any]) -> None:
    texts = COMPONENTS.read_text(encoding="utf-8") + page.read_text(encoding="utf-8")
    made_here = set(re.findall(r"^`((?:searches/)?\w+\.py)`", texts, re.MULTILINE))
    for words in commands(page):
        program = words[0]
        if program in OTHER_PROGRAMS:
            continue
        assert program in programs, f"{name_of(page)} types the unknown program {program}"
        if program == "python":
            script = words[1]
            assert (REPOSITORY / script).exists() or script in made_here, script
            if not script.startswith("searches/"):
                continue
        command, rest = leaf(programs[program], words[1:])
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= flags_of(command), " ".join(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_flags_in_the_text_exist(page: Path, programs: dict[str, Any]) -> None:
    def every(command: Any) -> set[str]:
        return flags_of(command).union(*(every(child) for child in getattr(command, "commands", {}).values()))

    known = set().union(*(every(command) for command in programs.values()))
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    words = {flag for code in re.findall(r"`([^`\n]+)`", prose) for flag in FLAG.findall(code)}
    assert words - {"--strict"} <= known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    rules = re.findall(r"^([a-z][a-z0-9. -]*):(?!=)", makefile, re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z0-9-]+(?:\.[0-9]+)?)", text))
    named |= {words[1] for words in commands(page) if words[0] == "make" and len(words) > 1}
    assert named <= targets


def test_make_search_knows_the_processors_that_train_in_bfloat16() -> None:
    (line,) = re.findall(
        r"^BFLOAT16 = .*$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    (names,) = re.findall(r'"(.*)"', line)
    assert set(names.split("|")) == PRODUCTS
    environment = {key: value for key, value in os.environ.items() if key not in {"EVENTS", "MAKEFLAGS"}}
    done = subprocess.run(
        ["make", "-n", "data/mbh_sph/manifest.json", "--always-make"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (events,) = re.findall(r"simulate mbh_sph --events (\d+)", done.stdout)
    assert events == ("10000" if multiplies_in_bfloat16() else "4500")


def test_make_help_shows_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for target in TARGETS:
        assert re.search(rf"make {target} +\w", done.stdout)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in LINK.findall(text):
        if target.startswith("http"):
            continue
        path = page.parent / target
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {
                "#" + re.sub(r"[?!:]", "", heading).lower().replace(" ", "-") for heading in headings
            }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_number_is_left_to_fill_in(page: Path) -> None:
    assert "@@" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_blocks_compile_and_their_imports_resolve(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hep_ray"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def run_python(code: str, folder: Path) -> str:
    """Run code in a process of its own, so that what it registers or starts stays there."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.ray
def test_the_readme_runs(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    make_dataset(events=200, size=26, name="data/mbh_sph")
    (block,) = blocks(README, "python")
    printed = run_python(block, tmp_path)
    assert "params_learning_rate" in printed
    # The two halves of a toy image differ tenfold, but two epochs of two batches need not find it.
    accuracy = float(re.findall(r"\} ([\d.]+) ± [\d.]+", printed)[0])
    assert 0.3 <= accuracy <= 1
    assert (tmp_path / "runs/which_root/leaderboard.json").exists()


@pytest.mark.slow
@pytest.mark.ci
def test_the_components_of_the_guide_work(tmp_path: Path) -> None:
    # _: a test's case
    model, loss, metric, schedule, augmentation, reader, _, simulation, search, networks = blocks(
        COMPONENTS, "python"
    )
    use = """
import numpy as np, torch
from hep_ray.dataset.check import check
from hep_ray.conversion.convert import convert
from hep_ray.dataset.splits import SPLITS
from hep_ray.losses import build_loss
from hep_ray.models import build_model
from hep_ray.simulate import SIMULATIONS

np.random.default_rng(0).random((80, 8, 8, 1), dtype=np.float32).tofile("low.raw")
(0.3 + np.random.default_rng(1).random((80, 8, 8, 1), dtype=np.float32)).tofile("high.raw")
convert(["low.raw", "high.raw"], "raw", ["low", "high"], "made", options={"shape": [8, 8, 1]})
assert check("made").events == 160 and not check("made").problems, check("made").problems

bumps = SIMULATIONS["two_bumps"]
made = bumps.generate(bumps.config(), "signal", 50, np.random.SeedSequence(3))
logits = build_model("perceptron", {"hidden_features": 5}, bumps.schema)(torch.from_numpy(made["mass"]))
assert logits.shape == (50, 2)

target = torch.tensor([0, 1, 1])
toward = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, -1.0]])
plain = build_loss("cross_entropy", {})(toward, target)
# q = 1 is one minus the probability of the true class, whose logarithm is minus the cross-entropy.
linear = build_loss("generalised_cross_entropy", {"robustness": 1.0})(toward, target)
torch.testing.assert_close(linear, 1 - torch.exp(-plain))
# Two equal logits: p = 1/2, so at q = 1/2 the loss is 2 (1 - sqrt(1/2)).
assert abs(float(build_loss("generalised_cross_entropy", {"robustness": 0.5})(toward, target)[0]) - 0.5857864) < 1e-6

# Of class 0 one of two events is right, of class 1 its only one: (1/2 + 1) / 2.
likely = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
assert balanced_accuracy(likely, np.array([0, 0, 1])) == 0.75

# A pixel is dead in all its channels, another in each event; the same generator draws the same.
alive, seeded = torch.ones(2, 50, 50, 3), lambda: torch.Generator().manual_seed(1)
blanked = dead_towers(alive, seeded(), share=0.25)
assert not blanked.std(dim=3).any() and not torch.equal(blanked[0], blanked[1]) and alive.all()
assert abs(float(blanked.mean()) - 0.75) < 0.02 and torch.equal(blanked, dead_towers(alive, seeded(), share=0.25))
"""
    parts = [
        block.replace("from __future__ import annotations\n", "")
        for block in (model, loss, metric, schedule, augmentation, reader)
    ]
    search_block = search.replace('if __name__ == "__main__":\n    main(search)', "search.space.check()")
    run_python(
        "\n".join(
            [
                *parts,
                simulation.replace("from __future__ import annotations\n", ""),
                use,
                search_block,
                "from hep_ray import Mapped",
                networks,
                "space.check()",
            ]
        ),
        tmp_path,
    )


def test_modules_of_the_reference_exist() -> None:
    pages = {page: page.read_text(encoding="utf-8") for page in (REPOSITORY / "docs/reference").glob("*.md")}
    named = [
        (page.name, name)
        for page, text in pages.items()
        for name in re.findall(r"^::: (\S+)", text, re.MULTILINE)
    ]
    assert named
    assert [one for one in named if importlib.util.find_spec(one[1]) is None] == []


def test_the_files_to_start_with_exist() -> None:
    rows = re.findall(
        r"^\| (`(?:hep_ray|searches)/.*?) \|.*\| (.*?) \|$", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert rows
    for first, start in rows:
        folders = [folder.strip("`/") for folder in first.split(", ")]
        places = [REPOSITORY / folder for folder in folders] + [
            REPOSITORY / "hep_ray" / folder for folder in folders
        ]
        for name in re.findall(r"`([^`]+)`", start):
            assert any((place / name).exists() for place in places), f"{first} has no {name}"


def test_every_test_that_the_pages_name_exists() -> None:
    named = 0
    for page in PAGES:
        file = ""
        for words in re.findall(r"`((?:tests/[\w/.]+)?(?:::\w+)*)`", page.read_text(encoding="utf-8")):
            path, *names = words.split("::")
            file = path or file
            if not words:
                continue
            assert (REPOSITORY / file).exists(), f"{name_of(page)} names {file}"
            for name in names:
                text = (REPOSITORY / file).read_text(encoding="utf-8")
                assert re.search(rf"^\s*(def|class) {name}\b", text, re.MULTILINE), f"{file} has no {name}"
                named += 1
    assert named


def test_the_readme_counts_the_tests(pytestconfig: pytest.Config, tests_collected: int) -> None:
    """To the hundred where every file was collected; of some files they can only be too many."""
    (told,) = re.findall(r"runs ([\d,]+) tests", README.read_text(encoding="utf-8"))
    if pytestconfig.args == pytestconfig.getini("testpaths"):
        assert round(tests_collected, -2) == int(told.replace(",", ""))
    assert tests_collected < int(told.replace(",", "")) + 150


def test_every_search_is_listed_and_counted() -> None:
    guide = (REPOSITORY / "docs/howto/searches.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)\.py` \|.*\| (.*?) \|.*\|$", guide, re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(
        path.stem for path in (REPOSITORY / "searches").glob("*.py")
    )
    published = [name for name, study in listed if not study.startswith("ours")]
    words = {12: "twelve", 13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen", 17: "seventeen"}
    count, of_studies = words[len(listed)], words[len(published)]
    text = README.read_text(encoding="utf-8")
    assert f"[{count} searches](docs/howto/searches.md), {of_studies} of them of published studies" in text
