"""Classifiers that scikit-learn fits and torch evaluates: logistic regression, gradient-boosted trees.

`logistic_regression`, shapes (N events, F features):

    features                          F
    (x - mean)/s.d. of training       F
    linear                            n_classes

`gradient_boosting`, shapes (T trees, K = n_classes or 1 of two classes):

    features                          F
    leaf that each tree ends in       T·K
    sum of leaf values                K
    logits                            n_classes
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from hep_ray.models import SchemaLike, model
from hep_ray.models.fitted import FittedConfig, FittedModel, Floats, Labels, Weights


class LogisticRegressionConfig(FittedConfig):
    """Configuration of `logistic_regression`.

    Attributes:
        regularisation: λ of the penalty λ|w|²/2 added to the summed loss.
    """

    regularisation: float = Field(default=1.0, gt=0)


@model("logistic_regression", LogisticRegressionConfig)
class LogisticRegression(FittedModel):
    """The best linear classifier."""

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

    def _logits(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread @ self.weight.T + self.bias


class GradientBoostingConfig(FittedConfig):
    """Configuration of `gradient_boosting`.

    Attributes:
        trees: T, per class.
        leaves: of each tree, at most.
        tree_depth: of each tree, at most.
        leaf_events: events in a leaf, at least.
        shrinkage: factor of every tree's contribution.
        leaf_penalty: L2 penalty of the leaves' values.
    """

    trees: int = Field(default=100, ge=1)
    leaves: int = Field(default=31, ge=2)
    tree_depth: int = Field(default=10, ge=1)
    leaf_events: int = Field(default=20, ge=1)
    shrinkage: float = Field(default=0.1, gt=0, le=1)
    leaf_penalty: float = Field(default=0.0, ge=0)


@model("gradient_boosting", GradientBoostingConfig)
class GradientBoosting(FittedModel):
    """scikit-learn's histogram gradient boosting, without early stopping; a missing value has a branch of its own."""

    takes_missing = True
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    start: Tensor

    def __init__(self, config: GradientBoostingConfig, schema: SchemaLike) -> None:
        super().__init__(config.inputs, schema)
        self.config = config
        self.outputs = 1 if self.classes == 2 else self.classes  # noqa: PLR2004 - one function decides between two
        nodes = (config.trees * self.outputs, 2 * config.leaves - 1)
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int64))
        if self.has_missing:
            self.register_buffer("missing_left", torch.zeros(nodes, dtype=torch.bool))
        for name in ("threshold", "value"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("start", torch.zeros(self.outputs, dtype=torch.float64))

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
            self._take(row, nodes)
        self._keep(start=np.ravel(estimator._baseline_prediction))  # noqa: SLF001

    def _take(self, row: int, nodes: npt.NDArray[Any]) -> None:
        own = np.arange(len(nodes))
        leaf = nodes["is_leaf"].astype(bool)
        for buffer, values in (
            (self.feature, np.where(leaf, 0, nodes["feature_idx"])),
            (self.threshold, np.where(leaf, 0.0, nodes["num_threshold"])),
            (self.left, np.where(leaf, own, nodes["left"])),  # a leaf leads to itself
            (self.right, np.where(leaf, own, nodes["right"])),
            (self.value, nodes["value"]),
        ):
            buffer[row, : len(nodes)] = torch.from_numpy(values.astype(np.float64)).to(buffer.dtype)
        if self.has_missing:
            left = nodes["missing_go_to_left"].astype(bool)
            self.get_buffer("missing_left")[row, : len(nodes)] = torch.from_numpy(left)

    def operations(self) -> int:
        """A comparison for each level of each tree, and a sum for its leaf."""
        return len(self.feature) * (self.config.tree_depth + 1)

    def _logits(self, features: Tensor) -> Tensor:
        features = features.double()
        tree = torch.arange(len(self.feature), device=features.device)
        node = torch.zeros((len(features), len(self.feature)), dtype=torch.int64, device=features.device)
        for _ in range(self.config.tree_depth):
            values = features.gather(1, self.feature[tree, node])
            lower = values <= self.threshold[tree, node]
            if self.has_missing:
                missing = torch.isnan(values)  # no torch.where: ONNX Runtime has none of booleans
                lower = (missing & self.get_buffer("missing_left")[tree, node]) | (~missing & lower)
            node = torch.where(lower, self.left[tree, node], self.right[tree, node])
        values = self.value[tree, node].view(-1, self.config.trees, self.outputs)
        raw = self.start + values.sum(1)
        return (torch.cat([-raw / 2, raw / 2], dim=1) if self.outputs == 1 else raw).float()
