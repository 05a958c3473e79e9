"""What a search stands on, as real processes that can be killed and started again: cluster, MLflow server, driver."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from hep_ray.search.failures import last_attempt
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import open_client
from hep_ray.tracking.mlflow_writer import SEARCH_TAG, TRIAL_TAG
from tests.tracking.servers import MlflowServer

SCRIPT = Path(__file__).with_name("search.py")
STACKED = Path(__file__).with_name("stacks.py")
STACK = 8
"""Trials of `STACKED` that are trained as one network."""
MARK = "HEP_RAY_CHAOS"
"""Environment variable that every process of a run inherits, by which those that are left over are found."""
OF_RAY = (
    "ray::IDLE",
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
    "ray::_AutoscalingCoordinatorActor",
    "ray::_StatsActor",
)
"""Workers that wait for work, a node's own, and the two that Ray Data keeps, once, for as long as a cluster lives."""
PATIENCE = 600
_PROCESS = re.compile(r"^\[hep_ray\] \S+ \S+ in process (\d+) on ")
_PLACEMENT_GROUPS = """
import json, logging, os, ray
from ray.util import placement_group_table
ray.init(address=os.environ["RAY_ADDRESS"], logging_level=logging.ERROR, log_to_driver=False)
print(json.dumps([one["name"] for one in placement_group_table().values() if one["state"] != "REMOVED"]))
"""


class Stuck(Exception):
    """Something did not come back."""


class Rig:
    """One search with all that it needs.

    Args:
        folder: for everything that is written.
        data: dataset.
        trials: of the search.
        seed: of the search.
        stacked: whether its trials are trained together.
    """

    def __init__(self, folder: Path, data: Path, trials: int, seed: int, *, stacked: bool = False) -> None:
        self.folder, self._data, self._trials, self._seed = folder, data, trials, seed
        self.stacked = stacked
        self.search = folder / "runs" / "chaos"
        self.driver: subprocess.Popen[bytes] | None = None
        self.by_hand = 0
        self.cluster: Any = None
        os.environ[MARK] = self.mark = uuid.uuid4().hex
        self.server = MlflowServer(folder)

    def start(self) -> None:
        """All of it."""
        self.server.start()
        self.start_cluster()
        self.start_driver()

    # What a person starts, and starts again.

    def start_cluster(self) -> None:
        """A head and a node of one core each."""
        self.cluster = Cluster(initialize_head=True, head_node_args=self._node())
        self.add_node()

    def add_node(self) -> None:
        """Another worker node."""
        self.cluster.add_node(**self._node())

    @staticmethod
    def _node() -> dict[str, Any]:
        return {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}

    def start_driver(self) -> None:
        """The search, or its rest."""
        words = [sys.executable, str(STACKED if self.stacked else SCRIPT)]
        words += ["--storage", str(self.folder / "runs"), *(["--fuse", str(STACK)] if self.stacked else [])]
        if (self.search / "journal.jsonl").exists() and SearchState.read(self.search).started:
            words += ["--resume"]
        else:
            words += ["--data", str(self._data), "--preset", "chaos", "--trials", str(self._trials)]
            words += ["--seed", str(self._seed), "--tracking-uri", self.server.uri]
        environment = os.environ | {"RAY_ADDRESS": self.cluster.address}
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                words, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )

    # What there is to see.

    def state(self) -> SearchState:
        """The journal as it stands."""
        return SearchState.read(self.search)

    def ended(self) -> int:
        """Trials that have ended."""
        return sum(record["kind"] == "trial_finished" for record in self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        """The journal as plain values: looked at often, beside what is disturbed."""
        path = self.search / "journal.jsonl"
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            if line.endswith(b"\n"):
                yield json.loads(line)

    def running(self) -> dict[str, int]:
        """Unfinished trials whose process lives, with its id."""
        found = {}
        for trial in self.state().unfinished():
            match = _PROCESS.match(last_attempt(self.search / "trials" / trial.trial_id))
            if match and self._ours(int(match[1])):
                found[trial.trial_id] = int(match[1])
        return found

    def epochs(self) -> dict[tuple[str, int], dict[str, float]]:
        """Journalled epochs with their metrics."""
        trials = self.state().trials.values()
        return {(one.trial_id, int(row["epoch"])): row for one in trials for row in one.history}

    def moved_on(self, since: float) -> bool:
        """Whether any trial has told of an epoch since then."""
        return any(one["time"] > since and one["kind"] == "epoch_finished" for one in self._records())

    def lost(self, since: float) -> set[str]:
        """Trials whose process was lost since then."""
        return {
            one["trial_id"] for one in self._records() if one["time"] > since and one["kind"] == "trial_lost"
        }

    def got_over(self, trials: Iterable[str], since: float) -> bool:
        """Whether each of these trials was lost since then and told of an epoch after it, or has ended."""
        lost, over = set(), set()
        for record in self._records():
            if record["time"] > since and record.get("trial_id"):
                name = record["trial_id"]
                if record["kind"] == "trial_lost":
                    lost.add(name)
                elif record["kind"] == "trial_finished" or (
                    record["kind"] == "epoch_finished" and name in lost
                ):
                    over.add(name)
        return set(trials) <= over

    def tracked(self, epochs: Iterable[tuple[str, int]]) -> bool:
        """Whether MLflow holds these epochs."""
        started = self.state().started
        assert started is not None
        client = open_client(self.server.uri)
        experiment = client.get_experiment_by_name("chaos")
        if experiment is None:
            return False
        runs = client.search_runs(
            [experiment.experiment_id], f"tags.`{SEARCH_TAG}` = '{started.search_id}'", max_results=1000
        )
        last = {run.data.tags.get(TRIAL_TAG): run.data.metrics.get("epoch", 0) for run in runs}
        return all(epoch <= last.get(trial, 0) for trial, epoch in epochs)

    # Waiting, as a person who starts again what has ended before its time.

    def until(self, condition: Callable[[], bool], what: str, *, tend: bool = True) -> None:
        """Wait.

        Raises:
            Stuck: too long.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Stuck(f"waited {PATIENCE} s in vain until {what}: see {self.folder}")
            if tend:
                self.tend()
            time.sleep(0.25)

    def tend(self) -> None:
        """Start the driver again where it ended without having finished."""
        assert self.driver is not None
        if self.driver.poll() not in {None, 0}:
            self.by_hand += 1
            if self.by_hand > 5:
                raise Stuck(f"the driver ends again and again: see {self.folder / 'driver.log'}")
            self.start_driver()

    # Killing.

    def kill_driver(self) -> None:
        """As `kill -9` does."""
        assert self.driver is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.driver.pid, signal.SIGKILL)
        self.driver.wait()

    def kill_nodes(self, nodes: Iterable[Any]) -> None:
        """All processes of nodes at once, as when their machines stop."""
        nodes = list(nodes)
        infos = [info for node in nodes for some in node.all_processes.values() for info in some]
        kill(tree(info.process.pid for info in infos))
        for info in infos:
            info.process.wait()
        for node in nodes:
            self.cluster.worker_nodes.discard(node)
            node.all_processes.clear()
            node.destroy_external_storage()

    def stop_machine(self) -> None:
        """Everything at once: driver, server and all nodes."""
        assert self.driver is not None
        nodes = [self.cluster.head_node, *self.cluster.worker_nodes]
        infos = [info for node in nodes for some in node.all_processes.values() for info in some]
        pids = [info.process.pid for info in infos]
        kill(tree([*pids, self.driver.pid, self.server.process.pid]))
        self.driver.wait()
        self.server.process.wait()
        self.kill_nodes(nodes)
        self.cluster.head_node = None

    # The end.

    def held(self) -> list[str]:
        """Placement groups that are left on the cluster."""
        done = subprocess.run(
            [sys.executable, "-c", _PLACEMENT_GROUPS],
            env=os.environ | {"RAY_ADDRESS": self.cluster.address},
            capture_output=True,
            text=True,
            check=True,
        )
        groups: list[str] = json.loads(done.stdout.splitlines()[-1])
        return groups

    def busy_workers(self) -> list[str]:
        """Workers of Ray that still are somebody's actor, though no driver lives."""
        names = [name for name in self._processes() if name.startswith("ray::")]
        return [name for name in names if not name.startswith(OF_RAY)]

    def close(self) -> list[str]:
        """Stop cluster and server in good order; what is left of all that was ever started is named, and killed."""
        if self.driver is not None:
            self.kill_driver()
        if self.cluster is not None:
            self.cluster.shutdown()
        if hasattr(self.server, "process"):
            self.server.kill()
        deadline = time.monotonic() + 30
        while self._processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        left = self._processes()
        kill(self._marked())
        del os.environ[MARK]
        return left

    def _ours(self, pid: int) -> bool:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).environ().get(MARK) == self.mark
        return False

    def _processes(self) -> list[str]:
        names = []
        for one in self._marked():
            with contextlib.suppress(psutil.Error):
                names.append(" ".join(one.cmdline()) or one.name())
        return names

    def _marked(self) -> list[psutil.Process]:
        """Processes, other than this one, that inherited the mark."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get(MARK) == self.mark
                if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def tree(pids: Iterable[int]) -> list[psutil.Process]:
    """Processes with all that descend from them."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            for one in [process, *process.children(recursive=True)]:
                found[one.pid] = one
    return list(found.values())


def kill(processes: Iterable[psutil.Process]) -> None:
    """Send SIGKILL to each."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
