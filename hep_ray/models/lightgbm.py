"""LightGBM's trees, evaluated by torch: see `Trees`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from hep_ray.errors import InvalidConfig
from hep_ray.models import SchemaLike, model
from hep_ray.models.fitted import Floats, Labels, Weights
from hep_ray.models.trees import SampledTreesConfig, Trees


class LightGBMConfig(SampledTreesConfig):
    """Configuration of `lightgbm`; LightGBM's own names in brackets.

    Attributes:
        trees: T, per class (`num_iterations`).
        leaves: of each tree, at most (`num_leaves`).
        tree_depth: of each tree, at most (`max_depth`).
        shrinkage: factor of every tree's contribution (`learning_rate`).
        leaf_penalty: L2 penalty of the leaves' values (`lambda_l2`).
        leaf_events: events in a leaf, at least (`min_data_in_leaf`).
        leaf_weight: sum of the weights times p(1 − p) of the events in a leaf, at least (`min_sum_hessian_in_leaf`).
        least_gain: of the loss by a division, at least (`min_gain_to_split`).
        events_per_tree: share of the training events that each tree is grown on (`bagging_fraction`).
        features_per_tree: share of the features that each tree may look at (`feature_fraction`).
    """

    leaf_events: int = Field(default=20, ge=1)
    leaf_weight: float = Field(default=1e-3, ge=0)


@model("lightgbm", LightGBMConfig)
class LightGBM(Trees):
    """LightGBM's trees, best division first; fitted by LightGBM, evaluated without it.

    Ke et al., NeurIPS 30 (2017) 3146.
    """

    package = "lightgbm"
    system_package = "libgomp1"
    takes_negative = False

    def __init__(self, config: LightGBMConfig, schema: SchemaLike) -> None:
        super().__init__(config, schema)
        self.config = config

    def _fit(self, features: Floats, labels: Labels, weights: Weights, seed: int) -> None:
        import lightgbm

        several = {"objective": "multiclass", "num_class": self.classes}
        try:
            booster = lightgbm.train(
                {
                    **({"objective": "binary"} if self.outputs == 1 else several),
                    "num_leaves": self.config.leaves,
                    "max_depth": self.config.tree_depth,
                    "learning_rate": self.config.shrinkage,
                    "lambda_l2": self.config.leaf_penalty,
                    "min_data_in_leaf": self.config.leaf_events,
                    "min_sum_hessian_in_leaf": self.config.leaf_weight,
                    "min_gain_to_split": self.config.least_gain,
                    "bagging_fraction": self.config.events_per_tree,
                    "bagging_freq": 1,
                    "feature_fraction": self.config.features_per_tree,
                    "deterministic": True,
                    "force_row_wise": True,
                    "num_threads": torch.get_num_threads(),
                    "seed": seed % 2**31,  # no larger ones are taken
                    "data_random_seed": 1,  # of the events that bins are made of: the same for every seed
                    "verbosity": -1,
                },
                lightgbm.Dataset(features.astype(np.float32), label=labels, weight=weights),
                self.config.trees,
            )
        except lightgbm.basic.LightGBMError as exc:
            raise InvalidConfig(f"LightGBM does not fit these events with these settings: {exc}") from exc
        # The first trees hold the prior. Where nothing can be divided any more there are fewer than asked for.
        for row, tree in enumerate(booster.dump_model()["tree_info"]):
            self._take(row, *flattened(tree["tree_structure"]))


def flattened(
    structure: Mapping[str, Any],
) -> tuple[npt.NDArray[np.bool_], dict[str, npt.NDArray[Any]]]:
    """Return which nodes of a nested tree are leaves, and each node's fields, (nodes,), as `Trees` keeps them.

    Args:
        structure: `tree_structure` of LightGBM's `Booster.dump_model`: the root, which holds its children.
    """
    nodes, left = [structure], []
    for node in nodes:  # grows on the way
        left.append(len(nodes))
        if "split_feature" in node:
            nodes += [node["left_child"], node["right_child"]]
    leaf = np.array(["split_feature" not in node for node in nodes])
    thresholds = np.array([node.get("threshold", 0.0) for node in nodes], dtype=np.float64)
    # A value that no training event lacked counts as zero where one is missing.
    by_default = [node.get("missing_type") == "NaN" for node in nodes]
    default_left = [node.get("default_left", False) for node in nodes]
    return leaf, {
        "feature": np.array([node.get("split_feature", 0) for node in nodes]),
        "threshold": thresholds,
        "left": np.array(left),
        "right": np.array(left) + 1,
        "value": np.array([0.0 if "split_feature" in node else node["leaf_value"] for node in nodes]),
        "missing_left": np.where(by_default, default_left, thresholds >= 0),
    }
