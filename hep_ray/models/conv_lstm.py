"""ConvLSTM (Shi et al., arXiv:1506.04214, eq. 3 without peepholes) over the layers of the calorimeter.

Shapes at 7x11x6 (N events, channels x H x W), one of the architecture trials of the UdeM thesis:

    image                           6 x 7 x 11     six images of one channel
    ConvLSTM 3x3, over 6 layers    32 x 7 x 11     its last hidden maps
    conv 3x3, ReLU, average        64
    linear                         n_classes
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel

LAST_WIDTH = 64


class ConvLstmConfig(ImageConfig):
    """Configuration of `conv_lstm`.

    Attributes:
        recurrent_features: channels of the hidden maps and of the cell.
    """

    recurrent_features: int = Field(default=32, ge=1)


class ConvLstmCell(nn.Module):
    """One step: gates are 3x3 convolutions of the input and of the hidden maps.

    Args:
        channels_in: of the input.
        features: of the hidden maps.
    """

    def __init__(self, channels_in: int, features: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(channels_in + features, 4 * features, 3, padding=1)

    def forward(self, maps: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Next hidden maps and cell, (N, features, H, W), of maps (N, channels_in, H, W)."""
        entering, forgetting, leaving, proposed = self.gates(torch.cat([maps, hidden], 1)).chunk(4, dim=1)
        cell = forgetting.sigmoid() * cell + entering.sigmoid() * proposed.tanh()
        return leaving.sigmoid() * cell.tanh(), cell


@model("conv_lstm", ConvLstmConfig)
class ConvLstm(ImageModel):
    """A convolutional LSTM over the channels, a convolution, a linear layer.

    Args:
        config: width of the hidden maps, scale and transform of the pixels.
        schema: events with one image, of any size, whose channels are a sequence.

    Raises:
        InvalidConfig: there is not exactly one image.
    """

    def __init__(self, config: ConvLstmConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.features = config.recurrent_features
        self.cell = ConvLstmCell(1, self.features)
        self.head = nn.Sequential(
            nn.Conv2d(self.features, LAST_WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(LAST_WIDTH, len(schema.classes)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        layers = self.image(images)
        hidden = layers.new_zeros(len(layers), self.features, *self.image.size)
        cell = hidden
        for layer in layers.split(1, dim=1):
            hidden, cell = self.cell(layer, hidden, cell)
        logits: Tensor = self.head(hidden)
        return logits
