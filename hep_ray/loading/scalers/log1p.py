"""The logarithm for quantities that span decades."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from hep_ray.loading.scalers import Scaler, scaler


@scaler("log1p")
class Log1p(Scaler):
    """sgn(x) ln(1 + |x|); nothing is fitted, but it is asked for as of every scaler."""

    def _fit(self, values: npt.NDArray[np.float64]) -> None:
        pass

    def _scale(self, values: Tensor) -> Tensor:
        return values.sign() * values.abs().log1p()
