"""Check before the first trial that a search ends, and that what it averages and compares has the epochs for it."""

from __future__ import annotations

import itertools
import math

import numpy as np

from hep_ray.addresses import Address
from hep_ray.conversion.folds import DIVIDED, rule_of_folds
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.empty_folds import refuse_empty_folds
from hep_ray.errors import InvalidConfig, InvalidSpace
from hep_ray.metrics import is_worst
from hep_ray.search.definition import Preset, Search
from hep_ray.search.draws import total_trials
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Uniform
from hep_ray.search.space import Space


def check_folds(preset: Preset, search: Search, space: Space, dataset: Dataset) -> None:
    """Refuse folds that the events cannot be divided into, or that too few trainings would be on.

    Raises:
        InvalidConfig: there are fewer trainings than folds, two objectives, a metric of a variation of other events,
            or a dataset at an address.
        InvalidEvents: there are fewer groups than folds, or a fold without an event of some class.
    """
    if preset.folds is None:
        return
    if isinstance(dataset.folder, Address):
        raise InvalidConfig(
            f"folds are made of the events of {dataset.folder}, divided anew, and what is made anew is read of a disk: "
            "copy the dataset to one, and name it with --data"
        )
    if search.second_objective is not None:
        raise InvalidConfig(
            f"folds choose by the mean of one metric, and {search.name} has two objectives: leave --folds out"
        )
    if (trials := total_trials(search, preset, space)) < preset.folds:
        raise InvalidConfig(
            f"{preset.folds} folds train the winner {preset.folds} times, and {trials} trials are fewer: type --trials "
            f"{2 * preset.folds} or more"
        )
    named = [name for name, one in dataset.schema.variations.items() if one.data is not None]
    if named and is_worst(search.metric):
        raise InvalidConfig(
            f"{search.metric} counts the variation '{named[0]}', which names another dataset: its events are divided "
            "once, and folds divide the nominal ones anew: leave --folds out"
        )
    refuse_empty_folds(dataset, rule_of_folds(dataset, preset.folds), DIVIDED)


def check_end(preset: Preset, options: SearchOptions) -> None:
    """Refuse a search that neither a number of trials nor a time budget would end.

    Raises:
        InvalidConfig: it would not.
    """
    if preset.endless and options.time_budget is None:
        raise InvalidConfig(
            f"preset '{options.preset}' states no number of trials, and '{preset.sampler_name}' draws for ever: "
            'type --time-budget 2h, or --trials 20 (time_budget="2h" or trials=20 of run)'
        )


def check_averages(search: Search, preset: Preset, space: Space, options: SearchOptions) -> None:
    """Refuse weights that would be averaged over a single epoch, which are no average; a begun search goes on as it is.

    Raises:
        InvalidSpace: trials would.
    """
    stated = [params["swa_start"] for params in search.points_to_evaluate if "swa_start" in params]
    drawn, epochs = space.parameters.get("swa_start"), preset.epochs
    if isinstance(drawn, Uniform) and drawn.step is not None:
        stated += list(np.arange(drawn.low, drawn.high + drawn.step / 2, drawn.step).round(9))
    elif drawn is not None and not isinstance(drawn, Uniform):
        stated += drawn.corners()
    if (options.sampler, options.scheduler) != (None, None):
        return
    if isinstance(drawn, Uniform) and drawn.step is None and drawn.low < 1 and drawn.high > 1 - 1 / epochs:
        raise InvalidSpace(
            f"swa_start is {drawn}, and from {1 - 1 / epochs:.3g} on it averages the weights of one epoch of {epochs}, "
            f"which is no average: end the range there, or make it a Choice with 1, which averages none"
        )
    for start in map(float, stated):
        if start < 1 and epochs - math.floor(epochs * start) == 1:
            least = next(more for more in itertools.count(epochs) if more - math.floor(more * start) > 1)
            raise InvalidSpace(
                f"swa_start={start:g} averages the weights of one epoch of {epochs}, which is no average: train longer "
                f"(--epochs {least} or more), or state swa_start=1, which averages none"
            )
