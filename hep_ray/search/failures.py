"""Why trials fail: the words for a lost process, and the causes of a search by how often they occurred."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from ray.exceptions import RayError

from hep_ray.errors import (
    CorruptCheckpoint,
    Interrupted,
    InvalidEvents,
    NonFiniteLoss,
    SearchFailed,
    ShardMismatch,
    StorageError,
    UnreadableInput,
    WorkersLost,
)
from hep_ray.search.state import SearchState, TrialState
from hep_ray.search.trial_log import LOG, hung
from hep_ray.tracking.records import Failure

_NUMBER = re.compile(r"[-+]?\b\d[\w.+-]*")
_HEADING = re.compile(r"\A\d+ \(occurred at [^\n]*\)")
_KINDS = (
    ("OutOfMemory", re.compile(r"([^\n]*the node running low on memory[^\n]*)")),
    ("NodeLost", re.compile(r"because (its node has died[^\n]*)")),
    ("ProcessLost", re.compile(r"Worker exit detail: ([^\n]*?)(?: Some common causes|\n|$)")),
    ("ProcessLost", re.compile(r"The actor (?:is dead|died) because ([^\n]*)")),
    ("ProcessLost", re.compile(r"The actor \w+ is unavailable: ([^\n]*?)(?: The task may|\n|$)")),
)
"""How Ray words the loss of a trial's process; tried in this order."""

_CPU_MEMORY = "DefaultCPUAllocator: "
"""Begins torch's complaint, a RuntimeError, when the node has no memory for a tensor."""
_PEER_GONE = re.compile("gloo/transport|Connection closed by peer")
"""What gloo says, in a RuntimeError, to a worker whose peer is gone."""
SURROUNDINGS = (
    *(OSError, RayError, torch.distributed.DistError),
    *(StorageError, CorruptCheckpoint, WorkersLost, ShardMismatch, UnreadableInput, InvalidEvents),
)
"""Exceptions within a trial that another configuration would have met as well."""


def loss(told: str, log: str, epoch_timeout: float) -> str:
    """In words, why the process of a trial is gone.

    Args:
        told: what Ray says of it.
        log: what the process wrote.
        epoch_timeout: of the trials, s.
    """
    if hung(log):
        return f"EpochTimeout: an epoch takes at most {epoch_timeout:g} s; one took longer, and was ended"
    for kind, words in _KINDS:
        if match := words.search(told):
            return f"{kind}: {match[1].strip()}"
    return f"ProcessLost: {_first(_HEADING.sub('', told))}"


def loss_kind(told: str, log: str) -> Failure:
    """Of what kind the loss of a process is: an epoch too long, a node out of memory, else none of the trial's doing.

    Args:
        told: what Ray says of it, which is all that it tells.
        log: what the process wrote.
    """
    if hung(log):
        return "timeout"
    kind = next((kind for kind, words in _KINDS if words.search(told)), "")
    return "out_of_memory" if kind == "OutOfMemory" else "lost"


def kind_of(fault: BaseException) -> Failure:
    """Of what kind an exception within a trial is."""
    if isinstance(fault, NonFiniteLoss):
        return "diverged"
    if isinstance(fault, MemoryError | torch.OutOfMemoryError) or _CPU_MEMORY in str(fault):
        return "out_of_memory"
    return "lost" if isinstance(fault, SURROUNDINGS) or _PEER_GONE.search(str(fault)) else "error"


def failed(trials: Iterable[TrialState]) -> list[TrialState]:
    """Those of some trials that failed."""
    return [trial for trial in trials if trial.status == "failed"]


def causes(trials: Iterable[TrialState]) -> list[tuple[str, list[TrialState]]]:
    """Failed trials by their cause, the commonest first.

    Causes that differ in numbers alone (an epoch, a learning rate, a process) are one; the first one speaks for all.

    Returns:
        First line of the cause, and the trials that failed so.
    """
    groups: dict[str, list[TrialState]] = defaultdict(list)
    for trial in failed(trials):
        groups[_NUMBER.sub("#", headline(trial))].append(trial)
    ordered = sorted(groups.values(), key=len, reverse=True)
    return [(headline(group[0]), group) for group in ordered]


def judge(state: SearchState) -> None:
    """Whether a search may be called a success.

    Raises:
        Interrupted: trials have not ended.
        SearchFailed: every trial failed; the commonest cause is named first.
    """
    if unfinished := state.unfinished():
        raise Interrupted(
            f"{len(unfinished)} trials have not ended ({', '.join(trial.trial_id for trial in unfinished)}); "
            "every finished epoch is kept: run the same script with --resume to go on"
        )
    trials = list(state.trials.values())
    if trials and len(failed(trials)) == len(trials):
        (cause, like_it), *others = causes(trials)
        more = f"; {len(others)} other cause{'s' if len(others) > 1 else ''}" if others else ""
        raise SearchFailed(
            f"at least one trial must succeed; all {len(trials)} failed, {len(like_it)} of them so: {cause}{more}; "
            f"what trial {like_it[0].trial_id} wrote is in its {LOG}, and in MLflow"
        )


def headline(trial: TrialState) -> str:
    """First line of the cause of a trial's failure."""
    assert trial.finished is not None
    return _first(trial.finished.cause)


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no cause given")
