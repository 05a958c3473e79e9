"""RealMLP: a fully connected network whose parts were tuned together on many tables.

Holzmüller, Grinsztajn and Steinwart, NeurIPS 2024, arXiv:2407.04491, section 3 and its table of defaults. Shapes (N
events, F features, H hidden features, L hidden layers):

    features                                         F
    embedding of each                              4 F
    times a factor of each                         4 F
    L x (linear, activation, dropout)                H
    linear                                    n_classes

- Linear layers are W x/√d + b of d features with weights that begin as N(0, 1), so that one learning rate serves all
  widths (neural-tangent parametrisation).
- The activation is x + α (SELU(x) − x), with α of each hidden feature beginning at 1.
- The embedding is `hep_ray.models.embeddings`'.
- The paper's factors of the learning rate, 6 for the scaling layer, 0.1 for biases, α and the frequencies, are in the
  parameters: one of factor f is f times what the optimizer moves, which is the same for Adam and its kin.

Of the paper and not of the network, to be had by other keys: `scalar_scaling="robust"` scales and clips the features,
`label_smoothing=0.1`, and a `learning_rate` of 0.04 at a `batch_size` of 256, about ten times that of an `mlp`. Not as
in the paper: its schedules of learning rate, dropout and weight decay, Adam's β₂ of 0.95, an initialisation by the
data, and that it keeps the best epoch by accuracy; biases begin as N(0, 1).
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from hep_ray.config import Config
from hep_ray.models import Model, SchemaLike, model
from hep_ray.models.embeddings import Embedding, PeriodicEmbedding
from hep_ray.models.flat import ALL, FlatInput

FASTER, SLOWER = 6.0, 0.1
"""Factors of the learning rate: of the scaling layer; of biases and activations."""


class RealMlpConfig(Config):
    """Configuration of `real_mlp`.

    Attributes:
        inputs: columns to read, joined by `+`; `all` is every scalar and vector column.
        embedding: of each feature: `periodic`, or `none`.
        hidden_layers: L; 0 is a linear classifier of what the embedding makes.
        hidden_features: H, of every hidden layer.
        dropout: probability of zeroing a hidden feature.
    """

    inputs: str = ALL
    embedding: Embedding = "periodic"
    hidden_layers: int = Field(default=3, ge=0)
    hidden_features: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.15, ge=0, lt=1)


@model("real_mlp", RealMlpConfig)
class RealMlp(Model):
    """An embedding, a scaling layer, and linear layers with activations that are learnt.

    It takes at least one scalar or vector column.
    """

    def __init__(self, config: RealMlpConfig, schema: SchemaLike) -> None:
        super().__init__()
        self.flat = FlatInput(config.inputs, schema)
        self.columns = self.flat.columns
        width = self.flat.features
        layers: list[nn.Module] = []
        if config.embedding == "periodic":
            embedding = PeriodicEmbedding(width, slower=SLOWER)
            layers.append(embedding)
            width = embedding.size
        layers.append(FeatureScaling(width))
        for _ in range(config.hidden_layers):
            layers += [TangentLinear(width, config.hidden_features), LearntSelu(config.hidden_features)]
            layers += [nn.Dropout(config.dropout)]
            width = config.hidden_features
        self.layers = nn.Sequential(*layers, TangentLinear(width, len(schema.classes)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (N, n_classes) of one tensor (N, *shape) per column."""
        logits: Tensor = self.layers(self.flat(*inputs))
        return logits


class FeatureScaling(nn.Module):
    """A factor of each feature that begins as 1, by which the network learns what to look at."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((features,), 1 / FASTER))

    def forward(self, features: Tensor) -> Tensor:
        """Scaled features (N, F)."""
        return features * (FASTER * self.factor)


class TangentLinear(nn.Module):
    """W x/√d + b of d features, in neural-tangent parametrisation (Jacot, Gabriel and Hongler, arXiv:1806.07572)."""

    def __init__(self, features: int, features_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features_out, features))
        self.bias = nn.Parameter(torch.randn(features_out) / SLOWER)

    def forward(self, features: Tensor) -> Tensor:
        """(N, features_out) of features (N, d)."""
        scaled = features / math.sqrt(features.shape[-1])
        return functional.linear(scaled, self.weight, SLOWER * self.bias)


class LearntSelu(nn.Module):
    """x + α (SELU(x) − x) with an α of each feature that begins as 1."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((features,), 1 / SLOWER))

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) of features (N, F)."""
        share = (SLOWER * self.share).to(features.dtype)  # bfloat16 under autocast
        return torch.lerp(features, functional.selu(features), share)
