"""Classifiers that scikit-learn fits and torch evaluates: logistic regression, gradient-boosted trees.

`logistic_regression`, shapes (N events, F features):

    features                          F
    (x - mean)/s.d. of training       F
    linear                            n_classes

`gradient_boosting`: see `Trees`.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hep_ray.models import SchemaLike, model
from hep_ray.models.fitted import FittedConfig, FittedModel, Floats, Labels, Weights
from hep_ray.models.trees import Trees, TreesConfig


class LogisticRegressionConfig(FittedConfig):
    """Configuration of `logistic_regression`.

    Attributes:
        regularisation: λ of the penalty λ|w|²/2 added to the summed loss.
    """

    regularisation: float = Field(default=1.0, gt=0)


@model("logistic_regression", LogisticRegressionConfig)
class LogisticRegression(FittedModel):
    """The best linear classifier."""

    multiplies = False
    mean: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, config: LogisticRegressionConfig, schema: SchemaLike) -> None:
        super().__init__(config.inputs, schema)
        self.regularisation = config.regularisation
        self.register_buffer("mean", torch.zeros(self.flat.features))
        self.register_buffer("spread", torch.ones(self.flat.features))
        self.register_buffer("weight", torch.zeros(self.classes, self.flat.features))
        self.register_buffer("bias", torch.zeros(self.classes))

    def _fit(self, features: Floats, labels: Labels, weights: Weights, seed: int) -> None:
        from sklearn.linear_model import LogisticRegression as Estimator
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(features)
        estimator = Estimator(C=1 / self.regularisation, max_iter=1000, random_state=seed)
        estimator.fit(scaler.transform(features), labels, sample_weight=weights)
        weight, bias = estimator.coef_, estimator.intercept_
        if len(weight) == 1:  # two classes: one function decides between them
            weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.array([-bias[0], bias[0]]) / 2
        self._keep(mean=scaler.mean_, spread=scaler.scale_, weight=weight, bias=bias)

    def operations(self) -> int:
        """Count the products and sums of the weights."""
        return 2 * self.weight.numel()

    def _logits(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread @ self.weight.T + self.bias


class GradientBoostingConfig(TreesConfig):
    """Configuration of `gradient_boosting`.

    Attributes:
        leaf_events: events in a leaf, at least.
    """

    leaf_events: int = Field(default=20, ge=1)


@model("gradient_boosting", GradientBoostingConfig)
class GradientBoosting(Trees):
    """scikit-learn's histogram gradient boosting, without early stopping."""

    def __init__(self, config: GradientBoostingConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.config = config

    def _fit(self, features: Floats, labels: Labels, weights: Weights, seed: int) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        estimator = HistGradientBoostingClassifier(
            max_iter=self.config.trees,
            max_leaf_nodes=self.config.leaves,
            max_depth=self.config.tree_depth,
            min_samples_leaf=self.config.leaf_events,
            learning_rate=self.config.shrinkage,
            l2_regularization=self.config.leaf_penalty,
            early_stopping=False,
            random_state=seed,
        ).fit(features, labels, sample_weight=weights)
        # There is no public way to the trees; a test holds these buffers to the estimator's own probabilities.
        trees = [tree.nodes for of_iteration in estimator._predictors for tree in of_iteration]  # noqa: SLF001
        for row, nodes in enumerate(trees):
            names = {
                "feature": "feature_idx",
                "threshold": "num_threshold",
                "missing_left": "missing_go_to_left",
            }
            read = {name: nodes[names.get(name, name)] for name in (*names, "left", "right", "value")}
            self._take(row, nodes["is_leaf"].astype(bool), read)
        self._keep(start=np.ravel(estimator._baseline_prediction))  # noqa: SLF001
