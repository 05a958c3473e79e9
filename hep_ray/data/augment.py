"""Augmentation of training batches on their device: symmetries of the detector, erasing, mixing, noise.

Images are (B, φ, η, channel), the tensors of rank 4. Everything is drawn from a generator that a seed and an epoch
decide, so a resumed trial sees the batches it would have seen.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from hep_ray.config import Config
from hep_ray.data.batches import Batch

IMAGE_RANK = 4


class AugmentConfig(Config):
    """What happens to a training batch, in this order; nothing by default.

    Attributes:
        phi_rotation: turn every image by a random number of pixels around the beam (axis 0 closes on itself).
        phi_flip: reflect every second image, on average, in φ.
        eta_flip: reflect every second image, on average, in η.
        cutout: blank a square of this fraction of the image's side at a random place (arXiv:1708.04552).
        noise: add normal noise of this fraction of the batch's standard deviation to every image.
        mixup: α > 0 mixes pairs of events λx + (1 − λ)x', λ ~ Beta(α, α) (arXiv:1710.09412).
        cutmix: α > 0 puts a box of another event's image of area 1 − λ into each (arXiv:1905.04899).
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


class Augmentation:
    """Augments batches of one epoch.

    Args:
        config: what happens.
        seed: of the trial.
        epoch: each draws anew.
        rank: of the worker, each of which draws for its own events.
    """

    def __init__(self, config: AugmentConfig, seed: int, epoch: int, rank: int = 0) -> None:
        self._config = config
        self._random = np.random.default_rng((seed, epoch, 1, *([rank] if rank else [])))

    def __call__(self, batch: Batch) -> Batch:
        """A new batch; the tensors of the given one stay as they are."""
        config = self._config
        inputs = {
            name: self._image(values) if values.ndim == IMAGE_RANK else values
            for name, values in batch.inputs.items()
        }
        batch = dataclasses.replace(batch, inputs=inputs)
        offered = (
            (self._mixup, config.mixup),
            (self._cutmix, config.cutmix),
            (self._manifold_mixup, config.manifold_mixup),
        )
        mixers = [mixer for mixer, alpha in offered if alpha]
        return mixers[self._random.integers(len(mixers))](batch) if mixers else batch

    def _image(self, images: Tensor) -> Tensor:
        config, events = self._config, len(images)
        if config.phi_rotation:
            shifts = self._tensor(self._random.integers(images.shape[1], size=events), images)
            rows = (torch.arange(images.shape[1], device=images.device) - shifts[:, None]) % images.shape[1]
            images = images[torch.arange(events, device=images.device)[:, None], rows]
        for flip, axis in ((config.phi_flip, 1), (config.eta_flip, 2)):
            if flip:
                mask = self._tensor(self._random.random(events) < 0.5, images)  # noqa: PLR2004
                images = torch.where(mask[:, None, None, None], images.flip(axis), images)
        if config.cutout:
            images = images.masked_fill(self._squares(images), 0.0)
        if config.noise:
            generator = torch.Generator(images.device).manual_seed(int(self._random.integers(2**62)))
            normal = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            images = images + config.noise * images.std() * normal
        return images

    def _squares(self, images: Tensor) -> Tensor:
        inside = torch.ones((len(images), 1, 1, 1), dtype=torch.bool, device=images.device)
        for axis in (1, 2):
            size = images.shape[axis]
            side = max(1, round(self._config.cutout * size))
            start = self._tensor(self._random.integers(1 - side, size, size=len(images)), images)
            places = torch.arange(size, device=images.device)
            covered = (places >= start[:, None]) & (places < start[:, None] + side)
            inside = inside & covered.reshape(len(images), *(size if one == axis else 1 for one in (1, 2)), 1)
        return inside

    def _mixup(self, batch: Batch) -> Batch:
        share = float(self._random.beta(self._config.mixup, self._config.mixup))
        partner = self._partner(batch)
        inputs = {
            name: torch.lerp(values[partner], values, share) if values.is_floating_point() else values
            for name, values in batch.inputs.items()
        }
        return dataclasses.replace(batch, inputs=inputs, other_labels=batch.labels[partner], share=share)

    def _manifold_mixup(self, batch: Batch) -> Batch:
        alpha = self._config.manifold_mixup
        share = float(self._random.beta(alpha, alpha))
        partner = self._partner(batch)
        draw = int(self._random.integers(2**31))
        labels = batch.labels[partner]
        return dataclasses.replace(batch, other_labels=labels, share=share, partner=partner, mixing_draw=draw)

    def _cutmix(self, batch: Batch) -> Batch:
        side = float(np.sqrt(1 - self._random.beta(self._config.cutmix, self._config.cutmix)))
        centre = self._random.random(2)
        partner = self._partner(batch)
        inputs, share = dict(batch.inputs), 1.0
        for name, values in batch.inputs.items():
            if values.ndim == IMAGE_RANK:
                sizes = np.array(values.shape[1:3])
                low = np.clip(np.round((centre - side / 2) * sizes), 0, sizes).astype(int)
                high = np.clip(np.round((centre + side / 2) * sizes), 0, sizes).astype(int)
                box = (slice(None), slice(low[0], high[0]), slice(low[1], high[1]))
                mixed = values.clone()
                mixed[box] = values[partner][box]
                inputs[name] = mixed
                share = 1.0 - float(np.prod(high - low) / np.prod(sizes))
        return dataclasses.replace(batch, inputs=inputs, other_labels=batch.labels[partner], share=share)

    def _partner(self, batch: Batch) -> Tensor:
        return self._tensor(self._random.permutation(len(batch)), batch.labels)

    @staticmethod
    def _tensor(values: npt.NDArray[Any], like: Tensor) -> Tensor:
        return torch.from_numpy(values).to(like.device)
