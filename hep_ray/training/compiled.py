"""The forward and backward pass of a network compiled by torch.compile, for steps of one shape.

Only the call of a training step is compiled. The network itself stays as it is, so that checkpoints, averages of
weights, validation, ONNX and what is stacked know nothing of it. Within a process a network of the same architecture is
not compiled again: weights are arguments of the program that torch has. Processes of a node share programs on disk
(`TORCHINDUCTOR_CACHE_DIR`, by default a folder of the user in the node's /tmp).

Random numbers are those of the network as it is (`fallback_random`), so that both train alike but for rounding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hep_ray.dataset.schema import Column

logger = logging.getLogger(__name__)

Compile = Literal["auto", "on", "off"]
STEPS = 20_000
"""Of a trial on a GPU, from which on `auto` compiles. An estimate: half a minute for it, 1.5 ms that a step gains."""
SMALL = 1e10
"""FLOPs of a forward pass of a batch, up to which compiled steps become CUDA graphs. An estimate: a GPU of 10¹³
a second has done them in a millisecond, in which a host launches about a hundred kernels."""
ARCHITECTURES = 64
"""Programs that a process keeps of one class of networks, for its sizes and batches; others run as they are."""


def why_not_compiled(columns: Iterable[Column], *, alone: bool, mixes: bool, deterministic: bool) -> str:
    """Return in words why steps of a trial cannot be compiled; empty where they can.

    Args:
        columns: that the network reads.
        alone: whether one process trains the trial.
        mixes: whether events are mixed at a hidden layer, another one at each step.
        deterministic: whether operations without a deterministic form are refused.
    """
    if any(column.lists for column in columns):
        return "its batches are filled up to lists of varying length"
    if not alone:
        return "several workers train it"
    if mixes:
        return "it mixes events at a hidden layer, another one at each step"
    return "compiled operations are not known to be deterministic" if deterministic else ""


def is_compiled(asked: Compile, device: torch.device, steps: int) -> bool:
    """Return whether a trial whose steps can be compiled has them compiled.

    On processors `auto` never does: 200 steps of an MLP 2×64 with batches of 128 took 5.1 s, and 3.8 s as it is, after
    half a minute of compiling (one core, on a loaded machine).

    Args:
        asked: what was asked for.
        device: of the trial.
        steps: of the trial at its full length.
    """
    return asked == "on" or (asked == "auto" and device.type == "cuda" and steps >= STEPS)


def becomes_graphs(device: torch.device, flops: float) -> bool:
    """Return whether compiled steps are recorded as CUDA graphs, which the host launches as one.

    Args:
        device: of the network.
        flops: of a forward pass of a batch.
    """
    return device.type == "cuda" and flops <= SMALL


class CompiledForward:
    """Calls a network in a step: its compiled form on whole batches, the network itself on others.

    Args:
        network: to call, which stays as it is.
        batch_size: events of a whole batch.
        graphs: record steps as CUDA graphs.
        must: let a compilation that fails end the trial; else the network is called as it is from then on.
    """

    def __init__(self, network: nn.Module, batch_size: int, *, graphs: bool, must: bool) -> None:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(torch.get_num_threads()))
        torch.compiler.config.recompile_limit = ARCHITECTURES
        self._network, self._batch_size, self._must = network, batch_size, must
        options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": graphs}
        self._compiled: Any = torch.compile(network, dynamic=False, options=options)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the logits of a batch.

        Raises:
            RuntimeError: torch cannot compile the network, where it must.
        """
        called = self._compiled if len(inputs[0]) == self._batch_size else self._network
        try:
            logits: Tensor = called(*inputs)
        except RuntimeError as exc:
            if self._must or called is self._network:
                raise
            logger.warning("a network is trained as it is, for torch cannot compile it: %s", exc)
            self._compiled = self._network
            logits = self._network(*inputs)
        return logits
