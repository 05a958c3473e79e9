"""Base of models of particle clouds: the list that they read, its mask, and what is known of a particle.

Shapes: N events, L particles of the longest event of a batch, F values of a particle as stored, D features of it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig
from hep_ray.models import ColumnLike, Model, SchemaLike

LEAST = 1e-8
"""Below this a momentum, an energy or a distance counts as this, so that its logarithm is finite."""
TOGETHER = 64
"""Events that are evaluated together, at most."""
KINEMATIC = ("pt_element", "eta_element", "phi_element")


class CloudConfig(Config):
    """Fields common to models of particle clouds.

    Attributes:
        cloud: column of lists to read; the only one unless given.
        particle_features: `kinematics` works out Δη, Δφ, ΔR, ln p_T, ln p_T/Σp_T, and ln E, ln E/ΣE where there is an
            energy, as in table 2 of arXiv:2202.03772, and takes the other elements as they are stored; `stored` takes
            all elements so, scaled by `sequence_scaling`.
        pt_element: element of a particle that is its transverse momentum.
        eta_element: element that is its η, or Δη to the axis of the jet.
        phi_element: element that is its φ, or Δφ to the axis of the jet.
        energy_element: element that is its energy; a column may be without.
    """

    cloud: str = ""
    particle_features: Literal["kinematics", "stored"] = "kinematics"
    pt_element: str = "pt"
    eta_element: str = "delta_eta"
    phi_element: str = "delta_phi"
    energy_element: str = "energy"


class Particles(NamedTuple):
    """Particles of a batch; what is absent is 0.

    Attributes:
        features: (N, L, D) float32.
        pt: (N, L).
        eta: (N, L).
        phi: (N, L).
        mask: (N, L) bool, which of them are there.
    """

    features: Tensor
    pt: Tensor
    eta: Tensor
    phi: Tensor
    mask: Tensor


class CloudInput(nn.Module):
    """Takes lists as stored, (N, L, F) with NaN where no particle is, to particles with their mask.

    Args:
        config: which column and what of it.
        schema: of the events.
        needs_momenta: the model reads momenta beside the features.

    Attributes:
        column: name of the column.
        size: D.

    Raises:
        InvalidConfig: there is no such column of lists, or an element that is needed is not named.
    """

    takes_lists = True

    def __init__(self, config: CloudConfig, schema: SchemaLike, *, needs_momenta: bool) -> None:
        super().__init__()
        found = column_of_lists(config.cloud, schema)
        self.column = found.name
        elements = tuple(getattr(found, "elements", ()))
        self.kinematics = config.particle_features == "kinematics"
        self.momenta = self.kinematics or needs_momenta
        wanted = [getattr(config, name) for name in KINEMATIC] if self.momenta else []
        if absent := [name for name in wanted if name not in elements]:
            raise InvalidConfig(
                f"a particle of '{found.name}' has no element {', '.join(absent)}, only "
                f"{', '.join(elements) or f'{found.shape[1]} without names'}: name them by pt_element, eta_element and "
                "phi_element, or in the schema by `elements`"
            )
        self.places = [elements.index(name) for name in wanted]
        energy = config.energy_element if self.kinematics else ""
        self.energy = elements.index(energy) if energy in elements else None
        used = {*self.places, self.energy} if self.kinematics else set()
        self.others = [place for place in range(found.shape[1]) if place not in used]
        own = (5 if self.energy is None else 7) if self.kinematics else 0
        self.size = own + len(self.others)

    def forward(self, values: Tensor) -> Particles:
        """Particles of lists (N, L, F), as stored; any number type."""
        values = values.float()
        mask = ~torch.isnan(values[..., 0])
        values = torch.where(mask[..., None], values, torch.zeros_like(values))
        others = values[..., self.others]
        if not self.momenta:
            nothing = torch.zeros_like(values[..., 0])
            return Particles(others, nothing, nothing, nothing, mask)
        pt, eta, phi = (values[..., place] for place in self.places)
        if not self.kinematics:
            return Particles(others, pt, eta, phi, mask)
        known = [eta, phi, torch.sqrt(eta.square() + phi.square() + LEAST**2), *_logarithms(pt)]
        if self.energy is not None:
            known += _logarithms(values[..., self.energy])
        features = torch.cat([torch.stack(known, dim=-1), others], dim=-1)
        return Particles(features * mask[..., None], pt, eta, phi, mask)


def _logarithms(values: Tensor) -> list[Tensor]:
    """Logarithms of a quantity (N, L), and of its share of the event."""
    total = values.sum(dim=1, keepdim=True).clamp_min(LEAST)
    return [values.clamp_min(LEAST).log(), (values / total).clamp_min(LEAST).log()]


def column_of_lists(name: str, schema: SchemaLike) -> ColumnLike:
    """The column of lists of that name, or the only one.

    Raises:
        InvalidConfig: there is none, or there are several and no name is given.
    """
    lists = [column for column in schema.inputs if getattr(column, "lists", False)]
    chosen = [column for column in lists if not name or column.name == name]
    if len(chosen) != 1:
        known = lists or schema.inputs
        found = f"{len(lists)} among " + ", ".join(f"{column.name} {column.shape}" for column in known)
        asked = f"named '{name}'" if name else "or its name in `cloud`"
        raise InvalidConfig(
            f"a model of particle clouds needs one column of lists of varying length, {asked}; got {found}: a schema "
            "file makes one by max_length"
        )
    return chosen[0]


class CloudModel(Model):
    """A model of the particles of one column of lists, which has `logits` of a batch.

    Large batches that are only evaluated are taken apart by the length of their lists, which saves time and memory.

    Args:
        config: which column and what of it.
        schema: of the events.
        needs_momenta: the model reads momenta beside the features.
    """

    takes_lists = True

    def __init__(self, config: CloudConfig, schema: SchemaLike, *, needs_momenta: bool = False) -> None:
        super().__init__()
        self.particles = CloudInput(config, schema, needs_momenta=needs_momenta)
        self.columns = (self.particles.column,)
        self.unscaled = self.columns if self.particles.momenta else ()

    def forward(self, values: Tensor) -> Tensor:
        """Logits (N, n_classes) of lists (N, L, F)."""
        if self.training or torch.compiler.is_exporting() or len(values) <= TOGETHER or values.is_meta:
            return self.logits(values)
        lengths = (~torch.isnan(values[..., 0])).sum(dim=1)
        order = lengths.argsort()
        parts = [
            self.logits(values[rows, : max(1, int(lengths[rows[-1]]))])
            for rows in torch.split(order, TOGETHER)
        ]
        return torch.cat(parts)[order.argsort()]

    def logits(self, values: Tensor) -> Tensor:
        """Logits (N, n_classes) of lists (N, L, F), each of at most L particles, absent ones NaN and behind them."""
        raise NotImplementedError


def normalised(norm: nn.BatchNorm1d, values: Tensor, mask: Tensor) -> Tensor:
    """Normalise features (…, D) over a batch; those where the mask (…) is False neither count nor are left, but 0.

    Fewer than two features make no statistics: those that have been found so far are taken.
    """
    if norm.training and int(mask.sum()) > 1:
        result = torch.zeros_like(values)
        result[mask] = norm(values[mask]).to(values.dtype)
        return result
    shaped = nn.functional.batch_norm(
        values.reshape(-1, values.shape[-1]),
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        eps=norm.eps,
    )
    return shaped.view(values.shape) * mask[..., None]


def mean_of(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (N, D) over the particles (N, L, D) that are there; 0 of an event without any."""
    return (values * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
