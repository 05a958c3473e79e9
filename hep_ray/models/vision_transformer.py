"""A vision transformer (Dosovitskiy et al., arXiv:2010.11929) of torchvision, small and of small patches.

Shapes at 50x50x3 (N events), patches of 5, 96 features:

    image                        3 x 50 x 50      padded with zeros to a square of whole patches
    patches                    100 x 96           and one class token, with learnt positions
    encoder, 4 layers          101 x 96
    linear, of the token       n_classes
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel

WIDENING = 2
INITIAL_SPREAD = 0.02


class VisionTransformerConfig(ImageConfig):
    """Configuration of `vision_transformer`.

    Attributes:
        patch_size: pixels of a patch's side.
        encoder_layers: number of encoder layers.
        heads: attention heads of each.
        token_features: width of a token; a multiple of the heads.
        dropout: probability of zeroing a feature.
    """

    patch_size: int = Field(default=5, ge=1)
    encoder_layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    token_features: int = Field(default=96, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.token_features % self.heads:
            raise ValueError(
                f"token_features is a multiple of heads; got {self.token_features} of {self.heads}"
            )
        return self


@model("vision_transformer", VisionTransformerConfig)
class SmallVisionTransformer(ImageModel):
    """Patches of the image as tokens."""

    def __init__(self, config: VisionTransformerConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        height, width = self.image.size
        side = -(-max(height, width) // config.patch_size) * config.patch_size
        self.padding = (0, side - width, 0, side - height)
        self.network = VisionTransformer(
            image_size=side,
            patch_size=config.patch_size,
            num_layers=config.encoder_layers,
            num_heads=config.heads,
            hidden_dim=config.token_features,
            mlp_dim=WIDENING * config.token_features,
            dropout=config.dropout,
            num_classes=len(schema.classes),
        )
        self.network.conv_proj = nn.Conv2d(
            self.image.channels, config.token_features, config.patch_size, config.patch_size
        )
        nn.init.trunc_normal_(self.network.heads.head.weight, std=INITIAL_SPREAD)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        logits: Tensor = self.network(functional.pad(self.image(images), self.padding))
        return logits
