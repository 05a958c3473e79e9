"""The augmentations of `AugmentConfig` under their names, each with a usual strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, create_model

from hep_ray.config import Config
from hep_ray.loading.augment import AugmentConfig
from hep_ray.loading.augmentations import AUGMENTATIONS, AugmentationEntry
from hep_ray.signature import meanings

STRENGTHS: Mapping[str, bool | float] = {
    "phi_rotation": True,
    "phi_flip": True,
    "eta_flip": True,
    "cutout": 0.5,
    "noise": 0.05,
    "mixup": 0.2,
    "cutmix": 1.0,
    "manifold_mixup": 2.0,
}
"""Augmentation → its key's value where a space names it alone, of the papers that `AugmentConfig` cites (or ours)."""


def _turning_on(name: str, meaning: str) -> Callable[[Config], dict[str, Any]]:
    def build(config: Config) -> dict[str, Any]:
        return {name: getattr(config, name)}

    build.__doc__ = meaning
    return build


def _nothing(config: Config) -> dict[str, Any]:  # noqa: ARG001
    """Leave the events as they are."""
    return {}


AUGMENTATIONS.add("none", AugmentationEntry("none", Config, _nothing, standard=True))
for _name, _meaning in meanings(AugmentConfig).items():
    _strength = STRENGTHS[_name]
    _field: Any = (Literal[True], True) if _strength is True else (float, Field(default=_strength, gt=0))
    _config: type[Config] = create_model(f"{_name}_config", __base__=Config, **{_name: _field})
    _config.__doc__ = f"Configuration of `{_name}`.\n\nAttributes:\n    {_name}: {_meaning}\n"
    AUGMENTATIONS.add(_name, AugmentationEntry(_name, _config, _turning_on(_name, _meaning), standard=True))
