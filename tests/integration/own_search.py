"""A search whose network, loss, metric, schedule and augmentation are all of this one script.

The events of `make_search_place` are told apart by the sign of x·y, which residual blocks learn and a linear model
does not see.
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from torch import nn

from hep_ray import Choice, Preset, Range, Search, Space, main
from hep_ray.loading.augmentations import augmentation
from hep_ray.losses import loss
from hep_ray.metrics import metric
from hep_ray.models import model
from hep_ray.optim import schedule

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class Block(nn.Module):
    """Two layers that change what passes them."""

    def __init__(self, width, activation, dropout):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            activation(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, values):
        return values + self.layers(values)


@model("residual_blocks")
class ResidualBlocks(nn.Module):
    """Residual blocks on all inputs.

    Args:
        width: of each block.
        blocks: how many there are.
    """

    def __init__(
        self,
        schema,
        width: Annotated[int, Range(1, 256)] = 32,
        blocks: int = 1,
        activation: Literal["relu", "gelu"] = "relu",
        dropout: Annotated[float, Range(0, 0.9)] = 0.0,
    ):
        super().__init__()
        size = sum(math.prod(column.shape) for column in schema.inputs)
        self.first = nn.Linear(size, width)
        self.blocks = nn.Sequential(*(Block(width, ACTIVATIONS[activation], dropout) for _ in range(blocks)))
        self.last = nn.Linear(width, len(schema.classes))

    def forward(self, *columns):
        features = torch.cat([one.flatten(1) for one in columns], dim=1)
        return self.last(self.blocks(self.first(features)))


@loss("soft_margin_power")
def soft_margin_power(logits, labels, power: Annotated[float, Range(0.5, 4)] = 1.0):
    """Cross-entropy raised to a power, which decides how much the worst events count."""
    return nn.functional.cross_entropy(logits, labels, reduction="none").clamp(min=1e-6) ** power


@metric("yield_significance", larger_is_better=True)
def yield_significance(scores, labels, weights) -> float:
    """Largest s/√(s + b) of a cut on the score of the second class, of all events together."""
    order = np.argsort(-scores[:, 1], kind="stable")
    signal = np.cumsum(weights[order] * (labels[order] == 1))
    background = np.cumsum(weights[order] * (labels[order] == 0))
    return float(np.max(signal / np.sqrt(signal + background)))


@schedule("warm_up")
def warm_up(optimizer, epochs, warm_epochs: int = 2):
    """Rise to the full rate over the first epochs."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(1, (epoch + 1) / warm_epochs))


@augmentation("swap_signs", columns=("features",))
def swap_signs(values, generator, share: Annotated[float, Range(0, 1)] = 0.5):
    """Change the signs of both x and y of some events, which keeps that of their product."""
    chosen = torch.rand(len(values), generator=generator, device=values.device) < share
    signs = torch.tensor([-1.0, -1.0, 1.0], device=values.device)
    return torch.where(chosen[:, None], values * signs, values)


search = Search(
    name="own_search",
    task="quadrants",
    title="A network, a loss, a metric, a schedule and an augmentation of the script's own.",
    space=Space(
        model="residual_blocks",
        width=16,
        blocks=Choice(1, 2),
        activation=Choice("relu", "gelu"),
        loss="soft_margin_power",
        power=1.5,
        optimizer="adam",
        learning_rate=0.01,
        schedule="warm_up",
        augmentation="swap_signs",
        share=0.25,
        batch_size=32,
    ),
    presets={"smoke": Preset(epochs=3, sampler="grid", scheduler="none")},
    metric="val_yield_significance",
    baseline={"model": "logistic_regression"},
)
if __name__ == "__main__":
    main(search)
