"""A deeper form of the HVL thesis' network, which its outlook asks for: two normalised convolutions per stage.

Shapes at 50x50x3 (N events, channels x H x W):

    image                              3 x 50 x 50
    2 x (conv 3x3, norm, ReLU)        32 x 50 x 50      pool 2    32 x 25 x 25
    2 x (conv 3x3, norm, ReLU)        64 x 25 x 25      pool 2    64 x 13 x 13
    2 x (conv 3x3, norm, ReLU)       128 x 13 x 13      pool 2   128 x  7 x  7
    2 x (conv 3x3, norm, ReLU)       256 x  7 x  7      average  256
    linear, ReLU, dropout           1000
    linear                          n_classes
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel

WIDTHS = (32, 64, 128, 256)
HIDDEN_FEATURES = 1000


class DeepCnnConfig(ImageConfig):
    """Configuration of `deep_cnn`.

    Attributes:
        dropout: probability of zeroing a feature of the hidden linear layer.
    """

    dropout: float = Field(default=0.5, ge=0, lt=1)


@model("deep_cnn", DeepCnnConfig)
class DeepCnn(ImageModel):
    """Four stages of two padded 3x3 convolutions with batch normalisation, one hidden linear layer.

    Args:
        config: dropout, and scale and transform of the pixels.
        schema: events with one image, of any size.

    Raises:
        InvalidConfig: there is not exactly one image.
    """

    def __init__(self, config: DeepCnnConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        layers: list[nn.Module] = []
        channels = self.image.channels
        for width in WIDTHS:
            for channels_in in (channels, width):
                layers += [nn.Conv2d(channels_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
                layers += [nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if width != WIDTHS[-1] else []
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, HIDDEN_FEATURES),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(HIDDEN_FEATURES, len(schema.classes)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        logits: Tensor = self.head(self.convolutions(self.image(images)))
        return logits
