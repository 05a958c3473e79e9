"""`hep-ray components` knows everything that is registered, and a new file is all that a new model needs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field
from typer.testing import CliRunner

from hep_ray.cli import app
from hep_ray.components import KINDS, Key, component, components, keys, registry_of
from hep_ray.config import Config
from hep_ray.errors import UnknownName
from hep_ray.training.config import REGISTRIES
from tests.facts import raises

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_registered_is_listed_with_a_summary(kind):
    found = components(kind)
    assert [one.name for one in found] == list(registry_of(kind))
    for one in found:
        assert len(one.summary) > 10, one
        assert not one.summary.startswith("Make the"), one


def test_every_kind_that_a_trial_is_made_of_is_listed() -> None:
    assert {kind: registry_of(kind) for kind in REGISTRIES} == REGISTRIES


@pytest.mark.parametrize("kind", KINDS)
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
    assert "(required)  number, > 0" in printed("loss", "root_softmax")
    assert "learning_rate" in printed("trainer")


def test_unknown_names_list_the_known():
    with raises(UnknownName, "'modl'", "trainer, model"):
        components("modl")
    with raises(UnknownName, "'resnet43'", "'resnet34'"):
        component("model", "resnet43")


GUIDE = (REPOSITORY / "docs/howto/components.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`((?:hep_ray|searches)/[\w/]+\.py)`:\n\n```python\n(.*?)```", GUIDE, re.DOTALL))
"""File of the guide → its text."""
CASE = re.search(r"test_reader_contract\.py`[^`]*?:\n\n```python\n(.*?)```", GUIDE, re.DOTALL)

COMPONENTS = {
    "model": ("perceptron", "hidden_features"),
    "loss": ("generalised_cross_entropy", "robustness"),
    "metric": ("balanced_accuracy", "Mean over classes"),
    "schedule": ("inverse_sqrt", "flat_epochs"),
    "augmentation": ("dead_towers", "share"),
    "reader": ("raw", "shape"),
    "simulation": ("two_bumps", "resolution"),
}
"""Kind → what the guide adds, and what is listed of it."""

TRAINING = """
import numpy as np
import torch
from hep_ray.loading.augmentations import AUGMENTATIONS
from hep_ray.loading.batches import Events
from hep_ray.simulate import SIMULATIONS
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import start_trial
from hep_ray import Choice, Preset, Search, Space

bumps = SIMULATIONS["two_bumps"]
classes = bumps.schema.classes
made = [bumps.generate(bumps.config(), name, 200, np.random.SeedSequence(n)) for n, name in enumerate(classes)]
mass = np.concatenate([one["mass"] for one in made])
events = Events({"mass": mass}, np.repeat(np.arange(len(classes)), 200))
params = dict(model="perceptron", hidden_features=8, loss="generalised_cross_entropy", optimizer="adam",
              learning_rate=0.05, schedule="inverse_sqrt", batch_size=50)
trial = start_trial(TrialConfig.from_params(params), bumps.schema, events, events, epochs=2, seed=0)
reports = [trial.run_epoch() for _ in range(2)]
for report in reports:
    # both classes have the same number of events of weight 1: the mean of their accuracies is the accuracy
    assert abs(report["val_balanced_accuracy"] - report["val_accuracy"]) < 1e-12, report
search = Search("bumps", "two_bumps", "Bumps.", Space(**params | dict(learning_rate=Choice(0.1, 0.2))),
                {"smoke": Preset(trials=1, epochs=1)}, metric="val_balanced_accuracy")
dead = AUGMENTATIONS["dead_towers"]
images = dead.apply(dead.config(share=0.25), torch.ones(4, 50, 50, 3), seed=1)
assert abs(1 - images.mean() - 0.25) < 0.02
assert not images.std(dim=3).any()
print(search.mode, *sorted(reports[1]))
"""

CONVERSION = """
import numpy as np
from hep_ray import convert
from hep_ray.dataset.dataset import Dataset

for start, name in enumerate(("sig", "bkg")):
    np.arange(start, start + 40, dtype="<f4").tofile(f"{name}.raw")
convert(["sig=sig.raw", "bkg=bkg.raw"], "raw", None, "made", options={"shape": [2, 2, 1]})
made = Dataset.open("made")
print(made.schema.columns[0].shape, sum(made.rows(split) for split in ("train", "val", "test")))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for name in ("hep_ray", "tests"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    contract = folder / "tests/conversion/readers/test_reader_contract.py"
    fixture = "@pytest.fixture(params=CASES)"
    contract.write_text(contract.read_text("utf-8").replace(fixture, f"{CASE[1]}\n\n{fixture}"), "utf-8")
    return folder


@pytest.fixture(scope="module")
def run(copy):
    def run(*words):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


class TestANewComponentIsOneFile:
    """The guide's files, put into a copy of the project: registries, command line and contract suites know them."""

    @pytest.mark.slow
    @pytest.mark.ci
    def test_the_command_line_lists_it(self, run):
        listed = run("-c", "from hep_ray.cli import main; main()", "components")
        assert {*COMPONENTS} == {kind for kind in COMPONENTS if kind in listed}
        for name, part in COMPONENTS.values():
            assert name in listed
            assert part.split()[0] in listed

    @pytest.mark.slow
    @pytest.mark.ci
    @pytest.mark.parametrize(
        ("suite", "name", "least"),
        [
            ("tests/models/test_contract.py", "perceptron", 10),
            ("tests/metrics/test_contract.py", "balanced_accuracy", 7),
            ("tests/conversion/readers/test_reader_contract.py", "raw", 2),
        ],
    )
    def test_its_contract_suite_runs_over_it(self, run, suite, name, least):
        done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", suite, "-k", name)
        assert int(done.strip().splitlines()[-1].split()[0]) >= least

    @pytest.mark.slow
    @pytest.mark.ci
    def test_a_training_uses_the_model_and_reports_the_metric(self, run):
        mode, *keys = run("-c", TRAINING).split()
        assert mode == "max"
        assert "val_balanced_accuracy" in keys

    def test_a_conversion_reads_the_format(self, run):
        assert run("-c", CONVERSION).strip() == "(2, 2, 1) 20"
