"""Losses, each with its equation and source."""

from __future__ import annotations

import functools
import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hep_ray.config import Config, parse
from hep_ray.errors import InvalidConfig
from hep_ray.own_code import defined_at
from hep_ray.registry import Registry
from hep_ray.signature import component_of, config_of


class Loss(nn.Module):
    """A classification loss with the class probabilities that go with it.

    A loss says how logits become probabilities once, in `log_weights`; probabilities and the log-odds that events are
    ranked by follow from it. One that has `probabilities` alone is ranked by their logarithms in double precision.

    Args:
        config: of the loss, kept as `config`.

    Raises:
        TypeError: a subclass has neither.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.log_weights is Loss.log_weights and cls.probabilities is Loss.probabilities:
            raise TypeError(f"a loss says how logits become probabilities: {cls.__name__} needs log_weights")

    @abstractmethod
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each event.

        Args:
            logits: (N, C) floating point.
            target: (N,) int64, the true class, 0 … C - 1.

        Returns:
            (N,), not averaged.
        """

    @property
    def is_softmax(self) -> bool:
        """Whether its probabilities are the softmax of the logits themselves."""
        kind = type(self)
        same = kind.log_weights is SoftmaxLoss.log_weights and kind.probabilities is Loss.probabilities
        return same and kind.log_odds is Loss.log_odds

    def log_weights(self, logits: Tensor) -> Tensor:
        """Log-probabilities (N, C) of logits (N, C), up to a constant of each event; finite where the logits are."""
        return self.probabilities(logits.double()).clamp_min(torch.finfo(torch.float64).tiny).log()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities (N, C), each row summing to one, of logits (N, C)."""
        return self.log_weights(logits).softmax(dim=1)

    def log_odds(self, logits: Tensor) -> Tensor:
        """Log-odds ln p_k − ln(1 − p_k) of every class k, (N, C), of logits (N, C).

        Events are ranked by these: a probability in single precision is 1 for all events beyond odds of 3·10⁷, while
        log-odds still tell them apart. They are taken from the logits, ln w_k − ln Σ_{j≠k} w_j, without ever forming
        1 − p_k, in the precision of the logits: more digits than these have would order rounding errors.
        """
        weights = self.log_weights(logits)
        classes = weights.shape[1]
        if classes == 2:  # noqa: PLR2004 - one against the other
            return weights - weights.flip(1)
        own = torch.eye(classes, dtype=torch.bool, device=weights.device)
        others = weights.unsqueeze(1).expand(-1, classes, -1).masked_fill(own, -torch.inf)
        return weights - others.logsumexp(dim=2)


class SoftmaxLoss(Loss):
    """A loss whose probabilities are the softmax of the logits."""

    def log_weights(self, logits: Tensor) -> Tensor:
        """Return the logits, (N, C), as they are."""
        return logits


def event_losses(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of each event, (N,); of logits (N, k, C) of k members the mean of the members' losses.

    It is not the loss of their mean, which would let members lean on each other (arXiv:2410.24210, section 3.3). A
    loss that looks at other events of a batch sees those of one member.

    Args:
        loss: per event.
        logits: (N, C), or (N, k, C).
        target: (N,), the true class.
    """
    if logits.ndim != 3:  # noqa: PLR2004 - of an ordinary model
        own: Tensor = loss(logits, target)
        return own
    return torch.stack([loss(one, target) for one in logits.unbind(dim=1)]).mean(dim=0)


@dataclass(frozen=True)
class LossEntry:
    """One registered loss.

    Attributes:
        name: what a search calls it.
        config: its configuration class.
        build: makes the loss from a configuration.
    """

    name: str
    config: type[Config]
    build: Callable[[Any], Loss]


LOSSES: Registry[LossEntry] = Registry("loss", __name__)

L = TypeVar("L", bound=Callable[..., Any])


def loss(name: str, config: type[Config] | None = None) -> Callable[[L], L]:
    """Register a loss.

    With a configuration class, a class whose `__init__` takes (config). Without one, a class of `Loss` whose
    `__init__` takes annotated parameters, or a function `(logits, labels, …) → (N,)` whose other parameters are
    annotated: they are the keys. The probabilities of a function are the softmax of the logits.

    Args:
        name: what a search calls the loss.
        config: the loss' configuration class; None takes the keys from the signature.

    Raises:
        DuplicateName: another loss has the name.
        InvalidConfig: a parameter is not annotated, or not with what a space can state.
    """

    def entry(made: Any) -> LossEntry:
        keys, build = (config, made) if config is not None else _plain(name, made)
        return LossEntry(name, keys, build)

    return LOSSES.decorator(name, entry)


def _plain(name: str, made: Any) -> tuple[type[Config], Callable[[Any], Loss]]:
    """Configuration and builder of a class of `Loss`, or of a function, whose keys are its parameters."""
    what = f"loss '{name}'"
    if inspect.isclass(made):
        if not issubclass(made, Loss):
            raise InvalidConfig(
                f"{what} is a class {made.__name__}: a loss is a class of hep_ray.losses.Loss, or a function "
                "(logits, labels) that returns (N,)"
            )
        return component_of(made, what, leaving_out=0)
    keys = config_of(made, what, leaving_out=2)

    @functools.wraps(made)
    def build(config: Config) -> Loss:
        values = {key: getattr(config, key) for key in keys.model_fields}
        return FunctionLoss(f"{defined_at(made)}{what}", functools.partial(made, **values))

    return keys, build


class FunctionLoss(SoftmaxLoss):
    """A loss that a function computes.

    Args:
        what: it is called in messages.
        function: of logits (N, C) and labels (N,), returning (N,).
    """

    def __init__(self, what: str, function: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.what, self.function = what, function

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of logits (N, C) and true classes (N,).

        Raises:
            InvalidConfig: the function returns something else than one number per event.
        """
        losses: Any = self.function(logits, target)
        if not isinstance(losses, Tensor) or losses.shape != target.shape:
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            hint = ": leave out the mean, or give torch's functions reduction='none'" if got == () else ""
            raise InvalidConfig(
                f"{self.what} returned {got} for {len(target)} events: it must return one loss per event, "
                f"({len(target)},){hint}"
            )
        return losses


def build_loss(name: str, config_values: Mapping[str, Any]) -> Loss:
    """Build a loss from plain values.

    Raises:
        UnknownName: no loss has that name.
        InvalidConfig: a field is unknown or refused.
    """
    entry = LOSSES[name]
    return entry.build(parse(entry.config, config_values, f"loss '{name}'"))
