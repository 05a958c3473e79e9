"""The README's cluster section as it is written, on two hosts and a laptop joined by a network.

Each host has processes, mounts, a network, a name and a home of its own, and an sshd on port 22; what the file calls
the shared folder is one folder of this machine. Then trials of two workers, one on each host, also with a host that
loses its power in the middle and is switched on again; and a script with components of its own, of which that one file
is copied.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hep_ray.tracking.client import open_client
from hep_ray.tracking.journal import read_records

README = Path(__file__).parents[2] / "README.md"
OWN_SEARCH = Path(__file__).parents[1] / "integration/own_search.py"
CLUSTER = "clusters/onprem.yaml"
HEAD, WORKER, LAPTOP = "10.88.0.1", "10.88.0.2", "10.88.0.254"
NAMES = {LAPTOP: "laptop", HEAD: "head", WORKER: "worker"}
OWN = ("unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
LAPTOP_START = f"""
set -e
ip link set lo up
ip link add br0 type bridge
ip address add {LAPTOP}/24 dev br0
ip link set br0 up
mount --bind "$BASE/hosts" /etc/hosts
mount --bind "$BASE/passwd.laptop" /etc/passwd
hostname laptop
echo ready
while :; do sleep 1; done
"""
HOST_START = f"""
set -e
until ip link show "$DEVICE" >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add "$ADDRESS/24" dev "$DEVICE"
ip link set "$DEVICE" up
ip route add default via {LAPTOP}  # nothing goes there; it tells Ray which address is this host's
mount --bind "$BASE/hosts" /etc/hosts
mount --bind "$BASE/passwd.$NAME" /etc/passwd
mount -t tmpfs none /dev/shm
hostname "$NAME"
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -f "$BASE/sshd_config"
"""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(6000)]


@dataclass
class Lab:
    """A laptop and two hosts.

    Attributes:
        base: folder of everything.
        laptop: where a person types.
        make: a machine from its first process, home and folder.
        said: what the README's commands printed, by command.
    """

    base: Path
    laptop: Any
    make: Callable[[int, Path, Path], Any]
    said: dict[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    hosts: dict[str, Any] = field(default_factory=dict)

    @property
    def shared(self) -> Path:
        return self.base / "shared/hep_ray"

    def switch_on(self, address: str) -> None:
        """Connect a host and start it, and wait until it answers on port 22."""
        name, device = NAMES[address], f"e{address.rpartition('.')[2]}"
        cable = f"ip link add {device} type veth peer name {device}b; ip link set {device}b master br0 up"
        subprocess.run(["nsenter", f"--target={self.laptop.init}", "--net", "sh", "-ec", cable], check=True)
        log = self.base / f"{name}.log"
        started = launch(HOST_START, log, BASE=self.base, NAME=name, ADDRESS=address, DEVICE=device)
        init = first_process(started)
        move = ["ip", "link", "set", device, "netns", str(init)]
        subprocess.run(["nsenter", f"--target={self.laptop.init}", "--net", *move], check=True)
        wait_for(lambda: "Server listening" in log.read_text(), started, log)
        self.running[address] = started
        self.hosts[address] = self.make(init, self.base / name, self.base)

    def switch_off(self, address: str) -> None:
        """Cut the power: every process of the host dies at once."""
        end(self.running.pop(address))
        del self.hosts[address]

    def commands_on(self, address: str) -> str:
        return self.hosts[address].ok("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


def launch(script: str, log: Path, **environment: object) -> subprocess.Popen[bytes]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    with log.open("w") as file:
        return subprocess.Popen(
            [*OWN, "bash", "-c", script],
            env={"PATH": path, **{key: str(value) for key, value in environment.items()}},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def first_process(launcher: subprocess.Popen[bytes]) -> int:
    """Of the namespaces that it made, as seen from here."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    until = time.monotonic() + 30
    while not (found := children.read_text().split()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return int(found[0])


def wait_for(
    happened: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 60
) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, log.read_text()[-8000:]
        assert time.monotonic() < until, log.read_text()[-8000:]
        time.sleep(0.2)


def prepare(base: Path, preparations: Any) -> None:
    """Homes, names, keys, and the repository with the cluster file filled in."""
    for name in NAMES.values():
        preparations.home(base / name)
        shutil.rmtree(base / name / "hep_ray_shared")
        if name != "laptop":
            shutil.rmtree(base / name / ".ssh")
            (base / name / ".ssh").mkdir()
            shutil.copy(base / "laptop/.ssh/authorized_keys", base / name / ".ssh")
        passwd = Path("/etc/passwd").read_text().splitlines()[1:]
        lines = [f"root:x:0:0:root:{base / name}:/bin/bash", *passwd]
        (base / f"passwd.{name}").write_text("\n".join(lines) + "\n")
    listed = "".join(f"{address} {name}\n" for address, name in NAMES.items())
    (base / "hosts").write_text(f"127.0.0.1 localhost\n{listed}")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / "host_key"], check=True)
    (base / "sshd_config").write_text(
        f"Port 22\nListenAddress 0.0.0.0\nHostKey {base}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    )
    (base / "shared").mkdir()
    preparations.project(base / "project")
    file = base / "project" / CLUSTER
    names = {
        "CHANGE_ME_HEAD": HEAD,
        "CHANGE_ME_WORKER_1, CHANGE_ME_WORKER_2": WORKER,
        "min_workers: 2": "min_workers: 1",
        "max_workers: 2": "max_workers: 1",
        "CHANGE_ME_USER": "root",
        "/CHANGE_ME_SHARED_FOLDER": str(base / "shared"),
    }
    text = file.read_text()
    for old, new in names.items():
        assert old in text
        text = text.replace(old, new)
    assert "CHANGE_ME_" not in text
    file.write_text(text)


@pytest.fixture(scope="module")
def lab(preparations: Any) -> Iterator[Lab]:
    # A short name: Ray's sockets lie below it, and the name of a socket has 107 characters at most.
    base = Path(tempfile.mkdtemp(prefix="hl", dir="/tmp"))
    log = base / "laptop.log"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        prepare(base, preparations)
        launcher = launch(LAPTOP_START, log, BASE=base)
        stack.callback(end, launcher)
        laptop = preparations.machine(first_process(launcher), base / "laptop", base / "project")
        made = Lab(base, laptop, preparations.machine)
        stack.callback(lambda: [end(started) for started in made.running.values()])
        wait_for(lambda: "ready" in log.read_text(), launcher, log)
        for address in (HEAD, WORKER):
            made.switch_on(address)
        yield made


def section() -> list[str]:
    """The commands of the README's cluster section."""
    text = README.read_text().split("## On a cluster\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return block.splitlines()


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Lab]:
    """Every command of the section typed in turn; the last, which ends the cluster, when all is done."""
    *lines, last = section()
    assert last == f"ray down -y {CLUSTER}"
    for line in lines:
        lab.said[line] = lab.laptop.ok("bash", "-c", line)
    yield lab
    lab.laptop.ok("bash", "-c", last)
    assert "raylet" not in lab.commands_on(HEAD)
    assert "gcs_server" not in lab.commands_on(HEAD)


def submit(lab: Lab, *flags: str, log: Path) -> subprocess.Popen[bytes]:
    return lab.laptop.start("ray", "submit", CLUSTER, "searches/cnn_loss.py", "--", *flags, log=log)


def epochs(folder: Path) -> list[tuple[str, int]]:
    if not (folder / "journal.jsonl").exists():
        return []
    return [(one.trial_id, one.epoch) for one in read_records(folder) if one.kind == "epoch_finished"]


def board(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "leaderboard.json").read_text())["trials"]


def test_the_section_of_the_readme_does_what_it_says(cluster: Lab) -> None:
    doctor = next(text for line, text in cluster.said.items() if "doctor" in line)
    assert "FAIL" not in doctor
    assert HEAD in doctor
    assert WORKER in doctor
    trials = board(cluster.shared / "runs/resnet_loss")
    assert len(trials) == 8
    assert {trial["status"] for trial in trials} <= {"completed", "stopped"}
    client = open_client(f"sqlite:///{cluster.shared / 'runs/mlflow.db'}")
    experiment = client.get_experiment_by_name("resnet_loss")
    assert len(client.search_runs([experiment.experiment_id])) == 1 + len(trials)


@pytest.fixture(scope="module")
def flags(cluster: Lab, make_images: Callable[[Path], None]) -> list[str]:
    """Two trials of two workers, each of which takes a whole host, on a little dataset."""
    data = cluster.shared / "data/little"
    make_images(data)
    shape = ["--trials", "2", "--workers-per-trial", "2", "--cpus-per-worker", "2"]
    return ["--preset", "smoke", "--data", str(data), *shape]


def both_train(lab: Lab) -> bool:
    return all("ray::RayTrainWorker" in lab.commands_on(address) for address in (HEAD, WORKER))


def test_a_trial_of_two_workers_spreads_over_both_hosts(cluster: Lab, flags: list[str]) -> None:
    log, storage = cluster.base / "spread.log", cluster.shared / "spread"
    search = submit(cluster, *flags, "--epochs", "20", "--storage", str(storage), log=log)

    wait_for(lambda: both_train(cluster), search, log, seconds=600)

    assert search.wait(timeout=900) == 0, log.read_text()[-8000:]
    found = epochs(storage / "cnn_loss")
    assert len(found) == len(set(found))
    assert {trial["status"] for trial in board(storage / "cnn_loss")} <= {"completed", "stopped"}


def test_a_host_that_loses_power_costs_nothing_that_was_finished(cluster: Lab, flags: list[str]) -> None:
    log, storage = cluster.base / "lost.log", cluster.shared / "lost"
    search = submit(cluster, *flags, "--epochs", "40", "--storage", str(storage), log=log)
    wait_for(lambda: len(epochs(storage / "cnn_loss")) >= 2, search, log, seconds=600)
    assert both_train(cluster)
    cluster.switch_off(WORKER)
    before = epochs(storage / "cnn_loss")
    time.sleep(5)
    cluster.switch_on(WORKER)  # its Ray is started by the head, which finds it without one

    assert search.wait(timeout=1500) == 0, log.read_text()[-8000:]
    after = epochs(storage / "cnn_loss")
    assert after[: len(before)] == before
    assert len(after) == len(set(after))
    trials = board(storage / "cnn_loss")
    assert {trial["status"] for trial in trials} <= {"completed", "stopped"}
    assert any(trial["epochs"] == 40 for trial in trials)


def test_a_script_with_its_own_network_loss_and_metric_trains_on_both_hosts(
    cluster: Lab, make_search_place: Callable[..., Path]
) -> None:
    data = make_search_place(cluster.shared / "own", 600, own_search=OWN_SEARCH.read_text()) / "data"
    script = cluster.base / "project/own_search.py"  # in no folder that the cluster file copies
    shutil.copy(OWN_SEARCH, script)
    log, storage = cluster.base / "own.log", cluster.shared / "runs"
    folder = storage / "own_search"
    submit_it = ("ray", "submit", CLUSTER, "own_search.py", "--")
    flags = ["--preset", "smoke", "--epochs", "20", "--data", str(data)]
    shape = ["--workers-per-trial", "2", "--cpus-per-worker", "2"]
    search = cluster.laptop.start(*submit_it, *flags, *shape, log=log)

    wait_for(lambda: both_train(cluster), search, log, seconds=600)

    assert search.wait(timeout=900) == 0, log.read_text()[-8000:]
    # The one file was copied to the one host, and to no other place.
    homes = (cluster.base / "head", cluster.base / "worker")
    assert [path for home in homes for path in home.rglob("own_search.py")] == [homes[0] / "own_search.py"]
    started, *records = read_records(folder)
    (plugin,) = started.plugins
    own = {
        "model 'residual_blocks'",
        "loss 'soft_margin_power'",
        "metric 'yield_significance'",
        "schedule 'warm_up'",
    }
    assert set(plugin.registers) == own | {"augmentation 'swap_signs'"}
    trained = [one for one in records if one.kind == "epoch_finished"]
    assert len(trained) == 4 * 20
    assert all(one.metrics["val_yield_significance"] > 0 for one in trained)
    assert {trial["status"] for trial in board(folder)} == {"completed"}

    confirm = "hep-ray confirm own_search --top 1 --seeds 2"
    assert "own_search" in cluster.laptop.ok("ray", "exec", CLUSTER, confirm)
    cluster.laptop.ok("ray", "exec", CLUSTER, "hep-ray report own_search")
    assert "residual_blocks" in (folder / "report.html").read_text()

    script.write_text(script.read_text().replace("clamp(min=1e-6)", "clamp(min=1e-7)"))
    code, told = cluster.laptop.run(*submit_it, "--resume")
    assert code == 1
    assert "own_search.py has changed" in " ".join(told.split())
