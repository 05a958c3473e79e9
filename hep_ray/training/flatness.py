"""How flat the minimum is that a model lies in: the loss along random directions, and its sharpness.

Both change the trained weights and leave the statistics of normalisation as they are; then the model is itself again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.loading.batches import Batch
from hep_ray.losses import Loss
from hep_ray.models import Model
from hep_ray.optim import norms_and_biases
from hep_ray.training.evaluation import logits_of

DISTANCES: npt.NDArray[np.float64] = np.linspace(-0.5, 0.5, 9)
"""Of weights along a direction, in norms of each filter."""
DIRECTIONS = 3
BOX = 1e-3
"""ε of the sharpness."""
ASCENTS = 10
"""Steps of the search for the largest loss in the box."""


def along_random_directions(
    model: Model,
    loss: Loss,
    batches: Sequence[Batch],
    *,
    distances: npt.NDArray[np.float64] = DISTANCES,
    directions: int = DIRECTIONS,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Return the mean loss of a model along random directions, shape (directions, distances).

    A direction is Gaussian, each filter of it (row of a weight) scaled to the norm of the model's own; biases and
    normalisations stay where they are (Li et al., arXiv:1712.09913).

    Args:
        model: with its weights.
        loss: of an event.
        batches: over which it is averaged.
        distances: along a direction; 1 is a step as long as each filter.
        directions: how many are drawn.
        seed: of the draw.
    """
    exempt = {id(one) for one in norms_and_biases(model)}
    weights = [one for one in _trained(model) if one.ndim > 1 and id(one) not in exempt]
    generator = torch.Generator().manual_seed(seed)
    found: npt.NDArray[np.float64] = np.empty((directions, len(distances)))

    def walk(start: Sequence[torch.Tensor]) -> None:
        for row in found:
            steps = [_like_filters(one, generator) for one in start]
            for place, distance in enumerate(distances):
                _move(weights, [one + distance * step for one, step in zip(start, steps, strict=True)])
                row[place] = float(_loss(model, loss, batches))

    _and_back(model, weights, walk)
    return found


def sharpness(
    model: Model, loss: Loss, batches: Sequence[Batch], *, box: float = BOX, ascents: int = ASCENTS
) -> float:
    """Return the ε-sharpness of a model in per cent: 100 (max L − L) / (1 + L) over the box |δ| ≤ ε (|w| + 1).

    Keskar et al., arXiv:1609.04836, equation 4 in the full space; the largest loss is looked for by steps along the
    signs of the gradient, not by L-BFGS-B, and so is a lower bound of theirs.

    Args:
        model: with its weights.
        loss: of an event.
        batches: over which it is averaged.
        box: ε.
        ascents: steps.
    """
    weights = _trained(model)
    losses: list[float] = []

    def ascend(start: Sequence[torch.Tensor]) -> None:
        bounds = [box * (one.abs() + 1) for one in start]
        for _ in range(ascents + 1):
            with torch.enable_grad():
                value = _loss(model, loss, batches)
            gradients: Sequence[torch.Tensor | None] = torch.autograd.grad(value, weights, allow_unused=True)
            losses.append(float(value))
            moved = []
            for now, first, bound, gradient in zip(weights, start, bounds, gradients, strict=True):
                step = 0 if gradient is None else gradient.sign() * bound * 2 / ascents
                moved.append(torch.clamp(now.detach() + step, first - bound, first + bound))
            _move(weights, moved)

    _and_back(model, weights, ascend)
    return 100 * (max(losses) - losses[0]) / (1 + losses[0])


def _trained(model: Model) -> list[torch.nn.Parameter]:
    return [one for one in model.parameters() if one.requires_grad]


def _like_filters(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a random direction whose rows have the norms of the weight's own."""
    drawn = torch.randn(weight.shape, generator=generator).to(weight)
    axes = tuple(range(1, weight.ndim))
    own, norm = (torch.linalg.vector_norm(one, dim=axes, keepdim=True) for one in (weight, drawn))
    direction: torch.Tensor = drawn * own / norm
    return direction


def _move(weights: Sequence[torch.nn.Parameter], to: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, to, strict=True):
            weight.copy_(value)


def _loss(model: Model, loss: Loss, batches: Sequence[Batch]) -> torch.Tensor:
    """Return the mean loss of an event."""
    losses = [loss(logits_of(model, model.columns, one, half=False), one.labels) for one in batches]
    return torch.cat(losses).mean()


def _and_back(
    model: Model, weights: Sequence[torch.nn.Parameter], walk: Callable[[Sequence[torch.Tensor]], None]
) -> None:
    """Walk from the weights as they are, in evaluation mode, and put weights and mode back."""
    start, was_training = [one.detach().clone() for one in weights], model.training
    model.eval()
    try:
        with torch.no_grad():
            walk(start)
    finally:
        _move(weights, start)
        model.train(was_training)
