"""Every actor that holds a search together is killed, then the host that has them, while trials of two workers train.

The driver's node has no core, so that workers, and by a lack of memory the trial's actor with all that it starts, are
on another one: ray.cluster_utils starts the nodes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from hep_ray.tracking.journal import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster
from rich.console import Console
from hep_ray import Preset, Search, SearchOptions, Space, prepare, run_search
from hep_ray.tracking.journal import read_records

data, storage, cache = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "memory": 0})
host = cluster.add_node(num_cpus=4)
ray.init(address=cluster.address, log_to_driver=False)
here = ray.get_runtime_context().get_node_id()
space = Space(model="cnn", dropout=0.0, loss="cross_entropy", optimizer="sgd", learning_rate=1e-3, batch_size=2)
search = Search(
    name="shared", task="toy", title="A toy.", space=space, metric="val_loss", mode="min",
    presets={"smoke": Preset(trials=1, epochs=60, scheduler="none")},
)
options = SearchOptions(
    data=data, storage=storage, preset="smoke", workers_per_trial=2, cache=cache,
    memory_budget=0.2 if cache == "streaming" else None,
)
plan = prepare(search, options)

def epochs():
    journal = storage / "shared/journal.jsonl"
    return sum(one.kind == "epoch_finished" for one in read_records(journal.parent)) if journal.exists() else 0

def others():
    return {
        one["ActorClassName"].rpartition(".")[2]: (one["Pid"], one["Address"]["NodeID"])
        for one in actors().values()
        if one["State"] == "ALIVE" and one["ActorClassName"].rpartition(".")[2] not in {"WorkerGroup", "RayTrainWorker"}
    }

def wait(count, what):
    until = time.monotonic() + 240
    while epochs() < count:
        if time.monotonic() > until:
            print("no epoch after", what, flush=True)
            os._exit(3)
        time.sleep(0.1)

def kill():
    wait(1, "the start")
    first = others()
    told = {name: "driver" if node == here else "host" for name, (_, node) in first.items()}
    print(json.dumps({"lives": told}), flush=True)
    for name in sorted(first):
        if name in others():
            os.kill(others()[name][0], signal.SIGKILL)
            done = epochs()
            wait(done + 2, name)
            print(json.dumps({"killed": name, "epochs": [done, epochs()]}), flush=True)
    cluster.add_node(num_cpus=4)
    done = epochs()
    cluster.remove_node(host, allow_graceful=False)
    wait(done + 2, "the host")
    print(json.dumps({"killed": "host", "epochs": [done, epochs()]}), flush=True)

found = []
trains = threading.Thread(target=lambda: found.append(run_search(plan, console=Console(quiet=True))), daemon=True)
trains.start()
kill()  # ray.cluster_utils starts nodes in the main thread alone
trains.join(240)
print(json.dumps({"status": [one.finished.status for one in found[0].state.trials.values()]}), flush=True)
ray.shutdown()
cluster.shutdown()
os._exit(0)  # Ray's own exit functions would look for the nodes that are gone, and end with 1
"""


@pytest.mark.parametrize("cache", ["resident", "streaming"])
def test_whatever_actor_is_killed_and_its_host_too_the_trial_goes_on(make_dataset, tmp_path, cache, request):
    data = make_dataset(events=118, size=28)
    # Its own note of the cluster, which nobody else shall join, in a folder with a short name.
    place = tempfile.mkdtemp(prefix="hr", dir="/tmp")
    request.addfinalizer(lambda: shutil.rmtree(place, ignore_errors=True))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(data), str(tmp_path / "runs"), cache],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_TMPDIR": place},
    )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    lives = told[0]["lives"]
    # Placed there on purpose: what the trial's actor starts is on its node; what the driver starts is on the driver's.
    assert lives["Coordinator"] == lives["TrainController"] == lives["SynchronizationActor"] == "host"
    assert "PlacementGroups" not in lives
    assert lives["_StatsActor"] == lives["_AutoscalingCoordinatorActor"] == "driver"
    killed = [one["killed"] for one in told if "killed" in one]
    assert set(lives) | {"host"} == set(killed)
    assert told[-1] == {"status": ["completed"]}
    recorded = [
        one.metrics["epoch"] for one in read_records(tmp_path / "runs/shared") if one.kind == "epoch_finished"
    ]
    assert recorded == list(range(1, 61))
