"""Why trials fail: the words for a lost process, and the causes of a search by how often they occurred."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from hep_ray.errors import Interrupted, SearchFailed
from hep_ray.search.state import SearchState, TrialState
from hep_ray.search.trial_log import LOG, hung

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
