"""Base of models of a single image: its place in the schema, memory layout, transform and size.

Shapes: N events, H bins in φ (axis 0), W bins in η (axis 1), C channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.models import Model, SchemaLike

IMAGE_DIMENSIONS = 3


class ImageConfig(Config):
    """Fields common to image models.

    Both are fixed functions of each pixel, not fitted to data: they bring energies that span decades to order
    one, without which the thesis' CNN barely learns from raw GeV. The defaults leave the stored values.

    Attributes:
        input_scale: in the image's unit; pixels are divided by it, x = E/scale.
        input_transform: of the scaled pixels: `none` takes x, `log1p` takes sgn(x)·ln(1 + |x|), `fraction` the pixel's
            share x / Σ|x| of its image's sum over all pixels and channels, which knows no scale.
    """

    input_scale: float = Field(default=1.0, gt=0)
    input_transform: Literal["none", "log1p", "fraction"] = "none"


class ImageInput(nn.Module):
    """Takes the schema's only image from (N, H, W, C), as stored, to (N, C, H, W).

    The result keeps the stored order in memory, which torch calls channels_last and convolves as it is.

    Args:
        config: the scale and the transform to apply.
        schema: must hold exactly one column of three dimensions.

    Attributes:
        column: name of the image column.
        channels: C.
        size: (H, W).

    Raises:
        InvalidConfig: the schema holds no image, or several.
    """

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__()
        images = [column for column in schema.inputs if len(column.shape) == IMAGE_DIMENSIONS]
        if len(images) != 1:
            found = ", ".join(f"{column.name} {column.shape}" for column in schema.inputs)
            raise InvalidConfig(
                f"an image model needs exactly one column of shape (φ, η, channel); "
                f"got {len(images)} among: {found or 'no columns'}"
            )
        self.column = images[0].name
        height, width, self.channels = images[0].shape
        self.size = (height, width)
        self.scale = config.input_scale
        self.transform = config.input_transform

    def forward(self, images: Tensor) -> Tensor:
        """Permute, scale and transform.

        Args:
            images: (N, H, W, C), of any number type.

        Returns:
            (N, C, H, W), float32.

        Raises:
            InvalidEvents: the images are not of the schema's shape.
        """
        expected = (*self.size, self.channels)
        if images.shape[1:] != expected:
            raise InvalidEvents(
                f"'{self.column}' must be of shape (N, {', '.join(map(str, expected))}); "
                f"got {tuple(images.shape)}"
            )
        scaled = images.float().permute(0, 3, 1, 2) / self.scale
        if self.transform == "fraction":
            total = scaled.abs().sum(dim=(1, 2, 3), keepdim=True)
            return scaled / torch.where(total > 0, total, 1.0)  # an empty image stays empty
        return scaled.abs().log1p().copysign(scaled) if self.transform == "log1p" else scaled


class ImageModel(Model):
    """A model of the schema's only image.

    `self.image` takes it as stored to maps (N, C, H, W). A model whose layers follow one after another sets them as
    submodules in that order and needs no `forward`: as in `nn.Sequential`, each takes what the one before gives.

    Args:
        config: scale and transform of the pixels, and the model's own fields.
        schema: must hold exactly one column of three dimensions.

    Raises:
        InvalidConfig: the schema holds no image, or several, or one that the model does not take.
    """

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__()
        self.image = ImageInput(config, schema)
        self.columns = (self.image.column,)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, n_classes) of images (N, H, W, C)."""
        values = images
        for layer in self.children():
            values = layer(values)
        return values


def output_size(size: tuple[int, int], kernel: int, stride: int = 1, padding: int = 0) -> tuple[int, int]:
    """Image size (H, W) after a convolution or a pooling; zero or less when the image is too small.

    >>> output_size((50, 50), kernel=7, stride=2, padding=3)
    (25, 25)
    """
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    return height, width


def flat_features(model_name: str, channels: int, size: tuple[int, int], image: ImageInput) -> int:
    """Number of features in `channels` maps of that size.

    Raises:
        InvalidConfig: nothing is left of the image at this depth.
    """
    check_size(model_name, size, image)
    return channels * size[0] * size[1]


def check_size(model_name: str, size: tuple[int, int], image: ImageInput) -> None:
    """Refuse images of which a model leaves nothing at its last depth.

    Raises:
        InvalidConfig: nothing is left.
    """
    if min(size) < 1:
        raise InvalidConfig(
            f"{model_name} must keep at least one pixel after its pooling; "
            f"images '{image.column}' of {image.size[0]}x{image.size[1]} are too small for it"
        )
