"""ResNet34 and ResNet50 with ImageNet weights, as the HVL thesis uses them: the whole network and a new layer.

Shapes at 50x50x3 (N events, channels x H x W):

    image                            3 x 50 x 50
    torchvision's ResNet          1000               (its last layer, of ImageNet's classes, included)
    linear                        n_classes          (the thesis' added layer)

`frozen` leaves the network as it was learnt: its parameters take no gradient and its batch normalisation keeps the
means and variances of ImageNet, also while the new layer trains. Setting `requires_grad` on a module, as in the
thesis' listing, does neither.
"""

from __future__ import annotations

from typing import Self

import torchvision
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageModel
from hep_ray.models.imagenet import IMAGENET, RANDOM, as_colours, check_colours, load_weights

IMAGENET_CLASSES = 1000


class PretrainedConfig(ImageConfig):
    """Configuration of `pretrained_resnet34` and `pretrained_resnet50`.

    Attributes:
        weights: `imagenet` (torch's cache), the path of torchvision's file, or `random`.
        frozen: train the added layer only; else the whole network is fine-tuned.
    """

    weights: str = IMAGENET
    frozen: bool = True


class Pretrained(ImageModel):
    """A network of torchvision and a linear layer on its 1000 outputs.

    Args:
        config: weights and freezing, scale and transform of the pixels.
        schema: events with one image of 1 or 3 channels.
        name: of the model.
        network: of torchvision.
        file_name: of its ImageNet weights.

    Raises:
        InvalidConfig: there is not exactly one such image, or the weights are not there.
    """

    def __init__(
        self, config: PretrainedConfig, schema: SchemaLike, name: str, network: nn.Module, file_name: str
    ) -> None:
        super().__init__(config, schema)
        check_colours(name, self.image)
        load_weights(network, config.weights, file_name)
        self.frozen = config.frozen
        self.backbone = network.requires_grad_(not config.frozen)
        self.head = nn.Linear(IMAGENET_CLASSES, len(schema.classes))
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but a frozen network."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        logits: Tensor = self.head(self.backbone(as_colours(self.image(images))))
        return logits


@model("pretrained_resnet34", PretrainedConfig, example={"weights": RANDOM})
class PretrainedResNet34(Pretrained):
    """ResNet34 of torchvision."""

    def __init__(self, config: PretrainedConfig, schema: SchemaLike) -> None:
        network = torchvision.models.resnet34(weights=None)
        super().__init__(config, schema, "pretrained_resnet34", network, "resnet34-b627a593.pth")


@model("pretrained_resnet50", PretrainedConfig, example={"weights": RANDOM})
class PretrainedResNet50(Pretrained):
    """ResNet50 of torchvision."""

    def __init__(self, config: PretrainedConfig, schema: SchemaLike) -> None:
        network = torchvision.models.resnet50(weights=None)
        super().__init__(config, schema, "pretrained_resnet50", network, "resnet50-11ad3fa6.pth")
