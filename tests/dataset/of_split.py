"""The split of an event, as tests that make datasets want to know it before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from hep_ray.dataset.splits import SPLITS, SplitRule, event_hashes, split_codes


def split_of(event_ids: Iterable[str], rule: SplitRule) -> npt.NDArray[Any]:
    """Return the split of every event: (N,) strings `train`, `val` or `test` of N ids."""
    return np.array(SPLITS)[split_codes(event_hashes(event_ids, rule.salt), rule)]
