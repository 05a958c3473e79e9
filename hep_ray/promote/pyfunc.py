"""Loader of a promoted model for MLflow's python_function flavour, where hep_ray is installed."""

from __future__ import annotations

from typing import Any

from hep_ray.promote.classifier import Classifier
from hep_ray.promote.package import load_model


class ScoringModel:
    """A classifier with MLflow's `predict`.

    Args:
        classifier: that gives the scores.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def predict(self, events: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002 (MLflow's signature)
        """Return scores of events as a DataFrame: `score_<class>`, then `log_odds_<class>`, of every class.

        Args:
            events: a DataFrame or a dictionary of arrays.
            params: of MLflow; none is read.
        """
        import pandas as pd

        classifier = self.classifier
        probabilities, log_odds = classifier.scores(events)
        columns = dict(zip(classifier.score_names, probabilities.T, strict=True))
        return pd.DataFrame(columns | dict(zip(classifier.rank_names, log_odds.T, strict=True)))


def _load_pyfunc(path: str) -> ScoringModel:
    return ScoringModel(load_model(path))
