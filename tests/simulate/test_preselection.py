"""The cuts of study 4.1's preselection, counted on images of objects made by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / f"docs/scripts/{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def preselection() -> ModuleType:
    return script("preselection")


def test_objects_are_told_by_what_fills_their_bin() -> None:
    """One of each kind at η = 0.1, the jet alone above 1 TeV."""
    tables = script("simulation_tables")
    electromagnetic, hadronic, tracks = np.zeros((3, 50, 50))
    tracks[0, 25] = 400.0  # muon
    electromagnetic[2, 25] = 500.0  # photon
    hadronic[3, 25] = 500.0  # as of a graviton
    electromagnetic[4, 25] = tracks[4, 25] = 400.0  # electron
    electromagnetic[5, 25] = hadronic[5, 25] = 1000.0
    tracks[5, 25] = 1200.0  # jet
    hadronic[6, 25] = 200.0  # too soft
    counts = tables.species(electromagnetic, hadronic, tracks)
    assert counts.tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]


def test_cuts_count_objects_of_the_centre_above_70_gev_and_missing_momentum(preselection: ModuleType) -> None:
    electromagnetic, hadronic, tracks = np.zeros((3, 4, 50, 50))
    # Bin 25 is η = 0.1; bin 40 is η = 3.1, outside. Every event has four muons of 1,500 GeV.
    tracks[:, :4, 25] = 1500.0
    electromagnetic[0, 9, 25] = 800.0 * np.cosh(0.1)  # a photon: five objects, 6,800 GeV
    electromagnetic[1, 9, 25] = 800.0 * np.cosh(0.1)
    hadronic[2, 9, 25] = 1200.0 * np.cosh(0.1)  # five objects, 7,200 GeV without missing momentum
    hadronic[3, 9, 40] = 1e5  # outside: four objects
    met = np.array([60.0, 250.0, 0.0, 2000.0])  # below 70 GeV it counts for nothing
    shares = preselection.Objects.of(electromagnetic, hadronic, tracks, met).shares()
    assert shares == {
        "N ≥ 5": 0.75,  # all but the last
        "S~T~ ≥ 7 TeV": 0.75,  # all but the first
        "both": 0.5,
        "both, no photons": 0.25,  # the third alone
        "both, one object more": 0.0,
    }


def test_rows_are_found_where_the_table_has_one_that_no_event_has(preselection: ModuleType) -> None:
    listed = np.random.default_rng(0).uniform(4000, 9000, 80)
    sums = np.delete(listed, 30)[:60]
    sums[10] -= 500.0  # two objects that share a bin
    assert preselection.rows_of(sums, listed).tolist() == [*range(30), *range(31, 61)]
