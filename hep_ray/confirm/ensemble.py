"""The mean of all finalists as one more contender: made of scores that their models left, and trained for nothing.

The finalists' models of one seed are the ensemble's run of that seed, so that it is paired as any contender is. Its
scores are files as those of a trial, from which all that is said of it follows. Those of the validation split are
there for the gate, which chooses among the finalists without the test split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from hep_ray.confirm.confirmation import ConfirmedRun
from hep_ray.confirm.finalists import ENSEMBLE
from hep_ray.confirm.plan import ConfirmPlan, RetrainingPlan, trial_id
from hep_ray.dataset.variations import Variation
from hep_ray.errors import StorageError
from hep_ray.training.testing import (
    SCORES_OF,
    Judged,
    mean_scores,
    read_scores,
    varied_scores,
    worst_metrics,
    write_scores,
)


def variations_of(plan: RetrainingPlan, split: Judged) -> Mapping[str, Variation]:
    """Return the variations under which models are evaluated on a split: on validation where they rank."""
    return plan.variations if split == "test" or plan.ranks_worst else {}


def files_of(plan: ConfirmPlan, trial: str, split: Judged) -> dict[str | None, Path]:
    """Return a trial's files of scores: that of the events as they are, None, and that under each variation."""
    path = plan.folder / "trials" / trial / SCORES_OF[split]
    return {None: path} | {name: varied_scores(path, name) for name in variations_of(plan, split)}


def not_validated(plan: ConfirmPlan) -> list[str]:
    """Return the members' trials whose scores of the validation split are not all kept yet."""
    trials = [trial_id(name, seed) for seed in plan.seeds for name in plan.members]
    return [one for one in trials if not all(path.is_file() for path in files_of(plan, one, "val").values())]


def keep_means(plan: ConfirmPlan) -> None:
    """Write the ensemble's scores of every seed, of both splits and under variations; those that are there stay.

    Raises:
        StorageError: scores of its members are absent, or of different events.
    """
    for seed in plan.seeds:
        for split in SCORES_OF:
            own = files_of(plan, trial_id(ENSEMBLE, seed), split)
            theirs = [files_of(plan, trial_id(name, seed), split) for name in plan.members]
            for variation, path in own.items():
                if not path.is_file():
                    _keep_mean(path, [files[variation] for files in theirs], plan)


def _keep_mean(path: Path, members: list[Path], plan: ConfirmPlan) -> None:
    schema = plan.dataset.schema
    mean = mean_scores([read_scores(one, schema) for one in members])
    if mean is None:
        raise StorageError(
            "the mean of models is of the same events in the same order, with the same weights; "
            f"{', '.join(map(str, members))} have different ones"
        )
    write_scores(path, schema, mean)


def ensemble_runs(plan: ConfirmPlan) -> Iterator[tuple[ConfirmedRun, dict[str, dict[str, float]]]]:
    """Yield the ensemble's run of each seed, and its metrics of the test split under each variation.

    Raises:
        StorageError: its scores are not there, see `keep_means`.
    """
    schema = plan.dataset.schema
    for seed in plan.seeds:
        name = trial_id(ENSEMBLE, seed)
        metrics: dict[str, float] = {}
        varied: dict[str, dict[str, float]] = {}
        splits: tuple[Judged, ...] = ("val", "test")
        for split in splits:
            found = {
                variation: read_scores(path, schema).metrics(schema, split)
                for variation, path in files_of(plan, name, split).items()
            }
            nominal = found.pop(None)
            varied = {variation: under for variation, under in found.items() if variation is not None}
            metrics |= nominal | worst_metrics(nominal, varied)
        yield (
            ConfirmedRun(
                trial_id=name,
                seed=seed,
                epoch=0,
                metrics=metrics,
                checkpoint=None,
                scores=f"trials/{name}/{SCORES_OF['test']}",
            ),
            varied,
        )
