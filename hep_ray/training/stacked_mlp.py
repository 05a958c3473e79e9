"""Several networks `mlp` of one shape as arrays (M, …): their logits, and the gradients of their weights. No Ray.

Written out by hand instead of by `torch.func`, for two reasons. Every array of a step lies in memory that the step
before has used: fresh memory of half a megabyte costs as much as the products that fill it. And every product comes out
as that of one network does, to the last bit: a routine for stacks of matrices takes most shapes as the one for single
matrices does; which, is tried, and where it does not, each network's product is taken by itself, of copies: a routine
may also sum in another order where a matrix does not begin on the boundary on which memory of its own begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hep_ray.models.mlp import Mlp

_ATEN = torch.ops.aten


SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1)
"""Of torch's SELU (Klambauer et al., arXiv:1706.02515, eq. 2)."""


@dataclass(frozen=True)
class _Activation:
    """An activation and its derivative, as autograd takes them.

    Attributes:
        apply: to values, written to another tensor, perhaps the same.
        back: multiply a gradient in place by the derivative, given values or result.
        from_values: whether the derivative is taken from the values, which are then kept; and each network's are then
            taken by themselves, since torch takes the end of an array by another routine for exponentials.
    """

    apply: Callable[[Tensor, Tensor], object]
    back: Callable[[Tensor, Tensor], object]
    from_values: bool = False


ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.ReLU: _Activation(
        lambda values, out: torch.clamp_min(values, 0, out=out),
        lambda gradient, result: _ATEN.threshold_backward.grad_input(
            gradient, result, 0, grad_input=gradient
        ),
    ),
    nn.Tanh: _Activation(
        lambda values, out: torch.tanh(values, out=out),
        lambda gradient, result: _ATEN.tanh_backward.grad_input(gradient, result, grad_input=gradient),
    ),
    nn.SELU: _Activation(
        lambda values, out: _ATEN.elu.out(values, *SELU, out=out),
        lambda gradient, values: _ATEN.elu_backward.grad_input(
            gradient,
            *SELU,
            False,
            values,
            grad_input=gradient,
        ),
        from_values=True,
    ),
}


@dataclass
class _Block:
    """A linear layer with what follows it.

    Attributes:
        weight: name of the linear layer's weight.
        bias: and of its bias.
        activation: key of `ACTIVATIONS`, None behind the last layer.
        rates: of each network's dropout, empty where none drops anything.
    """

    weight: str
    bias: str
    activation: type[nn.Module] | None = None
    rates: tuple[float, ...] = ()


@dataclass
class _Pass:
    """Memory of a block for batches of one size, (M, B, …), filled by the last pass through it.

    Attributes:
        result: of the linear layer; unless `active` is another tensor, of its activation too.
        active: of the activation.
        kept: what dropout multiplies by: 0, or 1 over the share that is kept.
        dropped: result after dropout.
        back: gradient with respect to what came in.
        joined: whether products and sums of stacks are those of matrices in memory of their own, bit for bit, at these
            shapes.
    """

    result: Tensor
    active: Tensor
    kept: Tensor
    dropped: Tensor
    back: Tensor
    joined: bool = True

    def taken(self, other: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Return what an activation takes at a time, of the layer's results and of another tensor of their shape."""
        return [(self.result, other)] if self.active is self.result else zip(self.result, other, strict=True)


class StackedMlp:
    """M networks of one shape, on the processor.

    Args:
        networks: whose weights are copied.
        generators: of the random numbers of each one's dropout.

    Attributes:
        weights: name of a parameter → (M, *shape); to be changed in place.
        gradients: the same of the last `backward`.
    """

    def __init__(self, networks: Sequence[Mlp], generators: Sequence[torch.Generator]) -> None:
        parameters = [dict(one.named_parameters()) for one in networks]
        self.weights = {
            name: torch.stack([one[name].detach() for one in parameters]) for name in parameters[0]
        }
        self.gradients = {name: torch.empty_like(weight) for name, weight in self.weights.items()}
        self._generators = generators
        self._single = networks[0].single
        self._blocks = _blocks(networks)
        self._passes: dict[int, list[_Pass]] = {}
        self._inputs: list[Tensor] = []
        self._shares = [
            torch.tensor([1 - rate for rate in block.rates]).view(-1, 1, 1) for block in self._blocks
        ]

    def forward(self, features: Tensor) -> Tensor:
        """Logits (M, B, C) of each network's own features (M, B, F), in training; valid until the next call."""
        self._inputs = []
        values = features
        for block, share, memory in zip(self._blocks, self._shares, self._memory(features), strict=True):
            self._inputs.append(values)
            _forward(values, self.weights[block.weight], self.weights[block.bias], memory)
            values = memory.result
            if block.activation is not None:
                activation = ACTIVATIONS[block.activation]
                for one, active in memory.taken(memory.active):
                    activation.apply(one, active)
                values = memory.active
            if block.rates:
                self._draw(memory.kept, block.rates)
                values = torch.mul(values, memory.kept.div_(share), out=memory.dropped)
        return torch.cat([torch.zeros_like(values), values], dim=2) if self._single else values

    def backward(self, gradient: Tensor) -> None:
        """Take the gradients of the weights, from that of the logits (M, B, C) of the last `forward`."""
        gradient = gradient[:, :, 1:] if self._single else gradient  # a view, as autograd has it
        passes = self._passes[gradient.shape[1]]
        for place in reversed(range(len(self._blocks))):
            block, memory, values = self._blocks[place], passes[place], self._inputs[place]
            if block.rates:
                gradient.mul_(memory.kept)
            if block.activation is not None:
                for result, one in memory.taken(gradient):
                    ACTIVATIONS[block.activation].back(one, result)
            _weights_back(gradient, values, self.gradients[block.weight], self.gradients[block.bias], memory)
            if place:
                _back(gradient, self.weights[block.weight], memory)
                gradient = memory.back

    def _memory(self, features: Tensor) -> list[_Pass]:
        networks, events = features.shape[:2]
        if events not in self._passes:
            self._passes[events] = []
            for block in self._blocks:
                outputs, inputs = self.weights[block.weight].shape[1:]
                made = features.new_empty((networks, events, outputs))
                copied = block.activation is not None and ACTIVATIONS[block.activation].from_values
                active = torch.empty_like(made) if copied else made
                kept, dropped = (torch.empty_like(made) if block.rates else made for _ in range(2))
                back = features.new_empty((networks, events, inputs))
                self._passes[events].append(_Pass(made, active, kept, dropped, back))
                _try_joined(self._passes[events][-1], viewed=self._single and block is self._blocks[-1])
        return self._passes[events]

    def _draw(self, kept: Tensor, rates: Sequence[float]) -> None:
        """Draw what dropout keeps of each network's features, by its own random numbers, as torch does for one."""
        for own, rate, generator in zip(kept, rates, self._generators, strict=True):
            if rate:
                own.bernoulli_(1 - rate, generator=generator)
            else:
                own.fill_(1)


def _forward(values: Tensor, weight: Tensor, bias: Tensor, memory: _Pass) -> None:
    if memory.joined:
        torch.baddbmm(bias.unsqueeze(1), values, weight.mT, out=memory.result)
        return
    for own in zip(bias, values, weight, memory.result, strict=True):
        own[3].copy_(torch.addmm(_own(own[0]), _own(own[1]), _own(own[2]).t()))


def _weights_back(gradient: Tensor, values: Tensor, weight: Tensor, bias: Tensor, memory: _Pass) -> None:
    if memory.joined:
        torch.bmm(gradient.mT, values, out=weight)
        torch.sum(gradient, dim=1, out=bias)
        return
    for own in zip(gradient, values, weight, bias, strict=True):
        alone = _own(own[0])
        own[2].copy_(torch.mm(alone.t(), _own(own[1])))
        own[3].copy_(torch.sum(alone, dim=0))


def _back(gradient: Tensor, weight: Tensor, memory: _Pass) -> None:
    if memory.joined:
        torch.bmm(gradient, weight, out=memory.back)
        return
    for own in zip(gradient, weight, memory.back, strict=True):
        own[2].copy_(torch.mm(_own(own[0]), _own(own[1])))


def _own(part: Tensor) -> Tensor:
    """Return a network's part of a stack as it lies in memory alone: of the same strides, counted from its boundary."""
    if part.is_contiguous():
        return part.clone()
    length = part.stride(0)
    memory = part.new_empty(len(part) * length)
    return memory.as_strided(part.shape, part.stride(), part.storage_offset() % length).copy_(part)


def _try_joined(memory: _Pass, *, viewed: bool) -> None:
    """Find out by numbers of no meaning whether products and sums of stacks are those of single matrices.

    Args:
        memory: of the block.
        viewed: whether its gradient is that of the last of two logits, a view.
    """
    networks, events, outputs = memory.result.shape
    inputs = memory.back.shape[2]
    some = torch.Generator().manual_seed(0)
    values, weight, bias, gradient = (
        torch.randn((networks, *shape), generator=some)
        for shape in ((events, inputs), (outputs, inputs), (outputs,), (events, outputs + viewed))
    )
    gradient = gradient[:, :, 1:] if viewed else gradient
    found = []
    for joined in (True, False):
        memory.joined = joined
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
        _forward(values, weight, bias, memory)
        _back(gradient, weight, memory)
        _weights_back(gradient, values, of_weight, of_bias, memory)
        found.append((memory.result.clone(), memory.back.clone(), of_weight, of_bias))
    memory.joined = all(map(torch.equal, *found))


def _blocks(networks: Sequence[Mlp]) -> list[_Block]:
    found: list[_Block] = []
    for name, layer in networks[0].layers.named_children():
        if isinstance(layer, nn.Linear):
            found.append(_Block(f"layers.{name}.weight", f"layers.{name}.bias"))
        elif isinstance(layer, nn.Dropout):
            rates = tuple(float(getattr(one.layers.get_submodule(name), "p")) for one in networks)  # noqa: B009
            found[-1].rates = rates if any(rates) else ()
        else:
            found[-1].activation = type(layer)
    return found
