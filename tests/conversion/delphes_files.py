"""A small file as Delphes writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import uproot


def write_delphes(path: Path, values: np.ndarray, number: np.ndarray | None = None) -> None:
    """Write events of one tower and one track, whose energies and place follow from one value per event.

    Args:
        path: of the file.
        values: (N,) of any sign.
        number: (N,) of the events; None leaves the branch out.
    """
    values = np.asarray(values, np.float32)
    size = np.abs(values)
    branches = {
        "Tower.Eta": np.tanh(values) * 4,
        "Tower.Phi": np.tanh(values) * 3,
        "Tower.Eem": size + 1,
        "Tower.Ehad": 2 * size + 1,
        "Track.Eta": np.tanh(values),
        "Track.Phi": -np.tanh(values) * 3,
        "Track.PT": 3 * size + 1,
    }
    if number is not None:
        branches["Event.Number"] = number
    write_branches(path, {name: array[:, None] for name, array in branches.items()})


def write_branches(path: Path, branches: Mapping[str, Sequence[np.ndarray] | np.ndarray]) -> None:
    """Write branches of varying length, one array per event."""
    kinds = {
        name: values.dtype if isinstance(values, np.ndarray) else values[0].dtype
        for name, values in branches.items()
    }
    with uproot.recreate(path) as file:
        tree = file.mktree("Delphes", {name: f"var * {kind}" for name, kind in kinds.items()})
        if all(map(len, branches.values())):
            tree.extend(
                {name: ak.Array([one.tolist() for one in values]) for name, values in branches.items()}
            )
