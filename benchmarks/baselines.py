"""What fitted trials cost: a search of boosted trees, and a script of Optuna and scikit-learn that fits the same trees.

Both are whole programs, from the start of Python to its end, on the same table of 18 numbers, with the same ranges of
the same parameters, a study in SQLite, and the AUC of the same validation events; each draws its own trials at random.
Processor seconds are those of all processes that a program starts, MLflow's too, once they have ended. Ray's raylet
does not wait for its workers, so what those use is not told: with Ray the figure is too small.

- Ours is `python search.py`: dataset opened, plan, journal, a checkpoint of each model, MLflow, leaderboard; Ray is not
  started for fitted models.
- The peer reads the Parquet files, fits `HistGradientBoostingClassifier` with all cores, one trial after the other,
  and keeps no model.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema

FEATURES = 18
SUBREAPER = 36
"""Option of prctl(2): processes whose parent has ended become ours, so that what they used is told to us."""
OURS = """
from hep_ray import Integer, LogUniform, Preset, Search, Space, main

space = Space(
    model="gradient_boosting", trees=100, leaves=Integer(8, 64), shrinkage=LogUniform(0.03, 0.3), tree_depth=10
)
presets = {"bench": Preset(epochs=1, trials={trials}, sampler="random", scheduler="none")}
main(Search(name="trees", task="table", title="Trees.", space=space, presets=presets, metric="val_auc"))
"""
PEER = """
from pathlib import Path

import numpy as np
import optuna
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score


def read(split):
    table = pq.read_table(sorted(Path("data").glob(f"{split}-*.parquet")))
    names = [name for name in table.column_names if name.startswith("x")]
    return np.stack([table[name].to_numpy() for name in names], axis=1), table["label"].to_numpy()


train, val = read("train"), read("val")


def objective(trial):
    trees = HistGradientBoostingClassifier(
        max_iter=100, max_depth=10, early_stopping=False,
        max_leaf_nodes=trial.suggest_int("leaves", 8, 64),
        learning_rate=trial.suggest_float("shrinkage", 0.03, 0.3, log=True),
    )
    return roc_auc_score(val[1], trees.fit(*train).predict_proba(val[0])[:, 1])


study = optuna.create_study(
    storage="sqlite:///peer.db", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
)
study.optimize(objective, n_trials={trials})
print(study.best_value)
"""


def write_dataset(folder: Path, events: int) -> None:
    """Write a table whose classes overlap: the sum of squares and a product of two numbers tell them apart."""
    random = np.random.default_rng(0)
    values = random.standard_normal((events, FEATURES), dtype=np.float32)
    logits = values[:, 0] * values[:, 1] + 0.3 * (values[:, 2:6] ** 2).sum(axis=1) - 1.2
    labels = (random.random(events) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    names = [f"x{place}" for place in range(FEATURES)]
    schema = EventSchema(
        task="table", columns=tuple(Column(name=name, shape=()) for name in names), classes=("a", "b")
    )
    with ShardWriter(folder, schema, source={"benchmark": "baselines"}) as writer:
        ids = [str(row) for row in range(events)]
        writer.write({"event_id": ids, "label": labels, **dict(zip(names, values.T, strict=True))})


def run(folder: Path, script: str) -> tuple[float, float]:
    """Return the seconds on the clock, and of processors in all its processes, of a program that ends well.

    Raises:
        RuntimeError: it failed; the message is the end of what it wrote.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, script, *(["--data", "data", "--preset", "bench"] if script == "search.py" else [])],
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": "local"},  # a Ray that is there already would do the work elsewhere
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}: {(done.stdout + done.stderr)[-1000:]}")
    _wait_for_the_rest()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _wait_for_the_rest() -> None:
    """Wait for what the program left to end, which is ours since it has ended."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--events", type=int, default=5_000)
    options = parser.parse_args()
    if ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0):
        raise OSError(
            "prctl(2) refuses to make this process a subreaper; processor seconds would not be told"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", options.events)
        for script, text in (("search.py", OURS), ("peer.py", PEER)):
            (folder / script).write_text(text.replace("{trials}", str(options.trials)), encoding="utf-8")
        plain, plain_cpu = run(folder, "peer.py")
        own, own_cpu = run(folder, "search.py")
    line = {
        "what": f"baselines: seconds of programs that fit boosted trees {options.trials} times",
        "ours": round(own, 1),
        "peer": round(plain, 1),
        "ratio": round(plain / own, 2),
        "peer_is": "a script of Optuna and scikit-learn",
        "cpu_ours": round(own_cpu, 1),
        "cpu_peer": round(plain_cpu, 1),
        "cpu_ratio": round(plain_cpu / own_cpu, 2),
        "events": options.events,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
