"""Logistic regression on standardised features, by scikit-learn.

Shapes (N events, F features):

    features                          F
    (x - mean)/s.d. of training       F
    linear                            n_classes
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from hep_ray.models import SchemaLike, model
from hep_ray.models.fitted import FittedConfig, FittedModel, Floats


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

    def _fit(
        self,
        features: Floats,
        labels: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32] | None,
        seed: int,
    ) -> None:
        from sklearn.linear_model import LogisticRegression as Estimator
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(features)
        estimator = Estimator(C=1 / self.regularisation, max_iter=1000, random_state=seed)
        estimator.fit(scaler.transform(features), labels, sample_weight=weights)
        weight, bias = estimator.coef_, estimator.intercept_
        if len(weight) == 1:  # two classes: one function decides between them
            weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.array([-bias[0], bias[0]]) / 2
        for buffer, values in (
            (self.mean, scaler.mean_),
            (self.spread, scaler.scale_),
            (self.weight, weight),
            (self.bias, bias),
        ):
            buffer.copy_(torch.from_numpy(values))

    def _logits(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.spread @ self.weight.T + self.bias
