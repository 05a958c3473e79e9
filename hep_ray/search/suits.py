"""Whether a search suits its dataset: what ranks its trials, its models, its augmentations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.events import EventSchema
from hep_ray.errors import InvalidConfig, InvalidSpace
from hep_ray.search.definition import Search
from hep_ray.search.state import OF_MODEL, TIMES
from hep_ray.training.config import TrialConfig


def check_metrics(search: Search, dataset: Dataset) -> None:
    """What ranks trials is something that they report of these classes."""
    from hep_ray.training.validation import validation_keys

    costs = (*OF_MODEL, *TIMES[:2])
    known = (*costs, *validation_keys(dataset.schema))
    for role, name in (("metric", search.metric), ("cost", search.cost or costs[0])):
        if name not in known:
            raise InvalidConfig(
                f"the {role} of a search is reported by its trials; '{name}' is not, of events of "
                f"{len(dataset.schema.classes)} classes ({', '.join(dataset.schema.classes)}); reported are: "
                f"{', '.join(known)}"
            )


def check_models(samples: Sequence[Mapping[str, Any]], dataset: Dataset) -> int:
    """Build each model that the trials may have, without memory for its weights; bytes of the largest."""
    import torch

    largest = 0
    for name, params in {params["model"]: params for params in samples}.items():
        try:
            with torch.device("meta"):
                weights = TrialConfig.from_params(params).build_model(dataset.schema).state_dict()
            largest = max(largest, sum(one.nbytes for one in weights.values() if hasattr(one, "nbytes")))
        except InvalidConfig as fault:
            raise InvalidSpace(
                f"every model of a search takes the dataset; model '{name}' does not: {fault}"
            ) from fault
    return largest


def check_augmentation(samples: Iterable[Mapping[str, Any]], schema: EventSchema) -> None:
    """Whether every augmentation suits what the model beside it reads."""
    for params in samples:
        try:
            TrialConfig.from_params(params).check_augmentation(schema)
        except InvalidConfig as fault:
            raise InvalidSpace(
                f"the augmentations of a search suit the dataset; with model '{params['model']}': {fault}"
            ) from fault
