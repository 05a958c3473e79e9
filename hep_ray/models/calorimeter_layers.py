"""Models that read the image's channels as calorimeter layers, from the inside out: trials of the UdeM thesis.

Shapes at 7x11x6 (N events, channels x depth x H x W). `cnn_rnn`: one CNN for every layer, a GRU over the layers:

    image                         6 x 7 x 11      six images of one channel
    conv 3x3, ReLU, pool 2       32 x 4 x  6      of each layer, the same weights for all
    conv 3x3, ReLU, average      64
    GRU over the 6 layers        64               its last state
    linear                       n_classes

`conv3d`: the layers are the depth of one block of cells:

    image                      1 x 6 x 7 x 11
    conv 3x3x3, ReLU          16 x 6 x 7 x 11      pool 1x2x2    16 x 6 x 4 x 6
    conv 3x3x3, ReLU          32 x 6 x 4 x  6      pool 1x2x2    32 x 6 x 2 x 3
    conv 3x3x3, ReLU          64 x 6 x 2 x  3      average over H and W, flatten  384
    linear                    n_classes

`conv_lstm` (Shi et al., arXiv:1506.04214, eq. 3 without peepholes) over the layers:

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

CNN_WIDTHS = (32, 64)


class CnnRnnConfig(ImageConfig):
    """Configuration of `cnn_rnn`.

    Attributes:
        recurrent_features: width of the recurrent state.
    """

    recurrent_features: int = Field(default=64, ge=1)


@model("cnn_rnn", CnnRnnConfig)
class CnnRnn(ImageModel):
    """One CNN for every layer, a gated recurrent unit over the layers.

    It takes one image, of any size, whose channels are a sequence.
    """

    def __init__(self, config: CnnRnnConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        first, second = CNN_WIDTHS
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.recurrent = nn.GRU(second, config.recurrent_features, batch_first=True)
        self.head = nn.Linear(config.recurrent_features, len(schema.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        layers = self.image(images)
        features = self.convolutions(layers.flatten(0, 1).unsqueeze(1)).unflatten(0, layers.shape[:2])
        states, _ = self.recurrent(features)
        logits: Tensor = self.head(states[:, -1])
        return logits


BLOCK_WIDTHS = (16, 32, 64)


@model("conv3d", ImageConfig)
class Conv3d(ImageModel):
    """Three convolutions in depth, φ and η; depth is never pooled.

    It takes one image, of any size, whose channels are a sequence.
    """

    def __init__(self, config: ImageConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        layers: list[nn.Module] = []
        channels = 1
        for width in BLOCK_WIDTHS:
            layers += [nn.Conv3d(channels, width, 3, padding=1)]
            layers += [nn.MaxPool3d((1, 2, 2), ceil_mode=True)] if width != BLOCK_WIDTHS[-1] else []
            layers += [nn.ReLU(inplace=True)]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Linear(channels * self.image.channels, len(schema.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        maps = self.convolutions(self.image(images).unsqueeze(1))
        logits: Tensor = self.head(maps.mean((3, 4)).flatten(1))
        return logits


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

    It takes one image, of any size, whose channels are a sequence.
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
