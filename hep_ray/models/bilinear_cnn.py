"""The bilinear CNN of the UCSD jet study: both streams share the features of VGG16 with batch normalisation.

Source: Lin, RoyChowdhury and Maji, arXiv:1504.07889. Shapes at 30x30x1 (N events, channels x H x W):

    image                                    1 x 30 x 30, repeated to 3 channels
    VGG16-BN up to its last convolution    512 x  1 x  1     (four poolings; 512 x 3 x 3 at 50x50)
    outer product, mean over the pixels    512 x 512
    signed square root, unit length     262144
    linear                              n_classes
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.vgg import cfgs, make_layers

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel, check_size, output_size
from hep_ray.models.pretrained import RANDOM, as_colours, check_colours, load_weights

FEATURES = 512
POOLINGS = 4
FILE_NAME = "vgg16_bn-6c64b313.pth"
SMALLEST_ROOT = 1e-12
"""Below this an element of the outer product counts as zero; the slope of the root diverges there."""


class BilinearCnnConfig(ImageConfig):
    """Configuration of `bilinear_cnn`.

    Attributes:
        weights: of VGG16-BN to begin with: `random`, `imagenet` (torch's cache), or a path.
    """

    weights: str = RANDOM


@model("bilinear_cnn", BilinearCnnConfig)
class BilinearCnn(ImageModel):
    """VGG16-BN features times themselves.

    It takes one image of 1 or 3 channels and at least 16x16 pixels.
    """

    def __init__(self, config: BilinearCnnConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        check_colours("bilinear_cnn", self.image)
        size = self.image.size
        for _ in range(POOLINGS):
            size = output_size(size, kernel=2, stride=2)
        check_size("bilinear_cnn", size, self.image)
        self.vgg = nn.ModuleDict({"features": make_layers(cfgs["D"], batch_norm=True)[:-1]})
        for layer in self.vgg.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        load_weights(self.vgg, config.weights, FILE_NAME, left_out="classifier.")
        self.classifier = nn.Linear(FEATURES**2, len(schema.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        maps = self.vgg["features"](as_colours(self.image(images))).flatten(2)
        products = torch.bmm(maps, maps.transpose(1, 2)).flatten(1) / maps.shape[2]
        roots = products.clamp_min(SMALLEST_ROOT).sqrt()  # maps follow a ReLU, so no product is negative
        logits: Tensor = self.classifier(functional.normalize(roots))
        return logits
