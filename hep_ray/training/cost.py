"""Cost of a model, by figures that do not depend on what else the machine does: parameters, and FLOPs of one event.

FLOPs are those of a forward pass of one event: 2 for each product and sum of matrix products, convolutions and
attention (`torch.utils.flop_counter`), biases, activations and normalisations left out, as is the custom. A step of
training takes about three times as many (forward, and backward for inputs and weights). What a fitted model does
instead of matrix products it says itself: comparisons, look-ups and sums count as one each.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hep_ray.dataset.schema import EventSchema
from hep_ray.models import Model
from hep_ray.models.fitted import FittedModel


def model_cost(model: Model, schema: EventSchema, device: torch.device | str = "cpu") -> dict[str, float]:
    """`parameters` of a model, and `flops` of one event.

    Args:
        model: fitted, where it is one that is fitted; left in its mode.
        schema: of its events.
        device: of the model.
    """
    products = (
        0 if isinstance(model, FittedModel) and not model.multiplies else _products(model, schema, device)
    )
    return {"parameters": float(parameters(model)), "flops": float(products + operations(model))}


def _products(model: Model, schema: EventSchema, device: torch.device | str) -> int:
    """Count the matrix products of one event as the model runs; the counter comes with torch's compiler, 3 CPU s."""
    from torch.utils.flop_counter import FlopCounterMode

    columns = [schema.column(name) for name in model.columns]
    real = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
    dtypes = [getattr(torch, one.dtype) for one in columns]
    event = [
        torch.zeros((1, *one.shape), dtype=real if dtype.is_floating_point else dtype, device=device)
        for one, dtype in zip(columns, dtypes, strict=True)
    ]
    was_training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _kernels_of_parts(), sdpa_kernel(SDPBackend.MATH), counter:
        model(*event)
    model.train(was_training)
    return counter.get_total_flops()


def parameters(model: nn.Module) -> int:
    """Numbers that training decides, frozen ones with them; of a fitted model all that its fit found."""
    fitted = {
        id(buffer)
        for module in model.modules()
        if isinstance(module, FittedModel)
        for name, buffer in module.named_buffers()
        if name != "fitted"
    }
    buffers = sum(buffer.numel() for buffer in model.buffers() if id(buffer) in fitted)
    return buffers + sum(parameter.numel() for parameter in model.parameters())


def operations(model: nn.Module) -> int:
    """Count what a fitted model does of an event beside matrix products."""
    return sum(module.operations() for module in model.modules() if isinstance(module, FittedModel))


@contextmanager
def _kernels_of_parts() -> Iterator[None]:
    """Within, torch has no kernel for a whole LSTM or a whole attention, which would hide the products within."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TF32 acceleration")  # of GPUs that nobody asked for
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Meter:
    """Processor and GPU time of a stretch of this process' work, s.

    CPU time is that of all threads of this process, whatever else the machine does. The time of a GPU is that for which
    the process held it, times its share of it: on a GPU of its own nobody else's load is in it.

    Args:
        gpus: share of a GPU that the process holds; 0 is none.
    """

    def __init__(self, gpus: float) -> None:
        self._gpus = gpus

    def __enter__(self) -> Self:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_seconds = time.process_time() - self._cpu
        self.gpu_seconds = self._gpus * (time.perf_counter() - self._wall)
