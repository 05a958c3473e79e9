"""The likelihood method: every class by the product of its features' probability densities.

Shapes (N events, F features, B bins):

    features                          F
    bin of each feature               F
    log density of it, per class      F, n_classes
    sum over features, log prior      n_classes

Of two classes the softmax is d_L = L_S/(L_S + L_B), with the classes' shares of the training events as prior. Source:
ATLAS, arXiv:1902.04655, section 6 (discriminant, transformation, working points).

Densities are histograms smoothed by a Gaussian of a fixed width in bins, or by the adaptive kernel of the UdeM thesis
(`kernel="adaptive"`): Cranmer, hep-ex/0011057. Of n events with spread σ and a first estimate f₀, which has the
fixed width h = (4/3)^⅕ σ n^-⅕, an event at x is spread by a Gaussian of width h √(1/(σ f₀(x))): narrow where there are
many, wide in the tails. Here events are counted in fine bins first, and the kernels are cut off at the outermost bins.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from hep_ray.models import SchemaLike, model
from hep_ray.models.fitted import FittedConfig, FittedModel, Floats, Labels, Weights

WORKING_POINTS = {"loose": 0.93, "medium": 0.88, "tight": 0.80}
"""Signal efficiency of each, on average over electrons of electroweak decays (arXiv:1902.04655, section 6)."""
OUTSIDE = 0.001
"""Fraction of the events on either side that the outermost bins take in."""
NARROWEST = 0.01
"""Width of a kernel at least, in bins: all of it lies in its own bin then."""
WIDEST = 10
"""Width of a kernel at most, in ranges of the histogram: it is flat over the bins then, and a wider one underflows."""


class LikelihoodConfig(FittedConfig):
    """Configuration of `likelihood`.

    Attributes:
        bins: B, of each feature's histogram.
        kernel: `fixed` is a Gaussian of one width, `adaptive` one whose width follows the density.
        smoothing: standard deviation of the fixed Gaussian, in bins; factor of the adaptive one's width.
        prior: `training` takes the classes' shares of the training events, `equal` the same for all.
    """

    bins: int = Field(default=100, ge=2)
    kernel: Literal["fixed", "adaptive"] = "fixed"
    smoothing: float = Field(default=1.0, ge=0)
    prior: str = Field(default="training", pattern="^(training|equal)$")


@model("likelihood", LikelihoodConfig)
class Likelihood(FittedModel):
    """Features as if they were independent of each other within a class."""

    multiplies = False
    low: Tensor
    width: Tensor
    log_density: Tensor
    log_prior: Tensor
    least_log_odds: Tensor

    def __init__(self, config: LikelihoodConfig, schema: SchemaLike) -> None:
        super().__init__(config.inputs, schema)
        self.bins, self.smoothing, self.prior = config.bins, config.smoothing, config.prior
        self.adaptive = config.kernel == "adaptive"
        features = self.flat.features
        self.register_buffer("low", torch.zeros(features))
        self.register_buffer("width", torch.ones(features))
        self.register_buffer("log_density", torch.zeros(features, self.bins, self.classes))
        self.register_buffer("log_prior", torch.zeros(self.classes))
        self.register_buffer("least_log_odds", torch.zeros(len(WORKING_POINTS), dtype=torch.float64))
        self.register_load_state_dict_pre_hook(_from_probabilities)  # type: ignore[no-untyped-call]

    def cuts(self) -> dict[str, float]:
        """Loose, medium and tight: name → least log-odds of the signal; none where no class is the signal."""
        if self.signal is None:
            return {}
        return dict(zip(WORKING_POINTS, self.least_log_odds.tolist(), strict=True))

    def _fit(self, features: Floats, labels: Labels, weights: Weights, seed: int) -> None:  # noqa: ARG002 - nothing is drawn
        counted = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
        low, high = np.quantile(features, [OUTSIDE, 1 - OUTSIDE], axis=0)
        width = np.where(high > low, (high - low) / self.bins, 1.0)
        self._keep(low=low, width=width)
        places = self._places(torch.from_numpy(features).float()).numpy()
        for label in range(self.classes):
            chosen = labels == label
            for feature in range(features.shape[1]):
                counts = np.bincount(places[chosen, feature], counted[chosen], minlength=self.bins)
                smooth = self._smoothed(counts.astype(np.float64))
                # One event spread over all bins: none is impossible.
                density = (smooth + 1 / self.bins) / (smooth.sum() + 1)
                self.log_density[feature, :, label] = torch.from_numpy(np.log(density))
        shares = np.bincount(labels, counted, minlength=self.classes) / counted.sum()
        if self.prior == "training":
            self._keep(log_prior=np.log(shares))
        if self.signal is not None:
            logits = self._logits(torch.from_numpy(features).float())
            rest = [label for label in range(self.classes) if label != self.signal]
            log_odds = logits[:, self.signal] - logits[:, rest].logsumexp(1)
            signal = log_odds.double().numpy()[labels == self.signal]
            for index, efficiency in enumerate(WORKING_POINTS.values()):
                self.least_log_odds[index] = np.quantile(signal, 1 - efficiency, method="lower")

    def _smoothed(self, counts: Floats) -> Floats:
        """Return the counts of a histogram, spread by the kernel."""
        if not self.smoothing:
            return counts
        if self.adaptive:
            return adaptive_estimate(counts, self.smoothing)
        from scipy.ndimage import gaussian_filter1d

        smooth: Floats = gaussian_filter1d(counts, self.smoothing, mode="nearest")
        return smooth

    def operations(self) -> int:
        """Count, for each feature, its bin and a sum for each class."""
        return self.flat.features * (1 + self.classes)

    def _places(self, features: Tensor) -> Tensor:
        return ((features - self.low) / self.width).floor().clamp(0, self.bins - 1).long()

    def _logits(self, features: Tensor) -> Tensor:
        places = self._places(features)
        of_feature = torch.arange(features.shape[1], device=features.device)
        return self.log_density[of_feature, places].sum(1) + self.log_prior


def adaptive_estimate(counts: Floats, factor: float = 1.0) -> Floats:
    """Return a histogram spread by adaptive Gaussian kernels; its sum stays (Cranmer, hep-ex/0011057).

    Args:
        counts: (B,) events in bins of equal width, which is the unit of length here.
        factor: of all widths.
    """
    total = counts.sum()
    centres = np.arange(len(counts)) + 0.5
    mean = np.average(centres, weights=counts) if total > 0 else 0.0
    spread = np.sqrt(np.average((centres - mean) ** 2, weights=counts)) if total > 0 else 0.0
    if spread == 0:
        return counts
    fixed = factor * (4 / 3) ** 0.2 * spread * total**-0.2
    pilot = _spread(counts, np.full(len(counts), fixed)) / total
    widths = fixed / np.sqrt(spread * np.maximum(pilot, pilot[pilot > 0].min()))
    return _spread(counts, widths)


def _spread(counts: Floats, widths: Floats) -> Floats:
    """Return (B,) counts, those of each bin spread by a Gaussian of its own width about its centre."""
    from scipy.special import ndtr

    filled = np.flatnonzero(counts)
    edges = np.arange(len(counts) + 1)
    limited = np.clip(widths[filled], NARROWEST, WIDEST * len(counts))[:, None]
    shares = np.diff(ndtr((edges[None] - (filled + 0.5)[:, None]) / limited), axis=1)
    return np.asarray(counts[filled] @ (shares / shares.sum(axis=1, keepdims=True)), dtype=np.float64)


def _from_probabilities(_module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    """Read a model that was kept when cuts were still probabilities."""
    old = state.pop(prefix + "least_probability", None)
    if old is not None:
        state[prefix + "least_log_odds"] = torch.logit(old)
