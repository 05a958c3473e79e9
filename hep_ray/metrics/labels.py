"""Names of what trials report, for pages, tables and axes."""

from __future__ import annotations

import re

from hep_ray.metrics import WORST, metric_of, nominal_key

SPLITS = {"train": "training", "val": "validation", "test": "test", "watched": "watched"}
BESIDE_METRICS = {
    "loss": "loss",
    "epoch_seconds": "training time [s]",
    "parameters": "parameters",
    "flops": "FLOPs per event",
    "cpu_seconds": "CPU time [s]",
    "gpu_seconds": "GPU time [s]",
}
"""What a training reports that no registered metric computes."""
OF_BACKGROUND = ("asimov_significance", "expected_limit")
"""Metrics whose keys end in the uncertainty of the background, such as `_b10`."""


def metric_words(key: str) -> str:
    """Return what a key is called, such as `validation accuracy` for `val_accuracy`.

    The words are the registered metric's own (`label` of `@metric`), those of a user's metric too.
    """
    split, _, rest = key.partition("_")
    if split not in SPLITS:
        split, rest = "", key
    nominal = nominal_key(f"{split}_{rest}").removeprefix(f"{split}_")
    worst = WORST.replace("_", " ") * (nominal != rest)
    words = worst + (BESIDE_METRICS.get(nominal) or _label(nominal))
    return f"{SPLITS[split]} {words}" if split else words


def _label(key: str) -> str:
    owner = metric_of(key)
    if owner is None:
        return key.replace("_", " ")
    rest = key.removeprefix(owner.name).removeprefix("_")
    if percent := re.fullmatch(r"at_(\d+)", rest):
        rest = f"{int(percent[1]) / 100:g}"
    if owner.name in OF_BACKGROUND and (percent := re.fullmatch(r"b(\d+)", rest)):
        return f"{owner.label}, b ± {percent[1]} %"
    if "{}" in owner.label:
        return owner.label.replace("{}", rest)
    return f"{owner.label} {rest}".rstrip()
