"""ParticleNet: convolutions over the nearest neighbours of each particle (`particlenet`).

Qu and Gouskos, arXiv:1902.08570: in an EdgeConv block (figure 1) every particle i and its k nearest neighbours j give
edges (x_i, x_j − x_i), which three pointwise linear layers with batch normalisation and ReLU map; their mean over the
neighbours is added to a linear map of x_i. Neighbours are near in (η, φ) in the first block, and in the features of the
block before in the others. Shapes of ParticleNet-Lite (figure 2), the default: k = 7, D features of L particles:

    features, normalised          L x D
    EdgeConv                      L x 32
    EdgeConv                      L x 64
    mean over the particles           64
    linear, ReLU, dropout            128
    linear                        n_classes

Of seven features and two classes these are 26,402 parameters beside the normalisation of the input; `edge_features=
"64+128+256"`, `neighbours=16`, `graph_features=256` is the large network, of 366,146: the paper states 26k and 366k.
A jet with fewer particles than neighbours averages over those it has.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.cloud import CloudConfig, CloudModel, mean_of, normalised

FAR = 1e30
"""Squared distance to a particle that is not there; to itself it is twice as much."""
EDGE_LAYERS = 3


class ParticleNetConfig(CloudConfig):
    """Configuration of `particlenet`.

    Attributes:
        neighbours: k, particles that each one is joined with.
        edge_features: of each EdgeConv block, joined by `+`.
        graph_features: of the hidden linear layer.
        dropout: probability of zeroing a feature of that layer.
    """

    neighbours: int = Field(default=7, ge=1)
    edge_features: str = Field(default="32+64", pattern=r"^[1-9]\d*(\+[1-9]\d*)*$")
    graph_features: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each block."""
        return tuple(map(int, self.edge_features.split("+")))

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        if max(self.widths) > 2**12:
            raise ValueError(f"edge_features must be at most 4096 each, got '{self.edge_features}'")
        return self


class EdgeConv(nn.Module):
    """One block; figure 1 of the paper.

    Args:
        features: of a particle.
        width: of the result.
        neighbours: k.
    """

    def __init__(self, features: int, width: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        widths = (2 * features, *[width] * EDGE_LAYERS)
        self.layers = nn.ModuleList(nn.Linear(one, other, bias=False) for one, other in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(EDGE_LAYERS))
        self.shortcut = nn.Linear(features, width, bias=False)
        self.shortcut_norm = nn.BatchNorm1d(width)

    def forward(self, points: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """New features (N, L, width) of particles with coordinates (N, L, P) and features (N, L, D); L above k."""
        index = nearest(points, mask, self.neighbours)
        near = gathered(features, index)
        centre = features[:, :, None].expand_as(near)
        edges = torch.cat([centre, near - centre], dim=-1)
        there = gathered(mask[..., None].to(features.dtype), index)[..., 0].bool() & mask[..., None]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            assert isinstance(norm, nn.BatchNorm1d)
            edges = normalised(norm, layer(edges), there).relu()
        mean = (edges * there[..., None]).sum(dim=2) / there.sum(dim=2, keepdim=True).clamp_min(1)
        short = normalised(self.shortcut_norm, self.shortcut(features), mask)
        result: Tensor = (short + mean).relu() * mask[..., None]
        return result


def nearest(points: Tensor, mask: Tensor, neighbours: int) -> Tensor:
    """Indices (N, L, k) of the nearest other particles of each, those that are there before those that are not."""
    points = points.float()
    apart = (points[:, :, None] - points[:, None]).square().sum(dim=-1)
    itself = torch.eye(points.shape[1], dtype=torch.bool, device=points.device)
    apart = apart.masked_fill(~mask[:, None], FAR).masked_fill(itself, 2 * FAR)
    return apart.topk(neighbours, dim=-1, largest=False).indices


def gathered(values: Tensor, index: Tensor) -> Tensor:
    """Values (N, L, k, D) of the particles (N, L, D) that indices (N, L, k) name."""
    size = values.shape[-1]
    flat = index.flatten(1)[..., None].expand(-1, -1, size)
    return values.gather(1, flat).view(*index.shape, size)


@model("particlenet", ParticleNetConfig)
class ParticleNet(CloudModel):
    """EdgeConv blocks on the graph of nearest neighbours, their mean, one hidden linear layer.

    It takes one column of lists, of whose elements p_T, η and φ are named.
    """

    def __init__(self, config: ParticleNetConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema, needs_momenta=True)
        self.neighbours = config.neighbours
        self.input_norm = nn.BatchNorm1d(self.particles.size)
        widths = (self.particles.size, *config.widths)
        self.blocks = nn.ModuleList(
            EdgeConv(one, other, config.neighbours) for one, other in pairwise(widths)
        )
        self.head = nn.Sequential(
            nn.Linear(widths[-1], config.graph_features),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.graph_features, len(schema.classes)),
        )

    def logits(self, values: Tensor) -> Tensor:
        """Logits (N, n_classes) of lists (N, L, F)."""
        if torch.compiler.is_exporting() or values.shape[1] <= self.neighbours:
            # There are k others to choose from; those that are not there are left out again.
            values = nn.functional.pad(values.float(), (0, 0, 0, self.neighbours), value=torch.nan)
        particles = self.particles(values)
        points = torch.stack([particles.eta, particles.phi], dim=-1)
        features = normalised(self.input_norm, particles.features, particles.mask)
        for block in self.blocks:
            points = features = block(points, features, particles.mask)
        logits: Tensor = self.head(mean_of(features, particles.mask))
        return logits
