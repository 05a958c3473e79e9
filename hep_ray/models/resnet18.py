"""ResNet18 of torchvision (He et al., arXiv:1512.03385) with a stem that suits the image.

It is the network of the follow-up on six classes of black holes and sphalerons (Grefsrud et al., arXiv:2310.15227).
Shapes at 50x50x3 (N events, channels x H x W):

    image                       3 x 50 x 50
    stem `large`: 7x7/2, pool  64 x 13 x 13      stem `small`: 3x3    64 x 50 x 50
    stage 1                    64 x 13 x 13                           64 x 50 x 50
    stages 2, 3, 4            128 x 7, 256 x 4, 512 x 2              128 x 25, 256 x 13, 512 x 7
    average                   512
    linear                    n_classes
"""

from __future__ import annotations

import torchvision
from torch import Tensor

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel
from hep_ray.models.stem import Stem, fit_stem


class ResNet18Config(ImageConfig):
    """Configuration of `resnet18`.

    Attributes:
        stem: `large` reduces the image four times before the first stage; `small` leaves its size; `auto` is small
            below 40 pixels.
    """

    stem: Stem = "auto"


@model("resnet18", ResNet18Config)
class ResNet18(ImageModel):
    """Basic blocks 2, 2, 2, 2.

    Args:
        config: see there; scale and transform of the pixels.
        schema: events with one image, of any size.

    Raises:
        InvalidConfig: there is not exactly one image.
    """

    def __init__(self, config: ResNet18Config, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.network = torchvision.models.resnet18(weights=None, num_classes=len(schema.classes))
        fit_stem(self.network, self.image, config.stem)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        logits: Tensor = self.network(self.image(images))
        return logits
