"""Particle flow networks: deep sets of particles (`pfn`).

Komiske, Metodiev and Thaler, arXiv:1810.05165, after Zaheer et al., arXiv:1703.06114: F(Σ_i Φ(p_i)), where Φ maps each
particle to a latent space and F the sum over the particles to the classes. Shapes with the paper's sizes (N events, L
particles, D features of each):

    features                      L x D
    3 x (linear, ReLU)            L x 100, 100, 256     Φ
    sum over the particles            256
    3 x (linear, ReLU)                100, 100, 100     F
    linear                        n_classes

Of four features and two classes these are 82,558 parameters; arXiv:1902.08570 states 82k.
"""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.cloud import CloudConfig, CloudModel

LAYERS = 2


class PfnConfig(CloudConfig):
    """Configuration of `pfn`.

    Attributes:
        phi_features: of both hidden layers of Φ.
        latent_features: of the last layer of Φ, which are summed.
        set_features: of the three hidden layers of F.
        dropout: probability of zeroing a hidden feature of F.
    """

    phi_features: int = Field(default=100, ge=1)
    latent_features: int = Field(default=256, ge=1)
    set_features: int = Field(default=100, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


@model("pfn", PfnConfig)
class Pfn(CloudModel):
    """A network of each particle, summed, then one of the sum.

    It takes one column of lists.
    """

    def __init__(self, config: PfnConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        widths = (self.particles.size, *[config.phi_features] * LAYERS, config.latent_features)
        phi = [nn.Sequential(nn.Linear(one, other), nn.ReLU()) for one, other in pairwise(widths)]
        self.phi = nn.Sequential(*phi)
        after: list[nn.Module] = []
        width = config.latent_features
        for _ in range(LAYERS + 1):
            after += [nn.Linear(width, config.set_features), nn.ReLU(), nn.Dropout(config.dropout)]
            width = config.set_features
        self.set_network = nn.Sequential(*after, nn.Linear(width, len(schema.classes)))

    def logits(self, values: Tensor) -> Tensor:
        """Logits (N, n_classes) of lists (N, L, F)."""
        particles = self.particles(values)
        latent = (self.phi(particles.features) * particles.mask[..., None]).sum(dim=1)
        logits: Tensor = self.set_network(latent)
        return logits
