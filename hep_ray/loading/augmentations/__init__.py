"""Augmentations by name: functions that change training batches, hep_ray's own and those of users.

`augmentation="phi_rotation"` in a space turns one on, as the key `phi_rotation=True` does; the keys combine those of
hep_ray. One of a user's own is a function of a batch of one column and a generator, in a search script or a plug-in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from hep_ray.config import Config
from hep_ray.dataset.schema import Column
from hep_ray.errors import InvalidConfig
from hep_ray.loading.augment import AugmentConfig, as_float, is_image
from hep_ray.own_code import blaming, defined_at
from hep_ray.registry import Registry
from hep_ray.signature import config_of

Change = Callable[..., Any]
LEADING = 2
"""A function takes the values of a column and a generator, then its keys."""


@dataclass(frozen=True)
class AugmentationEntry:
    """A registered augmentation.

    Attributes:
        name: what a search calls it.
        config: its keys.
        build: the function; of hep_ray's, one that says which keys of `AugmentConfig` it turns on.
        columns: that it changes; empty for every image.
        standard: whether it is one of hep_ray's, which `AugmentConfig` turns on.
    """

    name: str
    config: type[Config]
    build: Change
    columns: tuple[str, ...] = ()
    standard: bool = False

    def changed(self, columns: Sequence[Column]) -> tuple[str, ...]:
        """Return the columns of an event that the function changes.

        Raises:
            InvalidConfig: there is none among these.
        """
        if self.standard:
            return ()
        read = [column.name for column in columns]
        if self.columns:
            found = [name for name in self.columns if name in read]
            wanted = f"changes {', '.join(self.columns)}, and the model reads {', '.join(read)}"
        else:
            found = [column.name for column in columns if is_image(column)]
            wanted = (
                f"changes images, and the model reads none ({', '.join(read)}): name the columns that it takes, "
                f'@augmentation("{self.name}", columns=(…,)), or'
            )
        if not found:
            raise InvalidConfig(
                f"{defined_at(self.build)}augmentation '{self.name}' {wanted}{':' * bool(self.columns)} leave it out "
                "where a model reads something else, with a Choice that others follow by .when(model=…)"
            )
        return tuple(found)

    def on(
        self, config: Config, columns: Sequence[Column]
    ) -> Callable[[dict[str, Tensor], int], dict[str, Tensor]] | None:
        """Return a function of a batch's inputs and a seed that changes what this augmentation does; None of hep_ray's.

        Raises:
            InvalidConfig: a model reads nothing that it changes.
        """
        names = self.changed(columns)
        if self.standard:
            return None
        return lambda inputs, seed: {
            name: self.apply(config, as_float(values), seed) if name in names else values
            for name, values in inputs.items()
        }

    def apply(self, config: Config, values: Tensor, seed: int) -> Tensor:
        """Return the changed values (N, …) of a column of a batch; what is drawn follows from the seed.

        Raises:
            InvalidConfig: the function returns something else than values of that shape, type and device.
            PluginFailed: it raises something that is no named error.
        """
        generator = torch.Generator(values.device).manual_seed(seed)
        keys = {key: getattr(config, key) for key in self.config.model_fields}
        with blaming(f"computing augmentation '{self.name}'"):
            changed = self.build(values, generator, **keys)
        expected, got = _kind_of(values), _kind_of(changed)
        if not isinstance(changed, Tensor) or got != expected:
            raise InvalidConfig(
                f"{defined_at(self.build)}augmentation '{self.name}' returned {got} for values {expected}: it must "
                "return a tensor of the same shape, type and device, as .to(values) makes one"
            )
        return changed


def _kind_of(values: object) -> str:
    """Return shape, type, device and layout of a tensor in words; of something else its class."""
    if not isinstance(values, Tensor):
        return type(values).__name__
    layout = "" if values.layout == torch.strided else f", {values.layout}"
    return f"{tuple(values.shape)} of {values.dtype} on {values.device}{layout}"


AUGMENTATIONS: Registry[AugmentationEntry] = Registry("augmentation", __name__)

A = TypeVar("A", bound=Change)


def augmentation(name: str, *, columns: Sequence[str] = ()) -> Callable[[A], A]:
    """Register a function (values, generator, …) → values as an augmentation of training batches.

    `values` (N, …) are one column of a batch, in floating point and on the batch's device; `generator` is torch's, on
    that device. The other parameters, annotated, are the keys. It is called for each column that it changes, with a
    generator that begins anew: what is drawn first for an event is the same in all its images. Draw from nothing else,
    so that a trial that is resumed sees the batches that it would have seen, and change nothing in place.

    Args:
        name: what a search calls it: `augmentation="mine"` in a space.
        columns: that it changes; every image unless given.

    Raises:
        DuplicateName: another augmentation has the name.
        InvalidConfig: a parameter is not annotated, or not with what a space can state.
    """

    def entry(made: Change) -> AugmentationEntry:
        keys = config_of(made, f"augmentation '{name}'", leaving_out=LEADING)
        named = (columns,) if isinstance(columns, str) else tuple(columns)  # "image", not "i", "m", …
        return AugmentationEntry(name, keys, made, named)

    return AUGMENTATIONS.decorator(name, entry)


def turned_on(name: str, config: Config, keys: AugmentConfig) -> AugmentConfig:
    """Return what is turned on where a space names an augmentation of hep_ray's beside its keys.

    Args:
        name: of the augmentation.
        config: its own.
        keys: as stated.
    """
    if not AUGMENTATIONS[name].standard:
        return keys
    return keys.model_copy(update=AUGMENTATIONS[name].build(config))
