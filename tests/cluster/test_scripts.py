"""Scripts of clusters/: read by bash and shellcheck, and run where the real part runs here.

What SLURM, HTCondor and a node with a package registry do with them is not shown: none is here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CLUSTERS = REPOSITORY / "clusters"
SCRIPTS = sorted([*CLUSTERS.rglob("*.sh"), *CLUSTERS.rglob("*.sbatch")])
SUBMIT = CLUSTERS / "htcondor/search.sub"
TESTED_ELSEWHERE = {
    "gpu.yaml",
    "gpu-gcp.yaml",
    "onprem.yaml",
    "local.yaml",
    "kuberay.yaml",
    "kuberay-job.yaml",
}
FLAGS = {
    "job-name",
    "output",
    "open-mode",
    "nodes",
    "ntasks-per-node",
    "cpus-per-task",
    "gpus-per-node",
    "mem",
    "time",
}
FLAGS |= {"signal", "requeue", "account", "partition"}


def name_of(path: Path) -> str:
    return path.relative_to(CLUSTERS).as_posix()


def test_every_file_has_its_validator() -> None:
    files = {name_of(path) for path in CLUSTERS.rglob("*") if path.is_file()}

    assert files == {name_of(path) for path in [*SCRIPTS, SUBMIT]} | TESTED_ELSEWHERE


def read_by_bash(text: str) -> bool:
    return (
        subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False).returncode
        == 0
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_bash_reads_them_and_not_a_broken_copy(script: Path) -> None:
    text = script.read_text(encoding="utf-8")

    assert text.startswith("#!/usr/bin/env bash\n")
    assert read_by_bash(text)
    assert not read_by_bash(text + "\nif true; then\n")
    assert not read_by_bash(text.replace("\nfi\n", "\n", 1))


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_shellcheck_has_nothing_to_say_but_of_a_broken_copy(script: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed (Debian: apt-get install shellcheck)")
    text = script.read_text(encoding="utf-8")

    def findings(source: str) -> str:
        return subprocess.run(
            ["shellcheck", "-s", "bash", "-"], input=source, capture_output=True, text=True, check=False
        ).stdout

    assert findings(text) == ""
    assert "SC2086" in findings(text + '\nrm -rf "$HOME"/$UNQUOTED\n')


def batch_flags(text: str) -> dict[str, str]:
    lines = re.findall(r"^##?SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE)
    assert len(lines) == len(re.findall(r"^##?SBATCH", text, re.MULTILINE)), (
        "a line that SLURM would not read"
    )
    return dict(lines)


def check_slurm(text: str) -> None:
    """SLURM reads #SBATCH lines up to the first command; after it they are comments."""
    first = next(number for number, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    last = max(
        number for number, line in enumerate(text.splitlines()) if line.startswith(("#SBATCH", "##SBATCH"))
    )
    assert last < first
    flags = batch_flags(text)
    assert set(flags) == FLAGS
    assert flags["ntasks-per-node"] == "1"
    assert flags["open-mode"] == "append"
    name, seconds = flags["signal"].removeprefix("B:").split("@")
    assert (name, flags["signal"][:2]) == ("USR1", "B:")
    assert int(seconds) >= 120
    for part in (
        "search.sh",
        "-eq 75 ]",
        'scontrol requeue "$SLURM_JOB_ID"',
        "RAY_AUTH_MODE=token",
        "mlflow.sh",
    ):
        assert part in text
    assert "ray stop" not in text, "it would end other jobs of the user on the node"


SLURM_ERRORS = {
    "a flag after the first command": lambda text: text.replace(
        "set -uo pipefail", "set -uo pipefail\n#SBATCH --time=1"
    ),
    "a typo in a flag": lambda text: text.replace("--ntasks-per-node=1", "--ntask-per-node=1", 1),
    "the signal goes to the steps": lambda text: text.replace("B:USR1@300", "USR1@300"),
    "no time to tidy up": lambda text: text.replace("USR1@300", "USR1@10"),
    "it is not queued again": lambda text: text.replace('scontrol requeue "$SLURM_JOB_ID"', "true"),
    "it ends Ray of other jobs": lambda text: text + "\nray stop\n",
    "a space in a flag": lambda text: text.replace("#SBATCH --mem=64G", "#SBATCH --mem = 64G"),
}


def test_the_slurm_script_follows_slurms_rules() -> None:
    check_slurm((CLUSTERS / "slurm/search.sbatch").read_text(encoding="utf-8"))


@pytest.mark.parametrize("error", SLURM_ERRORS)
def test_a_broken_slurm_script_is_refused(error: str) -> None:
    text = (CLUSTERS / "slurm/search.sbatch").read_text(encoding="utf-8")
    broken = SLURM_ERRORS[error](text)
    assert broken != text

    with pytest.raises((AssertionError, ValueError)):
        check_slurm(broken)


COMMANDS = {
    *(
        "universe",
        "executable",
        "arguments",
        "workers",
        "should_transfer_files",
        "getenv",
        "output",
        "error",
        "log",
    ),
    *("request_cpus", "request_gpus", "request_memory", "environment", "+MaxRuntime", "kill_sig"),
    *("job_max_vacate_time", "on_exit_remove"),
}


def check_condor(text: str) -> None:
    settings, queued = {}, []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if line.split()[0] == "queue":
            queued.append(line)
            continue
        key, equals, value = line.partition("=")
        assert equals, line
        assert not queued, "what stands after `queue` does not count for it"
        settings[key.strip()] = value.strip()
    assert set(settings) == COMMANDS
    assert queued == ["queue", "queue $(workers)"]
    assert settings["universe"] == "vanilla"
    script = settings["arguments"].strip('"').split()[0]
    assert (REPOSITORY / script).is_file()
    assert settings["on_exit_remove"] == "(ExitBySignal == False) && (ExitCode =!= 75)"
    seconds = int(settings["environment"].strip('"').removeprefix("HEP_RAY_SECONDS="))
    assert seconds + int(settings["job_max_vacate_time"]) < int(settings["+MaxRuntime"])


CONDOR_ERRORS = {
    "a typo": lambda text: text.replace("request_cpus", "request_cpu"),
    "no script": lambda text: text.replace("htcondor/node.sh", "htcondor/nodes.sh"),
    "an interrupted search is removed": lambda text: text.replace("=!= 75", "=!= 0"),
    "it stops after the limit": lambda text: text.replace("=82800", "=90000"),
    "a setting after the queue": lambda text: text + "\nlog = late.log\n",
}


def test_the_condor_file_follows_condors_rules() -> None:
    check_condor(SUBMIT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("error", CONDOR_ERRORS)
def test_a_broken_condor_file_is_refused(error: str) -> None:
    text = SUBMIT.read_text(encoding="utf-8")
    broken = CONDOR_ERRORS[error](text)
    assert broken != text

    with pytest.raises((AssertionError, ValueError)):
        check_condor(broken)


SEARCH = """
import sys, time
try:
    print("flags", *sys.argv[1:], flush=True)
    time.sleep(float(sys.argv[1]))
except KeyboardInterrupt:
    time.sleep(0.3)
    print("tidy", flush=True)
    sys.exit(int(sys.argv[2]))
"""


DEAF = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.default_int_handler))
print("flags", flush=True)
time.sleep(60)
"""


def run_search(
    tmp_path: Path, *flags: str, signals: tuple[int, ...] = (), text: str = SEARCH
) -> tuple[int, str]:
    script = tmp_path / "patience.py"
    script.write_text(text, encoding="utf-8")
    environment = {
        **os.environ,
        "HEP_RAY_STORAGE": str(tmp_path / "runs"),
        "HEP_RAY_PATIENCE": "5",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    out = tmp_path / "out"
    with out.open("w", encoding="utf-8") as file:
        # A test runner that ignores SIGINT would hand that down.
        started = subprocess.Popen(
            ["env", "--default-signal=INT", "bash", str(CLUSTERS / "bin/search.sh"), str(script), *flags],
            env=environment,
            stdout=file,
            stderr=file,
        )
    for number in signals:
        while "flags" not in out.read_text(encoding="utf-8"):
            time.sleep(0.02)
        time.sleep(0.1)
        started.send_signal(number)
    return started.wait(timeout=60), out.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_search_says_that_it_can_be_resumed(tmp_path: Path, number: int) -> None:
    code, out = run_search(tmp_path, "60", "1", signals=(number, signal.SIGTERM))

    assert code == 75
    assert out.count("tidy") == 1


def test_a_search_that_missed_the_signal_is_told_again(tmp_path: Path) -> None:
    assert run_search(tmp_path, signals=(signal.SIGUSR1,), text=DEAF)[0] == 75


def test_a_search_that_ends_in_spite_of_the_signal_has_ended(tmp_path: Path) -> None:
    assert run_search(tmp_path, "60", "0", signals=(signal.SIGUSR1,))[0] == 0


def test_other_exit_codes_are_the_searchs_own(tmp_path: Path) -> None:
    assert run_search(tmp_path, "0")[0] == 0
    assert run_search(tmp_path, "no number")[0] == 1


def test_a_search_that_is_there_is_resumed(tmp_path: Path) -> None:
    assert "flags 0 x\n" in run_search(tmp_path, "0", "x")[1]
    journal = tmp_path / "runs/patience/journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("{}\n", encoding="utf-8")
    assert "flags 0 x --resume\n" in run_search(tmp_path, "0", "x")[1]


def run_setup(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(CLUSTERS / "bin/setup.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("word", ["HEP_RAY_SHARED=/CHANGE_ME/hep_ray", "shared"])
def test_setup_refuses_what_was_not_filled_in(word: str) -> None:
    done = run_setup(word)

    assert done.returncode == 2
    assert "error:" in done.stderr
    assert word in done.stderr
