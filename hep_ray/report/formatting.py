"""Names of metrics, and results in words, as a page shows them."""

from __future__ import annotations

import re

LABELS = {
    "accuracy": "accuracy",
    "loss": "loss",
    "auc": "AUC",
    "epoch_seconds": "training time [s]",
    "parameters": "parameters",
    "flops": "FLOPs per event",
    "cpu_seconds": "CPU time [s]",
    "gpu_seconds": "GPU time [s]",
    "learning_rate": "learning rate",
    "f1": "F1",
}
SPLITS = {"train": "training", "val": "validation", "test": "test"}
NO_ERROR = 1e-9
"""An error below this share of its value is the rounding of equal numbers."""
REJECTION = re.compile(r"background_rejection_at_(\d+)")


def metric_words(metric: str) -> str:
    """Such as `validation accuracy` of `val_accuracy`, or `test 1/ε_b at ε_s = 0.5`."""
    split, _, rest = metric.partition("_")
    if split not in SPLITS:
        split, rest = "", metric
    if found := REJECTION.fullmatch(rest):
        words = f"1/ε_b at ε_s = {int(found.group(1)) / 100:g}"
    else:
        words = LABELS.get(rest, rest.replace("_", " "))
    return f"{SPLITS[split]} {words}" if split else words


def axis_label(metric: str) -> str:
    """`metric_words` with a capital, for an axis, in mathematical type where there are symbols."""
    words = capital(metric_words(metric))
    return words.replace("1/ε_b", r"1/$\varepsilon_b$").replace("ε_s", r"$\varepsilon_s$")


def decimals(mean: float, error: float | None) -> int | None:
    """Decimals that show two digits of an error; None where there is no error."""
    if error is None or not error > NO_ERROR * max(abs(mean), 1.0):
        return None
    return max(0, -int(f"{error:.1e}".partition("e")[2]) + 1)


def plus_minus(mean: float, error: float | None, sign: str = "") -> str:
    """A value with its error, to two digits of the error; without one to four digits of its own.

    Args:
        mean: the value.
        error: of it.
        sign: `+` shows that of a positive value too.
    """
    digits = decimals(mean, error)
    return f"{mean:{sign}.4g}" if digits is None else f"{mean:{sign}.{digits}f} ± {error:.{digits}f}"


def interval(low: float, high: float, digits: int | None, sign: str = "") -> str:
    """Such as `[0.90, 0.92]`; to four digits of its own where the number of decimals is not given."""
    shape = f"{sign}.4g" if digits is None else f"{sign}.{digits}f"
    return f"[{low:{shape}}, {high:{shape}}]"


def count_words(count: int, what: str) -> str:
    """`1 trial`, `3 trials`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def capital(words: str) -> str:
    """With a capital at the start; the rest stays as it is."""
    return words[:1].upper() + words[1:]
