"""A machine of its own for tests of clusters: processes, network, mounts and root's home.

`ray up` and `ray down` call `ray stop`, which ends every Ray that it can see; here it sees nothing else. An sshd of
Debian's package listens on port 22 of a loopback that nothing else reaches, so that clusters/local.yaml is used as it
is but for the user's name. hep_ray is installed on the node by the file's own commands, from the wheels that
`make env` left in uv's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NEEDED = ("unshare", "nsenter", "rsync", "ssh", "ssh-keygen", "ip", "git")
CLUSTER = "clusters/local.yaml"
EVENTS = 120


@dataclass(frozen=True)
class Machine:
    """A machine of its own, which shares this one's files; root's home is another.

    Attributes:
        init: its first process, as seen from here.
        home: of root.
        project: folder with the cluster file.
    """

    init: int
    home: Path
    project: Path

    def words(self, command: Sequence[str]) -> list[str]:
        return [
            "nsenter",
            f"--target={self.init}",
            "--pid",
            "--net",
            "--mount",
            f"--wdns={self.project}",
            *command,
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "RAY_TMPDIR": f"{self.home}/c",
            "TMPDIR": f"{self.home}/t",
            "RAY_AUTH_MODE": "token",
            "PYTHONPATH": str(self.project),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
        }

    def run(self, *command: str, seconds: int = 2400) -> tuple[int, str]:
        done = subprocess.run(
            self.words(command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        return done.returncode, done.stdout

    def start(self, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """In a process group of its own, with the node's own programs."""
        with log.open("w") as file:
            return subprocess.Popen(
                self.words(command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def ok(self, *command: str) -> str:
        code, out = self.run(*command)
        assert code == 0, out[-8000:]
        return out


def uv_cache() -> Path:
    done = subprocess.run([BIN / "uv", "cache", "dir"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def skip_unless_it_can_run() -> None:
    missing = [name for name in NEEDED if not shutil.which(name)]
    if not Path("/usr/sbin/sshd").exists():
        missing.append("sshd")
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: apt-get install openssh-server rsync iproute2)")
    if os.geteuid() != 0:
        pytest.skip("needs root, for namespaces and for an sshd on port 22")
    tried = subprocess.run(["unshare", "--pid", "--net", "--mount", "--fork", "true"], check=False)
    if tried.returncode:
        pytest.skip("this kernel lets nobody unshare namespaces")


def prepare_home(home: Path) -> None:
    """A user's home: an ssh key, uv, and a little dataset on what the file calls shared storage."""
    for folder in ("", ".ssh", ".local/bin", "r", "c", "t", "hep_ray_shared/data"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / ".ssh/id_ed25519"], check=True
    )
    shutil.copy(home / ".ssh/id_ed25519.pub", home / ".ssh/authorized_keys")
    # Only uv: the node's python and ray come from what clusters/bin/setup.sh installs.
    (home / ".local/bin/uv").symlink_to((BIN / "uv").resolve())
    settings = {
        "PATH": "$HOME/.local/bin:$PATH",
        "UV_CACHE_DIR": str(uv_cache()),
        "UV_OFFLINE": "1",
        "HEP_RAY_PYTHON": str(Path(sys.executable).resolve()),
        "RAY_TMPDIR": "$HOME/r",
    }
    (home / ".bashrc").write_text("".join(f'export {key}="{value}"\n' for key, value in settings.items()))


def make_events(folder: Path) -> None:
    import numpy as np

    schema = EventSchema(
        task="mbh_sph",
        columns=(Column(name="image", shape=(50, 50, 3), unit="GeV"),),
        classes=("sphaleron", "black_hole"),
    )
    random = np.random.default_rng(0)
    labels = np.arange(EVENTS) % 2
    images = random.random((EVENTS, 50, 50, 3), dtype=np.float32) * (1 + 9 * labels)[
        :, None, None, None
    ].astype("f4")
    with ShardWriter(folder, schema, source={"seed": 0}) as writer:
        writer.write(
            {"event_id": [f"event-{row}" for row in range(EVENTS)], "label": labels, "image": images}
        )


def prepare_project(project: Path) -> None:
    """The repository as a user has it, with the one name in the file filled in."""
    project.mkdir()
    for name in ("hep_ray", "searches", "clusters"):
        shutil.copytree(REPOSITORY / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "requirements", project / "requirements")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, project / name)
    git = ["git", "-C", str(project), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "as it was cloned"]):
        subprocess.run([*git, *words], check=True)
    file = project / CLUSTER
    file.write_text(file.read_text().replace("CHANGE_ME_USER", "root"))


START = """
set -e
mount --bind "$PASSWD" /etc/passwd
ip link set lo up
mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -f "$CONFIG"
"""


@pytest.fixture(scope="session")
def preparations() -> SimpleNamespace:
    """What another machine of its own is made with."""
    skip_unless_it_can_run()
    return SimpleNamespace(machine=Machine, home=prepare_home, project=prepare_project)


@pytest.fixture(scope="session")
def make_images() -> Callable[[Path], None]:
    """Writes a little dataset of the task mbh_sph: two classes of images that differ tenfold."""
    return make_events


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    skip_unless_it_can_run()
    # A short name: Ray's sockets lie below it, and the name of a socket has 107 characters at most.
    base = Path(tempfile.mkdtemp(prefix="hr", dir="/tmp"))
    home = base / "home"
    prepare_home(home)
    make_events(home / "hep_ray_shared/data/mbh_sph")
    prepare_project(base / "project")
    passwd = Path("/etc/passwd").read_text().splitlines()
    (base / "passwd").write_text("\n".join([f"root:x:0:0:root:{home}:/bin/bash", *passwd[1:]]) + "\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / "host_key"], check=True)
    (base / "sshd_config").write_text(
        f"Port 22\nListenAddress 127.0.0.1\nHostKey {base}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    )
    with (base / "sshd.log").open("w") as log:
        launcher = subprocess.Popen(
            [
                "unshare",
                "--pid",
                "--net",
                "--mount",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-c",
                START,
            ],
            env={
                "PATH": os.environ["PATH"],
                "PASSWD": str(base / "passwd"),
                "CONFIG": str(base / "sshd_config"),
            },
            stdout=log,
            stderr=log,
        )
    try:
        yield first_process(launcher, Machine(0, home, base / "project"), base / "sshd.log")
    finally:
        launcher.kill()
        launcher.wait()
        shutil.rmtree(base, ignore_errors=True)


def first_process(launcher: subprocess.Popen[bytes], machine: Machine, log: Path) -> Machine:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    until = time.monotonic() + 30
    while "Server listening" not in log.read_text():
        assert launcher.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    made = Machine(int(children.read_text().split()[0]), machine.home, machine.project)
    # `ray stop` would end the Ray of other people if it could see them: it must see nothing but this machine.
    seen = made.ok("sh", "-c", "cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l; ip -brief address").split()
    assert seen[0] == "sshd"
    assert int(seen[1]) < 10
    assert {word for word in seen if "/" in word} <= {"127.0.0.1/8", "::1/128"}
    return made


@pytest.fixture(scope="session")
def cluster(machine: Machine) -> Iterator[Machine]:
    """The cluster of clusters/local.yaml."""
    machine.ok("ray", "get-auth-token", "--generate")
    machine.ok("ray", "up", "-y", CLUSTER)
    yield machine
    machine.ok("ray", "down", "-y", "-v", CLUSTER)
    left = machine.ok("sh", "-c", "cat /proc/[0-9]*/comm")
    assert "raylet" not in left
    assert "gcs_server" not in left
