"""How much of a spectator, such as a mass, the score of a classifier knows on background: what a cut would sculpt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import InvalidConfig
from hep_ray.metrics import metric, metric_of
from hep_ray.metrics.roc import Floats, RocCurve

SCULPTED_PERCENTS = (30, 50, 70)
"""Signal efficiencies at which the background that passes is compared with the one that fails."""
SHAPE_BINS = 20
"""Of the spectator, each with an equal number of background events."""
DECORRELATED_LOSS = "decorrelated_loss"
"""Loss + λ·dCor² with the λ of the trial: the choice of an epoch, or of a trial among those of one λ."""


def check_yardstick(key: str, columns: Collection[object], strengths: Collection[object]) -> None:
    """Refuse to rank trials by a metric that measures each of them otherwise than the others.

    Args:
        key: that ranks, such as `val_decorrelated_loss`.
        columns: that trials are decorrelated from, each once.
        strengths: λ of trials, each once.

    Raises:
        InvalidConfig: it is of the column, and trials have different ones; or of λ, and trials have different ones.
    """
    bare = key.partition("_")[2]
    owner = metric_of(bare)
    if bare == DECORRELATED_LOSS and len(strengths) > 1:
        told = ", ".join(sorted(map(str, strengths)))
        raise InvalidConfig(
            f"'{key}' ranks by λ and not by what was learnt where trials differ in λ: it is the loss + λ·dCor² with "
            f"the trial's own, and decorrelation has the values {told}: rank by 'val_auc' or "
            "'val_background_jsd_at_50', or state one decorrelation"
        )
    protected = owner is not None and "protected" in owner.arguments
    if (bare == DECORRELATED_LOSS or protected) and len(columns) > 1:
        told = ", ".join(sorted(f"'{one}'" for one in columns))
        raise InvalidConfig(
            f"'{key}' is of the column that a trial is decorrelated from, and trials have different ones ({told}): "
            "rank by 'val_auc', or state one decorrelate"
        )


def check_warmup(key: str, warmups: Collection[object]) -> None:
    """Refuse a warm-up of λ where the epoch that each trial keeps is chosen by a metric without the whole term.

    Args:
        key: by which epochs are chosen, such as `val_auc`.
        warmups: `decorrelation_warmup` of trials, each once.

    Raises:
        InvalidConfig: some have one: of such trials the best epoch would be one that was not decorrelated yet.
    """
    if key.partition("_")[2] != DECORRELATED_LOSS and set(warmups) != {0.0}:
        told = ", ".join(sorted(map(str, warmups)))
        raise InvalidConfig(
            f"'{key}' would keep an epoch from before the term is whole: decorrelation_warmup is {told}, and "
            "while λ rises a model still knows the column: choose by metric 'val_decorrelated_loss' (of one "
            "decorrelation), or leave decorrelation_warmup out"
        )


def check_contenders(key: str, contenders: Sequence[Mapping[str, object]]) -> None:
    """Refuse to compare configurations by a metric that measures each of them otherwise.

    Raises:
        InvalidConfig: see `check_yardstick`.
    """
    columns, strengths = (
        {params.get(name, absent) for params in contenders}
        for name, absent in (("decorrelate", ""), ("decorrelation", 0.0))
    )
    check_yardstick(key, columns, strengths)


@metric("background_distance_correlation", larger_is_better=False, label="distance correlation of background")
def background_distance_correlation(
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    signal: int | None,
    protected: NDArray[np.floating] | None,
    event_weights: NDArray[np.floating] | None,
) -> dict[str, float]:
    """Distance correlation of the signal's probability with the column that trials are decorrelated from, 0 … 1.

    On background alone, of trials that have `decorrelate`. Of n independent events it is not 0 but of order 1/√n.
    """
    if signal is None or protected is None:
        return {}
    chosen = labels != signal
    weights = None if event_weights is None else event_weights[chosen]
    return {
        "background_distance_correlation": distance_correlation(
            scores[chosen, signal], protected[chosen], weights
        )
    }


@metric(
    "background_jsd",
    larger_is_better=False,
    label="Jensen–Shannon divergence of background at ε_s = {} in bits",
)
def background_jsd(
    labels: NDArray[np.integer],
    log_odds: NDArray[np.floating],
    signal: int | None,
    curves: Mapping[int, RocCurve],
    protected: NDArray[np.floating] | None,
    weights: NDArray[np.floating],
) -> dict[str, float]:
    """Jensen–Shannon divergence in bits, `_at_{30,50,70}` per cent of the signal, of the shapes of the background.

    The shapes are those of the column that trials are decorrelated from, of background that passes the cut and of
    background that fails it, in 20 bins of equal numbers of events: 0 where the cut does not sculpt, 1 where both share
    no bin, or where nothing passes or fails so that nothing is known. Where n pass and m fail of the same shape it is
    3.4 (1/n + 1/m) on average, (20 − 1)/(8 ln 2) times that.
    """
    if signal is None or protected is None:
        return {}
    chosen = labels != signal
    values, ranks, own = protected[chosen], log_odds[chosen, signal], weights[chosen]
    found = {}
    for percent in SCULPTED_PERCENTS:
        threshold = curves[signal].thresholds[curves[signal].cut(percent / 100)]
        found[f"background_jsd_at_{percent}"] = shape_divergence(values, ranks >= threshold, own)
    return found


def shape_divergence(
    values: NDArray[np.floating], passes: NDArray[np.bool_], weights: NDArray[np.floating]
) -> float:
    """Return the Jensen–Shannon divergence in bits of the values of events that pass and of those that fail.

    Args:
        values: (N,).
        passes: (N,).
        weights: (N,); bins whose weights sum to less than 0 count as empty.
    """
    edges = np.quantile(values, np.linspace(0, 1, SHAPE_BINS + 1)[1:-1])
    bins = np.searchsorted(edges, values, "right")
    shapes = []
    for kind in (passes, ~passes):
        sums = np.maximum(np.bincount(bins, np.where(kind, weights, 0.0), SHAPE_BINS), 0.0)
        if not sums.any():
            return 1.0
        shapes.append(sums / sums.sum())
    middle = (shapes[0] + shapes[1]) / 2
    halves = [
        float((shape[shape > 0] * np.log2(shape[shape > 0] / middle[shape > 0])).sum()) for shape in shapes
    ]
    return max(0.0, sum(halves) / 2)


def distance_correlation(
    first: NDArray[np.floating], second: NDArray[np.floating], weights: NDArray[np.floating] | None = None
) -> float:
    """Return the distance correlation of two variables, which is 0 of independent ones alone; 0 of a constant.

    The root of dCov²(x, y) / √(dCov²(x, x) dCov²(y, y)), where dCov² is the mean product of the distances |x_i − x_j|
    and |y_i − y_j| with their means over i and over j taken off; means are weighted (Székely, Rizzo and Bakirov, Ann.
    Statist. 35 (2007) 2769). Without a matrix of all pairs, in O(N log² N): the sum over pairs falls into sums over
    those with x_j < x_i and y_j < y_i, which are merged as a sort merges.

    Args:
        first: (N,).
        second: (N,).
        weights: (N,) of any sign, of a sum above 0; None counts each event once.
    """
    own = np.ones(len(first)) if weights is None else weights.astype(np.float64)
    own = own / own.sum()
    x, y = (_standardised(np.asarray(one, np.float64)) for one in (first, second))
    if x is None or y is None:
        return 0.0
    far_x, far_y = _mean_distances(x, own), _mean_distances(y, own)
    product = (
        _mean_product(x, y, own) - 2 * np.dot(own, far_x * far_y) + np.dot(own, far_x) * np.dot(own, far_y)
    )
    spreads = [
        2 * (np.dot(own, one**2) - np.dot(own, one) ** 2) - 2 * np.dot(own, far**2) + np.dot(own, far) ** 2
        for one, far in ((x, far_x), (y, far_y))
    ]
    if min(spreads) <= 0:  # weights below 0 outweigh the others
        return 0.0
    return float(np.sqrt(min(max(product / np.sqrt(spreads[0] * spreads[1]), 0.0), 1.0)))


def _standardised(values: Floats) -> Floats | None:
    """Return the values with mean 0 and standard deviation 1; None where all are equal."""
    spread = values.std()
    if values.min() == values.max() or spread == 0:
        return None
    standard: Floats = (values - values.mean()) / spread
    return standard


def _mean_distances(values: Floats, weights: Floats) -> Floats:
    """Return Σ_j w_j |x_i − x_j| of each i, (N,); the weights sum to 1."""
    order = np.argsort(values)
    below, moment = np.cumsum(weights[order]), np.cumsum((weights * values)[order])
    means = np.empty(len(values))
    means[order] = values[order] * (2 * below - 1) - 2 * moment + moment[-1]
    return means


def _mean_product(x: Floats, y: Floats, weights: Floats) -> float:
    """Return Σ_ij w_i w_j |x_i − x_j| |y_i − y_j|; the weights sum to 1."""
    by_x = np.argsort(x)
    x, y, weights = x[by_x], y[by_x], weights[by_x]
    moments = np.stack([weights, weights * x, weights * y, weights * x * y])
    both_below = np.zeros(moments.shape)  # sums of the moments over j with x_j < x_i and y_j < y_i
    by_y = np.argsort(y, kind="stable")
    for bit in range((len(x) - 1).bit_length()):
        # Blocks of places in x, each in the order of y: its left half counts for the events of its right half.
        order = by_y[np.argsort(by_y >> (bit + 1), kind="stable")]
        right = ((order >> bit) & 1).astype(bool)
        so_far = np.zeros((4, len(x) + 1))
        np.cumsum(np.where(right, 0.0, moments[:, order]), axis=1, out=so_far[:, 1:])
        chosen = order[right]
        starts = (chosen >> (bit + 1)) << (bit + 1)
        both_below[:, chosen] += so_far[:, 1:][:, right] - so_far[:, starts]
    one, of_x, of_y, of_both = both_below
    rising = np.dot(weights, x * y * one - x * of_y - y * of_x + of_both)
    all_pairs = moments[3].sum() - moments[1].sum() * moments[2].sum()
    return float(2 * (2 * rising - all_pairs))
