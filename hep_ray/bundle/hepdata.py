"""Tables of a promoted model in HEPData's format: a `submission.yaml` and one YAML file for each table.

Source: https://hepdata-submission.readthedocs.io: a submission is a stream of documents, first one about all, then one
per table; a table has independent and dependent variables, each with a header and values, and values have errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hep_ray.confirm.confirmation import Contender
from hep_ray.metrics import metric_of
from hep_ray.metrics.labels import metric_words
from hep_ray.promote.package import Description
from hep_ray.report.scores import EFFICIENCIES, SCORE_BINS, Performance, Scores, fraction_errors

SUBMISSION = "submission.yaml"
STATISTICAL = "stat"
DIGITS = 6
"""Significant ones that are written."""
NONE = "-"
"""What HEPData has where there is no value."""


@dataclass(frozen=True)
class Variable:
    """A column of a table.

    Attributes:
        name: in its header.
        values: numbers, words, or pairs of the ends of bins.
        errors: symmetric, one for each value; empty where there are none.
        label: of the errors.
        qualifiers: what all its values are of.
    """

    name: str
    values: Iterable[Any]
    errors: Iterable[float] = ()
    label: str = STATISTICAL
    qualifiers: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return it as HEPData writes it."""
        cells = [_cell(value) for value in self.values]
        for cell, error in zip(cells, self.errors, strict=False):
            if cell.get("value") != NONE and 0 < error < math.inf:  # HEPData refuses an error of 0
                cell["errors"] = [{"symerror": _number(error), "label": self.label}]
        found: dict[str, Any] = {"header": {"name": self.name}, "values": cells}
        if self.qualifiers:
            found["qualifiers"] = [{"name": name, "value": value} for name, value in self.qualifiers.items()]
        return found


@dataclass(frozen=True)
class HepDataTable:
    """A table.

    Attributes:
        name: unique in a submission.
        file: that it is written to.
        description: what it shows, of which events.
        independent: what is read off by.
        dependent: what was found.
    """

    name: str
    file: str
    description: str
    independent: tuple[Variable, ...]
    dependent: tuple[Variable, ...]


def _number(value: Any) -> float:
    return float(f"{float(value):.{DIGITS}g}")


def _cell(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"value": value}
    if isinstance(value, tuple):
        return {"low": _number(value[0]), "high": _number(value[1])}
    return {"value": _number(value) if math.isfinite(value) else NONE}


def write_tables(folder: Path, tables: Sequence[HepDataTable], comment: str) -> None:
    """Write a submission into a folder, which is made.

    Args:
        folder: absent.
        tables: at least one.
        comment: about all of them.
    """
    folder.mkdir()
    documents: list[dict[str, Any]] = [{"comment": comment}]
    for table in tables:
        documents.append(
            {
                "name": table.name,
                "description": table.description,
                "keywords": [{"name": "phrases", "values": ["machine learning", "classifier"]}],
                "data_file": table.file,
            }
        )
        content = {
            "independent_variables": [one.document() for one in table.independent],
            "dependent_variables": [one.document() for one in table.dependent],
        }
        (folder / table.file).write_text(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
    (folder / SUBMISSION).write_text(
        yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def table_of_metrics(description: Description) -> HepDataTable | None:
    """Return the metrics of the test split that a model was confirmed with; None of a model without evidence."""
    evidence = description.evidence
    if evidence is None:
        return None
    own = description.metrics
    names = [
        name
        for name in own
        if name.startswith("test_") and not name.startswith("test_confusion") and not _is_an_error(name)
    ]
    seeds = len(evidence.contender.runs)

    def of_seeds(words: str, contender: Contender) -> Variable:
        found = [contender.estimates.get(name) for name in names]
        return Variable(
            words,
            [math.nan if one is None else one.mean for one in found],
            [math.nan if one is None else one.sd for one in found],
            f"s.d. over {len(contender.runs)} seeds",
        )

    return HepDataTable(
        "Metrics",
        "metrics.yaml",
        "Metrics on the test split: of the model that is handed on "
        f"(seed {description.origin.get('seed', '?')}), of its configuration as mean over {seeds} seeds, and of the "
        "baseline that it was compared with.",
        (Variable("Metric", [metric_words(name).removeprefix("test ") for name in names]),),
        (
            Variable(
                "This model",
                [own[name] for name in names],
                [own.get(f"{name}_error", math.nan) for name in names],
            ),
            of_seeds("Its configuration", evidence.contender),
            of_seeds("Baseline", evidence.baseline),
        ),
    )


def _is_an_error(name: str) -> bool:
    """Return whether a key is the statistical error of a metric, and no metric that ends so, as calibration_error."""
    bare = name.removeprefix("test_")
    owner = metric_of(bare)
    return bare.endswith("_error") and (owner is None or bare != owner.name)


def tables_of_scores(found: Performance, scores: Scores) -> Iterator[HepDataTable]:
    """Yield what one model's scores give: ROC curve, working points, distributions, confusion matrix.

    Args:
        found: counts of the model.
        scores: whose classes and split they are of.
    """
    signal = scores.classes[scores.signal]
    rest = ", ".join(name for label, name in enumerate(scores.classes) if label != scores.signal)
    counted = f"of the {scores.split}"
    if found.effective is not None:
        counted += f", weighted, as precise as {found.effective:,.0f} without weights"
    of = {"Signal": signal, "Background": rest, "Events": f"{found.events} {counted}"}
    where = f"{found.events:,} events {counted}; signal {signal}, background {rest}."
    measured = [
        math.nan if limit else value for limit, value in zip(found.limit, found.rejection, strict=True)
    ]
    yield HepDataTable(
        "ROC curve",
        "roc_curve.yaml",
        f"Background efficiency and rejection against signal efficiency. AUC {found.auc:.5g} ± {found.auc_error:.2g}. "
        "Where less than one background event passes, no rejection is given, and the error of the background "
        f"efficiency is that of one event. {where}",
        (Variable("Signal efficiency", EFFICIENCIES),),
        (
            Variable(
                "Background efficiency",
                found.background_efficiency,
                found.rejection_error
                / found.rejection**2,  # dε_b = d(1/ε_b)·ε_b², at one event where it is a limit
                qualifiers=of,
            ),
            Variable("Background rejection", measured, found.rejection_error, qualifiers=of),
        ),
    )
    points = found.points
    yield HepDataTable(
        "Working points",
        "working_points.yaml",
        f"Cuts on the log-odds of the signal, ln p - ln(1 - p), as the model's output log_odds has them. {where}",
        (Variable("Signal efficiency", [point.percent / 100 for point in points]),),
        (
            Variable("Least log-odds", [point.log_odds for point in points], qualifiers=of),
            Variable(
                "Background rejection",
                [math.nan if point.limit else point.rejection for point in points],
                [point.error for point in points],
                qualifiers=of,
            ),
        ),
    )
    sums = found.scores.sum(axis=1, keepdims=True)
    shares, errors = found.scores / sums, fraction_errors(found.scores, found.score_squares)
    yield HepDataTable(
        "Scores",
        "scores.yaml",
        f"Share of the events of each class by the probability of the signal, with binomial errors. {where}",
        (
            Variable(
                f"Probability of {signal}",
                [(place / SCORE_BINS, (place + 1) / SCORE_BINS) for place in range(SCORE_BINS)],
            ),
        ),
        tuple(
            Variable(f"Share of {name}", shares[label], errors[label])
            for label, name in enumerate(scores.classes)
        ),
    )
    fractions = found.confusion / found.confusion.sum(axis=1, keepdims=True)
    pairs = [(true, called) for true in range(len(scores.classes)) for called in range(len(scores.classes))]
    yield HepDataTable(
        "Confusion matrix",
        "confusion_matrix.yaml",
        f"Share of the events of each true class that are called each class, by the greatest probability. {where}",
        (
            Variable("True class", [scores.classes[true] for true, _ in pairs]),
            Variable("Predicted class", [scores.classes[called] for _, called in pairs]),
        ),
        (
            Variable(
                "Share",
                [fractions[pair] for pair in pairs],
                [found.share_errors[pair] for pair in pairs],
                qualifiers=of,
            ),
        ),
    )
