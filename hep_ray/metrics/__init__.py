"""Metrics of classifiers in numpy: one file per metric or family of metrics.

Every registered metric is evaluated after each epoch (`val_…`) and on the test split (`test_…`), and a search may rank
by any of them. Beside the metrics stand the ROC curve and what compares models: intervals, tests, values of events.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.metrics.roc import Counts, Floats, RocCurve, order_of, roc_curve
from hep_ray.own_code import blaming, defined_at
from hep_ray.registry import Registry

__all__ = ["METRICS", "RocCurve", "classification_metrics", "larger_is_better", "metric", "roc_curve"]

NORMALISATION_TOLERANCE = 1e-2
Result = float | Mapping[str, float] | Iterable[tuple[str, float]]
Compute = Callable[..., Result]


@dataclass(frozen=True)
class Predictions:
    """The predictions of one model for one split: what metrics are computed from.

    Attributes:
        scores: (N, C) probabilities of the classes, rows summing to one.
        labels: (N,) the true class, 0 … C - 1.
        weights: (N,) of the events; ones where they have none.
        classes: C names, as they stand in keys.
        signal: index of the class whose score is cut on, all others being background; None where there is none.
        log_odds: (N, C) ln p − ln(1 − p) of each class, by which events are ranked.
        weighted: whether the events have weights.
        protected: (N,) values of the column that a trial is decorrelated from; None where there is none.
    """

    scores: NDArray[np.floating]
    labels: NDArray[np.integer]
    weights: NDArray[np.floating]
    classes: Sequence[str]
    signal: int | None
    log_odds: NDArray[np.floating]
    weighted: bool = False
    protected: NDArray[np.floating] | None = None

    @property
    def event_weights(self) -> NDArray[np.floating] | None:
        """(N,) weights; None where the events have none and are counted."""
        return self.weights if self.weighted else None

    @cached_property
    def confusion(self) -> Counts | Floats:
        """(C true, C predicted) events, or sums of their weights."""
        count = len(self.classes)
        cells = self.labels * count + self.scores.argmax(axis=1)
        return np.bincount(cells, self.event_weights, count**2).reshape(count, count)

    @cached_property
    def curves(self) -> Mapping[int, RocCurve]:
        """Class → its ROC curve against all others; of two classes that of the signal alone."""
        two = len(self.classes) == 2  # noqa: PLR2004 - both would be one curve
        scored = [1 if self.signal is None else self.signal] if two else range(len(self.classes))
        return {
            label: roc_curve(self.log_odds[:, label], self.labels == label, self.event_weights)
            for label in scored
        }


ARGUMENTS = (
    *("scores", "labels", "weights", "event_weights", "classes", "signal", "log_odds", "confusion", "curves"),
    "protected",
)
"""Attributes of `Predictions`, which a metric takes by these names."""


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: the key of its value; several values have keys that begin with it and `_`.
        compute: the function, see `metric`.
        larger_is_better: the direction; None where no trials are ranked by it.
        label: what a page calls it, see `metric`.
        arguments: names of what the function takes.
    """

    name: str
    compute: Compute
    larger_is_better: bool | None
    label: str
    arguments: tuple[str, ...]

    def owns(self, key: str) -> bool:
        """Whether a key without its split is one of this metric's."""
        return key == self.name or key.startswith(f"{self.name}_")

    def values(self, found: Predictions) -> list[tuple[str, float]]:
        """Return the keys and values.

        Raises:
            InvalidConfig: the function returns something else than numbers, or a key that is not its own.
            PluginFailed: it raises something that is no named error.
        """
        with blaming(f"computing metric '{self.name}'"):
            result = self.compute(**{name: getattr(found, name) for name in self.arguments})
        pairs: Any = result
        if isinstance(result, Mapping):
            pairs = result.items()
        elif not isinstance(result, Iterable) or isinstance(result, np.ndarray):
            pairs = [(self.name, result)]
        try:
            values = [(str(key), float(value)) for key, value in pairs]
        except (TypeError, ValueError):
            raise InvalidConfig(
                f"{defined_at(self.compute)}metric '{self.name}' returned {result!r}: it must return a number, or "
                "numbers by key"
            ) from None
        if foreign := [key for key, _ in values if not self.owns(key)]:
            raise InvalidConfig(
                f"{defined_at(self.compute)}metric '{self.name}' returned the key '{foreign[0]}': its keys must be "
                f"'{self.name}' or begin with '{self.name}_'"
            )
        return values


METRICS: Registry[Metric] = Registry("metric", __name__)

F = TypeVar("F", bound=Compute)


def metric(name: str, *, larger_is_better: bool | None, label: str = "") -> Callable[[F], F]:
    """Register a function of (scores, labels, weights), which returns a number or a dict of numbers, as a metric.

    `scores` is (N, C), the probabilities of the classes; `labels` (N,), the true class; `weights` (N,), of the events,
    in events expected: ones where the dataset has none or the search leaves them out. Arguments are passed by name: a
    function leaves out what it does not need, and may take `classes` (names), `signal` (index or None), `log_odds`
    (N, C), `confusion` (C, C), `curves` (class → ROC curve), `event_weights` (as `weights`, None where there are none),
    `protected` (N,); see `Predictions`.

    Args:
        name: the key of the value, without its split: `auc` is reported as `val_auc` and `test_auc`.
        larger_is_better: the direction in which a search ranks by it; None where none does.
        label: what pages and axes call it; the name unless given. `{}` in it stands for what follows the name in a
            key, and for 0.5 of `…_at_50`.

    Raises:
        DuplicateName: another metric has the name.
        InvalidConfig: the function takes something else.
    """

    def register(compute: F) -> F:
        arguments = tuple(inspect.signature(compute).parameters)
        if unknown := [one for one in arguments if one not in ARGUMENTS]:
            raise InvalidConfig(
                f"metric '{name}' takes '{unknown[0]}': the arguments of a metric are some of {', '.join(ARGUMENTS)}"
            )
        METRICS.add(name, Metric(name, compute, larger_is_better, label or name.replace("_", " "), arguments))
        return compute

    return register


def metric_of(key: str) -> Metric | None:
    """Return the metric that a key without its split belongs to: the one with the longest name that fits."""
    owners = [METRICS[name] for name in METRICS if METRICS[name].owns(key)]
    return max(owners, key=lambda one: len(one.name), default=None)


WORST = "worst_"
"""Before a metric's name: its worst value among events as they are and under every systematic variation."""


def nominal_key(key: str) -> str:
    """Return the key of which a key is the worst value, `val_auc` of `val_worst_auc`; any other key is its own.

    So is that of a registered metric whose own name begins with `worst_`.
    """
    split, _, rest = key.partition("_")
    if not rest.startswith(WORST) or ((owner := metric_of(rest)) and owner.name.startswith(WORST)):
        return key
    return f"{split}_{rest.removeprefix(WORST)}"


def is_worst(key: str) -> bool:
    """Return whether a key is the worst value of another under variations, as `val_worst_auc` is."""
    return nominal_key(key) != key


def worst_of(key: str, several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the worst value of a key, as `val_worst_auc` of `val_auc`, with its error where it has one.

    Args:
        key: of a metric whose direction is known.
        several: metrics of the same events, as they are and under variations.
    """
    worst = (max if larger_is_better(key) is False else min)(several, key=lambda one: one[key])
    split, _, rest = key.partition("_")
    found = {name: worst.get(f"{split}_{name}") for name in (rest, f"{rest}_error")}
    return {f"{split}_{WORST}{name}": value for name, value in found.items() if value is not None}


def larger_is_better(key: str) -> bool | None:
    """Return the direction of a key such as `val_auc`; None where nothing is known of it.

    A key that ends in `_error` and is no metric's name is a statistical error, which ranks nothing.
    """
    key = nominal_key(key)
    bare = key.partition("_")[2] if key.startswith(("val_", "test_", "train_")) else key
    if bare in ("loss", "decorrelated_loss"):
        return False
    owner = metric_of(bare)
    if owner is None or (bare.endswith("_error") and bare != owner.name):
        return None
    return owner.larger_is_better


def classification_metrics(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    signal: str | None,
    log_odds: NDArray[np.floating] | None = None,
    weights: NDArray[np.floating] | None = None,
    *,
    only: str | None = None,
    protected: NDArray[np.floating] | None = None,
) -> dict[str, float]:
    """Evaluate every registered metric on class probabilities.

    Args:
        probabilities: (N, C), rows summing to one.
        labels: (N,), the true class, 0 … C - 1; every class must occur.
        classes: C class names, in the order of the labels.
        signal: the class whose log-odds are the score of the signal, all others being background;
            None leaves out background rejection and significance.
        log_odds: (N, C) ln p − ln(1 − p) of each class as `Loss.log_odds` gives them, by which events are ranked;
            without them they are taken from the probabilities as far as these tell: see `order_of`.
        weights: (N,) of the events, of any sign; events are counted unless given.
        only: a key; the metrics that it does not belong to are left out.
        protected: (N,) values of a column that scores are to know nothing of on background; None leaves out what
            judges that.

    Returns:
        Key → value, under keys that MLflow accepts (a `+` in a class name becomes `plus`).

    Raises:
        InvalidEvents: shapes disagree, a probability is not one, a label is outside the classes, a class
            is absent, the signal is not a class, weights of a class do not sum to more than 0, or two values have
            the same key.
        InvalidConfig: a metric returns something else than numbers.
    """
    _validate(probabilities, labels, classes, signal)
    ranks: NDArray[np.floating] = order_of(probabilities) if log_odds is None else log_odds
    if ranks.shape != probabilities.shape:
        raise InvalidEvents(f"log-odds are (N, C) as probabilities are; got {ranks.shape}")
    if weights is not None and not ((sums := np.bincount(labels, weights, len(classes))) > 0).all():
        told = ", ".join(f"{name} {value:g}" for name, value in zip(classes, sums, strict=True))
        raise InvalidEvents(f"weights must sum to more than 0 in every class; got {told}")
    found = Predictions(
        scores=probabilities,
        labels=labels,
        weights=np.ones(len(labels)) if weights is None else weights,
        classes=[name.replace("+", "plus") for name in classes],
        signal=None if signal is None else list(classes).index(signal),
        log_odds=ranks,
        weighted=weights is not None,
        protected=protected,
    )
    owner = None if only is None else metric_of(only)
    wanted = [METRICS[name] for name in METRICS] if only is None else [] if owner is None else [owner]
    pairs = [pair for one in wanted for pair in one.values(found)]
    by_key = dict(pairs)
    if len(by_key) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise InvalidEvents(f"class names must give each metric its own key; used twice: {', '.join(twice)}")
    return by_key


def _validate(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    signal: str | None,
) -> None:
    if labels.ndim != 1 or probabilities.shape != (len(labels), len(classes)):
        raise InvalidEvents(
            f"probabilities must be (N, {len(classes)}) and labels (N,) for classes {', '.join(classes)}; "
            f"got {probabilities.shape} and {labels.shape}"
        )
    if signal is not None and signal not in classes:
        raise InvalidEvents(f"the signal must be one of {', '.join(classes)}; got '{signal}'")
    outside = (labels < 0) | (labels >= len(classes))
    if outside.any():
        raise InvalidEvents(f"labels must be 0 … {len(classes) - 1}; got {labels[outside][0]}")
    present = np.bincount(labels, minlength=len(classes)) > 0
    if not present.all():
        absent = ", ".join(name for name, here in zip(classes, present, strict=True) if not here)
        raise InvalidEvents(f"every class must occur among the labels; absent: {absent}")
    rows = probabilities.sum(axis=1)
    wrong = ~((np.abs(rows - 1) <= NORMALISATION_TOLERANCE) & (probabilities.min(axis=1) >= 0))
    if wrong.any():
        raise InvalidEvents(
            f"probabilities must be ≥ 0 and sum to one in each row; got {probabilities[wrong][0].tolist()}"
        )
