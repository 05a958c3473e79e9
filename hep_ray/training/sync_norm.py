"""Batch normalisation over the events of all workers, on CPUs as on GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(model: nn.Module, device: torch.device) -> None:
    """Let every batch normalisation within take its statistics from all ranks; names and numbers stay.

    On GPUs it is torch's own, which refuses tensors of CPUs; on those `CpuSyncBatchNorm`.

    Args:
        model: changed in place.
        device: of the model.
    """
    for name, child in model.named_children():
        if not isinstance(child, _BatchNorm):
            synchronise(child, device)
        elif device.type == "cpu":
            setattr(model, name, CpuSyncBatchNorm.like(child))
        else:
            convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
            setattr(model, name, convert(child))


class CpuSyncBatchNorm(_BatchNorm):
    """Batch normalisation whose mean and variance are those of all ranks' events together.

    Every rank has equally many events, as `batches` deals them out.
    """

    @classmethod
    def like(cls, other: _BatchNorm) -> CpuSyncBatchNorm:
        """One with the parameters and running statistics of another."""
        made = cls(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        made.weight, made.bias = other.weight, other.bias
        made.running_mean, made.running_var = other.running_mean, other.running_var
        made.num_batches_tracked = other.num_batches_tracked
        made.training = other.training
        return made

    def forward(self, values: Tensor) -> Tensor:
        """Normalised values of the same shape (N, C, …)."""
        if not self.training:
            return super().forward(values)
        axes = [0, *range(2, values.ndim)]
        shape = [1, -1, *[1] * (values.ndim - 2)]
        count = values.numel() // values.shape[1] * dist.get_world_size()
        mean: Tensor = _Sum.apply(values.sum(axes)) / count
        centred = values - mean.reshape(shape)
        variance: Tensor = _Sum.apply((centred**2).sum(axes)) / count
        self._follow(mean.detach(), variance.detach(), count)
        normalised: Tensor = centred / torch.sqrt(variance + self.eps).reshape(shape)
        if not self.affine:
            return normalised
        return normalised * self.weight.reshape(shape) + self.bias.reshape(shape)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked += 1
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch names it
        """Any with channels is taken."""


class _Sum(torch.autograd.Function):
    """Sum over the ranks; a gradient of it is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        summed = values.detach().clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed
