"""Weights learnt on ImageNet: from a file or torchvision's cache, never fetched silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hep_ray.errors import InvalidConfig
from hep_ray.models.image import ImageInput

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
            f"pretrained weights lie in a file; {path} is not there. Put torchvision's {file_name} there, or name "
            f"its path as weights=…; weights='{RANDOM}' starts untrained"
        )
    if next(network.parameters()).is_meta:
        return
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(
            {key: value for key, value in state.items() if not (left_out and key.startswith(left_out))}
        )
    except Exception as fault:
        raise InvalidConfig(
            f"{path} holds a state dict of {type(network).__name__} as torchvision writes it; it does not: {fault}"
        ) from fault


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
            f"{name} takes images of 1 or 3 channels, as its weights do; '{image.column}' has {image.channels}"
        )
