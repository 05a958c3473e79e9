"""Does a candidate beat what is to be beaten by more than seed noise?

- Without a champion, that is the baseline: paired by seed, p-value corrected for the number of finalists, as confirmed.
- A champion of the same dataset: the candidate's runs against the champion's recorded runs by Welch's t-test over
  seeds. Two confirmations share no seed noise, so there is nothing to pair.
- A champion of another dataset: its configuration must be the confirmation's baseline, retrained on this dataset
  with the candidate's seeds. Its old model is not evaluated here: it may have been trained on these test events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hep_ray.confirm.confirmation import Comparison, Confirmation, Contender, Estimate
from hep_ray.errors import PromotionRefused
from hep_ray.promote.gate import Check
from hep_ray.promote.package import Description
from hep_ray.training.config import TrialConfig

FEWEST_SEEDS = 2


def check_gain(
    confirmation: Confirmation, candidate: Contender, champion: Description | None, earlier: int = 0
) -> Check:
    """Whether the candidate beats the champion, or the baseline where there is none, beyond seed noise.

    Args:
        confirmation: of the candidate.
        candidate: one of its finalists.
        champion: the description of the present champion.
        earlier: finalists tested on this split before.
    """
    if len(candidate.runs) < FEWEST_SEEDS:
        return Check(
            "gain",
            False,
            f"seed noise is seen with {FEWEST_SEEDS} seeds or more; there is {len(candidate.runs)}",
        )
    if champion is None or champion.evidence is None:
        return _against_baseline(confirmation, candidate, earlier, "the baseline")
    if champion.dataset_fingerprint != confirmation.dataset_fingerprint:
        if _same(champion.evidence.contender.params, confirmation.baseline.params):
            return _against_baseline(
                confirmation, candidate, earlier, "the champion's configuration, retrained on this dataset"
            )
        return Check(
            "gain",
            False,
            f"the champion was trained on the dataset {champion.dataset_fingerprint[:12]}, not on this one: confirm "
            f"with the champion's configuration as the baseline",
        )
    return _against_champion(confirmation, candidate, champion, earlier)


def _against_baseline(confirmation: Confirmation, candidate: Contender, earlier: int, whom: str) -> Check:
    comparison = comparison_of(confirmation, candidate)
    p_value = comparison.adjusted_p_value
    if earlier and comparison.p_value is not None and p_value is not None:
        p_value = max(p_value, min(1.0, comparison.p_value * (earlier + len(confirmation.finalists))))
    return _judged(confirmation, comparison.difference, p_value, whom, "paired t-test over seeds, corrected")


def _against_champion(
    confirmation: Confirmation, candidate: Contender, champion: Description, earlier: int
) -> Check:
    from scipy import stats

    evidence = champion.evidence
    assert evidence is not None
    if evidence.metric != confirmation.metric:
        return Check(
            "gain",
            False,
            f"the champion is judged by {evidence.metric}, the candidate by {confirmation.metric}",
        )
    ours = [run.metrics[confirmation.metric] for run in candidate.runs]
    theirs = evidence.values
    if len(theirs) < FEWEST_SEEDS or max(ours) - min(ours) + max(theirs) - min(theirs) == 0:
        return Check("gain", False, "runs that do not spread over seeds tell nothing of seed noise")
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = test.confidence_interval(confirmation.level)
    difference = math.fsum(ours) / len(ours) - math.fsum(theirs) / len(theirs)
    estimate = Estimate(mean=difference, sd=0.0, low=float(interval.low), high=float(interval.high))
    p_value = min(1.0, float(test.pvalue) * (1 + earlier))
    return _judged(
        confirmation,
        estimate,
        p_value,
        "the champion",
        f"Welch's t-test over {len(theirs)} and {len(ours)} seeds",
    )


def _judged(
    confirmation: Confirmation, difference: Estimate, p_value: float | None, whom: str, how: str
) -> Check:
    sign = 1 if confirmation.mode == "max" else -1
    alpha = 1 - confirmation.level
    better = sign * difference.mean > 0 and p_value is not None and p_value < alpha
    shown = "not to be had" if p_value is None else f"{p_value:.3g}"
    text = (
        f"{confirmation.metric} {difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] against "
        f"{whom}, p = {shown} ({how}; below {alpha:.2g} is asked for)"
    )
    return Check("gain", better, text if better else f"{text}: no better within seed noise")


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
    one, other = (TrialConfig.from_params(without_seed(params)).resolved() for params in (left, right))
    return one == other


def without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that a trial's configuration is made of."""
    return {key: value for key, value in params.items() if key != "seed"}
