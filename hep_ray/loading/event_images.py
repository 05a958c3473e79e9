"""Which parts of an event are images, along which axes φ and η run, and what of an event cannot be turned.

The schema decides: an image has three axes, the last one its channels, or two, which it names. An axis is `phi` or
`eta` in the coordinates of the detector, where φ closes on itself; `delta_phi` or `delta_eta` in those of a window
around a jet or a candidate, which can be reflected and not turned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hep_ray.dataset.schema import IMAGE_AXES, Column
from hep_ray.errors import InvalidConfig

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
    """Whether a column is an image: it has three axes, or names its two."""
    return len(column.shape) == WITH_CHANNELS or (len(column.shape) == IMAGE_AXES and bool(column.axes))


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
    """Angles by which all images can be turned, a whole number of pixels of each."""
    return math.gcd(*(one.phi_pixels for one in images.values()))


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
    """Whether a rotation or reflection changes the quantity of this name, by the words in it.

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
