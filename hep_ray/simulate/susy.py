"""Task `susy`: chargino pairs against W pairs, both with two leptons and missing transverse momentum.

After the benchmark of arXiv:1402.4735: χ̃⁺χ̃⁻ → W⁺W⁻ χ̃⁰χ̃⁰ against WW → 2ℓ2ν; by default masses of 200 and
100 GeV at √s = 8 TeV. Values are in GeV and radians; those of the UCI data set are scaled to order one.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.random import SeedSequence
from pydantic import Field, model_validator

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.simulate import Columns, simulation
from hep_ray.simulate.detector import ELECTRON, MUON, Deposits, detect, isolated
from hep_ray.simulate.pythia import STABLE_PIONS, CollisionConfig, FinalState, Generator, draw_seed, passing
from hep_ray.simulate.super_razor import Dileptons, high_level_features

WW, CHARGINO = "ww", "chargino"
LEPTONS = 2
W_MASS, HIGGS_MASS = 80.4, 125.0  # GeV
HEAVY = 5_000.0  # GeV; mass of the states that play no part
GENERATED_PT = 5.0  # GeV; leptons generated below it are never measured above the detector's 10 GeV
PATIENCE = 5000  # events in a row without two leptons
LOW_LEVEL = (
    *("lepton_1_pt", "lepton_1_eta", "lepton_1_phi"),
    *("lepton_2_pt", "lepton_2_eta", "lepton_2_phi"),
    *("met", "met_phi"),
)
HIGH_LEVEL = (
    *("met_rel", "axial_met", "m_r", "m_tr_2", "r", "mt2", "s_r", "m_delta_r"),
    *("dphi_r_b", "cos_theta_r1"),
)

SCHEMA = EventSchema(
    task="susy",
    columns=(
        Column(
            name="low_level",
            shape=(8,),
            elements=LOW_LEVEL,
            element_units=("GeV", "", "rad", "GeV", "", "rad", "GeV", "rad"),
        ),
        Column(
            name="high_level",
            shape=(10,),
            elements=HIGH_LEVEL,
            element_units=("GeV", "GeV", "GeV", "GeV", "", "GeV", "GeV", "GeV", "rad", ""),
        ),
    ),
    classes=(WW, CHARGINO),
    class_meaning={
        WW: "a pair of W bosons decays to two leptons and two neutrinos",
        CHARGINO: "a pair of charginos decays to W bosons and neutralinos, and those to leptons and neutrinos",
    },
    signal=CHARGINO,
)

LEPTONIC_W = ("24:onMode = off", "24:onIfAny = 11 13 15")


class SusyConfig(CollisionConfig):
    """Parameters of the task.

    Attributes:
        chargino_mass: in GeV; above the neutralino's by more than the mass of the W boson.
        neutralino_mass: in GeV.
    """

    energy: float = Field(default=8_000.0, gt=0)
    chargino_mass: float = Field(default=200.0, gt=0)
    neutralino_mass: float = Field(default=100.0, gt=0)

    @model_validator(mode="after")
    def _decays(self) -> SusyConfig:
        if self.chargino_mass <= self.neutralino_mass + W_MASS or 2 * self.chargino_mass >= self.energy:
            raise ValueError(
                f"neutralino_mass + {W_MASS} < chargino_mass < energy / 2; got {self.neutralino_mass}, "
                f"{self.chargino_mass}, {self.energy} GeV"
            )
        return self


@simulation("susy", SusyConfig, SCHEMA, requires=("pythia8mc",), chunk=1000)
def generate(config: SusyConfig, class_name: str, events: int, seed: SeedSequence) -> Columns:
    """Chargino pairs (200 GeV, neutralino 100 GeV) against WW: 8 low-level and 10 high-level features."""
    rng = np.random.default_rng(seed)
    states = _generator(config, class_name).final_states(draw_seed(rng))
    attempts = (_low_level(detect(state, rng), rng) if _may_pass(state) else [] for state in states)
    low_level = np.stack(passing(attempts, events, PATIENCE, "event with two leptons"))
    features = high_level_features(dileptons(low_level))
    high_level = np.column_stack([features[name] for name in HIGH_LEVEL])
    return {"low_level": low_level.astype(np.float32), "high_level": high_level.astype(np.float32)}


def _may_pass(state: FinalState) -> bool:
    """Whether two leptons are hard enough for the detector to be asked."""
    leptons = np.isin(np.abs(state.pdg), (ELECTRON, MUON))
    pt = np.hypot(state.momentum[leptons, 1], state.momentum[leptons, 2])
    return bool(np.sum(pt > GENERATED_PT) >= LEPTONS)


def dileptons(low_level: npt.NDArray[np.float64]) -> Dileptons:
    """Momenta in GeV of low-level features, shape (N, 8)."""
    first, second = (_momentum(low_level[:, start : start + 3]) for start in (0, 3))
    met, phi = low_level[:, 6], low_level[:, 7]
    return Dileptons(first, second, np.column_stack([met * np.cos(phi), met * np.sin(phi)]))


def _momentum(lepton: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    pt, eta, phi = lepton.T
    return np.column_stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])


def _low_level(deposits: Deposits, rng: np.random.Generator) -> list[npt.NDArray[np.float64]]:
    """Features of an event with exactly two isolated electrons or muons (p_T > 10 GeV), harder one first."""
    leptons = np.concatenate([isolated(deposits, kind, rng) for kind in (ELECTRON, MUON)])
    if len(leptons) != LEPTONS:
        return []
    leptons = leptons[np.argsort(-deposits.pt[leptons])]
    kinematics = np.column_stack([deposits.pt, deposits.eta, deposits.phi])[leptons]
    x, y = (-np.sum(deposits.pt * wave(deposits.phi)) for wave in (np.cos, np.sin))
    return [np.concatenate([kinematics.ravel(), [np.hypot(x, y), np.arctan2(y, x)]])]


@functools.lru_cache(maxsize=4)
def _generator(config: SusyConfig, class_name: str) -> Generator:
    """Built once per process; `generate` seeds it anew, so nothing passes from call to call."""

    def build(*settings: str) -> Generator:
        return Generator(config.with_settings(STABLE_PIONS, *settings, *LEPTONIC_W))

    if class_name == WW:
        return build("WeakDoubleBoson:ffbar2WW = on")
    with tempfile.TemporaryDirectory() as folder:
        spectrum = Path(folder) / "spectrum.slha"
        spectrum.write_text(_slha(config), encoding="ascii")
        return build(
            "SUSY:qqbar2chi+chi- = on",
            "SUSY:idA = 1000024",
            "SUSY:idB = 1000024",
            "SLHA:verbose = 0",
            f"SLHA:file = {spectrum}",
        )


def _slha(config: SusyConfig) -> str:
    """Spectrum in the SUSY Les Houches accord (hep-ph/0311123): wino-like charginos, bino-like neutralino."""
    heavy = {1_000_000 + number for number in (*range(1, 7), *range(11, 17), 21, 25, 35, 37)}
    heavy |= {2_000_000 + number for number in (*range(1, 7), 11, 13, 15)} | {35, 36, 37}
    masses = {
        **dict.fromkeys(sorted(heavy), HEAVY),
        25: HIGGS_MASS,
        1_000_022: config.neutralino_mass,
        1_000_023: config.chargino_mass,
        1_000_024: config.chargino_mass,
    }
    lines = ["BLOCK SPINFO", " 1 hep_ray", " 2 1", "BLOCK MODSEL", " 1 0"]
    lines += ["BLOCK HMIX", f" 1 {HEAVY}", " 2 10.0", "BLOCK ALPHA", " -0.1", "BLOCK MASS"]
    lines += [f" {pdg} {mass}" for pdg, mass in masses.items()]
    # Unmixed states: the identity.
    for name, size in {"NMIX": 4, "UMIX": 2, "VMIX": 2, "STOPMIX": 2, "SBOTMIX": 2, "STAUMIX": 2}.items():
        lines.append(f"BLOCK {name}")
        lines += [f" {i} {j} {float(i == j)}" for i in range(1, size + 1) for j in range(1, size + 1)]
    lines += ["DECAY 1000022 0.0", "DECAY 1000024 0.02", " 1.0 2 1000022 24"]
    return "\n".join(lines) + "\n"
