"""The gate: may this finalist become the champion? Pure functions of a confirmation and of facts about it.

The candidate is chosen without the test split: of the finalists the one with the best mean validation metric over
the confirmation's seeds, and of its models the one whose own validation metric is best. The test split then says
only whether the candidate beats what is to be beaten: see `gain`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hep_ray.confirm.confirmation import Confirmation, ConfirmedRun, Contender
from hep_ray.errors import PromotionRefused
from hep_ray.tracking.provenance import doubts

TOLERANCE = 1e-5
"""Largest difference of a probability between the promoted form and the confirmation."""


@dataclass(frozen=True)
class Check:
    """One question of the gate.

    Attributes:
        name: what is asked about.
        passed: the answer.
        text: the reason, in a sentence with its numbers.
    """

    name: str
    passed: bool
    text: str

    @property
    def line(self) -> str:
        """For the terminal and the model card."""
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.text}"


@dataclass(frozen=True)
class Verdict:
    """The gate's answer.

    Attributes:
        candidate: the finalist.
        run: the one of its runs whose model is handed on.
        checks: in the order in which they were asked.
    """

    candidate: Contender
    run: ConfirmedRun
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    @property
    def lines(self) -> tuple[str, ...]:
        """One for each check."""
        return tuple(check.line for check in self.checks)

    def enforce(self) -> None:
        """Refuse unless every check passed.

        Raises:
            PromotionRefused: with the reasons.
        """
        failed = [f"{check.name}: {check.text}" for check in self.checks if not check.passed]
        if failed:
            raise PromotionRefused(
                f"a model is promoted when every check passes; '{self.candidate.name}' fails {len(failed)} of "
                f"{len(self.checks)}: " + "; ".join(failed)
            )


@dataclass(frozen=True)
class Looks:
    """How often the test split was read to judge finalists, beside the confirmation that is judged.

    Attributes:
        earlier: times, for the same search.
        finalists: that were tested then.
        by_others: other search → times.
    """

    earlier: int = 0
    finalists: int = 0
    by_others: Mapping[str, int] = field(default_factory=dict)


def choose(confirmation: Confirmation) -> tuple[Contender, ConfirmedRun]:
    """The candidate and the run whose model would be handed on, by the validation split alone.

    Raises:
        PromotionRefused: there is no finalist, or its runs tell no validation metric.
    """
    key = "val_" + confirmation.metric.removeprefix("test_")
    sign = 1 if confirmation.mode == "max" else -1
    if not confirmation.finalists or any(
        key not in run.metrics for one in confirmation.finalists for run in one.runs
    ):
        raise PromotionRefused(
            f"a candidate is chosen among finalists by {key}; the confirmation of '{confirmation.search}' has "
            f"{len(confirmation.finalists)} finalists and not every run of theirs has it"
        )

    def mean(contender: Contender) -> float:
        return sign * math.fsum(run.metrics[key] for run in contender.runs) / len(contender.runs)

    candidate = max(confirmation.finalists, key=mean)
    return candidate, max(candidate.runs, key=lambda run: sign * run.metrics[key])


def check_provenance(provenance: Mapping[str, str], origin: Mapping[str, str]) -> Check:
    """Whether it is known which code, versions, machine and command made the model."""
    faults = doubts(provenance)
    faults += [f"{key} is absent" for key, value in origin.items() if not value]
    return Check("provenance", not faults, "; ".join(faults) or f"complete, {_commits(provenance)}")


def _commits(provenance: Mapping[str, str]) -> str:
    if "hep_ray_commit" not in provenance:
        return f"commit {provenance['git_commit'][:12]}"
    ours, script = provenance["hep_ray_commit"], provenance["script_commit"]
    return f"hep_ray {ours if ours.startswith('release') else ours[:12]}, script {script[:12]}"


def check_dataset(recorded: str, now: str) -> Check:
    """Whether the dataset is that of the confirmation."""
    if recorded == now:
        return Check("dataset", True, f"fingerprint {now[:12]}, every shard as its manifest says")
    return Check("dataset", False, f"it was confirmed on the fingerprint {recorded}; the dataset has {now}")


def check_test_split(looks: Looks, finalists: int, *, accepted: bool) -> Check:
    """Whether the test split has served a choice for this search before.

    Args:
        looks: that were taken at it.
        finalists: of the confirmation that is judged.
        accepted: whether the user says that it may have served one.
    """
    others = ", ".join(f"'{name}' {count}" for name, count in looks.by_others.items())
    aside = f"; other searches looked too: {others}" if others else ""
    if not looks.earlier:
        return Check("test split", True, f"read once for this search, for {finalists} finalists{aside}")
    used = f"read {looks.earlier} times before for this search, for {looks.finalists} finalists"
    total = looks.finalists + finalists
    if accepted:
        return Check(
            "test split", True, f"{used}; accepted, with the p-value corrected for all {total}{aside}"
        )
    return Check(
        "test split",
        False,
        f"{used}, so it has served a choice: confirm on a dataset with other test events, or say "
        f"--accept-reused-test, which corrects the p-value for all {total} and stands in the model card{aside}",
    )


def check_reproduction(what: str, difference: float, events: int) -> Check:
    """Whether scores agree to `TOLERANCE`.

    Args:
        what: two kinds of scores, in words.
        difference: largest, of any probability.
        events: compared.
    """
    text = f"{what} on {events} test events differ by {difference:.1e} at most ({TOLERANCE:.0e} is allowed)"
    if not difference <= TOLERANCE:
        text += ": another checkpoint than the confirmed one, or another kind of device (--device)"
    return Check("reproduction", difference <= TOLERANCE, text)
