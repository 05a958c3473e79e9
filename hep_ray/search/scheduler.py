"""ASHA (Li et al., arXiv:1810.05934) whose rungs survive a restart: they are read back from the journal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from scipy.stats import rankdata

from hep_ray.models import MODELS
from hep_ray.tracking.records import EpochFinished, Record, TrialFinished, TrialStarted

LEAST_PAIRS = 8
"""Trials that have gone on from a rung to the next, before its ranking is judged by them."""
LEAST_AGREEMENT = 0.3
"""Rank correlation of their values at both, below which the first rung stops none."""


class ResumableASHA(ASHAScheduler):
    """Ray Tune's ASHA, keyed by our trial ids, which outlive a Tune run, instead of Tune's, which do not.

    Trials whose model is fitted in one go stay outside: their only epoch is their last, and no rung compares a
    network's first epoch with it.

    A rung stops trials only as long as its ranking means something: as long as the trials that went on from it are
    ranked by the next rung (or the last epoch) much as they were by it. Where they are not, trials go on, which widens
    what is compared, so that a rung comes back that was only unlucky.

    Args:
        metric: key of the results by which trials are ranked.
        mode: whether more (`max`) or less (`min`) of it is better.
        epochs: full length of a trial.
        grace: epochs before any trial is stopped: the first rung.
        reduction_factor: of the trials at a rung, the best one in so many go on; the next rung is as many times later.
    """

    def __init__(self, metric: str, mode: str, epochs: int, grace: int, reduction_factor: int) -> None:
        super().__init__(
            time_attr="epoch",
            metric=metric,
            mode=mode,
            max_t=epochs,
            grace_period=grace,
            reduction_factor=reduction_factor,
        )
        self._outside: set[str] = set()
        self._rungs = [grace]
        while self._rungs[-1] < epochs:
            self._rungs.append(min(self._rungs[-1] * reduction_factor, epochs))
        self._values: dict[int, dict[str, float]] = defaultdict(dict)
        """Rung, or the last epoch → trial → its metric there."""

    def agreement(self, rung: int) -> tuple[float, int]:
        """Spearman's correlation of a rung with the next, or the last epoch, over the trials that reached that.

        Returns:
            Correlation (0 where all values are equal, NaN for fewer than two trials), and number of trials.
        """
        later = self._values[self._rungs[self._rungs.index(rung) + 1]]
        pairs = [(self._values[rung][name], value) for name, value in later.items()]
        if len(pairs) < 2:  # noqa: PLR2004 - of one trial there is no ranking
            return math.nan, len(pairs)
        ranks = rankdata(pairs, axis=0)
        equal = bool((ranks == ranks[0]).all(axis=0).any())
        return 0.0 if equal else float(np.corrcoef(ranks.T)[0, 1]), len(pairs)

    def doubts(self) -> list[str]:
        """Rungs that stop no trial for now, since their ranking means too little."""
        return [
            f"ASHA stops no trial at epoch {rung}: the {trials} that went on are ranked otherwise at epoch {later} "
            f"(rank correlation {value:.2f}; at least {LEAST_AGREEMENT} is asked for). A longer grace saves its epochs"
            for rung, later in zip(self._rungs[:-1], self._rungs[1:], strict=True)
            for value, trials in [self.agreement(rung)]
            if not self._ranks(rung)
        ]

    def _ranks(self, rung: int) -> bool:
        value, trials = self.agreement(rung)
        return trials < LEAST_PAIRS or value >= LEAST_AGREEMENT

    def replay(self, records: Iterable[Record]) -> set[str]:
        """Take in the results of an earlier attempt, in their order.

        Returns:
            Trials that were to be stopped, or had reached their last epoch, without a record of it:
            the driver died between the decision and its record.
        """
        ended: set[str] = set()
        for record in records:
            if isinstance(record, TrialStarted):
                self.on_trial_add(None, _tune_trial(record.trial_id, record.params))
            elif isinstance(record, EpochFinished):
                decision = self.on_trial_result(None, _tune_trial(record.trial_id), record.metrics)
                if decision == TrialScheduler.STOP:
                    ended.add(record.trial_id)
            elif isinstance(record, TrialFinished):
                ended.discard(record.trial_id)
        return ended

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Enter a trial."""
        model = trial.config.get("params", {}).get("model")
        if model in MODELS and MODELS[model].fitted:
            self._outside.add(trial.config["trial_id"])
        else:
            super().on_trial_add(tune_controller, _ours(trial))

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None that would have to run next: Tune starts trials in their order, each on a worker that is free.

        A trial named here would take the first free worker, and Tune would kill the one that is starting for it:
        where trials are shorter than the start of a worker, no second one would ever come up.
        """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide after an epoch whether the trial goes on."""
        if trial.config["trial_id"] in self._outside:
            return TrialScheduler.CONTINUE
        epoch = result.get("epoch")
        if epoch in self._rungs and self._metric in result:
            self._values[epoch][trial.config["trial_id"]] = result[self._metric]
        decision: str = super().on_trial_result(tune_controller, _ours(trial), result)
        if decision == TrialScheduler.STOP and epoch in self._rungs[:-1] and not self._ranks(epoch):
            return TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take in a trial's last result."""
        if trial.config["trial_id"] not in self._outside:
            super().on_trial_complete(tune_controller, _ours(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial that ended without a result."""
        if trial.config["trial_id"] not in self._outside:
            super().on_trial_remove(tune_controller, _ours(trial))


def _tune_trial(trial_id: str, params: Mapping[str, Any] | None = None) -> SimpleNamespace:
    return SimpleNamespace(config={"trial_id": trial_id, "params": params or {}})


def _ours(trial: Any) -> Any:
    return SimpleNamespace(trial_id=trial.config["trial_id"])
