"""Does a candidate beat what is to be beaten by more than the noise of seeds and of the finite test split?

Judged from the scores that the confirmation kept, at the gate's own level, whatever level the confirmation shows.

- Without a champion, that is the baseline: paired by seed and event, p-value corrected for the number of finalists.
- A champion of the same dataset: the candidate's runs against the champion's confirmed runs, which share the test
  events and no seeds. Where the champion's scores are no longer there, its configuration must be the baseline.
- A champion of another dataset: its configuration must be the confirmation's baseline, retrained on this dataset
  with the candidate's seeds. Its old model is not evaluated here: it may have been trained on these test events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hep_ray.config import FORMERLY
from hep_ray.confirm.comparison import compared, fitted, same_events, values_of
from hep_ray.confirm.confirmation import FILE_NAME, FOLDER, Comparison, Confirmation, Contender
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import PromotionRefused
from hep_ray.metrics.crossed import Crossed
from hep_ray.metrics.inference import holm
from hep_ray.promote.gate import Check
from hep_ray.promote.package import Description
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import read_scores

FEWEST_SEEDS = 2
LEVEL = 0.025
"""Rate, one-sided, at which a candidate that is no better passes."""


@dataclass(frozen=True)
class Gate:
    """What a gain is judged by.

    Attributes:
        folder: of the search; scores lie in its confirmation.
        schema: of the dataset.
        level: one-sided.
        earlier: finalists tested on this split before.
    """

    folder: Path
    schema: EventSchema
    level: float = LEVEL
    earlier: int = 0


def check_gain(
    confirmation: Confirmation, candidate: Contender, champion: Description | None, gate: Gate | None
) -> Check:
    """Whether the candidate beats the champion, or the baseline where there is none, beyond the noise.

    Args:
        confirmation: of the candidate.
        candidate: one of its finalists.
        champion: the description of the present champion.
        gate: scores, level and earlier looks; None without the dataset that was confirmed on.

    Raises:
        StorageError: kept scores cannot be read.
    """
    if gate is None:
        return Check("gain", False, "not judged, without the dataset that was confirmed on")
    if len(candidate.runs) < FEWEST_SEEDS and not (fitted(candidate) and fitted(confirmation.baseline)):
        return Check(
            "gain",
            False,
            f"seed noise is seen with {FEWEST_SEEDS} seeds or more; there is {len(candidate.runs)}",
        )
    if champion is None or champion.evidence is None:
        return _against_baseline(confirmation, candidate, gate, "the baseline")
    if _same(champion.evidence.contender.params, confirmation.baseline.params):
        return _against_baseline(
            confirmation, candidate, gate, "the champion's configuration, retrained on this dataset"
        )
    if champion.dataset_fingerprint != confirmation.dataset_fingerprint:
        return Check(
            "gain",
            False,
            f"the champion was trained on the dataset {champion.dataset_fingerprint[:12]}, not on this one: confirm "
            f"with the champion's configuration as the baseline",
        )
    return _against_champion(confirmation, candidate, champion, gate)


def _against_baseline(confirmation: Confirmation, candidate: Contender, gate: Gate, whom: str) -> Check:
    comparison_of(confirmation, candidate)
    found = {
        one.name: values_of(gate.folder / FOLDER, gate.schema, one, confirmation.metric)
        for one in confirmation.contenders
    }
    baseline = (confirmation.baseline, found[confirmation.baseline.name])
    against = {one.name: compared((one, found[one.name]), baseline) for one in confirmation.finalists}
    both = against[candidate.name]
    if both is None:
        return _untold(confirmation, gate)
    finalists = list(against)
    p_values = [None if one is None else one.p_value for one in against.values()]
    adjusted = holm([*p_values, *([None] * len(confirmation.dropped))])
    corrected = adjusted[finalists.index(candidate.name)]
    if gate.earlier and both.p_value is not None and corrected is not None:
        corrected = max(corrected, min(1.0, both.p_value * (gate.earlier + len(confirmation.finalists))))
    return _judged(confirmation, both, corrected, whom, gate)


def _against_champion(
    confirmation: Confirmation, candidate: Contender, champion: Description, gate: Gate
) -> Check:
    evidence = champion.evidence
    assert evidence is not None
    if evidence.metric != confirmation.metric:
        return Check(
            "gain",
            False,
            f"the champion is judged by {evidence.metric}, the candidate by {confirmation.metric}",
        )
    kept = _champion_folder(gate.folder.parent, champion)
    theirs = None if kept is None else values_of(kept, gate.schema, evidence.contender, confirmation.metric)
    if kept is None or theirs is None:
        return Check(
            "gain",
            False,
            "the champion and the candidate are compared event by event, and the scores of the champion's confirmation "
            f"(search '{champion.origin.get('search')}') are not below {gate.folder.parent}: confirm with the "
            "champion's configuration as the baseline",
        )
    ours = values_of(gate.folder / FOLDER, gate.schema, candidate, confirmation.metric)
    both = compared((candidate, ours), (evidence.contender, theirs), paired=False)
    if both is None:
        return _untold(confirmation, gate)
    first, other = (
        read_scores(folder / one.runs[0].scores, gate.schema)
        for folder, one in ((gate.folder / FOLDER, candidate), (kept, evidence.contender))
    )
    if not same_events(first, other):
        return Check("gain", False, "the champion's scores are of other test events, or in another order")
    p_value = None if both.p_value is None else min(1.0, both.p_value * (1 + gate.earlier))
    return _judged(confirmation, both, p_value, "the champion", gate)


def _champion_folder(storage: Path, champion: Description) -> Path | None:
    """Folder of the confirmation that the champion came of, if its scores are still there."""
    evidence, search = champion.evidence, champion.origin.get("search", "")
    assert evidence is not None
    if not search or Path(search).name != search:
        return None
    for path in sorted((storage / search).glob(f"{FOLDER}*/{FILE_NAME}")):
        confirmation = _read(path)
        if confirmation is not None and evidence.contender in confirmation.contenders:
            return path.parent
    return None


def _read(path: Path) -> Confirmation | None:
    try:
        return Confirmation.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _untold(confirmation: Confirmation, gate: Gate) -> Check:
    return Check(
        "gain",
        False,
        f"{confirmation.metric} is judged event by event, which the scores below {gate.folder / FOLDER} do not allow "
        "(absent, of a version before losses were kept, fewer than 20 test events of a class, or one seed): type "
        f"`hep-ray confirm {confirmation.search} --again`",
    )


def _judged(confirmation: Confirmation, both: Crossed, p_value: float | None, whom: str, gate: Gate) -> Check:
    sign = 1 if confirmation.mode == "max" else -1
    better = sign * both.difference > 0 and p_value is not None and p_value < 2 * gate.level
    shown = "not to be had" if p_value is None else f"{p_value:.3g}"
    interval = both.interval(confirmation.level)
    text = (
        f"{confirmation.metric} {both.difference:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] against {whom}, "
        f"p = {shown} (seeds ± {both.seed_error:.2g} and test events ± {both.event_error:.2g}, two-sided, corrected; "
        f"below {2 * gate.level:.3g} is asked for, {100 * gate.level:.3g} % one-sided)"
    )
    return Check(
        "gain", better, text if better else f"{text}: no better within seed noise and that of the events"
    )


def comparison_of(confirmation: Confirmation, candidate: Contender) -> Comparison:
    """The candidate against the baseline.

    Raises:
        PromotionRefused: the confirmation did not compare them.
    """
    for comparison in confirmation.comparisons:
        if comparison.contender == candidate.name and comparison.metric == confirmation.metric:
            return comparison
    raise PromotionRefused(
        f"a candidate was compared with the baseline; '{candidate.name}' was not, by {confirmation.metric}"
    )


def _same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two describe one configuration; a parameter that has another default today may be left out by either."""
    one, other = (
        TrialConfig.completed(
            without_seed(own), {key: value for key, value in beside.items() if key in FORMERLY}
        ).resolved()
        for own, beside in ((left, right), (right, left))
    )
    return one == other


def without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that a trial's configuration is made of."""
    return {key: value for key, value in params.items() if key != "seed"}
