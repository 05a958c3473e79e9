"""Turn the scores of a trained model into probabilities, by a map fitted on validation events.

The scores go in as log-odds ln p − ln(1 − p) of each class. Which method suits which model: docs/howto/trust.md.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.metrics.calibration import reliability

Floats = npt.NDArray[np.float64]
Method = Literal["temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)
FEWEST_EVENTS = 100
"""Events, effectively if they have weights, from which a map is fitted."""
COLDEST, HOTTEST = 1e-2, 1e2
"""Temperatures that are looked at."""
SMALLEST = 1e-300
"""Probability below which a logarithm counts as that of this."""


class Calibration(Config):
    """A map from log-odds to calibrated probabilities.

    - `temperature`: softmax(ln p / T), one number T > 0 (arXiv:1706.04599), above 1 where scores are overconfident.
    - `platt`: σ(a·o + b) of the log-odds o of the second of two classes (Platt, Advances in Large Margin Classifiers
      (1999) 61), which also mends a share of the classes other than that of the events.
    - `isotonic`: a rising function of those log-odds, linear between its knots (Zadrozny and Elkan, KDD 2002, 694).

    Attributes:
        method: which of them.
        events: it was fitted to.
        temperature: T.
        slope: a.
        intercept: b.
        knots: (K,) log-odds, ascending.
        values: (K,) probabilities at the knots.
        before: metric → its value without the map, such as `val_calibration_error` and `test_log_loss`.
        after: the same with it.
    """

    method: Method
    events: PositiveInt
    temperature: PositiveFloat = 1.0
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    before: dict[str, float] = Field(default_factory=dict)
    after: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Calibration:
        if self.method == "isotonic" and not (self.knots and len(self.knots) == len(self.values)):
            raise ValueError(
                f"an isotonic map has a value at each of its knots; got {len(self.values)} at {len(self.knots)}"
            )
        return self

    def __str__(self) -> str:
        numbers = {
            "temperature": f"T = {self.temperature:.3g}",
            "platt": f"slope {self.slope:.3g}, intercept {self.intercept:.3g}",
            "isotonic": f"{len(self.knots)} knots",
        }
        return f"{self.method} ({numbers[self.method]}), fitted to {self.events:,} validation events"

    def __call__(self, log_odds: npt.NDArray[np.floating[Any]]) -> Floats:
        """Return calibrated probabilities (N, C) of log-odds (N, C), each row summing to one."""
        odds = log_odds.astype(np.float64)
        if self.method == "temperature":
            return _softmax(_log_probabilities(odds) / self.temperature)
        if self.method == "platt":
            second = np.exp(_log_sigmoid(self.slope * odds[:, 1] + self.intercept))
        else:
            second = np.interp(odds[:, 1], self.knots, self.values)
        return np.stack([1 - second, second], axis=1)

    def judged(
        self,
        split: str,
        probabilities: npt.NDArray[np.floating[Any]],
        log_odds: npt.NDArray[np.floating[Any]],
        labels: npt.NDArray[np.integer[Any]],
        weights: npt.NDArray[np.floating[Any]] | None = None,
    ) -> Calibration:
        """Return the same map with calibration error and log loss of events before and after it.

        Args:
            split: put before the names, such as `test`.
            probabilities: (N, C) as the model gives them.
            log_odds: (N, C).
            labels: (N,), the true class.
            weights: (N,) of the events; None counts them.
        """
        before, after = (
            {
                f"{split}_calibration_error": reliability(one, labels, weights).error,
                f"{split}_log_loss": log_loss(one, labels, weights),
            }
            for one in (probabilities.astype(np.float64), self(log_odds))
        )
        return self.model_copy(update={"before": self.before | before, "after": self.after | after})


def fit_calibration(
    method: Method,
    log_odds: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    weights: npt.NDArray[np.floating[Any]] | None = None,
) -> Calibration:
    """Fit a map to events that the model was not trained on.

    Args:
        method: of the map.
        log_odds: (N, C) of the model.
        labels: (N,), the true class.
        weights: (N,) of the events; None counts them. A temperature takes negative ones as they are.

    Raises:
        InvalidConfig: the method is for two classes, and there are more; or it takes no negative weights.
        InvalidEvents: there are too few events, a class is absent, or the events set no temperature, since every one of
            them is classified rightly.
    """
    count, classes = log_odds.shape
    own = np.ones(count) if weights is None else weights.astype(np.float64)
    effective = own.sum() ** 2 / (own**2).sum() if count else 0
    if effective < FEWEST_EVENTS or len(np.unique(labels)) < classes:
        raise InvalidEvents(
            f"a calibration is fitted to at least {FEWEST_EVENTS} events, effectively if weighted, of every class; got "
            f"{effective:.0f} of {len(np.unique(labels))} of {classes} classes"
        )
    if method != "temperature" and classes > 2:  # noqa: PLR2004 - a curve of one score
        raise InvalidConfig(f"calibration '{method}' is of two classes, got {classes}: take 'temperature'")
    if method != "temperature" and own.min() < 0:
        raise InvalidConfig(f"calibration '{method}' takes no negative weights: take 'temperature'")
    odds = log_odds.astype(np.float64)
    if method == "temperature":
        return Calibration(method=method, events=count, temperature=_temperature(odds, labels, own))
    if method == "platt":
        from sklearn.linear_model import LogisticRegression

        line = LogisticRegression(C=np.inf, max_iter=1000).fit(
            odds[:, 1:], labels, sample_weight=own / own.mean()
        )
        slope, intercept = float(line.coef_[0, 0]), float(line.intercept_[0])
        return Calibration(method=method, events=count, slope=slope, intercept=intercept)
    from sklearn.isotonic import IsotonicRegression

    # No event is surer than one that is counted with half an event of the other class on its side.
    least = 0.5 / (effective + 1)
    rising = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(
        odds[:, 1], labels, own
    )
    return Calibration(
        method=method,
        events=count,
        knots=tuple(rising.X_thresholds_.tolist()),
        values=tuple(rising.y_thresholds_.tolist()),
    )


def _temperature(odds: Floats, labels: npt.NDArray[np.integer[Any]], weights: Floats) -> float:
    from scipy.optimize import minimize_scalar

    logarithms = _log_probabilities(odds)

    def loss(log_temperature: float) -> float:
        scaled = logarithms / np.exp(log_temperature)
        return float(np.dot(weights, _log_sums(scaled) - scaled[np.arange(len(labels)), labels]))

    bounds = (float(np.log(COLDEST)), float(np.log(HOTTEST)))
    found = float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
    if not COLDEST * 1.01 < found < HOTTEST / 1.01:
        raise InvalidEvents(
            f"the events set no temperature between {COLDEST:g} and {HOTTEST:g}: the model is right about all of them, "
            "or knows nothing; leave the calibration out"
        )
    return found


def log_loss(
    probabilities: Floats,
    labels: npt.NDArray[np.integer[Any]],
    weights: npt.NDArray[np.floating[Any]] | None = None,
) -> float:
    """Return the mean negative logarithm of the true class' probability, of weighted events the weighted mean."""
    own = probabilities[np.arange(len(labels)), labels]
    return float(np.average(-np.log(np.maximum(own, SMALLEST)), weights=weights))


def _log_probabilities(odds: Floats) -> Floats:
    """Return ln p of log-odds, normalised over the classes."""
    logarithms = _log_sigmoid(odds)
    return logarithms - _log_sums(logarithms)[:, None]


def _log_sigmoid(values: Floats) -> Floats:
    return np.asarray(-np.logaddexp(0, -values))


def _log_sums(values: Floats) -> Floats:
    return np.asarray(np.logaddexp.reduce(values, axis=1))


def _softmax(values: Floats) -> Floats:
    return np.asarray(np.exp(values - _log_sums(values)[:, None]))
