"""One trial in several processes: how they share a batch, and what they tell each other. No Ray.

Every rank builds the same model and takes its equal share of each batch, so the mean of the ranks' gradients is the
gradient of the whole batch, event weights and a short last batch included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hep_ray.errors import InvalidConfig
from hep_ray.models import Model

if TYPE_CHECKING:
    from hep_ray.training.config import TrainerConfig

T = TypeVar("T")


def backend(gpus: float) -> Literal["nccl", "gloo"]:
    """What carries tensors between workers that hold so many GPUs each: NCCL on GPUs, gloo on CPUs."""
    return "nccl" if gpus > 0 else "gloo"


@dataclass(frozen=True)
class Share:
    """A worker's part of a step.

    Attributes:
        batch_size: events per step on this worker.
        learning_rate: of the step.
    """

    batch_size: int
    learning_rate: float


def share(trainer: TrainerConfig, workers: int) -> Share:
    """What each of several workers does of a step.

    With `learning_rate_scaling` `none` the workers share the batch, so that the trial is the same on any number of
    them. With `linear` (Goyal et al., arXiv:1706.02677, section 2.1) or `sqrt` (Krizhevsky, arXiv:1404.5997,
    section 5) each takes a whole batch, and the learning rate grows with the number of workers or its root.

    Raises:
        InvalidConfig: the batch cannot be shared equally.
    """
    if trainer.learning_rate_scaling == "none":
        if trainer.batch_size % workers:
            raise InvalidConfig(
                f"a batch is shared equally among the workers of a trial; batch_size {trainer.batch_size} among "
                f"{workers} workers leaves {trainer.batch_size % workers} events over"
            )
        return Share(trainer.batch_size // workers, trainer.learning_rate)
    factor = workers if trainer.learning_rate_scaling == "linear" else math.sqrt(workers)
    return Share(trainer.batch_size, trainer.learning_rate * factor)


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
        """The place of this process in torch's default process group."""
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world_size == 1

    def parallel(self, model: Model) -> nn.Module:
        """What to call forward on in training, so that backward leaves the mean of the ranks' gradients.

        Args:
            model: on its device, the same on every rank.
        """
        if self.alone:
            return model
        device = next(model.parameters()).device
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def total(self, values: Tensor) -> Tensor:
        """Sum over the ranks, element by element."""
        if self.alone:
            return values
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    def everyone(self, one: T) -> list[T]:
        """What every rank gives, in the order of the ranks."""
        if self.alone:
            return [one]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, one)
        return cast("list[T]", gathered)

    def share_buffers(self, model: nn.Module) -> None:
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

    def in_order(self, values: Tensor, rows: Sequence[int] | np.ndarray, size: int) -> Tensor:
        """All ranks' rows of one array, each row given by one rank; adding zero changes no bit of it.

        Args:
            values: (len(rows), …) of this rank.
            rows: where they belong.
            size: rows of the whole.
        """
        if self.alone:
            return values
        whole = values.new_zeros((size, *values.shape[1:]))
        whole[torch.as_tensor(rows, device=values.device)] = values[: len(rows)]
        return self.total(whole)


ALONE = Communicator()


def _number(entropy: Sequence[int]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
