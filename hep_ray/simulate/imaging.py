"""η–φ images and event variables from reconstructed objects, as in the reference sample.

What the reference holds was worked out from its files: every object fills one bin, its energy p_T cosh η
split into electromagnetic and hadronic by the ratio of its neutral calorimeter cells, its p_T as track
momentum where it has tracks; muons fill the track channel alone. In the event variables the missing
momentum counts as one object more: it is part of H_T, of the number and of the leading p_T.
The preselection of arXiv:2310.15227 has quantities of its own: objects with p_T above 70 GeV, and their S_T.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hep_ray.simulate.objects import Objects

PIXELS = 50
ETA_MAX = 5.0
HARD_PT = 70.0  # GeV
CHANNELS = ("electromagnetic", "tracks", "hadronic")


def event_image(objects: Objects) -> NDArray[np.float32]:
    """Histogram in GeV, shape (50 φ ∈ [−π, π], 50 η ∈ [−5, 5], 3 channels as in `CHANNELS`)."""
    image = np.zeros((PIXELS, PIXELS, len(CHANNELS)), dtype=np.float64)
    inside = np.abs(objects.eta) < ETA_MAX
    phi = np.minimum(((objects.phi + math.pi) / (2 * math.pi) * PIXELS).astype(np.intp), PIXELS - 1)
    eta = ((objects.eta + ETA_MAX) / (2 * ETA_MAX) * PIXELS).astype(np.intp)
    values = np.column_stack([objects.electromagnetic, objects.pt * objects.tracks, objects.hadronic])
    np.add.at(image, (phi[inside], eta[inside]), values[inside])
    return image.astype(np.float32)


def event_variables(objects: Objects) -> dict[str, float]:
    """Quantities of an event as a whole.

    Returns:
        `ht`, `met` and `leading_pt` in GeV, `n_objects`, with missing momentum as an object; `st` in GeV,
        the sum of the p_T above 70 GeV and of missing momentum; `n_objects_70`, the objects above 70 GeV
        without it. The preselection is `n_objects_70 >= 5 and st >= 7000`.
    """
    momenta = np.append(objects.pt, objects.missing)
    hard = objects.pt[objects.pt > HARD_PT]
    return {
        "ht": float(momenta.sum()),
        "met": objects.missing,
        "leading_pt": float(momenta.max()),
        "n_objects": float(len(momenta)),
        "st": float(hard.sum()) + objects.missing,
        "n_objects_70": float(len(hard)),
    }
