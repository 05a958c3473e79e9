"""Boosted trees as arrays that torch evaluates, whichever library grew them; and those of XGBoost.

Shapes (N events, F features, T trees, K = n_classes or 1 of two classes):

    features                          F
    leaf that each tree ends in       T·K
    sum of leaf values                K
    logits                            n_classes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from hep_ray.models import SchemaLike, model
from hep_ray.models.fitted import FittedConfig, FittedModel, Floats, Labels, Weights


class TreesConfig(FittedConfig):
    """Fields common to boosted trees.

    Attributes:
        trees: T, per class.
        leaves: of each tree, at most.
        tree_depth: of each tree, at most.
        shrinkage: factor of every tree's contribution.
        leaf_penalty: L2 penalty of the leaves' values.
    """

    trees: int = Field(default=100, ge=1)
    leaves: int = Field(default=31, ge=2)
    tree_depth: int = Field(default=10, ge=1)
    shrinkage: float = Field(default=0.1, gt=0, le=1)
    leaf_penalty: float = Field(default=0.0, ge=0)


class Trees(FittedModel):
    """Trees whose nodes are buffers; a missing value has a branch of its own.

    A node sends an event to the left where its feature is at most the threshold; a leaf leads to itself.
    """

    takes_missing = True
    multiplies = False
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    start: Tensor

    def __init__(self, config: TreesConfig, schema: SchemaLike) -> None:
        super().__init__(config.inputs, schema)
        self.trees, self.depth = config.trees, config.tree_depth
        self.outputs = 1 if self.classes == 2 else self.classes  # noqa: PLR2004 - one function decides between two
        nodes = (config.trees * self.outputs, 2 * config.leaves - 1)
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int64))
        if self.has_missing:
            self.register_buffer("missing_left", torch.zeros(nodes, dtype=torch.bool))
        for name in ("threshold", "value"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("start", torch.zeros(self.outputs, dtype=torch.float64))

    def _take(self, row: int, leaf: npt.NDArray[np.bool_], nodes: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep a tree: `feature`, `threshold`, `left`, `right`, `value` and `missing_left` of each node, (nodes,)."""
        own = np.arange(len(leaf))
        for name, at_leaf in (("feature", 0), ("threshold", 0.0), ("left", own), ("right", own)):
            values = np.where(leaf, at_leaf, nodes[name])
            buffer = self.get_buffer(name)
            buffer[row, : len(own)] = torch.from_numpy(values.astype(np.float64)).to(buffer.dtype)
        self.value[row, : len(own)] = torch.from_numpy(np.asarray(nodes["value"], dtype=np.float64))
        if self.has_missing:
            missing = torch.from_numpy(np.asarray(nodes["missing_left"]).astype(bool))
            self.get_buffer("missing_left")[row, : len(own)] = missing

    def operations(self) -> int:
        """A comparison for each level of each tree, and a sum for its leaf."""
        return len(self.feature) * (self.depth + 1)

    def _logits(self, features: Tensor) -> Tensor:
        features = features.double()
        tree = torch.arange(len(self.feature), device=features.device)
        node = torch.zeros((len(features), len(self.feature)), dtype=torch.int64, device=features.device)
        for _ in range(self.depth):
            values = features.gather(1, self.feature[tree, node])
            lower = values <= self.threshold[tree, node]
            if self.has_missing:
                missing = torch.isnan(values)  # no torch.where: ONNX Runtime has none of booleans
                lower = (missing & self.get_buffer("missing_left")[tree, node]) | (~missing & lower)
            node = torch.where(lower, self.left[tree, node], self.right[tree, node])
        values = self.value[tree, node].view(-1, self.trees, self.outputs)
        raw = self.start + values.sum(1)
        return (torch.cat([-raw / 2, raw / 2], dim=1) if self.outputs == 1 else raw).float()


class SampledTreesConfig(TreesConfig):
    """Fields common to trees that may be grown on a part of the events and features each.

    Attributes:
        leaf_weight: sum of the weights times p(1 − p) of the events in a leaf, at least.
        least_gain: of the loss by a division, at least.
        events_per_tree: share of the training events that each tree is grown on.
        features_per_tree: share of the features that each tree may look at.
    """

    leaf_weight: float = Field(default=1.0, ge=0)
    least_gain: float = Field(default=0.0, ge=0)
    events_per_tree: float = Field(default=1.0, gt=0, le=1)
    features_per_tree: float = Field(default=1.0, gt=0, le=1)

    @property
    def seedless(self) -> bool:
        """Whether no tree draws events or features."""
        return self.events_per_tree == self.features_per_tree == 1


class XGBoostConfig(SampledTreesConfig):
    """Configuration of `xgboost`; XGBoost's own names in brackets.

    Attributes:
        leaf_penalty: L2 penalty of the leaves' values (`reg_lambda`).
        leaf_weight: sum of the weights times p(1 − p) of the events in a leaf, at least (`min_child_weight`).
        least_gain: of the loss by a division, at least (`gamma`).
        events_per_tree: share of the training events that each tree is grown on (`subsample`).
        features_per_tree: share of the features that each tree may look at (`colsample_bytree`).
    """

    leaf_penalty: float = Field(default=1.0, ge=0)


@model("xgboost", XGBoostConfig)
class XGBoost(Trees):
    """XGBoost's trees, best division first; fitted by XGBoost, evaluated without it.

    Chen and Guestrin, KDD 2016, arXiv:1603.02754.
    """

    package = "xgboost"
    takes_negative = False

    def __init__(self, config: XGBoostConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.config = config

    def _fit(self, features: Floats, labels: Labels, weights: Weights, seed: int) -> None:
        import xgboost

        events = xgboost.DMatrix(features.astype(np.float32), label=labels, weight=weights)
        several = {"objective": "multi:softprob", "num_class": self.classes}
        booster = xgboost.train(
            {
                **({"objective": "binary:logistic"} if self.outputs == 1 else several),
                "tree_method": "hist",
                "grow_policy": "lossguide",
                "max_leaves": self.config.leaves,
                "max_depth": self.config.tree_depth,
                "eta": self.config.shrinkage,
                "reg_lambda": self.config.leaf_penalty,
                "min_child_weight": self.config.leaf_weight,
                "gamma": self.config.least_gain,
                "subsample": self.config.events_per_tree,
                "colsample_bytree": self.config.features_per_tree,
                "nthread": torch.get_num_threads(),
                "seed": seed,
                "verbosity": 0,
            },
            events,
            self.config.trees,
        )
        # Its documented JSON: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        start = np.ravel(json.loads(learner["learner_model_param"]["base_score"])).astype(np.float64)
        self._keep(start=np.log(start / (1 - start)) if self.outputs == 1 else start)
        for row, tree in enumerate(learner["gradient_booster"]["model"]["trees"]):
            leaf = np.asarray(tree["left_children"]) < 0
            conditions = np.asarray(tree["split_conditions"], dtype=np.float32)
            self._take(
                row,
                leaf,
                {
                    "feature": np.asarray(tree["split_indices"]),
                    # It goes to the left below a condition, in float32: at most the number before.
                    "threshold": np.nextafter(conditions, np.float32(-np.inf)),
                    "left": np.asarray(tree["left_children"]),
                    "right": np.asarray(tree["right_children"]),
                    "value": np.where(leaf, conditions, 0),
                    "missing_left": np.asarray(tree["default_left"]),
                },
            )
