"""Augmentation of training batches on their device: symmetries of the detector, erasing, mixing, noise.

One event is one object: what is drawn for it turns all its images together, along the axes that the schema states, and
what is mixed is mixed in all its parts and in its label. What cannot be turned is refused before a search starts, by
`check_augmentation`. Everything is drawn from a generator that a seed and an epoch decide, so a resumed trial sees the
batches it would have seen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from hep_ray.config import Config
from hep_ray.dataset.schema import Column
from hep_ray.loading.batches import Batch
from hep_ray.loading.event_images import ON_IMAGES, EventImage, images_of, phi_steps

IMAGE_RANK = 4
"""Rank of a batch of images with channels."""


class AugmentConfig(Config):
    """Augmentation of a training batch, in this order; nothing by default.

    Attributes:
        phi_rotation: turn every event by a random number of pixels around the beam (the φ axis closes on itself).
        phi_flip: reflect every second event, on average, in φ.
        eta_flip: reflect every second event, on average, in η.
        cutout: blank a rectangle of this fraction of an event's images' sides at a random place (arXiv:1708.04552).
        noise: add normal noise of this fraction of the batch's standard deviation to every image.
        mixup: α > 0 mixes pairs of events λx + (1 − λ)x', λ ~ Beta(α, α) (arXiv:1710.09412).
        cutmix: α > 0 puts a box of another event's images of area 1 − λ into each (arXiv:1905.04899); what is no
            image is mixed as by `mixup`, with the area that the box has.
        manifold_mixup: α > 0 mixes pairs as `mixup` does, at a random layer of the network (arXiv:1806.05236).
            Of several kinds of mixing each batch gets one.
    """

    phi_rotation: bool = False
    phi_flip: bool = False
    eta_flip: bool = False
    cutout: float = Field(default=0.0, ge=0, lt=1)
    noise: float = Field(default=0.0, ge=0)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    manifold_mixup: float = Field(default=0.0, ge=0)

    @property
    def active(self) -> bool:
        """Whether anything happens."""
        return self != AugmentConfig()

    @property
    def on_images(self) -> tuple[str, ...]:
        """Return what happens to images, some of `ON_IMAGES`."""
        return tuple(name for name in ON_IMAGES if getattr(self, name))


class Augmentation:
    """Augments batches of one epoch.

    Args:
        config: what happens.
        seed: of the trial.
        epoch: each draws anew.
        rank: of the worker, each of which draws for its own events.
        columns: of a batch; None takes every tensor of rank 4 for an image of axes φ, η and channel.

    Raises:
        InvalidConfig: the φ axes of an event's images have no step in common by which to turn them, or an image lacks
            an axis that is to be turned or reflected.
    """

    def __init__(
        self,
        config: AugmentConfig,
        seed: int,
        epoch: int,
        rank: int = 0,
        columns: Sequence[Column] | None = None,
    ) -> None:
        self._config = config
        self._random = np.random.default_rng((seed, epoch, 1, *([rank] if rank else [])))
        self._images = None if columns is None else images_of(columns, config.on_images)

    def __call__(self, batch: Batch) -> Batch:
        """A new batch; the tensors of the given one stay as they are."""
        config = self._config
        batch = dataclasses.replace(batch, inputs=self._changed(self._turned(batch), batch))
        offered = (
            (self._mixup, config.mixup),
            (self._cutmix, config.cutmix),
            (self._manifold_mixup, config.manifold_mixup),
        )
        mixers = [mixer for mixer, alpha in offered if alpha]
        return mixers[self._random.integers(len(mixers))](batch) if mixers else batch

    def _images_in(self, batch: Batch) -> dict[str, EventImage]:
        if self._images is not None:
            return self._images
        columns = [
            Column(name=name, shape=tuple(values.shape[1:]))
            for name, values in batch.inputs.items()
            if values.ndim == IMAGE_RANK
        ]
        self._images = images_of(columns, self._config.on_images)
        return self._images

    def _turned(self, batch: Batch) -> dict[str, Tensor]:
        """The inputs, all images of an event turned and reflected together."""
        config, events, images = self._config, len(batch), self._images_in(batch)
        inputs = dict(batch.inputs)
        if not images:
            return inputs
        if config.phi_rotation:
            steps = phi_steps(images)
            drawn = self._random.integers(steps, size=events)
            for name, image in images.items():
                inputs[name] = self._rotated(inputs[name], image.phi, drawn * (image.phi_pixels // steps))
        for flip, along in ((config.phi_flip, "phi"), (config.eta_flip, "eta")):
            if flip:
                mask = self._random.random(events) < 0.5  # noqa: PLR2004
                for name, image in images.items():
                    inputs[name] = self._reflected(inputs[name], getattr(image, along), mask)
        return inputs

    def _changed(self, inputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The inputs, all images of an event blanked in the same place, and noise added to each."""
        images = self._images_in(batch)
        if self._config.cutout:
            places = self._random.random((2, len(batch)))
            for name, image in images.items():
                inputs[name] = inputs[name].masked_fill(self._rectangles(inputs[name], image, places), 0)
        if self._config.noise:
            for name in images:
                inputs[name] = self._noisy(_real(inputs[name]))
        return inputs

    def _rotated(self, images: Tensor, axis: int, shifts: npt.NDArray[np.int64]) -> Tensor:
        size = images.shape[axis]
        moved = _indexable(images).movedim(axis, 1)
        pixels = torch.arange(size, device=images.device)
        rows = (pixels - self._tensor(shifts, images)[:, None]) % size
        events = torch.arange(len(images), device=images.device)[:, None]
        return moved[events, rows].movedim(1, axis)

    def _reflected(self, images: Tensor, axis: int, mask: npt.NDArray[np.bool_]) -> Tensor:
        images = _indexable(images)
        return torch.where(_beside(self._tensor(mask, images), images), images.flip(axis), images)

    def _rectangles(self, images: Tensor, image: EventImage, places: npt.NDArray[np.float64]) -> Tensor:
        inside = torch.ones((1,) * images.ndim, dtype=torch.bool, device=images.device)
        for axis, place in zip((image.phi, image.eta), places, strict=True):
            size = images.shape[axis]
            side = max(1, round(self._config.cutout * size))
            start = self._tensor(1 - side + np.floor(place * (size + side - 1)).astype(np.int64), images)
            pixels = torch.arange(size, device=images.device)
            covered = (pixels >= start[:, None]) & (pixels < start[:, None] + side)
            shape = [len(images), *(size if one == axis else 1 for one in range(1, images.ndim))]
            inside = inside & covered.reshape(shape)
        return inside

    def _noisy(self, images: Tensor) -> Tensor:
        generator = torch.Generator(images.device).manual_seed(int(self._random.integers(2**62)))
        normal = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        return images + self._config.noise * images.std() * normal

    def _mixup(self, batch: Batch) -> Batch:
        mix_ratio = float(self._random.beta(self._config.mixup, self._config.mixup))
        permutation = self._permutation(batch)
        inputs = {name: _lerp(values, permutation, mix_ratio) for name, values in batch.inputs.items()}
        return _with_second(dataclasses.replace(batch, inputs=inputs), permutation, mix_ratio)

    def _manifold_mixup(self, batch: Batch) -> Batch:
        alpha = self._config.manifold_mixup
        mix_ratio = float(self._random.beta(alpha, alpha))
        permutation = self._permutation(batch)
        draw = int(self._random.integers(2**31))
        return dataclasses.replace(
            _with_second(batch, permutation, mix_ratio), permutation=permutation, mixing_draw=draw
        )

    def _cutmix(self, batch: Batch) -> Batch:
        side = float(np.sqrt(1 - self._random.beta(self._config.cutmix, self._config.cutmix)))
        centre = self._random.random(2)
        permutation = self._permutation(batch)
        inputs, images = dict(batch.inputs), self._images_in(batch)
        areas = []
        for name, image in images.items():
            values = _indexable(batch.inputs[name])
            axes = (image.phi, image.eta)
            sizes = np.array([values.shape[axis] for axis in axes])
            low = np.clip(np.round((centre - side / 2) * sizes), 0, sizes).astype(int)
            high = np.clip(np.round((centre + side / 2) * sizes), 0, sizes).astype(int)
            box = [slice(None)] * values.ndim
            for axis, first, last in zip(axes, low, high, strict=True):
                box[axis] = slice(first, last)
            mixed = values.clone()
            mixed[tuple(box)] = values[permutation][tuple(box)]
            inputs[name] = mixed
            areas.append(float(np.prod(high - low) / np.prod(sizes)))
        # The pixels of images of several sizes cover the box in areas that differ a little.
        mix_ratio = 1.0 - float(np.mean(areas)) if areas else 1.0
        for name in inputs.keys() - images.keys():
            inputs[name] = _lerp(inputs[name], permutation, mix_ratio)
        return _with_second(dataclasses.replace(batch, inputs=inputs), permutation, mix_ratio)

    def _permutation(self, batch: Batch) -> Tensor:
        return self._tensor(self._random.permutation(len(batch)), batch.labels)

    @staticmethod
    def _tensor(values: npt.NDArray[Any], like: Tensor) -> Tensor:
        return torch.from_numpy(values).to(like.device)


def _with_second(batch: Batch, permutation: Tensor, mix_ratio: float) -> Batch:
    """The batch with the labels and the weights of its events' second events."""
    weights = None if batch.weights is None else batch.weights[permutation]
    return dataclasses.replace(
        batch, second_labels=batch.labels[permutation], second_weights=weights, mix_ratio=mix_ratio
    )


def _lerp(values: Tensor, permutation: Tensor, mix_ratio: float) -> Tensor:
    values = _real(values)
    return torch.lerp(values[permutation], values, mix_ratio)


def _real(values: Tensor) -> Tensor:
    """As numbers that can lie between two others: integers and 16 bits as float32, as every model takes them."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _indexable(values: Tensor) -> Tensor:
    """As numbers that torch can put in another order, which it cannot those of 16 and more bits without a sign."""
    return values.float() if values.dtype in (torch.uint16, torch.uint32, torch.uint64) else values


def _beside(mask: Tensor, images: Tensor) -> Tensor:
    return mask.reshape(len(mask), *[1] * (images.ndim - 1))
