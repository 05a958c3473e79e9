"""Particle Transformer: attention among particles that knows how each pair lies to each other (`particle_transformer`).

Qu, Li and Qian, arXiv:2202.03772, section 4. Of every pair of particles a, b four features are taken as logarithms:

    Δ = ((η_a − η_b)² + (φ_a − φ_b)²)^½,    k_T = min(p_T,a, p_T,b) Δ,    z = min(p_T,a, p_T,b) / (p_T,a + p_T,b),
    m² = (E_a + E_b)² − |p_a + p_b|²,  of massless particles 2 p_T,a p_T,b (cosh(η_a − η_b) − cos(φ_a − φ_b))

Pointwise layers make U of them, one number for each head, which is added to the scores of the attention:
softmax(QKᵀ/√d + U)V. Particles are embedded, pass the particle attention blocks (with NormFormer's additional
normalisations), and a learnt class token gathers them in the class attention blocks. Shapes, D features of L
particles, P of a pair:

    features, normalised                L x D
    3 x (norm, linear, GELU)            L x 4P', embed_features = E: D to E, 4E, E
    pairs: 3 x (linear, norm, GELU)     L x L x P,    linear     L x L x heads
    particle blocks                     L x E         attention with U, then linear E to 4E to E
    class blocks                        1 x E         attention of the token on itself and all particles
    norm, linear                        n_classes

The defaults are small: 2 particle blocks and 1 class block of 64 features with 4 heads. The paper's network is
`embed_features=128, heads=8, particle_blocks=8, class_blocks=2, pair_features=64`, of 2,143,470 parameters for 17
features and ten classes; the paper states 2.14 M. Its four-momenta have masses; here the particles are massless, as the
deposits of a detector are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.cloud import LEAST, CloudConfig, CloudModel, Particles, normalised

ABSENT = -1e4
"""Score of a particle that is not there: its weight is 0 in single precision, and a jet without any stays finite."""
NEAREST = 1e-6
"""Δ at least: of a particle to itself."""
FARTHEST = 20.0
"""|η_a − η_b| at most, in m²: no detector sees more."""
EXPANSION = 4
PAIR_FEATURES = 4
PAIR_LAYERS = 3


class ParticleTransformerConfig(CloudConfig):
    """Configuration of `particle_transformer`.

    Attributes:
        embed_features: E, of a particle; a multiple of `heads`.
        heads: of every attention.
        particle_blocks: in which the particles attend to each other.
        class_blocks: in which the class token attends to them.
        pair_features: P, of the hidden layers of a pair.
        dropout: probability of zeroing a feature in the particle blocks.
    """

    embed_features: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    particle_blocks: int = Field(default=2, ge=1)
    class_blocks: int = Field(default=1, ge=1)
    pair_features: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.embed_features % self.heads:
            raise ValueError(
                f"embed_features must be a multiple of heads, got {self.embed_features} and {self.heads}"
            )
        return self


class PairEmbedding(nn.Module):
    """U of every pair, (N, heads, L, L), of the four features of pairs.

    Args:
        features: P.
        heads: of the attention.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        widths = (PAIR_FEATURES, *[features] * PAIR_LAYERS)
        self.input_norm = nn.BatchNorm1d(PAIR_FEATURES)
        self.layers = nn.ModuleList(nn.Linear(one, other) for one, other in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(features) for _ in range(PAIR_LAYERS))
        self.last = nn.Linear(features, heads)

    def forward(self, particles: Particles) -> Tensor:
        """U; 0 where either particle is not there."""
        mask = particles.mask
        both = mask[:, :, None] & mask[:, None]
        values = pairs(particles.pt, particles.eta, particles.phi)
        if torch.compiler.is_exporting() or mask.is_meta:
            return (self._embedded(values, both) * both[..., None]).permute(0, 3, 1, 2)
        # Of lists that differ in length most pairs are none: only those that are there are embedded.
        there = values[both]
        found = self._embedded(there, torch.ones_like(there[:, 0], dtype=torch.bool))
        bias = torch.zeros((*both.shape, found.shape[-1]), dtype=found.dtype, device=found.device)
        return bias.masked_scatter(both[..., None], found).permute(0, 3, 1, 2)

    def _embedded(self, values: Tensor, there: Tensor) -> Tensor:
        """Numbers (…, heads) of features of pairs (…, 4), of which those that are there (…) count."""
        values = normalised(self.input_norm, values, there)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            assert isinstance(norm, nn.BatchNorm1d)
            values = nn.functional.gelu(normalised(norm, layer(values), there))
        numbers: Tensor = self.last(values)
        return numbers


def pairs(pt: Tensor, eta: Tensor, phi: Tensor) -> Tensor:
    """Return ln Δ, ln k_T, ln z and ln m² of every pair of massless particles, (N, L, L, 4); momenta in GeV."""
    eta_apart = eta[:, :, None] - eta[:, None]
    phi_apart = phi[:, :, None] - phi[:, None]
    phi_apart = phi_apart - 2 * torch.pi * torch.round(
        phi_apart / (2 * torch.pi)
    )  # exactly 0 of a particle to itself
    first, second = pt[:, :, None], pt[:, None]
    least = torch.minimum(first, second)
    apart = (eta_apart.square() + phi_apart.square()).clamp_min(NEAREST**2).sqrt()
    share = least / (first + second).clamp_min(LEAST)
    # cosh x − cos y = 2 sinh²(x/2) + 2 sin²(y/2), without the difference of two numbers near 1.
    rapid = torch.sinh(eta_apart.clamp(-FARTHEST, FARTHEST) / 2)
    mass = 4 * first * second * (rapid.square() + torch.sin(phi_apart / 2).square())
    return torch.stack([apart, least * apart, share, mass], dim=-1).clamp_min(LEAST).log()


class Attention(nn.Module):
    """Attention of several heads with something added to its scores.

    Args:
        features: E.
        heads: of them.
        dropout: of the weights.
    """

    def __init__(self, features: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key_value = nn.Linear(features, 2 * features)
        self.out = nn.Linear(features, features)
        self.scale = nn.Parameter(torch.ones(heads))
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """Result (N, Q, E) of queries (N, Q, E), memory (N, K, E) and a bias (N, heads or 1, Q or 1, K)."""
        asked = self._by_head(self.query(query))
        key, value = (self._by_head(part) for part in self.key_value(memory).chunk(2, dim=-1))
        scores = asked @ key.transpose(-1, -2) / asked.shape[-1] ** 0.5 + bias
        result = self.dropout(scores.softmax(dim=-1)) @ value * self.scale[:, None, None]
        joined: Tensor = self.out(result.transpose(1, 2).flatten(2))
        return joined

    def _by_head(self, values: Tensor) -> Tensor:
        return values.view(*values.shape[:2], self.heads, -1).transpose(1, 2)


class AttentionBlock(nn.Module):
    """Attention and two linear layers, each with a residual and NormFormer's normalisations.

    Args:
        config: E, heads.
        dropout: probability of zeroing a feature.
    """

    def __init__(self, config: ParticleTransformerConfig, dropout: float) -> None:
        super().__init__()
        width = config.embed_features
        self.before = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads, dropout)
        self.after = nn.LayerNorm(width)
        self.linear = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, EXPANSION * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.LayerNorm(EXPANSION * width),
            nn.Linear(EXPANSION * width, width),
            nn.Dropout(dropout),
        )
        self.residual = nn.Parameter(torch.ones(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor | None, bias: Tensor) -> Tensor:
        """New queries (N, Q, E), which attend to themselves and, if there is one, to the memory (N, K, E)."""
        known = self.before(query if memory is None else torch.cat([query, memory], dim=1))
        asked = known if memory is None else query
        values = query + self.dropout(self.after(self.attention(asked, known, bias)))
        result: Tensor = self.linear(values) + values * self.residual
        return result


@model("particle_transformer", ParticleTransformerConfig)
class ParticleTransformer(CloudModel):
    """Attention among particles with features of their pairs, gathered by a class token.

    It takes one column of lists, of whose elements p_T, η and φ are named.
    """

    def __init__(self, config: ParticleTransformerConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema, needs_momenta=True)
        width = config.embed_features
        self.input_norm = nn.BatchNorm1d(self.particles.size)
        layers: list[nn.Module] = []
        size = self.particles.size
        for features in (width, EXPANSION * width, width):
            layers += [nn.LayerNorm(size), nn.Linear(size, features), nn.GELU()]
            size = features
        self.embed = nn.Sequential(*layers)
        self.pair_embed = PairEmbedding(config.pair_features, config.heads)
        self.blocks = nn.ModuleList(
            AttentionBlock(config, config.dropout) for _ in range(config.particle_blocks)
        )
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.class_blocks = nn.ModuleList(AttentionBlock(config, 0.0) for _ in range(config.class_blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(schema.classes))

    def logits(self, values: Tensor) -> Tensor:
        """Logits (N, n_classes) of lists (N, L, F)."""
        particles = self.particles(values)
        mask = particles.mask
        known = self.embed(normalised(self.input_norm, particles.features, mask)) * mask[..., None]
        absent = ABSENT * (~mask).to(known.dtype)[:, None, None]
        bias = self.pair_embed(particles) + absent
        for block in self.blocks:
            known = block(known, None, bias) * mask[..., None]
        token = self.token + torch.zeros_like(known[:, :1])
        with_token = nn.functional.pad(absent, (1, 0))
        for block in self.class_blocks:
            token = block(token, known, with_token)
        logits: Tensor = self.head(self.norm(token[:, 0]))
        return logits
