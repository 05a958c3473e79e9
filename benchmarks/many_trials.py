"""What grows in a search of 1,000 trivial trials: the driver's memory, the pace of its records, the UI's answer.

A trial is one epoch of a network of 20 weights on 64 events, drawn by TPE; everything around it is what any search has:
journal, Optuna study, checkpoints, MLflow in SQLite, leaderboard. `driver_kib_per_trial` is the slope of the driver's
resident memory over the last three quarters of the trials. `mlflow_records_per_second` hands the whole journal over to
a new database, with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console

from hep_ray import LogUniform, Preset, Search, SearchOptions, Space, prepare, run_search
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.search.audit import hand_over
from hep_ray.tracking.client import default_uri, open_client

EVENTS = 100
MEBIBYTE = 2**20
SPACE = Space(
    model="mlp",
    hidden_layers=1,
    hidden_features=4,
    loss="cross_entropy",
    optimizer="sgd",
    learning_rate=LogUniform(1e-3, 1e-1),
    batch_size=64,
)


class Sampler(threading.Thread):
    """Notes (trials ended, resident memory in bytes) of this process every second."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[int, int]] = []
        self._folder = folder
        self._done = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._done.wait(1):
            self.samples.append((self._ended(), resident()))
            if len(self.samples) % 30 == 0:
                ended, memory = self.samples[-1]
                print(
                    f"{ended} trials ended, driver {memory / MEBIBYTE:.1f} MiB", file=sys.stderr, flush=True
                )

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self.join()

    def _ended(self) -> int:
        with suppress(FileNotFoundError):
            return (self._folder / "journal.jsonl").read_bytes().count(b'"kind":"trial_finished"')
        return 0


def resident() -> int:
    """Resident memory of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write_dataset(folder: Path) -> Path:
    """Events of three numbers each, in two classes."""
    random = np.random.default_rng(0)
    labels = np.arange(EVENTS) % 2
    schema = EventSchema(task="trivial", columns=(Column(name="x", shape=(3,)),), classes=("a", "b"))
    with ShardWriter(folder, schema, source={"benchmark": "many_trials"}) as writer:
        values = (random.normal(size=(EVENTS, 3)) + labels[:, None]).astype(np.float32)
        writer.write({"event_id": [f"{row}" for row in range(EVENTS)], "label": labels, "x": values})
    return folder


def ui_seconds(
    storage: Path, experiment: str, query: Mapping[str, Any] = MappingProxyType({"max_results": 1000})
) -> dict[str, float]:
    """Seconds in which `hep-ray ui` answers for its page, and for a table of runs of the search, 1,000 by default."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        sys.executable,
        "-c",
        "from hep_ray.cli import main; main()",
        "ui",
        "--storage",
        str(storage),
        "--port",
        str(port),
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    found = open_client(default_uri(storage)).get_experiment_by_name(experiment).experiment_id
    asked = json.dumps({"experiment_ids": [found], **query}).encode()
    server = subprocess.Popen(words, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        address, seconds = f"http://127.0.0.1:{port}", {}
        for _ in range(6000):
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            time.sleep(0.1)
        table = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/search", asked, {"Content-Type": "application/json"}
        )
        for name, request in (("page", address), ("table", table)):
            start = time.perf_counter()
            with urllib.request.urlopen(request, timeout=120) as answer:
                answer.read()
            seconds[name] = round(time.perf_counter() - start, 2)
        return seconds
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as scratch:
        storage = Path(scratch) / "runs"
        preset = Preset(epochs=1, trials=trials, scheduler="none")
        search = Search(name="many", task="trivial", title="", space=SPACE, presets={"bench": preset})
        data = write_dataset(Path(scratch) / "data")
        plan = prepare(search, SearchOptions(data=data, storage=storage, preset="bench"))
        sampler = Sampler(plan.folder)
        sampler.start()
        start = time.monotonic()
        state = run_search(plan, console=Console(quiet=True)).state
        seconds = time.monotonic() - start
        sampler.stop()
        ended, memory = (np.array(column, dtype=float) for column in zip(*sampler.samples, strict=True))
        late, ends = (
            ended > trials / 4,
            sorted(one.finished.time for one in state.trials.values() if one.finished),
        )
        quarter = len(ends) // 4
        records = len((plan.folder / "journal.jsonl").read_bytes().splitlines())
        start = time.monotonic()
        hand_over(plan.folder, f"sqlite:///{scratch}/again.db")
        handed = time.monotonic() - start
        print(
            json.dumps(
                {
                    "benchmark": "many_trials",
                    "trials": trials,
                    "ended": dict(Counter(one.status for one in state.trials.values())),
                    "seconds": round(seconds, 1),
                    "seconds_per_trial_first_quarter": round((ends[quarter] - ends[0]) / quarter, 3),
                    "seconds_per_trial_last_quarter": round((ends[-1] - ends[-1 - quarter]) / quarter, 3),
                    "driver_mib_first": round(memory[ended > 0][0] / MEBIBYTE, 1),
                    "driver_mib_last": round(memory[-1] / MEBIBYTE, 1),
                    "driver_kib_per_trial": round(np.polyfit(ended[late], memory[late], 1)[0] / 1024, 2),
                    "journal_bytes_per_trial": (plan.folder / "journal.jsonl").stat().st_size // trials,
                    "storage_mib": round(
                        sum(p.stat().st_size for p in storage.rglob("*") if p.is_file()) / MEBIBYTE, 1
                    ),
                    "checkpoints": len(list(plan.folder.rglob("*.pt"))),
                    "mlflow_records_per_second": round(records / handed, 1),
                    "ui_seconds": ui_seconds(storage, "many"),
                }
            )
        )


if __name__ == "__main__":
    main()
