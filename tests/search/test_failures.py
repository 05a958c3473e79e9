import subprocess
import sys

import pytest

from hep_ray.errors import Interrupted, SearchFailed
from hep_ray.search.failures import TAIL, hung, last_attempt, loss, tail
from hep_ray.search.state import SearchState, causes, judge
from hep_ray.tracking.records import EpochFinished, TrialFinished, TrialLost, TrialStarted
from tests.facts import raises

COMMON = " Some common causes include: (1) the process was killed by the OOM killer"
DIED = (
    "1 (occurred at 2026-11-25_16-41-06)\nThe actor died unexpectedly before finishing this task.\n\tpid: 11135\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
    "Worker unexpectedly exits with a connection error code 2. End of file." + COMMON
)

UNAVAILABLE = (
    "1 (occurred at 2026-11-25_17-27-24)\nThe actor 22969167 is unavailable: The actor is temporarily unavailable: "
    "RpcError: RPC error: Socket closed rpc_code: 14. The task may or may not have been executed on the actor."
)


def trial(number, *values, status=None, cause=""):
    name = f"t{number:04d}"
    yield TrialStarted(time=0, trial_id=name, number=number, params={"model": "cnn"}, seed=0)
    for epoch, value in enumerate(values, start=1):
        yield EpochFinished(time=0, trial_id=name, metrics={"epoch": epoch, "val_accuracy": value})
    if status:
        yield TrialFinished(time=0, trial_id=name, status=status, cause=cause)


def fold(*trials):
    return SearchState.fold(record for records in trials for record in records)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (DIED, "ProcessLost: Worker unexpectedly exits with a connection error code 2. End of file."),
        (
            "The actor died because its node has died. Node Id: ab12\n\tthe node was terminated unexpectedly",
            "NodeLost: its node has died. Node Id: ab12",
        ),
        (
            "Task was killed due to the node running low on memory.\nMemory on the node was 15.2GB / 16GB",
            "OutOfMemory: Task was killed due to the node running low on memory.",
        ),
        (
            UNAVAILABLE,
            "ProcessLost: The actor is temporarily unavailable: RpcError: RPC error: Socket closed rpc_code: 14.",
        ),
        ("2 (occurred at 2026-11-25_17-27-24)\nSomething new", "ProcessLost: Something new"),
        ("", "ProcessLost: no cause given"),
    ],
)
def test_the_loss_of_a_process_is_told_in_a_line(told, words):
    assert loss(told, "", 5) == words


def test_causes_that_differ_in_numbers_alone_are_one_and_the_commonest_comes_first():
    state = fold(
        trial(0, status="failed", cause="KeyError: 'weights'\nTraceback …"),
        trial(
            1, status="failed", cause="NonFiniteLoss: loss is nan at step 3 of epoch 2 (learning_rate 1e+30)"
        ),
        trial(
            2, status="failed", cause="NonFiniteLoss: loss is nan at step 14 of epoch 1 (learning_rate 0.5)"
        ),
    )

    found = [(cause, [one.trial_id for one in trials]) for cause, trials in causes(state.trials.values())]
    assert found == [
        ("NonFiniteLoss: loss is nan at step 3 of epoch 2 (learning_rate 1e+30)", ["t0001", "t0002"]),
        ("KeyError: 'weights'", ["t0000"]),
    ]
    with raises(SearchFailed, "all 3", "2 of them", "NonFiniteLoss", "1 other", "t0001"):
        judge(state, len(state.trials), "type it again")


def test_a_search_with_a_success_is_one_and_one_that_was_cut_off_is_not():
    judge(fold(trial(0, status="failed", cause="x"), trial(1, 0.5, status="completed")), 2, "")
    judge(SearchState(), 0, "")
    with raises(Interrupted, "t0001", "to go on, run it with --resume"):
        judge(fold(trial(0, status="failed", cause="x"), trial(1, 0.5)), 2, "run it with --resume")


def test_a_failed_trial_ranks_below_all_that_did_not_fail():
    state = fold(
        trial(0, 0.99, status="failed", cause="x"),
        trial(1, 0.6, status="completed"),
        trial(2, 0.7, status="stopped"),
        trial(3, 0.8),
        trial(4),
    )

    order = [one.trial_id for one in state.ranked("val_accuracy", "max")]
    assert order == ["t0003", "t0002", "t0001", "t0000", "t0004"]


def test_losses_are_part_of_the_state():
    records = [*trial(0, 0.5), TrialLost(time=1, trial_id="t0000", epoch=1, cause="NodeLost: gone")]
    assert [one.cause for one in SearchState.fold(records).trials["t0000"].losses] == ["NodeLost: gone"]


WRITES = """
import sys, time
from pathlib import Path
from hep_ray.search import failures

folder = Path(sys.argv[1])
for attempt in ("first", "second"):
    failures.begin_log(folder, "t0007")
    print(attempt, flush=True)
with failures.time_limit(float(sys.argv[2])):
    time.sleep(float(sys.argv[3]))
print("in time", flush=True)
"""


def write_log(folder, limit, pause):
    words = [sys.executable, "-c", WRITES, str(folder), str(limit), str(pause)]
    return subprocess.run(words, check=False).returncode


@pytest.mark.slow
@pytest.mark.ci
def test_a_process_that_takes_too_long_is_ended_with_its_stacks_in_its_log(tmp_path):
    assert last_attempt(tmp_path) == ""
    assert write_log(tmp_path, 60, 0) == 0
    kept = last_attempt(tmp_path)
    assert kept.startswith("[hep_ray]")
    assert kept.endswith("second\nin time\n")
    assert not hung(kept)

    assert write_log(tmp_path, 0.2, 60) == 1
    ended = last_attempt(tmp_path)
    assert "in time" not in ended
    assert "\nfirst\n" not in ended
    assert hung(ended)
    assert 'File "<string>", line 11' in ended
    assert loss("whatever Ray says", ended, 0.2).startswith("EpochTimeout: an epoch takes at most 0.2 s")


def test_the_tail_of_a_long_log_keeps_its_first_line_and_no_list_of_extension_modules():
    head = "[hep_ray] 2026-11-25T16:41:37+00:00 t0000 in process 12045 on vm\n"
    rows = [f"row {number:06d}\n" for number in range(TAIL)]
    kept = tail(head + "".join(rows) + "Extension modules: a, b, c (total: 3)\n")

    assert kept.startswith(head + "…\nrow ")
    assert kept.endswith(rows[-1])
    assert len(kept) <= len(head) + TAIL + 2
    assert tail(head + "short\n") == head + "short\n"
