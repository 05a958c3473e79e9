"""TabM: an ensemble of fully connected networks in one, which share all their large weights.

Gorishniy, Kotelnikov and Babenko, ICLR 2025, arXiv:2410.24210, section 3.3. Shapes (N events, F features, H hidden
features, L hidden layers, k members, C classes):

    features                                                  F
    times R, one row of factors for each member           k x F
    L x (linear, activation, dropout)                     k x H
    k linear layers                                       k x C

A member's layer is s ⊙ W(r ⊙ x) + b: W is shared, the factors r and s and the bias b are its own (BatchEnsemble, Wen,
Tran and Ba, arXiv:2002.06715). The first factors r, R above, begin as ±1 at random, all other factors as 1, so that
members begin as one network of differently reflected features; the last layers are not shared. With
`factors="first"` only R is left of the factors, and biases are shared (the paper's TabM-mini).

In training the members answer one by one, logits (N, k, C), and a step descends the mean of their losses, not the loss
of their mean: so they stay different. In evaluation the logits (N, C) are the logarithms of the mean of the members'
probabilities. So `train_loss` is a member's on average, `val_loss` that of the ensemble.

Not as in the paper: 16 members in place of 32 and layers of 128 features in place of 512, since a member costs as much
arithmetic as an `mlp` of its size; dropout 0, as of `mlp`, in place of 0.1; the embedding, where one is asked for, is
that of `real_mlp`, not piecewise linear.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from hep_ray.config import Config
from hep_ray.models import Model, SchemaLike, model
from hep_ray.models.embeddings import Embedding, PeriodicEmbedding, uniform
from hep_ray.models.flat import ALL, FlatInput
from hep_ray.models.members import mean_of_members
from hep_ray.models.mlp import ACTIVATIONS, Activation

MEMBERS = 16


class TabmConfig(Config):
    """Configuration of `tabm`.

    Attributes:
        inputs: columns to read, joined by `+`; `all` is every scalar and vector column.
        members: k, networks in one; the paper's choice is 32.
        factors: `all` layers have factors and biases of each member, or the `first` one alone (TabM-mini).
        embedding: of each feature before: `none`, or `periodic` (see `real_mlp`).
        hidden_layers: L; 0 is a mean of linear classifiers.
        hidden_features: H, of every hidden layer.
        activation: after each hidden layer.
        dropout: probability of zeroing a hidden feature, of each member by itself.
    """

    inputs: str = ALL
    members: int = Field(default=MEMBERS, ge=1)
    factors: Literal["all", "first"] = "all"
    embedding: Embedding = "none"
    hidden_layers: int = Field(default=3, ge=0)
    hidden_features: int = Field(default=128, ge=1)
    activation: Activation = "relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)


@model("tabm", TabmConfig)
class Tabm(Model):
    """Fully connected networks that share their weights but for factors of each.

    It takes at least one scalar or vector column.
    """

    members = MEMBERS

    def __init__(self, config: TabmConfig, schema: SchemaLike) -> None:
        super().__init__()
        self.flat = FlatInput(config.inputs, schema)
        self.columns = self.flat.columns
        self.members = config.members
        width = self.flat.features
        self.embedding: nn.Module = nn.Identity()
        if config.embedding == "periodic":
            self.embedding = PeriodicEmbedding(width)
            width = self.embedding.size
        self.first = MemberFactors(width, config.members)
        layers: list[nn.Module] = []
        for number in range(config.hidden_layers):
            if config.factors == "first":
                layers.append(nn.Linear(width, config.hidden_features))
            else:
                layers.append(MemberLinear(width, config.hidden_features, config.members, inner=number > 0))
            layers += [ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)]
            width = config.hidden_features
        self.layers = nn.Sequential(*layers)
        self.heads = MemberHeads(width, len(schema.classes), config.members)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits of one tensor (N, *shape) per column: (N, k, C) in training, (N, C) of all members in evaluation."""
        logits: Tensor = self.heads(self.layers(self.first(self.embedding(self.flat(*inputs)))))
        return logits if self.training else mean_of_members(logits)


class MemberFactors(nn.Module):
    """R: takes features (N, F) to those of each member, (N, k, F), by factors that begin as ±1 at random."""

    def __init__(self, features: int, members: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(2 * torch.randint(0, 2, (members, features)).float() - 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features of each member."""
        return features[:, None] * self.factor


class MemberLinear(nn.Module):
    """s ⊙ W(r ⊙ x) + b of each member, (N, k, features) to (N, k, features_out).

    W and b begin as those of torch's linear layer, b as the same for all members.

    Args:
        features: of a member.
        features_out: of a member after it.
        members: k.
        inner: whether it has factors r; those of the first layer are `MemberFactors`.
    """

    def __init__(self, features: int, features_out: int, members: int, *, inner: bool) -> None:
        super().__init__()
        start = 1 / math.sqrt(features)
        self.weight = nn.Parameter(start * uniform(features_out, features))
        self.inner = nn.Parameter(torch.ones(members, features)) if inner else None
        self.outer = nn.Parameter(torch.ones(members, features_out))
        self.bias = nn.Parameter((start * uniform(features_out)).repeat(members, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Features of each member after it."""
        scaled = features if self.inner is None else features * self.inner
        return functional.linear(scaled, self.weight) * self.outer + self.bias


class MemberHeads(nn.Module):
    """A linear layer of each member's own, (N, k, features) to (N, k, classes)."""

    def __init__(self, features: int, classes: int, members: int) -> None:
        super().__init__()
        start = 1 / math.sqrt(features)
        self.weight = nn.Parameter(start * uniform(members, classes, features))
        self.bias = nn.Parameter(start * uniform(members, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of each member."""
        return torch.einsum("nkf,kcf->nkc", features, self.weight) + self.bias
