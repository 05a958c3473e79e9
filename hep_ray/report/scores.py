"""Scores of models to draw: of the confirmation's test split or, before it, of the validation split."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hep_ray.confirm.confirmation import FOLDER, Confirmation
from hep_ray.dataset.dataset import Dataset, refuse_sums
from hep_ray.dataset.schema import LABEL
from hep_ray.dataset.shard_file import read_shard
from hep_ray.errors import HepRayError, InvalidEvents, StorageError
from hep_ray.loading.batches import Batch, BatchRequest, Events, EventWeights
from hep_ray.metrics.calibration import Reliability, reliability
from hep_ray.metrics.classification import REJECTION_PERCENTS
from hep_ray.metrics.roc import Counts, Floats, RocCurve, effective_events, log_odds_of, roc_curve
from hep_ray.report.divisions import Division, Passing, passing_parts
from hep_ray.report.groups import Group
from hep_ray.training.calibration import fit_calibration
from hep_ray.training.checkpoint import BEST, restore_model
from hep_ray.training.evaluation import BATCH, Evaluation, evaluate
from hep_ray.training.testing import read_scores

MOST_EVENTS = 100_000
"""Events of the validation split that are evaluated, at most."""


@dataclass(frozen=True)
class Scored:
    """A configuration with its evaluations, one per seed.

    Attributes:
        name: of the contender, of the study's row, or of the trial.
        baseline: whether it is the one to beat.
        runs: at least one.
    """

    name: str
    baseline: bool
    runs: tuple[Performance, ...]


@dataclass(frozen=True)
class Calibrated:
    """Scores of one training after a temperature that other events set.

    Attributes:
        name: of the contender, or of the trial.
        reliability: of the calibrated probabilities.
        before: of the same training without.
        words: which temperature, and of what.
    """

    name: str
    reliability: Reliability
    before: Reliability
    words: str


@dataclass(frozen=True)
class Scores:
    """Everything that is drawn of scores.

    Attributes:
        split: in words, such as `test split`.
        task: of the dataset.
        classes: names, in the order of the labels.
        signal: label of the signal class.
        contenders: best first.
        confirmed: whether they are of the test split, from a confirmation.
        choice: which events these are, where they are not all of the split.
        divisions: of these events, in the order of `Performance.parts`.
        calibrated: the first contender's first training, calibrated; None where that cannot be.
        uncalibrated: why it cannot be, where that is known.
    """

    split: str
    task: str
    classes: tuple[str, ...]
    signal: int
    contenders: tuple[Scored, ...]
    confirmed: bool
    choice: str = ""
    divisions: tuple[Division, ...] = ()
    calibrated: Calibrated | None = None
    uncalibrated: str = ""

    @property
    def events(self) -> int:
        """Events of each evaluation."""
        return self.contenders[0].runs[0].events

    @property
    def seeds(self) -> int:
        """Runs of a contender, of the one that has most: what is fitted at once has one."""
        return max(len(one.runs) for one in self.contenders)

    @property
    def some_alone(self) -> bool:
        """Whether contenders of a single run stand beside such of several."""
        return self.seeds > 1 and any(len(one.runs) == 1 for one in self.contenders)

    def error_words(self, single: str, drawn: Sequence[Scored] | None = None) -> str:
        """Return what the errors of a figure are, in words of its caption.

        Args:
            single: error of a single run, such as `the binomial error`.
            drawn: contenders of the figure; all unless given.
        """
        counts = [len(one.runs) for one in (self.contenders if drawn is None else drawn)]
        if max(counts) == 1:
            return single.removeprefix("the ")
        return f"s.d. over seeds, or {single} of one training where that is larger"

    @property
    def shown(self) -> tuple[Scored, ...]:
        """The best finalist and the baseline, where there is one: what is drawn one by one."""
        finalists = [one for one in self.contenders if not one.baseline]
        baselines = [one for one in self.contenders if one.baseline]
        return (*finalists[:1], *baselines[:1])

    def place(self, scored: Scored) -> int:
        """Return the place of a contender, and so its colour in every figure."""
        return [one.name for one in self.contenders].index(scored.name)

    @property
    def where(self) -> str:
        """Split, events and seeds, for a caption."""
        runs = f"mean over {self.seeds} seeds" if self.seeds > 1 else "one training"
        runs += ", of some one training" if self.some_alone else ""
        chosen = f" ({self.choice})" if self.choice else ""
        effective = self.contenders[0].runs[0].effective
        if effective is not None:
            chosen += f", weighted (effectively {effective:,.0f})"
        what = "the trial was" if len(self.contenders) == 1 else "epochs and rows were"
        biased = "" if self.confirmed else f", by which {what} chosen"
        return f"{self.split}{biased}: {self.events:,} events{chosen}; {runs}"


def confirmed_scores(
    confirmation: Confirmation, folder: Path, dataset: Dataset, divisions: tuple[Division, ...] = ()
) -> Scores:
    """The scores that a confirmation left, which were made once, on the test split.

    Args:
        confirmation: of the search.
        folder: of the search.
        dataset: of the search, of whose test split the labels are read.
        divisions: of the test split; they are left out where the scores are of other events.

    Raises:
        StorageError: a file of scores is absent or holds other classes.
        InvalidEvents: scores are not finite, or a class has no event.
    """
    schema = dataset.schema
    if divisions:
        first = read_scores(folder / FOLDER / confirmation.baseline.runs[0].scores, schema)
        if not np.array_equal(first.labels, dataset.values(LABEL, "test", purpose="report").to_numpy()):
            divisions = ()

    def read(name: str) -> Performance:
        kept = read_scores(folder / FOLDER / name, schema)
        return performance_of(
            kept.probabilities, kept.labels, schema.signal_index, kept.log_odds, kept.weights, divisions
        )

    contenders = tuple(
        Scored(one.name, one.role == "baseline", tuple(read(run.scores) for run in one.runs))
        for one in (*confirmation.finalists, confirmation.baseline)
    )
    events = (schema.task, schema.classes, schema.signal_index)
    found = Scores("test split", *events, contenders, confirmed=True, divisions=divisions)
    try:
        return dataclasses.replace(found, calibrated=_calibrated_test(confirmation, folder, dataset))
    except HepRayError as exc:  # the test scores are whole without that model
        return dataclasses.replace(found, uncalibrated=str(exc))


def _calibrated_test(confirmation: Confirmation, folder: Path, dataset: Dataset) -> Calibrated:
    """Return the first finalist's first training by a temperature of the validation split.

    Raises:
        HepRayError: its model is gone or cannot be read back, or no temperature can be fitted.
    """
    first, schema = confirmation.finalists[0], dataset.schema
    checkpoint = first.runs[0].checkpoint
    if checkpoint is None:
        raise StorageError(f"{first.name} is the {first.words}, and no one model's")
    path = folder / FOLDER / checkpoint
    if not path.is_file():
        raise StorageError(f"the model of {first.name} lies beside its scores; {path} is not there")
    kept, found = read_scores(folder / FOLDER / first.runs[0].scores, schema), _on_validation(path, dataset)
    fitted = fit_calibration("temperature", found.log_odds, found.labels, found.weights)
    before, after = (
        reliability(one.astype(np.float64), kept.labels, kept.weights)
        for one in (kept.probabilities, fitted(kept.log_odds))
    )
    return Calibrated(first.name, after, before, f"T = {fitted.temperature:.3g} of the validation split")


def _crosswise(name: str, found: Evaluation) -> Calibrated | None:
    """Return scores calibrated by halves: each by the temperature of the other."""
    odd = np.arange(len(found.labels)) % 2 == 1
    probabilities, temperatures = np.empty(found.log_odds.shape), []
    for half in (odd, ~odd):
        weights = None if found.weights is None else found.weights[~half]
        try:
            fitted = fit_calibration("temperature", found.log_odds[~half], found.labels[~half], weights)
        except InvalidEvents:
            return None
        probabilities[half] = fitted(found.log_odds[half])
        temperatures.append(fitted.temperature)
    after, before = (
        reliability(one, found.labels, found.weights)
        for one in (probabilities, found.probabilities.astype(np.float64))
    )
    values = " and ".join(f"{one:.3g}" for one in sorted(temperatures))
    return Calibrated(name, after, before, f"T = {values}, each half by the other's")


def _on_validation(path: Path, dataset: Dataset) -> Evaluation:
    """Return a model's answer on the first validation events, whose weights sum to those expected."""
    schema = dataset.schema
    trained = restore_model(path, schema)
    of_model = validation_batches(dataset, trained.model.columns)
    found = evaluate(trained.model, trained.loss, of_model, half=trained.half)
    if not np.isfinite(found.probabilities).all():
        raise InvalidEvents(f"probabilities are finite; those of {path} on the validation split are not")
    weights = found.weights
    if weights is not None:  # the sums of the whole split are not those of its first events
        sums = np.bincount(found.labels, weights, len(schema.classes))
        refuse_sums(dict(zip(schema.classes, sums.tolist(), strict=True)), "validation events")
        expected = np.array([schema.expected[name] for name in schema.classes])
        found = dataclasses.replace(found, weights=weights * (expected / sums)[found.labels])
    return found


def validation_scores(
    groups: Sequence[Group],
    folder: Path,
    dataset: Dataset,
    divisions: tuple[Division, ...] = (),
    to_beat: str = "",
) -> Scores:
    """Evaluate the best models of groups of trials on the validation split; what is no longer kept is left out.

    Args:
        groups: of the search, best first.
        folder: of the search.
        dataset: that they were trained on.
        divisions: of the first `MOST_EVENTS` events of the validation split.
        to_beat: name of the group that is the baseline; empty where none is.

    Raises:
        StorageError: no model of the first group is there any more.
        CorruptCheckpoint: a model cannot be read back.
        InvalidEvents: a class is absent, or a probability is not finite.
    """
    schema = dataset.schema
    contenders: list[Scored] = []
    calibrated = None
    for group in groups:
        paths = [folder / "trials" / trial.trial_id / BEST for trial in group.trials]
        kept = [path for path in paths if path.is_file()]
        if not kept and not contenders:
            raise StorageError(f"the model of a trial lies in its folder; {paths[0]} is not there")
        runs: list[Performance] = []
        for path in kept:
            found = _on_validation(path, dataset)
            if not contenders and not runs:
                calibrated = _crosswise(group.name, found)
            counted = (found.probabilities, found.labels, schema.signal_index, found.log_odds, found.weights)
            runs.append(performance_of(*counted, divisions))
        if runs:
            contenders.append(Scored(group.name, group.name == to_beat, tuple(runs)))
    rows = dataset.rows("val")
    return Scores(
        "validation split",
        schema.task,
        schema.classes,
        schema.signal_index,
        tuple(contenders),
        confirmed=False,
        choice=f"of {rows:,}, the first by a hash of their ids" if rows > MOST_EVENTS else "",
        divisions=divisions,
        calibrated=calibrated,
    )


def validation_batches(
    dataset: Dataset, columns: tuple[str, ...], most: int = MOST_EVENTS
) -> Iterator[Batch]:
    """Yield the first events of the validation split, a shard in memory at a time."""
    left, schema = most, dataset.schema
    names = [LABEL, *dict.fromkeys((*columns, *([schema.weight] if schema.weight else [])))]
    weights = EventWeights(np.ones(len(schema.classes)), schema.weight) if schema.weight else None
    for path in dataset.paths("val"):
        for whole in read_shard(path, names).to_batches():
            batch = whole.slice(0, left)
            if not batch.num_rows:
                return
            left -= batch.num_rows
            inputs = {name: schema.column(name).to_numpy(batch.column(name)) for name in names[1:]}
            events = Events.from_arrays(inputs, batch.column(LABEL).to_numpy())
            yield from events.select(columns, weights).batches(BatchRequest(BATCH))


EFFICIENCIES: Floats = np.arange(1, 101) / 100
"""Signal efficiencies at which curves are drawn."""
THRESHOLDS: Floats = np.arange(101) / 100
"""Probabilities of the signal from which on an event is called so, at which accuracies are drawn."""
SCORE_BINS = 25
"""Bins of a score, from 0 to 1."""


@dataclass(frozen=True)
class WorkingPoint:
    """The tightest cut that keeps at least a signal efficiency.

    Attributes:
        percent: signal efficiency asked for, in per cent.
        threshold: events with at least this probability of the signal pass, as far as a number near 1 can say it.
        log_odds: the same cut as ln p − ln(1 − p).
        background_efficiency: ε_b
        rejection: 1/ε_b
        error: statistical, of 1/ε_b; see `RocCurve.background_rejection`.
        limit: no background event passes: one is taken to, and the rejection is a lower bound.
        tied: background events whose score is exactly the threshold, beside another event of the signal: how many
            of them pass is not known, and all are counted.
    """

    percent: int
    threshold: float
    log_odds: float
    background_efficiency: float
    rejection: float
    error: float
    limit: bool
    tied: int = 0


@dataclass(frozen=True)
class OneVersusRest:
    """One class as the signal, all others as its background, by the probability of that class.

    Attributes:
        recall: fraction of the class that is predicted as it.
        recall_error: statistical (binomial).
        auc: area under the ROC curve.
        auc_error: statistical.
        half: at a signal efficiency of 50 %.
    """

    recall: float
    recall_error: float
    auc: float
    auc_error: float
    half: WorkingPoint


@dataclass(frozen=True)
class Performance:
    """Counts of one model on one split; sums of weights, in events expected, where events have some.

    Attributes:
        confusion: (C, C) events, true class × predicted class.
        background_efficiency: (100,) ε_b at each of `EFFICIENCIES`.
        rejection: (100,) 1/ε_b there; a lower bound where no background passes.
        rejection_error: (100,) statistical.
        limit: (100,) whether no background passes.
        auc: of the signal against the rest.
        auc_error: statistical.
        points: the working points.
        one_versus_rest: of every class.
        reliability: bins of the probability of the predicted class.
        scores: (C, SCORE_BINS) events of each true class by the probability of the signal class.
        events: number of them.
        confusion_squares: (C, C) sums of squared weights, which are the events where they are counted.
        score_squares: (C, SCORE_BINS) the same.
        effective: (Σw)²/Σw², how many unweighted ones are as precise; None where they are counted.
        parts: what passes the working points in each part of each division.
        accuracy: (2, 101) fraction that is told rightly as signal or background at each of `THRESHOLDS`, and its error;
            (2, 0) of more than two classes, where nothing shows it.
        balanced: (101,) mean of the fractions of signal and background; (0,) of more than two classes.
    """

    confusion: Counts | Floats
    background_efficiency: Floats
    rejection: Floats
    rejection_error: Floats
    limit: npt.NDArray[np.bool_]
    auc: float
    auc_error: float
    points: tuple[WorkingPoint, ...]
    one_versus_rest: tuple[OneVersusRest, ...]
    reliability: Reliability
    scores: Counts | Floats
    events: int
    confusion_squares: Counts | Floats
    score_squares: Counts | Floats
    effective: float | None = None
    parts: tuple[Passing, ...] = ()
    accuracy: Floats = field(default_factory=lambda: np.empty((2, 0)))
    balanced: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def share_errors(self) -> Floats:
        """(C, C) binomial errors of the fractions of each true class (rows) that are predicted as each class."""
        return fraction_errors(self.confusion, self.confusion_squares)


def fraction_errors(cells: Counts | Floats, squares: Counts | Floats) -> Floats:
    """Return binomial errors of the fractions of rows: √((1 − f)² Σ_in w² + f² Σ_out w²)/Σw.

    Args:
        cells: (R, C) sums of weights.
        squares: (R, C) sums of their squares.
    """
    totals = cells.sum(axis=1, keepdims=True)
    shares = cells / totals
    others = squares.sum(axis=1, keepdims=True) - squares
    errors: Floats = np.sqrt((1 - shares) ** 2 * squares + shares**2 * others) / totals
    return errors


def performance_of(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: npt.NDArray[np.integer[Any]],
    signal: int,
    log_odds: npt.NDArray[np.floating[Any]] | None = None,
    weights: npt.NDArray[np.floating[Any]] | None = None,
    divisions: Sequence[Division] = (),
) -> Performance:
    """Count the events of one model on one split.

    Args:
        probabilities: (N, C), rows summing to one.
        labels: (N,) the true class.
        signal: label of the signal class.
        log_odds: (N, C) by which events are ranked; from the probabilities without them, see `log_odds_of`.
        weights: (N,) of the events; None counts them.
        divisions: of the events.

    Raises:
        InvalidEvents: a class is absent, its weights do not sum to more than 0, or a probability is not finite.
    """
    probabilities = probabilities.astype(np.float64)
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    cells = labels * classes + predicted
    confusion = np.bincount(cells, weights, classes**2).reshape(classes, classes)
    recall = np.diagonal(confusion) / confusion.sum(axis=1)
    square = None if weights is None else weights**2
    squares = np.bincount(cells, square, classes**2).reshape(classes, classes)
    recall_errors = np.diagonal(fraction_errors(confusion, squares))
    ranks = log_odds_of(probabilities) if log_odds is None else log_odds
    curves = [roc_curve(ranks[:, label], labels == label, weights) for label in range(classes)]
    curve = curves[signal]
    cuts = [curve.cut(float(efficiency)) for efficiency in EFFICIENCIES]
    rejections = [curve.background_rejection(float(efficiency)) for efficiency in EFFICIENCIES]
    score = np.clip((probabilities[:, signal] * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    scores, score_squares = (
        np.bincount(labels * SCORE_BINS + score, one, classes * SCORE_BINS).reshape(classes, SCORE_BINS)
        for one in (weights, square)
    )
    points = tuple(working_point(curve, percent) for percent in REJECTION_PERCENTS)
    accuracy, balanced = np.empty((2, 0)), np.empty(0)
    if classes == 2:  # noqa: PLR2004 - signal and background
        accuracy, balanced = accuracy_by_threshold(probabilities[:, signal], labels == signal, weights)
    own = ranks[:, signal].astype(np.float64)
    return Performance(
        confusion=confusion,
        background_efficiency=curve.background_efficiency[cuts],
        rejection=np.array([rejection for rejection, _ in rejections]),
        rejection_error=np.array([error for _, error in rejections]),
        limit=np.array([curve.is_limit(cut) for cut in cuts]),
        auc=curve.area,
        auc_error=curve.area_error,
        points=points,
        one_versus_rest=tuple(
            OneVersusRest(
                recall=float(recall[label]),
                recall_error=float(recall_errors[label]),
                auc=own.area,
                auc_error=own.area_error,
                half=working_point(own, 50),
            )
            for label, own in enumerate(curves)
        ),
        reliability=reliability(probabilities, labels, weights),
        scores=scores,
        events=len(labels),
        confusion_squares=squares,
        score_squares=score_squares,
        effective=None if weights is None else effective_events(weights.sum(), (weights**2).sum()),
        parts=tuple(
            passing_parts(one, own, labels == signal, weights, [point.log_odds for point in points])
            for one in divisions
        ),
        accuracy=accuracy,
        balanced=balanced,
    )


def accuracy_by_threshold(
    scores: npt.NDArray[np.floating[Any]],
    is_signal: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.floating[Any]] | None = None,
) -> tuple[Floats, Floats]:
    """Return the accuracy of "signal where the score is at least a threshold", at each of `THRESHOLDS`.

    Args:
        scores: (N,) probabilities of the signal.
        is_signal: (N,)
        weights: (N,) of the events; None counts them.

    Returns:
        (2, 101) accuracy and its binomial error, √(a(1 − a)/N), of weighted events √(Σw²(c − a)²)/Σw with c = 1 of
        those told rightly; and (101,) the mean of the fractions of signal and background that are.
    """
    weight = np.ones(len(scores)) if weights is None else weights.astype(np.float64)
    reached = np.searchsorted(THRESHOLDS, scores, side="right")  # how many thresholds an event is not below
    cells = len(THRESHOLDS) + 1

    def at_least_and_below(values: Floats, kind: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        found = np.bincount(reached[kind], values[kind], cells).astype(np.float64)
        return np.cumsum(found[::-1])[-2::-1], np.cumsum(found)[:-1]

    signal, missed = at_least_and_below(weight, is_signal)
    false, background = at_least_and_below(weight, ~is_signal)
    signal_squares, missed_squares = at_least_and_below(weight**2, is_signal)
    false_squares, background_squares = at_least_and_below(weight**2, ~is_signal)
    total = weight.sum()
    fraction = (signal + background) / total
    squares, rest = signal_squares + background_squares, missed_squares + false_squares
    error = np.sqrt((1 - fraction) ** 2 * squares + fraction**2 * rest) / total
    balanced = (signal / (signal + missed) + background / (background + false)) / 2
    return np.stack([fraction, error]), balanced


def working_point(curve: RocCurve, percent: int) -> WorkingPoint:
    """The cut of a curve at a signal efficiency in per cent."""
    cut = curve.cut(percent / 100)
    rejection, error = curve.background_rejection(percent / 100)
    with_signal, tied = curve.tied(percent / 100)
    return WorkingPoint(
        percent=percent,
        threshold=1 / (1 + math.exp(-max(float(curve.thresholds[cut]), -700.0))),
        log_odds=float(curve.thresholds[cut]),
        background_efficiency=float(curve.background_efficiency[cut]),
        rejection=rejection,
        error=error,
        limit=curve.is_limit(cut),
        tied=tied if with_signal else 0,
    )


def mean_and_sd(values: Sequence[npt.ArrayLike]) -> tuple[Floats, Floats]:
    """Return the mean and the sample standard deviation over runs; 0 of a single one."""
    stacked = np.asarray(values, dtype=np.float64)
    mean = stacked.mean(axis=0)
    return mean, stacked.std(axis=0, ddof=1) if len(stacked) > 1 else np.zeros_like(mean)


def mean_and_error(values: Sequence[npt.ArrayLike], errors: Sequence[npt.ArrayLike]) -> tuple[Floats, Floats]:
    """Return the mean over runs and its s.d., or their mean statistical error where that is larger.

    Runs that count the same few events have a s.d. of 0, and are no surer for that.
    """
    mean, sd = mean_and_sd(values)
    return mean, np.maximum(sd, np.mean(np.asarray(errors, dtype=np.float64), axis=0))
