"""What is wrong with a search of own code is told by name before any trial, and nothing is half-written."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hep_ray import plugins, sources
from hep_ray.errors import HepRayError, InvalidConfig, MissingPackage, PluginFailed
from hep_ray.loading.augmentations import AUGMENTATIONS
from hep_ray.losses import LOSSES
from hep_ray.metrics import METRICS
from hep_ray.models import MODELS
from hep_ray.optim import SCHEDULES
from hep_ray.registry import OWN_CODE
from hep_ray.search import node_checks, own_checks, plan, preflight, resources
from hep_ray.search.estimate import SearchCost, Timed
from hep_ray.search.find import load_search
from hep_ray.search.node_checks import Node
from tests.facts import tells

SCRIPT = (Path(__file__).parents[1] / "integration" / "own_search.py").read_text()
HEAD, WORKER = Node("head", "10.0.0.1", 2.0, 0.0), Node("worker", "10.0.0.2", 2.0, 0.0)
METRIC = "return float(np.max(signal / np.sqrt(signal + background)))"
FAULTS: dict[str, tuple[str, str, type[HepRayError], str, tuple[str, ...]]] = {
    "a plug-in that a worker cannot import": (
        "import math\n",
        'import os\nimport math\nif os.environ.get("OF_THIS_TEST") == "worker":\n    import no_such_package\n',
        PluginFailed,
        "import no_such_package",
        ("ModuleNotFoundError", "(on 10.0.0.2)"),
    ),
    "a network that is not deterministic to build": (
        "self.last = nn.Linear(width, len(schema.classes))",
        (
            "self.last = nn.Linear(width, len(schema.classes))\n"
            "        nn.init.constant_(self.last.bias, np.random.default_rng().random())"
        ),
        PluginFailed,
        "def __init__(\n        self,\n        schema",
        (
            "model 'residual_blocks'",
            "another network each time",
            "last.bias differs",
            "(on 10.0.0.1, 10.0.0.2)",
        ),
    ),
    "an unannotated parameter": (
        "blocks: int = 1",
        "blocks=1",
        InvalidConfig,
        "def __init__(\n        self,\n        schema",
        ("parameter 'blocks' of model 'residual_blocks' has no annotation", "write blocks: int = 1"),
    ),
    "a metric that is NaN": (
        METRIC,
        'return float("nan")',
        PluginFailed,
        '@metric("yield',
        ("metric 'yield_significance' is nan",),
    ),
    "a metric that is an array": (
        METRIC,
        "return signal",
        InvalidConfig,
        '@metric("yield',
        ("metric 'yield_significance' returned array(",),
    ),
    "a sampler that needs an absent package": (
        'sampler="grid"',
        'trials=4, sampler="cmaes"',
        MissingPackage,
        "",
        ("sampler 'cmaes' needs the package cmaes", "pip install cmaes"),
    ),
    "a value of a later choice that cannot be built": (
        '"gelu": nn.GELU}',
        '"gelu": None}',
        PluginFailed,
        "            activation(),",
        ("TypeError", "building model 'residual_blocks'"),
    ),
}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What other tests registered is no code of this search, and what a test registered is gone after it."""
    registries = (MODELS, LOSSES, METRICS, SCHEDULES, AUGMENTATIONS)
    assert all(len(one) for one in registries)
    before, modules = [dict(one._entries) for one in registries], set(sys.modules)
    searched, named, texts = list(sys.path), dict(plugins._NAMED), dict(sources._TEXTS)
    OWN_CODE.clear()
    yield
    for one, entries in zip(registries, before, strict=True):
        one._entries = entries
    sys.path[:] = searched
    plugins._NAMED, sources._TEXTS = named, texts
    for name in set(sys.modules) - modules:
        if "own_search" in name:
            sys.modules.pop(name)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, both of which are this process: the second imports plug-ins anew, as another process would."""

    def ask(
        nodes: Sequence[Node], work: Callable[..., Any], given: Any, *args: Any, patience: float
    ) -> dict[str, Any]:
        assert patience > node_checks.PATIENCE  # building may take longer than an answer
        answers: dict[str, Any] = {}
        for node in nodes:
            with monkeypatch.context() as there:
                there.setitem(os.environ, "OF_THIS_TEST", node.node_id)
                for plugin in given if node is WORKER else ():
                    there.delitem(sys.modules, plugin.module, raising=False)
                try:
                    answers[node.node_id] = work(given, *args)
                except HepRayError as exc:
                    answers[node.node_id] = exc
        return answers

    monkeypatch.setattr(own_checks, "living_nodes", lambda: [HEAD, WORKER])
    monkeypatch.setattr(own_checks, "ask", ask)
    monkeypatch.setattr(preflight, "connect", lambda: None)
    monkeypatch.setattr(preflight, "check_every_node", lambda *_: None)
    alive = [
        {"CPU": 2.0, "memory": 8e9, "object_store_memory": 2e9, f"node:{one.address}": 1.0}
        for one in (HEAD, WORKER)
    ]
    monkeypatch.setattr(preflight, "nodes", lambda: alive)
    monkeypatch.setattr(resources, "nodes", lambda: alive)


def planned(place: Path, script: str, **given: object) -> Any:
    (place / "searches/own_search.py").write_text(script)
    options = {"data": place / "data", "storage": place / "runs", "preset": "smoke", **given}
    return plan.planned(load_search(str(place / "searches/own_search.py")), options)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("cluster")
def test_a_search_of_sound_code_is_planned_on_both_nodes(make_search_place, tmp_path: Path) -> None:
    found = planned(make_search_place(tmp_path, 300, own_search=SCRIPT), SCRIPT)
    assert [Path(one.path).name for one in found.plugins] == ["own_search.py"]
    assert files_below(tmp_path / "runs") == []


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_by_name_and_line_before_anything_is_written(
    fault: str, make_search_place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, error, at, words = FAULTS[fault]
    assert SCRIPT.count(old) == 1
    script = SCRIPT.replace(old, new)
    place = make_search_place(tmp_path, 300, own_search=SCRIPT)
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: (name != "cmaes" and present(name, *more)) or None
    )
    with pytest.raises(error) as caught:
        planned(place, script)
    told = str(caught.value)
    assert tells(told, *words), told
    if at:
        line = script[: script.index(at)].count("\n") + 1
        assert f"{place / 'searches/own_search.py'}, line {line}" in told, told
    assert files_below(place / "runs") == []


@pytest.mark.usefixtures("cluster")
def test_a_time_budget_shorter_than_one_epoch_is_refused_before_anything_is_written(
    make_search_place, tmp_path: Path
) -> None:
    found = planned(make_search_place(tmp_path, 300, own_search=SCRIPT), SCRIPT, time_budget=5.0)
    cost = SearchCost((Timed("residual_blocks", 32, 12.0, 0),), (1.0, 1.0, 1.0), 0, 0)
    with pytest.raises(InvalidConfig) as caught:
        cost.check(found.time_budget)
    assert tells(str(caught.value), "--time-budget of 5 s", "12 s", "--time-budget 4m")
    assert files_below(tmp_path / "runs") == []
