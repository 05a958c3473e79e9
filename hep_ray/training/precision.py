"""Which precision a network's products have: float32, or bfloat16 where what trains multiplies in it and it pays.

Measured on one core with AVX-512 BF16, CPU seconds for 1,000 training and 200 validation events of 50×50×3: the thesis'
CNN 1.98 in float32, 1.04 in bfloat16. Images come to a network in the order that torch calls channels_last, and its
convolutions keep it; weights in that order too change neither seconds (1.92 and 1.06) nor losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch

from hep_ray.errors import InvalidConfig
from hep_ray.models import MODELS
from hep_ray.models.image import ImageConfig

Precision = Literal["float32", "bfloat16"]
PRODUCTS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Features of a processor (x86 and ARM) that multiplies in bfloat16, as torch names them."""
CAPABLE = 8.0
"""Compute capability from which on a GPU of NVIDIA multiplies in bfloat16: Ampere's (CUDA C++ Programming Guide, table
"Feature Support per Compute Capability")."""
TRANSFORMERS = frozenset({"particle_transformer"})
"""Networks that are mostly matrix products, as those of images are."""


def multiplies_in_bfloat16() -> bool:
    """Return whether this machine's processor has products in bfloat16; without, torch imitates them, slower."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in PRODUCTS)


def native_precision() -> Precision:
    """Return `bfloat16` where this machine's processor multiplies in it, else `float32`."""
    return "bfloat16" if multiplies_in_bfloat16() else "float32"


def capable(capabilities: Sequence[float]) -> bool:
    """Return whether all GPUs, of these compute capabilities, multiply in bfloat16; False of none."""
    return bool(capabilities) and min(capabilities) >= CAPABLE


def chosen_precision(
    asked: str, models: Iterable[str], *, gpus: bool, gpus_capable: Callable[[], bool] = lambda: False
) -> Precision:
    """Return the precision in which networks train, by what was asked for.

    Args:
        asked: `float32`, `bfloat16`, or `auto`: bfloat16 where what trains multiplies in it and every network is one of
            images or, on GPUs, a transformer; float32 elsewhere.
        models: names of the networks that may be drawn; those that are fitted count for nothing.
        gpus: whether trials train on GPUs, of which this machine need not have one.
        gpus_capable: tells of these whether they multiply in bfloat16; asked where it decides.

    Raises:
        InvalidConfig: it is another word, or bfloat16 on a processor that does not multiply in it.
    """
    if asked == "auto":
        networks = [MODELS[name] for name in models if not MODELS[name].fitted]
        pays = all(
            issubclass(one.config, ImageConfig) or (gpus and one.name in TRANSFORMERS) for one in networks
        )
        native = pays and (gpus_capable() if gpus else multiplies_in_bfloat16())
        return "bfloat16" if native else "float32"
    if asked == "float32":
        return "float32"
    if asked != "bfloat16":
        raise InvalidConfig(f"no precision '{asked}'; it is auto, float32 or bfloat16")
    if not gpus and not multiplies_in_bfloat16():
        raise InvalidConfig(
            f"this processor does not multiply in bfloat16 (none of {', '.join(sorted(PRODUCTS))}), which torch would "
            "imitate, slower than float32: begin a search with --precision auto or --precision float32; one that began "
            "in bfloat16 goes on where the processor has it"
        )
    return "bfloat16"
