"""Results in words, as a page shows them."""

from __future__ import annotations

from hep_ray.metrics.labels import metric_words


def axis_label(metric: str) -> str:
    """`metric_words` with a capital, for an axis, in mathematical type where there are symbols."""
    words = capital(metric_words(metric))
    return words.replace("1/ε_b", r"1/$\varepsilon_b$").replace("ε_s", r"$\varepsilon_s$")


def capital(words: str) -> str:
    """With a capital at the start; the rest stays as it is."""
    return words[:1].upper() + words[1:]
