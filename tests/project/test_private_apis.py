"""What hep_ray uses of Ray, Optuna, scikit-learn and torch that they do not promise, and a failure when it changes.

Each entry was read in the version beside it. A new minor version may change any of them: `pyproject.toml` bounds these
packages from above, and whoever raises a bound reads the entries again and writes the new version here. Not torch:
without its kernels a stack's process is lost, and its trainings go on one by one.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

REPOSITORY = Path(__file__).parents[2]
READ_FROM = {"ray": "2.60", "optuna": "5.0", "scikit-learn": "1.9"}
"""Package → minor version whose source was read."""
LIBRARIES = {"ray", "optuna", "sklearn"}
PRIVATE = {
    "ray.air.execution._internal": "search/execute.py: Tune's manager of actors, told what a loss is",
    "_trial_id": "search: a trial of a study is reopened to tell it intermediate values",
    "_storage": "search/draws.py: one trial of a study is read by its number, without all that run",
    "_study_id": "search/draws.py: the study in that storage",
    "_predictors": "models/scikit_learn.py: the trees of a fitted model",
    "_baseline_prediction": "models/scikit_learn.py: what its trees are added to",
    "_fused_adam_": "training/fused.py: the step of torch.optim.Adam, without looking its tensors up each time",
    "_fused_adamw_": "training/fused.py: the same of AdamW",
}
"""Name that begins with an underscore, or has a part that does → where and for what it is used."""
PYTHONS_OWN = {"_exit"}


def private_names() -> set[str]:
    found = set()
    for path in (REPOSITORY / "hep_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                module = getattr(node, "module", None) or ""
                names = [module, *(f"{module}.{one.name}".lstrip(".") for one in node.names)]
                found |= {
                    name
                    for name in names
                    if name.partition(".")[0] in LIBRARIES
                    and any(part.startswith("_") for part in name.split("."))
                    and not any(name.startswith(f"{other}.") for other in names if other != name)
                }
            elif isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
                if not own and node.attr not in PYTHONS_OWN:
                    found.add(node.attr)
    return found


def test_every_private_name_that_is_used_is_listed() -> None:
    assert private_names() == set(PRIVATE)


def test_the_versions_are_those_that_were_read_and_are_bounded_from_above() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    needed = {
        re.match(r"[\w-]+", one)[0]: one  # type: ignore[index]
        for one in tomllib.loads(text)["project"]["dependencies"]
    }
    for package, read in READ_FROM.items():
        major, minor = map(int, read.split("."))
        assert version(package).split(".")[:2] == read.split("."), f"read the entries of {package} again"
        assert needed[package].endswith(f",<{major}.{minor + 1}"), needed[package]


def test_what_is_private_is_as_it_was_read() -> None:
    import optuna
    from ray.air.execution._internal import RayActorManager
    from sklearn.ensemble import HistGradientBoostingClassifier

    from hep_ray.search.execute import HOOK

    def arguments(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    # Ray: the hook is a method of the class and is given the error of a task of an actor.
    assert arguments(vars(RayActorManager)[HOOK]) == ["self", "tracked_actor_task", "exception"]
    assert f"self.{HOOK}(" in inspect.getsource(RayActorManager)

    # Optuna: the number of a trial in its storage, with which a Trial is made.
    study = optuna.create_study()
    study.ask()
    frozen = study.get_trials(deepcopy=False)[0]
    assert isinstance(frozen._trial_id, int)
    assert arguments(optuna.trial.Trial) == ["study", "trial_id"]
    optuna.trial.Trial(study, frozen._trial_id).report(0.5, 1)
    assert study.get_trials(deepcopy=False)[0].intermediate_values == {1: 0.5}
    assert study._storage.get_trial_id_from_study_id_trial_number(study._study_id, 0) == frozen._trial_id
    assert study._storage.get_trial(frozen._trial_id).number == 0

    # scikit-learn: one list per iteration, of one tree for two classes; a node leads to others or is a leaf.
    x = np.arange(40, dtype=np.float64)[:, None]
    fitted = HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=5).fit(x, x[:, 0] > 19)
    assert [len(trees) for trees in fitted._predictors] == [1, 1, 1]
    nodes = fitted._predictors[0][0].nodes
    assert {"is_leaf", "feature_idx", "num_threshold", "left", "right", "value"} <= set(nodes.dtype.names)
    assert not nodes[0]["is_leaf"]
    assert np.ravel(fitted._baseline_prediction).shape == (1,)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_torchs_kernels_of_adam_are_the_steps_of_its_optimizers(kind: Any) -> None:
    one, other = (nn.Parameter(torch.linspace(-1, 1, 40)) for _ in range(2))
    optimizer = kind([one], lr=0.01, weight_decay=0.1, fused=True)
    first, second, count = torch.zeros(40), torch.zeros(40), torch.tensor(0.0)
    kernel = torch._fused_adam_ if kind is torch.optim.Adam else torch._fused_adamw_
    for step in range(3):
        one.grad = torch.linspace(2, -1, 40) * (step + 1)
        optimizer.step()
        count += 1
        with torch.no_grad():
            kernel(
                [other],
                [one.grad],
                [first],
                [second],
                [],
                [count],
                lr=0.01,
                beta1=0.9,
                beta2=0.999,
                weight_decay=0.1,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["num_failures", "error_file", "last_result"])
def test_what_the_recorder_reads_of_a_trial_of_tune_is_there(name: str) -> None:
    """Neither documented nor marked as private."""
    from ray.tune.experiment.trial import Trial, _TrainingRunMetadata

    trial = Trial("stub", stub=True)
    holders = [trial, _TrainingRunMetadata()]
    assert any(name in dir(holder) for holder in holders)
    assert isinstance(trial.run_metadata, _TrainingRunMetadata)


def test_ray_keeps_its_note_and_its_settings_where_hep_ray_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._common.utils import get_ray_address_file
    from ray.data import DataContext

    from hep_ray.cluster import head_to_join, ray_temp_dir

    for variables in ({"TMPDIR": tmp_path / "t"}, {"TMPDIR": tmp_path / "t", "RAY_TMPDIR": tmp_path / "r"}):
        for key, value in variables.items():
            monkeypatch.setenv(key, str(value))
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        note = Path(get_ray_address_file(None))
        assert note == ray_temp_dir() / "ray_current_cluster"
        note.parent.mkdir(parents=True)
        note.write_text("10.0.0.5:6379")
        assert str(head_to_join()) == "10.0.0.5:6379"
    assert hasattr(DataContext.get_current(), "op_resource_reservation_enabled")
    assert {"resource_limits", "preserve_order"} <= set(dir(DataContext.get_current().execution_options))
