"""Shift test: do new inputs look like those that a model was trained on?

Every feature of the new inputs (`promote/reference.py`) is compared with the reference by a two-sample test:
Kolmogorov-Smirnov for numbers, Pearson's χ² for categories (at most 20 whole numbers) and for how often a value is
missing. Holm's correction (`metrics/inference.py`) holds the probability that any of them is called shifted, where none
is, at the stated level. The classifier test sees what no single feature shows: gradient-boosted trees learn on one half
of both to tell new events from reference ones, and the AUC of the other half, 0.5 where they are alike, is judged by
the Mann-Whitney test. Source: Lopez-Paz and Oquab, arXiv:1610.06545.

Shape suffixes: N events, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hep_ray.dataset.schema import EVENT_ID
from hep_ray.errors import InvalidConfig, ModelMismatch
from hep_ray.metrics.inference import holm
from hep_ray.predict.inputs import Prediction
from hep_ray.predict.output import read_events
from hep_ray.promote.classifier import Classifier
from hep_ray.promote.reference import MOST_EVENTS, Features, Reference, features_of

Method = Literal["columns", "classifier"]
MOST_PIECES = 64
"""Pieces of an input that new events are taken of, spread over all."""
MOST_CATEGORIES = 20
FEWEST_EXPECTED = 5.0
"""Events expected in a category; rarer ones are counted together."""
FEWEST_TO_LEARN = 200
"""Events of each side from which a classifier learns to tell them apart."""
ALL_FEATURES = "all features together"


@dataclass(frozen=True)
class ShiftSettings:
    """Settings of a shift test.

    Attributes:
        method: `columns`, each feature alone; `classifier`, these and all of them together.
        level: probability that anything is called shifted, where nothing is.
        of_class: compare with reference events of this class only; None with all.

    Raises:
        InvalidConfig: the level is not between 0 and 1.
    """

    method: Method = "columns"
    level: float = 0.05
    of_class: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise InvalidConfig(f"the level of a shift test must lie between 0 and 1; got {self.level}")


@dataclass(frozen=True)
class FeatureShift:
    """One feature, or all together, of the new events beside the reference.

    Attributes:
        name: of the feature.
        test: `KS`, `chi-square`, `missing` or `classifier`.
        distance: of KS the greatest difference of the cumulative distributions; of categories and of missing values
            half the summed differences of their shares; of the classifier 2·AUC − 1. 0 where alike, 1 where disjoint.
        p_value: of the test alone.
        corrected: by Holm, for all tests.
    """

    name: str
    test: str
    distance: float
    p_value: float
    corrected: float = math.nan


@dataclass(frozen=True)
class Shift:
    """Result of a shift test.

    Attributes:
        settings: of the test.
        events: new ones that were compared.
        reference: events that they were compared with.
        comparisons: of every feature, smallest p-value first.
    """

    settings: ShiftSettings
    events: int
    reference: int
    comparisons: tuple[FeatureShift, ...]

    @property
    def shifted(self) -> tuple[FeatureShift, ...]:
        """Those whose corrected p-value is below the level."""
        return tuple(one for one in self.comparisons if one.corrected < self.settings.level)

    def record(self) -> dict[str, Any]:
        """Return it as JSON for the manifest of a prediction."""
        return {
            **asdict(self.settings),
            "events": self.events,
            "reference_events": self.reference,
            "shifted": [one.name for one in self.shifted],
            "comparisons": [asdict(one) for one in self.comparisons],
        }

    def lines(self, most: int = 5) -> Iterator[str]:
        """Yield what a person should know: the shifted features, the clearest first, or that there are none."""
        false = f"{100 * self.settings.level:g} % false alarms over {len(self.comparisons)} tests"
        against = f"{self.reference} reference events"
        if self.settings.of_class:
            against += f" of {self.settings.of_class}"
        if not self.shifted:
            yield f"shift test: none found in {self.events} events beside {against} ({false})"
            return
        yield (
            f"warning: inputs are unlike those that the model was trained on: {len(self.shifted)} of "
            f"{len(self.comparisons)} tests find a shift, {self.events} events beside {against} ({false})"
        )
        for one in self.shifted[:most]:
            yield f"  {one.name}: {one.test} distance {one.distance:.3f}, corrected p = {one.corrected:.2g}"
        if len(self.shifted) > most:
            yield f"  and {len(self.shifted) - most} more, in the manifest of the scores"


def reference_for(
    reference: bytes, classes: tuple[str, ...], settings: ShiftSettings, origin: str = "the model"
) -> Reference:
    """Return the reference events that a test compares with.

    Raises:
        ModelMismatch: the model has none.
        InvalidConfig: there is no such class, or no reference event of it.
        CorruptModel: the reference cannot be read.
    """
    if not reference:
        raise ModelMismatch(
            f"{origin} holds no reference inputs, since it was promoted by an earlier version: promote it again, or "
            "leave out --shift-test, --shift-level and --shift-class"
        )
    whole = Reference.loads(reference)
    if settings.of_class is None:
        return whole
    if settings.of_class not in classes:
        raise InvalidConfig(f"--shift-class must be one of {', '.join(classes)}; got '{settings.of_class}'")
    own = whole.labels == classes.index(settings.of_class)
    if not own.any():
        raise InvalidConfig(f"{origin} holds no reference event of the class '{settings.of_class}'")
    return Reference(whole.names, whole.values[own], whole.labels[own])


def sampled(classifier: Classifier, prediction: Prediction, most: int = MOST_EVENTS) -> Features:
    """Return the features of the first events of pieces spread over the inputs, about `most` in all.

    Each piece gives as many as its share of the events, so that the sample is a mixture as the inputs are.

    Raises:
        UnreadableInput, InvalidEvents: an input cannot be read.
    """
    pieces = prediction.pieces[:: max(1, math.ceil(len(prediction.pieces) / MOST_PIECES))]
    known = [piece.stop - piece.start for piece in pieces if piece.stop is not None]
    middle = sum(known) / len(known) if known else 1.0  # of what does not tell how long it is
    sizes = [middle if piece.stop is None else piece.stop - piece.start for piece in pieces]
    total = max(sum(sizes), 1)
    parts: list[Features] = []
    for piece, size in zip(pieces, sizes, strict=True):
        wanted = math.ceil(most * size / total)
        for events in read_events(classifier, prediction, piece):
            few = {column.name: events[column.name][:wanted] for column in classifier.columns}
            for column in classifier.columns:
                column.checked(few[column.name], events[EVENT_ID][:wanted])
            if len(events[EVENT_ID]):
                parts.append(features_of(classifier.columns, few)[1])
            wanted -= min(wanted, len(events[EVENT_ID]))
            if not wanted:
                break
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def shift_test(new: Features, reference: Reference, settings: ShiftSettings) -> Shift:
    """Compare new events with the reference.

    Args:
        new: (N, F) features, as of the reference.
        reference: of the model.
        settings: what is tested, and how strictly.

    Raises:
        InvalidConfig: there are too few events for the classifier.
    """
    found = [
        one
        for place, name in enumerate(reference.names)
        for one in _of_feature(name, new[:, place], reference.values[:, place])
    ]
    if settings.method == "classifier":
        found.append(_by_classifier(new, reference.values))
    corrected = holm([one.p_value for one in found])
    told = [
        FeatureShift(one.name, one.test, one.distance, one.p_value, 1.0 if p_value is None else p_value)
        for one, p_value in zip(found, corrected, strict=True)
    ]
    ordered = tuple(sorted(told, key=lambda one: (one.p_value, -one.distance)))
    return Shift(settings, len(new), len(reference.values), ordered)


def _of_feature(name: str, new: Features, reference: Features) -> Iterator[FeatureShift]:
    absent, absent_before = np.isnan(new), np.isnan(reference)
    if absent.any() or absent_before.any():
        yield _counted(f"{name} missing", "missing", absent, absent_before)
    new, reference = new[~absent], reference[~absent_before]
    if not len(new) or not len(reference):
        return
    values = np.unique(reference)
    if len(values) <= MOST_CATEGORIES and (values == np.round(values)).all():
        yield _counted(name, "chi-square", new, reference)
        return
    yield _kolmogorov_smirnov(name, new, reference)


def _kolmogorov_smirnov(name: str, new: Features, reference: Features) -> FeatureShift:
    """Compare numbers; p-value by Kolmogorov's limit with Stephens' correction (J. R. Stat. Soc. B 32 (1970) 115).

    `scipy.stats.ks_2samp` has the same distance and takes 25 ms for its p-value.
    """
    from scipy.special import kolmogorov

    both = np.concatenate([new, reference])
    ours, theirs = (np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (new, reference))
    distance = float(np.abs(ours - theirs).max())
    size = math.sqrt(len(new) * len(reference) / len(both))
    return FeatureShift(name, "KS", distance, float(kolmogorov((size + 0.12 + 0.11 / size) * distance)))


def _counted(name: str, test: str, new: npt.NDArray[Any], reference: npt.NDArray[Any]) -> FeatureShift:
    """Compare categories by Pearson's χ² without a correction for continuity; rare ones are taken together."""
    from scipy.stats import chi2_contingency

    categories, codes = np.unique(np.concatenate([new, reference]), return_inverse=True)
    sides = (codes[: len(new)], codes[len(new) :])
    table = np.stack([np.bincount(side, minlength=len(categories)) for side in sides]).astype(np.float64)
    shares = table / table.sum(axis=1, keepdims=True)
    distance = float(np.abs(shares[0] - shares[1]).sum() / 2)
    rare = table.sum(axis=0) * table.sum(axis=1).min() / table.sum() < FEWEST_EXPECTED
    table = np.column_stack([table[:, ~rare], *([table[:, rare].sum(axis=1)] if rare.any() else [])])
    p_value = 1.0 if table.shape[1] == 1 else float(chi2_contingency(table, correction=False).pvalue)
    return FeatureShift(name, test, distance, p_value)


def _by_classifier(new: Features, reference: Features, seed: int = 0) -> FeatureShift:
    from scipy.stats import mannwhitneyu
    from sklearn.ensemble import HistGradientBoostingClassifier

    if min(len(new), len(reference)) < FEWEST_TO_LEARN:
        raise InvalidConfig(
            f"--shift-test classifier learns from at least {FEWEST_TO_LEARN} new and as many reference events; there "
            f"are {len(new)} and {len(reference)}: type --shift-test columns"
        )
    random = np.random.default_rng(seed)
    both = np.concatenate([new, reference])
    is_new = np.arange(len(both)) < len(new)
    learnt = random.random(len(both)) < 0.5  # noqa: PLR2004 - a half
    estimator = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, early_stopping=False, class_weight="balanced", random_state=seed
    ).fit(both[learnt], is_new[learnt])
    scores = estimator.predict_proba(both[~learnt])[:, 1]
    truth = is_new[~learnt]
    test = mannwhitneyu(scores[truth], scores[~truth], alternative="greater")
    area = float(test.statistic) / (int(truth.sum()) * int((~truth).sum()))
    return FeatureShift(ALL_FEATURES, "classifier", 2 * area - 1, float(test.pvalue))
