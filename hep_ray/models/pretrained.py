"""Networks of torchvision that begin with the weights of ImageNet.

`pretrained_resnet34` and `pretrained_resnet50`, as the HVL thesis uses them: the whole network and a new layer.
Shapes at 50x50x3 (N events, channels x H x W):

    image                            3 x 50 x 50
    torchvision's ResNet          1000               (its last layer, of ImageNet's classes, included)
    linear                        n_classes          (the thesis' added layer)

`frozen` leaves the network as it was learnt: its parameters take no gradient and its batch normalisation keeps the
means and variances of ImageNet, also while the new layer trains. Setting `requires_grad` on a module, as in the
thesis' listing, does neither.

`bilinear_cnn` (Lin, RoyChowdhury and Maji, arXiv:1504.07889) of the UCSD jet study: both streams share the features
of VGG16 with batch normalisation. Shapes at 30x30x1:

    image                                    1 x 30 x 30, repeated to 3 channels
    VGG16-BN up to its last convolution    512 x  1 x  1     (four poolings; 512 x 3 x 3 at 50x50)
    outer product, mean over the pixels    512 x 512
    signed square root, unit length     262144
    linear                              n_classes

With `pooling="streams"` the mean over the places comes before the outer product, as the study describes it. Where one
place is left, as at 30x30, both are the same network; from 32x32 on they are not, with the same parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from hep_ray.errors import InvalidConfig
from hep_ray.models import SchemaLike, model
from hep_ray.models.image import ImageConfig, ImageInput, ImageModel, check_size, output_size

RANDOM = "random"
IMAGENET = "imagenet"
COLOURS = 3


def load_weights(network: nn.Module, weights: str, file_name: str, *, left_out: str = "") -> None:
    """Put learnt weights into a network of torchvision; on the meta device only see that they are there.

    Args:
        network: whose parameters are named as torchvision names them.
        weights: `random` leaves it as it is; `imagenet` takes torchvision's file from torch's cache; anything
            else is the path of a state dict.
        file_name: of torchvision's file.
        left_out: first word of the names that the file holds and the network does not, such as `classifier.`.

    Raises:
        InvalidConfig: the file is not there, or holds the weights of another network.
    """
    if weights == RANDOM:
        return
    cache = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    path = cache if weights == IMAGENET else Path(weights)
    if not path.is_file():
        raise InvalidConfig(
            f"no file of pretrained weights at {path}: put torchvision's {file_name} there, or name "
            f"its path as weights=…; weights='{RANDOM}' starts untrained"
        )
    if next(network.parameters()).is_meta:
        return
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(
            {key: value for key, value in state.items() if not (left_out and key.startswith(left_out))}
        )
    except Exception as exc:
        raise InvalidConfig(
            f"{path} does not hold a state dict of {type(network).__name__} as torchvision writes it: {exc}"
        ) from exc


def as_colours(maps: Tensor) -> Tensor:
    """(N, 3, H, W) of maps (N, C, H, W): a single channel is shown three times."""
    return maps.expand(-1, COLOURS, -1, -1) if maps.shape[1] == 1 else maps


def check_colours(name: str, image: ImageInput) -> None:
    """Refuse images that are neither grey nor of three channels.

    Raises:
        InvalidConfig: they have another number of channels.
    """
    if image.channels not in (1, COLOURS):
        raise InvalidConfig(
            f"'{image.column}' has {image.channels} channels: {name} takes images of 1 or 3, as its weights do"
        )


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

    It takes one image of 1 or 3 channels.

    Args:
        config: weights and freezing, scale and transform of the pixels.
        schema: of the events.
        name: of the model.
        network: of torchvision.
        file_name: of its ImageNet weights.
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
        from torchvision.models import resnet34  # with torch's compiler, which takes seconds

        network = resnet34(weights=None)
        super().__init__(config, schema, "pretrained_resnet34", network, "resnet34-b627a593.pth")


@model("pretrained_resnet50", PretrainedConfig, example={"weights": RANDOM})
class PretrainedResNet50(Pretrained):
    """ResNet50 of torchvision."""

    def __init__(self, config: PretrainedConfig, schema: SchemaLike) -> None:
        from torchvision.models import resnet50

        network = resnet50(weights=None)
        super().__init__(config, schema, "pretrained_resnet50", network, "resnet50-11ad3fa6.pth")


VGG_FEATURES = 512
POOLINGS = 4
VGG_FILE = "vgg16_bn-6c64b313.pth"
SMALLEST_ROOT = 1e-12
"""Below this an element of the outer product counts as zero; the slope of the root diverges there."""


class BilinearCnnConfig(ImageConfig):
    """Configuration of `bilinear_cnn`.

    Attributes:
        weights: of VGG16-BN to begin with: `random`, `imagenet` (torch's cache), or a path.
        pooling: `products` averages the outer products of all places, as Lin et al. do (arXiv:1504.07889, eq. 2);
            `streams` averages each stream over the places and takes one outer product, as the UCSD study says.
    """

    weights: str = RANDOM
    pooling: Literal["products", "streams"] = "products"


@model("bilinear_cnn", BilinearCnnConfig)
class BilinearCnn(ImageModel):
    """VGG16-BN features times themselves.

    It takes one image of 1 or 3 channels and at least 16x16 pixels.
    """

    def __init__(self, config: BilinearCnnConfig, schema: SchemaLike) -> None:
        from torchvision.models.vgg import cfgs, make_layers

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
        load_weights(self.vgg, config.weights, VGG_FILE, left_out="classifier.")
        self.pooling = config.pooling
        self.classifier = nn.Linear(VGG_FEATURES**2, len(schema.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, H, W, C)."""
        maps = self.vgg["features"](as_colours(self.image(images))).flatten(2)
        if self.pooling == "streams":
            maps = maps.mean(2, keepdim=True)
        products = torch.bmm(maps, maps.transpose(1, 2)).flatten(1) / maps.shape[2]
        roots = products.clamp_min(SMALLEST_ROOT).sqrt()  # maps follow a ReLU, so no product is negative
        logits: Tensor = self.classifier(functional.normalize(roots))
        return logits
