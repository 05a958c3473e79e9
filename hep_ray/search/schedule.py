"""ASHA (Li et al., arXiv:1810.05934) whose rungs survive a restart: they are read back from the journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from hep_ray.models import MODELS
from hep_ray.search.definition import Preset, Search
from hep_ray.tracking.records import EpochFinished, Record, TrialFinished, TrialStarted


class ResumableASHA(ASHAScheduler):
    """Ray Tune's ASHA, keyed by our trial ids, which outlive a Tune run, instead of Tune's, which do not.

    Trials whose model is fitted in one go stay outside: their only epoch is their last, and no rung compares a
    network's first epoch with it.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._outside: set[str] = set()

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
        decision: str = super().on_trial_result(tune_controller, _ours(trial), result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take in a trial's last result."""
        if trial.config["trial_id"] not in self._outside:
            super().on_trial_complete(tune_controller, _ours(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Forget a trial that ended without a result."""
        if trial.config["trial_id"] not in self._outside:
            super().on_trial_remove(tune_controller, _ours(trial))


def build_scheduler(search: Search, preset: Preset) -> ResumableASHA:
    """The scheduler of a preset; `none` is ASHA whose first rung is the last epoch, so it stops nothing early."""
    return ResumableASHA(
        time_attr="epoch",
        metric=search.metric,
        mode=search.mode,
        max_t=preset.epochs,
        grace_period=preset.epochs if preset.scheduler == "none" else min(preset.grace_epochs, preset.epochs),
        reduction_factor=preset.reduction_factor,
    )


def _tune_trial(trial_id: str, params: Mapping[str, Any] | None = None) -> SimpleNamespace:
    return SimpleNamespace(config={"trial_id": trial_id, "params": params or {}})


def _ours(trial: Any) -> Any:
    return SimpleNamespace(trial_id=trial.config["trial_id"])
