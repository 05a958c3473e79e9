"""One trial in several processes: their part of a batch, their random numbers, what they tell each other. No Ray.

Every rank builds the same model and takes its equal share of each batch, so the mean of the ranks' gradients is the
gradient of the whole batch, event weights and a short last batch included.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn import functional as differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from hep_ray.errors import InvalidConfig
from hep_ray.models import Model

if TYPE_CHECKING:
    from hep_ray.training.config import TrainerConfig

T = TypeVar("T")


def backend(gpus: float) -> Literal["nccl", "gloo"]:
    """Return what carries tensors between workers that hold so many GPUs each: NCCL on GPUs, gloo on CPUs."""
    return "nccl" if gpus > 0 else "gloo"


@dataclass(frozen=True)
class LocalStep:
    """One worker's part of an optimizer step.

    Attributes:
        batch_size: events per step on this worker.
        learning_rate: of the step.
    """

    batch_size: int
    learning_rate: float


def local_step(trainer: TrainerConfig, workers: int) -> LocalStep:
    """Return what each of several workers does of a step.

    With `learning_rate_scaling` `none` the workers share the batch, so that the trial is the same on any number of
    them. With `linear` (Goyal et al., arXiv:1706.02677, section 2.1) or `sqrt` (Krizhevsky, arXiv:1404.5997,
    section 5) each takes a whole batch, and the learning rate grows with the number of workers or its root.

    Raises:
        InvalidConfig: the batch cannot be shared equally.
    """
    if trainer.learning_rate_scaling == "none":
        if trainer.batch_size % workers:
            raise InvalidConfig(
                f"a batch cannot be shared equally: batch_size {trainer.batch_size} among {workers} workers leaves "
                f"{trainer.batch_size % workers} events over"
            )
        return LocalStep(trainer.batch_size // workers, trainer.learning_rate)
    factor = workers if trainer.learning_rate_scaling == "linear" else math.sqrt(workers)
    return LocalStep(trainer.batch_size, trainer.learning_rate * factor)


@dataclass(frozen=True)
class Communicator:
    """A process among those that train one trial; alone by default, when nothing is sent.

    Several need torch's default process group.

    Attributes:
        rank: of this process.
        world_size: number of processes.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def of_process_group(cls) -> Communicator:
        """Take the place of this process in torch's default process group."""
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world_size == 1

    def parallel(self, model: Model) -> nn.Module:
        """Return what to call forward on in training, so that backward leaves the mean of the ranks' gradients.

        Args:
            model: on its device, the same on every rank.
        """
        if self.alone:
            return model
        device = next(model.parameters()).device
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over the ranks, element by element."""
        if self.alone:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def all_gather(self, one: T) -> list[T]:
        """Return what every rank gives, in the order of the ranks."""
        if self.alone:
            return [one]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, one)
        return cast("list[T]", gathered)

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank the running statistics of rank 0, which are saved."""
        if not self.alone:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.broadcast(buffer, 0)

    def seed(self, *entropy: int) -> None:
        """Let every rank but the first draw numbers of its own (dropout); the first goes on as if alone."""
        if self.rank:
            torch.manual_seed(_number((*entropy, self.rank)))

    @contextmanager
    def same_draws(self, *entropy: int, device: torch.device) -> Iterator[None]:
        """Within, all ranks draw the same numbers from torch's generators, whatever they drew before."""
        if self.alone:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(_number(entropy))
            yield

    def gather_rows(self, values: Tensor, rows: Sequence[int] | np.ndarray, size: int) -> Tensor:
        """Join all ranks' rows of one array, each row given by one rank; adding zero changes no bit of it.

        Args:
            values: (len(rows), …) of this rank.
            rows: where they belong.
            size: rows of the whole.
        """
        if self.alone:
            return values
        whole = values.new_zeros((size, *values.shape[1:]))
        whole[torch.as_tensor(rows, device=values.device)] = values[: len(rows)]
        return self.all_reduce(whole)


ALONE = Communicator()


def _number(entropy: Sequence[int]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


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

    torch's own refuses tensors of CPUs, and `sync_batch_norm` promises that several CPU workers train as one does.
    Every rank has equally many events, as a `BatchRequest` without `sharded` gives them.
    """

    @classmethod
    def like(cls, other: _BatchNorm) -> CpuSyncBatchNorm:
        """Take over the parameters and running statistics of another."""
        made = cls(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        made.weight, made.bias = other.weight, other.bias
        made.running_mean, made.running_var = other.running_mean, other.running_var
        made.num_batches_tracked = other.num_batches_tracked
        made.training = other.training
        return made

    def forward(self, values: Tensor) -> Tensor:
        """Normalise values (N, C, …)."""
        if not self.training:
            return super().forward(values)
        axes = [0, *range(2, values.ndim)]
        shape = [1, -1, *[1] * (values.ndim - 2)]
        count = values.numel() // values.shape[1] * dist.get_world_size()
        mean: Tensor = differentiable.all_reduce(values.sum(axes)) / count  # type: ignore[no-untyped-call]
        centred = values - mean.reshape(shape)
        variance: Tensor = differentiable.all_reduce((centred**2).sum(axes)) / count  # type: ignore[no-untyped-call]
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


def seed_everything(seed: int) -> None:
    """Seed every generator that a model or augmentation may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code may draw from the global generator
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators, as tensors that a weights-only load accepts."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put `random_state` back; generators of GPUs that this machine lacks are left out."""
    torch.set_rng_state(state["torch"].cpu())
    for index, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state.cpu(), index)
