"""Augmentation of training batches on their device: symmetries of the detector, erasing, mixing, noise.

One event is one object: what is drawn for it turns all its images together, along the axes that the schema states, and
what is mixed is mixed in all its parts and in its label. What cannot be turned is refused before a search starts, by
`check_augmentation`. Everything is drawn from a generator that a seed and an epoch decide, so a resumed trial sees the
batches it would have seen.

The schema decides what is an image: it has three axes, the last one its channels, or two, which it names. An axis is
`phi` or `eta` in the coordinates of the detector, where φ closes on itself; `delta_phi` or `delta_eta` in those of a
window around a jet or a candidate, which can be reflected and not turned.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from hep_ray.config import Config
from hep_ray.dataset.schema import IMAGE_AXES, Column
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Batch

IMAGE_RANK = 4
"""Rank of a batch of images with channels."""
WITH_CHANNELS = IMAGE_AXES + 1
ALONG = {"phi": ("phi", "delta_phi"), "eta": ("eta", "delta_eta")}
"""Coordinate → names of an axis along which it grows."""
TURNING = {"phi_rotation": "phi", "phi_flip": "phi", "eta_flip": "eta"}
"""What turns or reflects an event → in which coordinate."""
ON_IMAGES = (*TURNING, "cutout", "noise", "cutmix")
"""What happens to images."""
CHANGED = {
    "phi_rotation": frozenset({"phi", "azimuth", "px", "py"}),
    "phi_flip": frozenset({"phi", "azimuth", "dphi", "phirel", "px", "py", "d0", "dxy"}),
    "eta_flip": frozenset({"eta", "deta", "etarel", "theta", "rapidity", "pz", "z0", "dz"}),
}
"""What turns or reflects an event → words in the name of a quantity that it changes."""
RATIOS = frozenset({"r", "w", "abs", "width"})
"""Words before such a word that make it a quantity that does not change: a ratio, a width, a magnitude."""
DIFFERENCES = frozenset({"d", "delta"})
"""Words before such a word that make it a difference, which no rotation changes."""
WORD = re.compile(r"d0|z0|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


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
        own: an augmentation of the user's own, a function of inputs and a seed; before events are mixed.

    Raises:
        InvalidConfig: the φ axes of an event's images have no step in common by which to turn them, or an image lacks
            an axis that is to be turned or reflected, or lists are to be mixed.
    """

    def __init__(
        self,
        config: AugmentConfig,
        seed: int,
        epoch: int,
        rank: int = 0,
        columns: Sequence[Column] | None = None,
        own: Callable[[dict[str, Tensor], int], dict[str, Tensor]] | None = None,
    ) -> None:
        self._config, self._own = config, own
        self._random = np.random.default_rng((seed, epoch, 1, *([rank] if rank else [])))
        self._images = None if columns is None else images_of(columns, config.on_images)
        check_mixing(config, columns or ())

    def __call__(self, batch: Batch) -> Batch:
        """A new batch; the tensors of the given one stay as they are."""
        config = self._config
        inputs = self._changed(self._turned(batch), batch)
        if self._own is not None:
            inputs = self._own(inputs, int(self._random.integers(2**62)))
        batch = dataclasses.replace(batch, inputs=inputs)
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
                inputs[name] = self._noisy(as_float(inputs[name]))
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
        chosen = self._tensor(mask, images).reshape(len(mask), *[1] * (images.ndim - 1))
        return torch.where(chosen, images.flip(axis), images)

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
    values = as_float(values)
    return torch.lerp(values[permutation], values, mix_ratio)


def as_float(values: Tensor) -> Tensor:
    """Return numbers that can lie between two others: integers and 16 bits as float32, as every model takes them."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _indexable(values: Tensor) -> Tensor:
    """As numbers that torch can put in another order, which it cannot those of 16 and more bits without a sign."""
    return values.float() if values.dtype in (torch.uint16, torch.uint32, torch.uint64) else values


@dataclass(frozen=True)
class EventImage:
    """Where φ and η run in a batch (B, *shape) of a column.

    Attributes:
        phi: axis of the batch along which φ grows; of an image without it, its first axis.
        eta: axis of the batch along which η grows; of an image without it, its second axis.
        phi_pixels: along φ.
    """

    phi: int
    eta: int
    phi_pixels: int


def is_image(column: Column) -> bool:
    """Return whether a column is an image: it has three axes, or names its two."""
    return column.is_image


def images_of(columns: Sequence[Column], wanted: Collection[str]) -> dict[str, EventImage]:
    """Find the images among columns, by name; one that states no axes has φ first and η second.

    Args:
        columns: of an event.
        wanted: what happens to images, some of `ON_IMAGES`.

    Raises:
        InvalidConfig: an image lacks the axis that is to be turned or reflected, or images turn by no common step.
    """
    found: dict[str, EventImage] = {}
    for column in filter(is_image, columns):
        for name, coordinate in TURNING.items():
            if name in wanted and column.axes:
                _check_axis(column, name, coordinate)
        swapped = column.axes and (column.axes[0] in ALONG["eta"] or column.axes[1] in ALONG["phi"])
        phi, eta = (2, 1) if swapped else (1, 2)
        found[column.name] = EventImage(phi, eta, column.shape[phi - 1])
    if "phi_rotation" in wanted and found and phi_steps(found) == 1:
        sizes = ", ".join(f"{name} {one.phi_pixels}" for name, one in found.items())
        if any(one.phi_pixels > 1 for one in found.values()):
            raise InvalidConfig(
                "phi_rotation turns all images of an event by one angle, a whole number of pixels of each; their "
                f"pixels along φ have no common step: {sizes}"
            )
    return found


def phi_steps(images: Mapping[str, EventImage]) -> int:
    """Count the angles by which all images can be turned, a whole number of pixels of each."""
    return math.gcd(*(one.phi_pixels for one in images.values()))


def check_mixing(config: AugmentConfig, columns: Sequence[Column]) -> None:
    """Refuse to mix lists of varying length, of which no item belongs to another of the second event.

    Args:
        config: what happens.
        columns: that the model reads.

    Raises:
        InvalidConfig: `mixup` or `cutmix` is asked for, and a column is of lists.
    """
    lists = [column.name for column in columns if column.lists]
    mixed = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if lists and mixed:
        raise InvalidConfig(
            f"{mixed[0]} mixes events value by value, and '{lists[0]}' is lists of varying length: leave it out, or "
            "let it exist for other models, with .when(model=…); manifold_mixup mixes behind the sum over the particles"
        )


def check_augmentation(wanted: Sequence[str], columns: Sequence[Column]) -> None:
    """Refuse what would break an event, or do nothing; asked before a search starts.

    Args:
        wanted: what happens to images, some of `ON_IMAGES`.
        columns: that the model reads.

    Raises:
        InvalidConfig: there is no image to change; it is not known which axes are φ and η, or whether a column is an
            image; or another part of the event would have to turn too, and cannot.
    """
    if not wanted:
        return
    names = ", ".join(column.name for column in columns)
    for column in columns:
        if len(column.shape) == IMAGE_AXES and not column.axes and not column.elements:
            raise InvalidConfig(
                f"{wanted[0]} changes images, and it is not known whether '{column.name}' of shape {column.shape} is "
                f"one: in the schema state its axes, such as axes = ['phi', 'eta'], if it is, or else its elements"
            )
    images = [column for column in columns if is_image(column)]
    if not images:
        raise InvalidConfig(
            f"{wanted[0]} changes images, and the model reads none ({names}): leave it out, or let it exist where a "
            "model reads one, with .when(model=…)"
        )
    for name in wanted:
        if name in TURNING:
            for column in images:
                _check_stated(column, name)
            for column in columns:
                _check_unchanged(column, name)
    images_of(columns, wanted)


def _check_stated(column: Column, wanted: str) -> None:
    if not column.axes:
        raise InvalidConfig(
            f"{wanted} follows the axes that the schema states, and the image '{column.name}' of shape {column.shape} "
            "states none: write axes = ['phi', 'eta'], or ['eta', 'phi'] (delta_phi and delta_eta in a window around a "
            "jet or a candidate), into its [[columns]] of the schema file and convert the data again"
        )
    _check_axis(column, wanted, TURNING[wanted])


def _check_axis(column: Column, wanted: str, coordinate: str) -> None:
    if not set(column.axes) & set(ALONG[coordinate]):
        raise InvalidConfig(
            f"{wanted} needs the axis {coordinate} of every image; '{column.name}' has axes {', '.join(column.axes)}"
        )
    if wanted == "phi_rotation" and "phi" not in column.axes:
        raise InvalidConfig(
            f"phi_rotation turns images whose φ axis closes on itself; '{column.name}' is a window, with axes "
            f"{', '.join(column.axes)}: leave it out"
        )


def _check_unchanged(column: Column, wanted: str) -> None:
    """Refuse a part of the event that would have to change with its images."""
    if is_image(column):
        return
    if column.shape and (not column.elements or len(column.shape) > WITH_CHANNELS):
        raise InvalidConfig(
            f"{wanted} turns an event with all its parts, and it is not known what '{column.name}' of shape "
            f"{column.shape} holds: name its elements in the schema, or let the model read images alone"
        )
    for name in column.elements or (column.name,):
        if changes(wanted, name):
            raise InvalidConfig(
                f"{wanted} turns an event with all its parts, and '{name}'"
                f"{f' of {column.name}' if column.elements else ''} would have to change with its images, which is not "
                "supported: let the model read images alone, or leave it out"
            )


def changes(wanted: str, name: str) -> bool:
    """Return whether a rotation or reflection changes the quantity of this name, by the words in it.

    >>> changes("phi_rotation", "met_phi"), changes("phi_rotation", "delta_phi"), changes("eta_flip", "r_eta")
    (True, False, False)
    >>> changes("phi_rotation", "lep_azimuth"), changes("phi_flip", "azimuth")
    (True, True)
    """
    words = [word.lower() for word in _words(name)]
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        if word in CHANGED[wanted] and before not in RATIOS:
            if wanted == "phi_rotation" and before in DIFFERENCES:
                continue
            return True
    return False


def _words(name: str) -> Iterator[str]:
    for part in name.split("_"):
        whole = part.lower()
        if any(whole in known for known in CHANGED.values()):
            yield whole
        else:
            yield from WORD.findall(part)
