"""Task `jet_clouds`: the jets of `jet_images`, with their constituents as a list beside the image.

The same command with the same seed gives the same jets in both tasks, and networks of images and of particles can be
compared on the same events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence

from hep_ray.dataset.histogram import wrapped
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import SimulationFailed
from hep_ray.simulate import Columns, simulation
from hep_ray.simulate import jet_images as images
from hep_ray.simulate.detector import ELECTRON, HADRON, MUON, NEUTRAL_HADRON, PHOTON

MOST_CONSTITUENTS = 256
"""Constituents of a jet, at most; the largest of 4,400 jets has 120."""
KINDS = {
    "charged_hadron": HADRON,
    "electron": ELECTRON,
    "muon": MUON,
    "photon": PHOTON,
    "neutral_hadron": NEUTRAL_HADRON,
}
"""Element of a constituent that is 1 for one kind → the kind of deposit."""
ELEMENTS = ("pt", "energy", "delta_eta", "delta_phi", *KINDS)

SCHEMA = EventSchema(
    task="jet_clouds",
    columns=(
        Column(
            name="constituents",
            shape=(MOST_CONSTITUENTS, len(ELEMENTS)),
            elements=ELEMENTS,
            element_units=("GeV", "GeV", *[""] * (len(ELEMENTS) - 2)),
            lists=True,
        ),
        *images.SCHEMA.columns,
    ),
    classes=images.SCHEMA.classes,
    class_meaning=images.SCHEMA.class_meaning,
    signal=images.SCHEMA.signal,
)


@simulation("jet_clouds", images.JetImagesConfig, SCHEMA, requires=("pythia8mc", "fastjet"), chunk=1000)
def generate(config: images.JetImagesConfig, class_name: str, events: int, seed: SeedSequence) -> Columns:
    """Boosted H → bb (p_T > 300 GeV) against QCD: constituents and image of the leading anti-kT jet."""
    jets = images.leading_jets(config, class_name, events, seed)
    return {"constituents": constituents_of(jets), **images.columns_of(jets, config)}


def constituents_of(jets: Sequence[images.Jet]) -> npt.NDArray[np.float32]:
    """Constituents of jets from the largest p_T on, (N, 256, 9): p_T, energy, Δη and Δφ to the jet, and the kind.

    Places beyond the last constituent are NaN.

    Raises:
        SimulationFailed: a jet has more than 256.
    """
    values = np.full((len(jets), MOST_CONSTITUENTS, len(ELEMENTS)), np.nan, np.float32)
    for row, jet in enumerate(jets):
        parts = jet.constituents
        order = np.argsort(-parts.pt, kind="stable")
        if len(order) > MOST_CONSTITUENTS:
            raise SimulationFailed(
                f"a jet has {len(order)} constituents, and the column 'constituents' holds {MOST_CONSTITUENTS}: "
                "--set jet_radius takes smaller jets"
            )
        kinds = [parts.kind == kind for kind in KINDS.values()]
        found = (parts.pt, parts.energy, parts.eta - jet.eta, wrapped(parts.phi - jet.phi), *kinds)
        values[row, : len(order)] = np.stack(found, axis=1)[order]
    return values
