"""clusters/slurm/search.sbatch under a real SLURM of one node: munge, slurmctld and slurmd of Debian's packages.

They run in namespaces of their own. Several nodes, GPUs and accounts are not shown: one node has none of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hep_ray.tracking.journal import read_records

REPOSITORY = Path(__file__).parents[2]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "nsenter", "ip")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]

CONFIG = """
ClusterName=test
SlurmctldHost=node(10.77.0.1)
AuthType=auth/munge
AuthInfo=socket={base}/run/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
NodeName=node NodeAddr=10.77.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=node Default=YES MaxTime=INFINITE State=UP
"""
START = """
set -e
hostname node
ip link set lo up
ip link add d0 type veth peer name d1
ip address add 10.77.0.1/24 dev d0
ip link set d0 up
ip link set d1 up
mount --bind hosts /etc/hosts
munged --force --key-file "$PWD/munge.key" --socket "$PWD/run/munge.socket" --pid-file "$PWD/run/munged.pid" \
    --log-file "$PWD/munged.log" --seed-file "$PWD/seed"
slurmctld -f "$PWD/slurm.conf"
slurmd -f "$PWD/slurm.conf" -N node
echo started
while :; do sleep 1; done  # the first process takes leave of those that others left
"""


@dataclass(frozen=True)
class Slurm:
    """A SLURM of one node.

    Attributes:
        base: folder of everything.
        init: first process of its namespaces.
    """

    base: Path
    init: int

    @property
    def repository(self) -> Path:
        """Where jobs are submitted."""
        return self.base / "hep_ray"

    def ok(self, *command: str) -> str:
        done = subprocess.run(
            [
                "nsenter",
                f"--target={self.init}",
                "-p",
                "-n",
                "-m",
                "-u",
                f"--wdns={self.repository}",
                *command,
            ],
            env={
                "HOME": str(self.base / "home"),
                "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "SLURM_CONF": str(self.base / "slurm.conf"),
                "HEP_RAY_ENV": sys.prefix,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        words = self.ok("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.fixture(scope="module")
def slurm(make_images: Callable[[Path], None]) -> Iterator[Slurm]:
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        pytest.skip(
            f"needs {', '.join(missing)} (Debian: apt-get install slurmctld slurmd slurm-client munge iproute2)"
        )
    if subprocess.run(
        ["unshare", "--pid", "--net", "--mount", "--uts", "--fork", "true"], check=False
    ).returncode:
        pytest.skip("this kernel or user may not unshare namespaces")
    base = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    for folder in ("run", "state", "spool", "home"):
        (base / folder).mkdir()
    (base / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 node\n")
    (base / "slurm.conf").write_text(CONFIG.format(base=base))
    (base / "munge.key").write_bytes(bytes(range(256)) * 4)
    (base / "munge.key").chmod(0o600)
    for name in ("clusters", "searches"):
        shutil.copytree(
            REPOSITORY / name, base / "hep_ray" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    make_images(base / "hep_ray/data/mbh_sph")
    words = [
        "unshare",
        "--pid",
        "--net",
        "--mount",
        "--uts",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "bash",
        "-c",
        START,
    ]
    with (base / "log").open("w") as log:
        launcher = subprocess.Popen(words, cwd=base, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while "started" not in (base / "log").read_text():
            assert launcher.poll() is None, (base / "log").read_text()
            assert time.monotonic() < until, (base / "log").read_text()
            time.sleep(0.1)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
        yield Slurm(base, int(children.split()[0]))
    finally:
        launcher.kill()
        launcher.wait()
        shutil.rmtree(base, ignore_errors=True)


def epochs(folder: Path) -> list[tuple[str, int]]:
    if not (folder / "journal.jsonl").exists():
        return []
    return [(one.trial_id, one.epoch) for one in read_records(folder) if one.kind == "epoch_finished"]


def test_a_search_outlives_the_time_limit_of_its_job(slurm: Slurm) -> None:
    """SIGUSR1 arrives as SLURM sends it before the limit; the job is queued again and ends the search."""
    flags = ["--preset", "smoke", "--trials", "2", "--epochs", "40"]
    resources = ["--nodes", "1", "--cpus-per-task", "2", "--gpus-per-node", "0", "--mem", "0"]
    out = slurm.ok(
        "sbatch", "--parsable", *resources, "clusters/slurm/search.sbatch", "searches/cnn_loss.py", *flags
    )
    number = out.strip()
    log = slurm.repository / f"hep_ray-{number}.out"
    folder = slurm.repository / "runs/cnn_loss"

    def wait_for(reached: Callable[[], bool], seconds: float = 900) -> None:
        until = time.monotonic() + seconds
        while not reached():
            state = slurm.job(number)["JobState"]
            assert state not in {"FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}, log.read_text()[-8000:]
            assert time.monotonic() < until, log.read_text()[-8000:]
            time.sleep(0.5)

    wait_for(lambda: bool(epochs(folder)))
    slurm.ok("scancel", "--batch", "--signal=USR1", number)
    wait_for(lambda: slurm.job(number).get("Restarts") == "1" and slurm.job(number)["JobState"] == "PENDING")
    before = epochs(folder)
    assert len(before) < 80
    assert "goes back into the queue" in log.read_text()

    # A job that was queued again waits for two minutes, in which its first run ends; so long it counts as this run's.
    wait_for(lambda: slurm.ok("sinfo", "--noheader", "--format=%T").strip() == "idle")
    slurm.ok("scontrol", "update", f"JobId={number}", "StartTime=now")
    wait_for(lambda: slurm.job(number)["JobState"] == "COMPLETED")

    after = epochs(folder)
    assert after[: len(before)] == before
    assert len(after) == len(set(after))
    board = json.loads((folder / "leaderboard.json").read_text())["trials"]
    assert {trial["status"] for trial in board} <= {"completed", "stopped"}
    assert (slurm.repository / "runs/mlflow.db").exists()
    wait_for(lambda: "raylet" not in slurm.ok("sh", "-c", "ps -e -o stat=,comm= | grep -v ^Z"), seconds=60)
