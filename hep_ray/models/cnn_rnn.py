"""CNN and RNN: the image's channels are calorimeter layers, read one after another from the inside out.

Shapes at 7x11x6 (N events, channels x H x W), one of the architecture trials of the UdeM thesis:

    image                         6 x 7 x 11      six images of one channel
    conv 3x3, ReLU, pool 2       32 x 4 x  6      of each layer, the same weights for all
    conv 3x3, ReLU, average      64
    GRU over the 6 layers        64               its last state
    linear                       n_classes
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel

WIDTHS = (32, 64)


class CnnRnnConfig(ImageConfig):
    """Configuration of `cnn_rnn`.

    Attributes:
        recurrent_features: width of the recurrent state.
    """

    recurrent_features: int = Field(default=64, ge=1)


@model("cnn_rnn", CnnRnnConfig)
class CnnRnn(ImageModel):
    """One CNN for every layer, a gated recurrent unit over the layers.

    Args:
        config: width of the state, scale and transform of the pixels.
        schema: events with one image, of any size, whose channels are a sequence.

    Raises:
        InvalidConfig: there is not exactly one image.
    """

    def __init__(self, config: CnnRnnConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        first, second = WIDTHS
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
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
