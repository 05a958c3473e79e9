"""How many cores a process may use: the least of what bounds it."""

import os
import subprocess
import sys

import pytest

from hep_ray.cores import core_limits, usable_cores
from hep_ray.predict.run import places

V2 = "0::/user.slice/job_7/step_0\n"
V1 = "9:name=systemd:/x\n3:cpu,cpuacct:/slurm/job_7\n1:memory:/slurm/job_7\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        # Quota over period, μs: 200,000 / 100,000 = 2 cores.
        (V2, {"user.slice/job_7/step_0/cpu.max": "200000 100000\n"}, 2.0),
        (V2, {"user.slice/job_7/step_0/cpu.max": "max 100000\n"}, None),
        # A parent's bound is its children's: the least of 4, 1.5 and none.
        (
            V2,
            {
                "user.slice/cpu.max": "400000 100000\n",
                "user.slice/job_7/cpu.max": "75000 50000\n",
                "user.slice/job_7/step_0/cpu.max": "max 100000\n",
            },
            1.5,
        ),
        # A container that is told the host's path, and sees its own group as the root.
        (V2, {"cpu.max": "300000 100000\n"}, 3.0),
        (V2, {"unified/user.slice/cpu.max": "500000 100000\n"}, 5.0),
        (
            V1,
            {
                "cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "800000\n",
                "cpu,cpuacct/slurm/job_7/cpu.cfs_period_us": "100000\n",
            },
            8.0,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (V2, {}, None),
        (None, {"cpu.max": "300000 100000\n"}, None),
    ],
)
def test_a_control_group_bounds_the_cores(tmp_path, groups, files, cores):
    if groups is not None:
        (tmp_path / "own").write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)

    assert core_limits(tmp_path / "fs", tmp_path / "own").get("cgroup") == cores


def test_a_process_that_is_bound_to_one_core_uses_one():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from hep_ray.cores import core_limits, usable_cores; "
        "print(usable_cores(), int(core_limits()['machine']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", str(os.cpu_count())]


def test_prediction_works_with_as_many_threads_as_cores_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores() == 1
    assert places() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)))
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert places() == min(3, usable_cores())


def test_a_batch_system_bounds_the_cores(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert core_limits()["SLURM_CPUS_PER_TASK"] == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "")
    assert "SLURM_CPUS_PER_TASK" not in core_limits()
