"""Fully connected networks on features.

Shapes (N events, F features, H hidden features, L hidden layers):

    features                 F
    L x (linear, activation, dropout)   H
    linear                   n_classes

The networks of the SUSY studies are `hidden_layers=2, hidden_features=16` (baseline of the UoL report),
`3, 128` (its final one) and `5, 300, activation="tanh"` (Baldi, Sadowski and Whiteson, arXiv:1402.4735, methods).
With `single_output` they end as Keras' do, in one number z whose sigmoid is the probability of the second class: the
logits are (0, z), so that cross-entropy is the binary one, and the report's baseline has its 433 parameters.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig
from hep_ray.models import Model, SchemaLike, model
from hep_ray.models.flat import ALL, FlatInput

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "selu": nn.SELU}
Activation = Literal["relu", "tanh", "selu"]


class MlpConfig(Config):
    """Configuration of `mlp`.

    Attributes:
        inputs: columns to read, joined by `+`; `all` is every scalar and vector column.
        hidden_layers: L; 0 is a linear classifier.
        hidden_features: H, of every hidden layer.
        activation: after each hidden layer.
        dropout: probability of zeroing a hidden feature.
        dropout_layers: `all` hidden layers, or the `last` one alone.
        single_output: one number z decides between two classes, with the logits (0, z).
    """

    inputs: str = ALL
    hidden_layers: int = Field(default=3, ge=0)
    hidden_features: int = Field(default=128, ge=1)
    activation: Activation = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dropout_layers: Literal["all", "last"] = "all"
    single_output: bool = False


@model("mlp", MlpConfig)
class Mlp(Model):
    """A stack of linear layers of one width.

    It takes at least one scalar or vector column.
    """

    def __init__(self, config: MlpConfig, schema: SchemaLike) -> None:
        super().__init__()
        self.flat = FlatInput(config.inputs, schema)
        self.columns = self.flat.columns
        layers: list[nn.Module] = []
        width = self.flat.features
        for number in range(1, config.hidden_layers + 1):
            layers += [nn.Linear(width, config.hidden_features), ACTIVATIONS[config.activation]()]
            if config.dropout_layers == "all" or number == config.hidden_layers:
                layers += [nn.Dropout(config.dropout)]
            width = config.hidden_features
        self.single = config.single_output
        if self.single and len(schema.classes) != 2:  # noqa: PLR2004
            raise InvalidConfig(
                f"single_output tells two classes apart; the events have {len(schema.classes)}: leave it out"
            )
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1 if self.single else len(schema.classes)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (N, n_classes) of one tensor (N, *shape) per column."""
        logits: Tensor = self.layers(self.flat(*inputs))
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if self.single else logits
