"""Whether the workers of a trial can share its batches, known before anything starts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hep_ray.errors import InvalidConfig, InvalidSpace
from hep_ray.search.parameters import Choice
from hep_ray.search.space import Space
from hep_ray.training.config import TrialConfig
from hep_ray.training.distributed import share

DECIDE = ("batch_size", "learning_rate_scaling")


def check_shares(
    space: Space, references: Sequence[Mapping[str, Any]], min_workers: int, workers: int
) -> None:
    """Prove that every trial can be trained by each number of workers that it may get.

    A model that is fitted in one go is fitted by the first worker alone.

    Args:
        space: of the trials.
        references: configurations beside it.
        min_workers: the fewest.
        workers: the most.

    Raises:
        InvalidSpace: a batch cannot be shared equally, or the learning rate would change with the number of workers
            in mid-trial.
    """
    if workers == 1:
        return
    for params in (*_varied(space), *references):
        config = TrialConfig.from_params(params)
        if config.fitted:
            continue
        scaling = config.training.learning_rate_scaling
        if min_workers < workers and scaling != "none":
            raise InvalidSpace(
                "a learning rate that grows with the workers needs a fixed number of them; learning_rate_scaling is "
                f"'{scaling}', the workers {min_workers} to {workers}: leave out --min-workers-per-trial"
            )
        try:
            for number in range(min_workers, workers + 1):
                share(config.training, number)
        except InvalidConfig as fault:
            raise InvalidSpace(str(fault)) from None


def _varied(space: Space) -> Iterator[dict[str, Any]]:
    """Configurations that between them hold all that decides a share."""
    drawn = space.parameters.get("batch_size")
    if drawn is not None and not isinstance(drawn, Choice):
        raise InvalidSpace(
            f"workers share batches of stated sizes; batch_size is {drawn}: make it a Choice of multiples of "
            "their number"
        )
    for sample in space.samples():
        values = [space.parameters[key].corners() for key in DECIDE if key in sample]
        for combination in itertools.product(*values):
            yield {**sample, **dict(zip((key for key in DECIDE if key in sample), combination, strict=True))}
