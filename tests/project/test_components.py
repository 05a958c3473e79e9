"""`hep-ray components` knows everything that is registered, and a new file is all that a new model needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.components import Key, component, components, keys, registries
from hep_ray.config import Config
from hep_ray.errors import UnknownName
from tests.facts import raises

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", registries())
def test_everything_registered_is_listed_with_a_summary(kind):
    found = components(kind)
    assert [one.name for one in found] == list(registries()[kind])
    for one in found:
        assert len(one.summary) > 10, one
        assert not one.summary.startswith("Make the"), one


@pytest.mark.parametrize("kind", registries())
def test_every_key_says_what_it_means(kind):
    silent = [(one.name, key.name) for one in components(kind) for key in one.keys if not key.meaning]
    assert silent == []


class _Base(Config):
    """Base.

    Attributes:
        width: of the network,
            in features.
    """

    width: int = Field(default=3, ge=1)


class _Derived(_Base):
    """Derived.

    Attributes:
        rate: a fraction.

    Raises:
        Nothing: here.
    """

    rate: float = Field(gt=0, lt=1)


def test_keys_by_hand():
    assert keys(_Derived) == (
        Key("width", "3", "integer, ≥ 1", "of the network, in features."),
        Key("rate", "", "number, > 0, < 1", "a fraction."),
    )


def test_the_command_line():
    def printed(*words):
        result = CliRunner().invoke(app, ["components", *words])
        assert result.exit_code == 0, result.output
        return result.output

    assert "root_softmax" in printed()
    assert "hinge" in printed("loss")
    assert "cnn" not in printed("loss")
    assert "(required)  number, ≥ 1" in printed("loss", "root_softmax")
    assert "learning_rate" in printed("trainer")


def test_unknown_names_list_the_known():
    with raises(UnknownName, "'modl'", "trainer, model"):
        components("modl")
    with raises(UnknownName, "'resnet43'", "'resnet34'"):
        component("model", "resnet43")


def test_a_new_model_is_one_file(tmp_path):
    """The guide's file, put into a copy of the project: registry, command line and contract suite know it."""
    for folder in ("hep_ray", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    guide = (REPOSITORY / "docs/howto/components.md").read_text(encoding="utf-8")
    block = guide.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "hep_ray/models/perceptron.py").write_text(block, encoding="utf-8")

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = run("-c", "from hep_ray.cli import main; main()", "components", "model")
    assert "perceptron" in listed
    assert "hidden_features" in listed
    contract = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/models/test_contract.py", "-k", "perceptron"
    )
    assert int(contract.strip().splitlines()[-1].split()[0]) >= 10
