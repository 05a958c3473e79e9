"""The electron-identification network of the UdeM thesis: one stream per part of the candidate, joined at the end.

Shapes (N events) with the thesis' best values, 3 convolutions of 32 channels and 3 linear layers of 100:

    fine_image    56 x 11         3 x conv 3x3, 32 x 56 x 11, pool 2 each time, flatten     448
    layer_images   7 x 11 x 6     3 x conv 3x3, 32 x  7 x 11, flatten                      2464
    tracks        15 x 5          3 x conv 1x1, 32 x 15 x 5, flatten                       2400
    scalars       15              3 x linear 100                                            100
    joined                        3 x linear 100, linear n_classes

`parts` removes streams, as the thesis' ablation does (table 3.2): `scalars` alone is a fully connected network.
In the thesis dropout follows every ReLU (`conv_dropout`), and the tracks are an image of one channel
(`track_form="image"`). By default it follows linear layers alone, and the quantities of a track are channels of a
sequence, 480 features: so was this network before 2026-11-28, and what was trained then is read as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig
from hep_ray.models import ColumnLike, Model, SchemaLike, model
from hep_ray.models.flat import named_column
from hep_ray.models.image import output_size

PARTS = {"fine_image": (2, 3), "layer_images": (3,), "tracks": (2,), "scalars": (1,)}
"""Part of a candidate → possible ranks of one event's value."""


class ElectronIdConfig(Config):
    """Configuration of `electron_id`.

    Attributes:
        parts: streams to keep, joined by `+`.
        fine_image: column of the finely segmented layer's image (η, φ), with or without an axis of channels.
        layer_images: column of the other layers' images (η, φ, layer).
        tracks: column of the tracks (track, quantity).
        scalars: column of the scalar variables.
        track_form: `image` takes the tracks as an image of one channel, `sequence` their quantities as channels.
        conv_layers: convolutions of each stream.
        conv_features: channels of each.
        kernel_size: of the convolutions of images; those of tracks are 1x1.
        padding: of the same.
        stride: of the same.
        dense_layers: linear layers of the scalar stream, and after the streams are joined.
        dense_features: width of each.
        dropout: probability of zeroing a feature after a linear layer.
        conv_dropout: the same after the ReLU of every convolution.
    """

    parts: str = "+".join(PARTS)
    fine_image: str = "em1_image"
    layer_images: str = "layer_images"
    tracks: str = "tracks"
    scalars: str = "scalars"
    track_form: Literal["sequence", "image"] = "sequence"
    conv_layers: int = Field(default=3, ge=1)
    conv_features: int = Field(default=32, ge=1)
    kernel_size: int = Field(default=3, ge=1)
    padding: int = Field(default=1, ge=0)
    stride: int = Field(default=1, ge=1)
    dense_layers: int = Field(default=3, ge=1)
    dense_features: int = Field(default=100, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    conv_dropout: bool = False

    @model_validator(mode="after")
    def _known_parts(self) -> Self:
        given = self.parts.split("+")
        if not set(given) <= set(PARTS) or len(set(given)) != len(given):
            raise ValueError(
                f"unknown or repeated part in '{self.parts}': parts are some of {', '.join(PARTS)}, joined by +"
            )
        return self


@model("electron_id", ElectronIdConfig)
class ElectronId(Model):
    """Streams for images, tracks and scalars, joined in a fully connected network."""

    def __init__(self, config: ElectronIdConfig, schema: SchemaLike) -> None:
        super().__init__()
        kept = [part for part in PARTS if part in config.parts.split("+")]
        columns = [named_column(getattr(config, part), schema) for part in kept]
        for part, column in zip(kept, columns, strict=True):
            if len(column.shape) not in PARTS[part]:
                axes = " or ".join(map(str, PARTS[part]))
                raise InvalidConfig(f"{part} has {axes} axes; '{column.name}' is {column.shape}")
        self.columns = tuple(column.name for column in columns)
        build: dict[str, Callable[[ElectronIdConfig, ColumnLike], tuple[nn.Module, int]]] = {
            "fine_image": lambda config, column: image_stream(
                config, column, (*column.shape, 1)[2], pool=True
            ),
            "layer_images": lambda config, column: image_stream(config, column, column.shape[2], pool=False),
            "tracks": track_stream,
            "scalars": lambda config, column: (dense(column.shape[0], config), config.dense_features),
        }
        streams = [build[part](config, column) for part, column in zip(kept, columns, strict=True)]
        self.streams = nn.ModuleList([stream for stream, _ in streams])
        joined = dense(sum(features for _, features in streams), config)
        self.head = nn.Sequential(joined, nn.Linear(config.dense_features, len(schema.classes)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (N, n_classes) of one tensor (N, *shape) per kept part."""
        features = [stream(values.float()) for stream, values in zip(self.streams, inputs, strict=True)]
        logits: Tensor = self.head(torch.cat(features, dim=1))
        return logits


class ChannelsFirst(nn.Module):
    """(N, H, W, C) to (N, C, H, W); an image without a channel axis gets one."""

    def forward(self, images: Tensor) -> Tensor:
        """Permuted images."""
        return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)  # noqa: PLR2004


class TracksLast(nn.Module):
    """(N, track, quantity) to (N, quantity, track)."""

    def forward(self, tracks: Tensor) -> Tensor:
        """Transposed tracks."""
        return tracks.transpose(1, 2)


def dense(features: int, config: ElectronIdConfig) -> nn.Sequential:
    """Linear layers with ReLU and dropout, from `features` to `dense_features`."""
    layers: list[nn.Module] = []
    for _ in range(config.dense_layers):
        layers += [nn.Linear(features, config.dense_features), nn.ReLU(inplace=True)]
        layers += [nn.Dropout(config.dropout)]
        features = config.dense_features
    return nn.Sequential(*layers)


def activation(config: ElectronIdConfig) -> nn.Module:
    """ReLU after a convolution, with dropout where it is asked for: one place in a stream either way."""
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(relu, nn.Dropout(config.dropout)) if config.conv_dropout else relu


Size = tuple[int, int]


def image_stream(
    config: ElectronIdConfig, column: ColumnLike, channels: int, *, pool: bool
) -> tuple[nn.Module, int]:
    """Convolutions of an image, from `channels` to `conv_features`, and the number of features; `pool` halves each.

    Raises:
        InvalidConfig: nothing is left of the image.
    """
    layers: list[nn.Module] = []
    size: Size = (column.shape[0], column.shape[1])
    for _ in range(config.conv_layers):
        layers += [
            nn.Conv2d(channels, config.conv_features, config.kernel_size, config.stride, config.padding)
        ]
        layers += [activation(config), *([nn.MaxPool2d(2, ceil_mode=True)] if pool else [])]
        size = output_size(size, config.kernel_size, config.stride, config.padding)
        size = (-(-size[0] // 2), -(-size[1] // 2)) if pool else size
        channels = config.conv_features
        if min(size) < 1:
            raise InvalidConfig(
                f"{config.conv_layers} convolutions of kernel_size {config.kernel_size}, stride {config.stride} and "
                f"padding {config.padding} leave nothing of '{column.name}' {column.shape}: take fewer, or more padding"
            )
    return nn.Sequential(ChannelsFirst(), *layers, nn.Flatten()), channels * size[0] * size[1]


def track_stream(config: ElectronIdConfig, column: ColumnLike) -> tuple[nn.Module, int]:
    """Stream of the tracks, whose weights are the same for every track, and its number of features."""
    tracks, quantities = column.shape
    image = config.track_form == "image"
    kind, channels = (nn.Conv2d, 1) if image else (nn.Conv1d, quantities)
    layers: list[nn.Module] = []
    for _ in range(config.conv_layers):
        layers += [kind(channels, config.conv_features, 1), activation(config)]
        channels = config.conv_features
    shaped = ChannelsFirst() if image else TracksLast()
    return nn.Sequential(shaped, *layers, nn.Flatten()), channels * tracks * (quantities if image else 1)
