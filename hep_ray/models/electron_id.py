"""The electron-identification network of the UdeM thesis: one stream per part of the candidate, joined at the end.

Shapes (N events) with the thesis' best values, 3 convolutions of 32 channels and 3 linear layers of 100:

    fine_image    56 x 11         3 x conv 3x3, 32 x 56 x 11, pool 2 each time, flatten
    layer_images   7 x 11 x 6     3 x conv 3x3, 32 x  7 x 11, flatten
    tracks        15 x 5          3 x conv 1 over the tracks, 32 x 15, flatten
    scalars       15              3 x linear 100
    joined                        3 x linear 100, dropout, linear n_classes

`parts` removes streams, as the thesis' ablation does (table 3.2): `scalars` alone is a fully connected network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig
from hep_ray.models import ColumnLike, Model, SchemaLike, model
from hep_ray.models.flat import named_column

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
        conv_layers: convolutions of each stream.
        conv_features: channels of each.
        dense_layers: linear layers of the scalar stream, and after the streams are joined.
        dense_features: width of each.
        dropout: probability of zeroing a feature after a linear layer.
    """

    parts: str = "+".join(PARTS)
    fine_image: str = "em1_image"
    layer_images: str = "layer_images"
    tracks: str = "tracks"
    scalars: str = "scalars"
    conv_layers: int = Field(default=3, ge=1)
    conv_features: int = Field(default=32, ge=1)
    dense_layers: int = Field(default=3, ge=1)
    dense_features: int = Field(default=100, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

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
            "fine_image": fine_stream,
            "layer_images": layer_stream,
            "tracks": track_stream,
            "scalars": scalar_stream,
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


def convolutions(
    channels: int,
    config: ElectronIdConfig,
    convolution: Callable[[int, int], nn.Module],
    *,
    pool: bool = False,
) -> list[nn.Module]:
    """Convolutions with ReLU, from `channels` to `conv_features`; with `pool` each halves the image."""
    layers: list[nn.Module] = []
    for _ in range(config.conv_layers):
        layers += [convolution(channels, config.conv_features), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2, ceil_mode=True)] if pool else []
        channels = config.conv_features
    return layers


padded = partial(nn.Conv2d, kernel_size=3, padding=1)
per_track = partial(nn.Conv1d, kernel_size=1)


def fine_stream(config: ElectronIdConfig, column: ColumnLike) -> tuple[nn.Module, int]:
    """Stream of the finely segmented image and its number of features."""
    height, width, channels = (*column.shape, 1)[:3]
    layers = convolutions(channels, config, padded, pool=True)
    for _ in range(config.conv_layers):
        height, width = -(-height // 2), -(-width // 2)
    return nn.Sequential(ChannelsFirst(), *layers, nn.Flatten()), config.conv_features * height * width


def layer_stream(config: ElectronIdConfig, column: ColumnLike) -> tuple[nn.Module, int]:
    """Stream of the coarse images, one channel per layer, and its number of features."""
    height, width, channels = column.shape
    layers = convolutions(channels, config, padded)
    return nn.Sequential(ChannelsFirst(), *layers, nn.Flatten()), config.conv_features * height * width


def track_stream(config: ElectronIdConfig, column: ColumnLike) -> tuple[nn.Module, int]:
    """Stream of the tracks, whose weights are the same for every track, and its number of features."""
    tracks, quantities = column.shape
    layers = convolutions(quantities, config, per_track)
    return nn.Sequential(TracksLast(), *layers, nn.Flatten()), config.conv_features * tracks


def scalar_stream(config: ElectronIdConfig, column: ColumnLike) -> tuple[nn.Module, int]:
    """Stream of the scalar variables and its number of features."""
    return dense(column.shape[0], config), config.dense_features
