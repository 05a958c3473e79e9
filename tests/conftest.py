"""Fixtures shared by all test folders."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.own_code import OWN_CODE

settings.register_profile(
    "hep_ray", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("hep_ray")

REPOSITORY = Path(__file__).parents[1]

SKIPPED = pytest.StashKey[dict[str, str]]()
"""Skipped test, or file of tests → why."""
RAN = pytest.StashKey[set[str]]()
COMPLAINT = pytest.StashKey[str]()
COLLECTED = pytest.StashKey[int]()
"""Tests of the files asked for that `make test` runs, before `-m` and `-k` leave some out."""


def pytest_configure(config: pytest.Config) -> None:
    # What a shell starts in the background ignores Ctrl-C, and so would each command that a test starts and interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A fifth of the time of an import is otherwise Python's search for garbage among what was imported before.
    gc.set_threshold(20_000, 20, 20)
    if getattr(config, "cache", None) is not None:
        os.environ.setdefault("HEP_RAY_CACHE", str(config.cache.mkdir("hep_ray")))
    config.stash[SKIPPED], config.stash[RAN] = {}, set()
    config.pluginmanager.register(Skips(config), "skips")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    apart = {"slow", "cluster", "ui"}
    config.stash[COLLECTED] = sum(not apart & {mark.name for mark in item.iter_markers()} for item in items)


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of Python's search for garbage, which takes a second or two with it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


class Skips:
    """Lets a run fail that was asked for and of which nothing ran, or that skipped what must run."""

    def __init__(self, config: pytest.Config) -> None:
        self._stash = config.stash
        # What one process of several (pytest-xdist) tells the first one; none in that.
        self._told: dict[str, Any] | None = getattr(config, "workeroutput", None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._stash[SKIPPED][report.nodeid] = _reason(report)
        elif report.when == "call":
            self._stash[RAN].add(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._stash[SKIPPED][report.nodeid] = _reason(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a worker skipped whole files for: only it has seen that."""
        self._stash[SKIPPED].update(getattr(node, "workeroutput", {}).get("skipped", {}))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._told is not None:
            self._told["skipped"] = self._stash[SKIPPED]
            return
        complaint = complain(
            self._stash[SKIPPED],
            len(self._stash[RAN]),
            session.config.getoption("markexpr"),
            strict=os.environ.get("HEP_RAY_STRICT_SKIPS", "0") not in {"", "0"},
        )
        if complaint and exitstatus == pytest.ExitCode.OK:
            self._stash[COMPLAINT] = complaint
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if complaint := self._stash.get(COMPLAINT, ""):
            terminalreporter.section("skipped", red=True)
            terminalreporter.write_line(complaint)


def complain(skipped: dict[str, str], ran: int, markers: str, *, strict: bool) -> str:
    """What is wrong with the skips of a run; nothing where all is well.

    Args:
        skipped: test → why.
        ran: tests that ran.
        markers: the expression of `-m`.
        strict: whether every skip must be on the list in `skips.toml`.
    """
    asked = [
        word for negated, word in re.findall(r"(not\s+)?\b(?!not\b|and\b|or\b)(\w+)", markers) if not negated
    ]
    reasons = sorted(set(skipped.values()))
    if asked and skipped and not ran:
        return f"-m '{markers}' was asked for and nothing of it ran:\n" + "\n".join(
            f"  {one}" for one in reasons
        )
    if not strict:
        return ""
    allowed = tomllib.loads((REPOSITORY / "tests/skips.toml").read_text(encoding="utf-8"))["allowed"]
    wrong = {
        test: reason
        for test, reason in skipped.items()
        if not any(re.search(one["reason"], reason) for one in allowed)
    }
    listing = "".join(f"\n  {test}: {reason}" for test, reason in sorted(wrong.items()))
    return (
        f"every skip is on the list in tests/skips.toml, or the test runs; these are not:{listing}"
        if wrong
        else ""
    )


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    found = report.longrepr
    text = found[2] if isinstance(found, tuple) else str(found)
    return text.removeprefix("Skipped: ")


@pytest.fixture(scope="session")
def tests_collected(pytestconfig: pytest.Config) -> int:
    return pytestconfig.stash[COLLECTED]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real events; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("HEP_RAY_TEST_DATA", REPOSITORY / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real events in {folder}; set HEP_RAY_TEST_DATA")
    return folder


def _restored() -> Iterator[None]:
    """Forget what registered components since: a search sends along every file of it, and of what it imports.

    A file of tests imports from the folder `tests`, so that all of that would be read and sent by each later search.
    """
    before = {module: list(names) for module, names in OWN_CODE.items()}
    yield
    OWN_CODE.clear()
    OWN_CODE.update(before)


_after_a_test = pytest.fixture(autouse=True, name="_own_code_of_a_test")(_restored)
_after_a_file = pytest.fixture(autouse=True, scope="module", name="_own_code_of_a_file")(_restored)


@pytest.fixture(autouse=True)
def _migrate_mlflow_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let MLflow make its tables once in a process: each further SQLite file begins as a copy of the first one.

    Its migrations take two CPU seconds for every new database.
    """
    utils: Any = sys.modules.get("mlflow.store.db.utils")
    if utils is None or hasattr(utils, "migrate"):
        return
    first = tmp_path_factory.getbasetemp() / "mlflow_tables.db"
    utils.migrate = utils._initialize_tables

    def initialize(engine: Any) -> None:
        file = engine.url.database
        if (
            engine.dialect.name != "sqlite"
            or not file
            or not Path(file).exists()
            or Path(file).stat().st_size
        ):
            return utils.migrate(engine)
        if not first.exists():
            utils.migrate(engine)
        source, target = (first, file) if first.exists() else (file, first)
        with closing(sqlite3.connect(source)) as full, closing(sqlite3.connect(target)) as empty:
            full.backup(empty)
        return None

    utils._initialize_tables = initialize


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray of two CPUs for the whole test session."""
    import ray
    from ray.data import DataContext

    with warnings.catch_warnings():
        # Ray Data 2.60 warns of deprecated fields of its own when its context is first made.
        warnings.simplefilter("ignore", DeprecationWarning)
        DataContext.get_current()
    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    yield
    ray.shutdown()


def toy_schema(size: int = 12) -> EventSchema:
    return EventSchema(
        task="toy",
        columns=(Column(name="image", shape=(size, size, 3), unit="GeV"),),
        classes=("background", "signal"),
    )


def toy_events(events: int, size: int = 12, seed: int = 0) -> dict[str, Any]:
    """Two classes that are easily told apart: each glows in another half of the image."""
    random = np.random.default_rng(seed)
    labels = np.arange(events) % 2
    images = random.random((events, size, size, 3), dtype=np.float32)
    images[labels == 0, : size // 2] *= 0.1
    images[labels == 1, size // 2 :] *= 0.1
    return {"event_id": [f"event-{row}" for row in range(events)], "label": labels, "image": images}


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """A factory of small, sound, separable dataset folders: `make_dataset(events=200, size=12, seed=0)`."""

    def make(events: int = 200, size: int = 12, seed: int = 0, name: str = "toy", **options: Any) -> Path:
        folder = tmp_path / name
        with ShardWriter(folder, toy_schema(size), source={"seed": seed}, **options) as writer:
            writer.write(toy_events(events, size, seed))
        return folder

    return make


@pytest.fixture(scope="session")
def make_search_place() -> Callable[..., Path]:
    """A factory of places to work in: `make_search_place(folder, name=script, …)`.

    It holds `searches/<name>.py` in a clean git checkout, as promotion asks for, and the dataset `data`, in which the
    sign of x·y tells the classes apart. A network without a hidden layer cannot see that; it has z, which overlaps.
    """

    def make(folder: Path, events: int = 1500, **scripts: str) -> Path:
        random = np.random.default_rng(0)
        x, y, noise = random.normal(size=(3, events)).astype(np.float32)
        labels = (x * y > 0).astype(np.int64)
        features = np.stack([x, y, labels.astype(np.float32) + noise], axis=1)
        column = Column(name="features", shape=(3,), unit="GeV", elements=("x", "y", "z"))
        schema = EventSchema(task="quadrants", columns=(column,), classes=("background", "signal"))
        with ShardWriter(folder / "data", schema, source={}, rows_per_shard=512) as writer:
            ids = [f"e{row}" for row in range(events)]
            writer.write({"event_id": ids, "label": labels, "features": features})
        (folder / "searches").mkdir()
        for name, script in scripts.items():
            (folder / "searches" / f"{name}.py").write_text(script)
        (folder / ".gitignore").write_text("*\n!searches/\n!searches/*.py\n")
        git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@test.invalid"]
        for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "searches"]):
            subprocess.run([*git, *words], check=True)
        return folder

    return make


@pytest.fixture(scope="session")
def _committed_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("committed")
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "hep_ray", folder / "hep_ray", ignore=skipped)
    (folder / ".gitignore").write_text("__pycache__\n")
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@test.invalid"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "hep_ray"]):
        subprocess.run([*git, *words], check=True)
    return folder


@pytest.fixture
def committed_hep_ray(_committed_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that a test starts run a committed copy of hep_ray: promotion refuses one with changes."""
    monkeypatch.setenv("PYTHONPATH", str(_committed_copy))
    return _committed_copy
