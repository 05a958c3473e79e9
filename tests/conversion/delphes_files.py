"""A small file as Delphes writes them."""

from __future__ import annotations

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
    with uproot.recreate(path) as file:
        tree = file.mktree("Delphes", {name: f"var * {array.dtype}" for name, array in branches.items()})
        if len(values):
            tree.extend({name: ak.from_regular(array[:, None]) for name, array in branches.items()})
