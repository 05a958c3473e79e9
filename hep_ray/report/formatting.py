"""Results in words, as a page shows them."""

from __future__ import annotations

from hep_ray.metrics.labels import metric_words

NO_ERROR = 1e-9
"""An error below this share of its value is the rounding of equal numbers."""


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
