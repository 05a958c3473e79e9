"""Prints the tables of docs/simulation.md in which our simulated events stand beside the reference's.

    python docs/scripts/simulation_tables.py ../shared/data/black_holes [--events 600] [--set charge_suppression=0.2 …]

Three tables in Markdown: the share of events that pass the preselection, at each point with a published efficiency;
quantiles of event variables, reference / ours; objects per event by what fills their bin. Events are made here, one
class after another on one core (70 a second), and not stored.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from hep_ray.simulate.mbh_sph import BLACK_HOLE, SPHALERON, MbhSphConfig, reconstructed
from hep_ray.simulate.objects import event_variables, object_image

Array = npt.NDArray[np.float64]
SEED = 5
OBJECTS_MIN, ST_MIN = 5, 7000.0  # GeV
PUBLISHED = {  # (class, n, least mass in GeV): share that passes, of arXiv:2310.15227 and its authors' repository
    (SPHALERON, 4, 10_000): 0.18,
    (BLACK_HOLE, 4, 8_000): 0.17,
    (BLACK_HOLE, 2, 10_000): 0.55,
    (BLACK_HOLE, 4, 10_000): 0.49,
    (BLACK_HOLE, 6, 10_000): 0.43,
    (BLACK_HOLE, 2, 12_000): 0.78,
    (BLACK_HOLE, 3, 12_000): 0.70,
    (BLACK_HOLE, 4, 12_000): 0.65,
    (BLACK_HOLE, 5, 12_000): 0.61,
    (BLACK_HOLE, 6, 12_000): 0.57,
}
TABLES = {
    (SPHALERON, 4, 10_000): "SPH_THR9_NSUBPALL",
    **{(BLACK_HOLE, 4, 1000 * mass): f"BH_n4_M{mass}" for mass in (8, 10, 12)},
}
VARIABLES = {"ht": "HT", "met": "met", "leading_pt": "ptmax", "n_objects": "stuff_amount"}
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SPECIES = ("muon", "photon", "hadronic, no track", "EM and track", "jet")
ABOVE = (300.0, 1000.0)  # GeV


@dataclass
class Made:
    """Events of one point.

    Attributes:
        variables: one array for each.
        species: objects per event above each of `ABOVE`, (2, species).
    """

    variables: dict[str, Array] = field(default_factory=dict)
    species: Array = field(default_factory=lambda: np.zeros((len(ABOVE), len(SPECIES))))

    def passes(self) -> Array:
        """Return which events the preselection keeps."""
        return (self.variables["n_objects_70"] >= OBJECTS_MIN) & (self.variables["st"] >= ST_MIN)


def species(electromagnetic: Array, hadronic: Array, tracks: Array) -> Array:
    """Count objects by what fills their bin, above each of `ABOVE`.

    Args:
        electromagnetic: energies of images of objects, in GeV, (…, φ, η).
        hadronic: the same.
        tracks: p_T of objects to which tracks belong, in GeV.
    """
    eta = -5 + 0.2 * (np.arange(tracks.shape[-1]) + 0.5)
    energy = (electromagnetic + hadronic) / np.cosh(eta)
    em, had, track = electromagnetic > 0, hadronic > 0, tracks > 0
    kinds = (
        track & ~em & ~had,
        em & ~had & ~track,
        had & ~track,
        em & ~had & track,
        em & had & track,
    )
    pt = np.where(track, tracks, energy)
    return np.array([[(kind & (pt > above)).sum() for kind in kinds] for above in ABOVE], dtype=np.float64)


def make(point: tuple[str, int, int], events: int, settings: Mapping[str, str]) -> Made:
    """Simulate events of a point."""
    name, dimensions, mass = point
    config = MbhSphConfig.model_validate(
        {"extra_dimensions": dimensions, "black_hole_mass_min": mass, **settings}
    )
    stream = reconstructed(config, name, np.random.SeedSequence(SEED))
    made, rows = Made(), []
    for _ in range(events):
        objects = next(stream).objects
        rows.append(event_variables(objects))
        made.species += species(*np.moveaxis(object_image(objects).astype(np.float64), -1, 0))
    made.species /= events
    made.variables = {column: np.array([row[column] for row in rows]) for column in rows[0]}
    return made


def efficiencies(made: Mapping[tuple[str, int, int], Made]) -> Iterator[str]:
    """Yield the table of the preselection."""
    yield "| passes N ≥ 5, S~T~ ≥ 7 TeV | events | ours | published | ours − published |\n|---|---|---|---|---|"
    for point, of in made.items():
        name, dimensions, mass = point
        words = (
            "sphaleron, 9 TeV"
            if name == SPHALERON
            else f"black hole n = {dimensions}, M > {mass // 1000} TeV"
        )
        passed = of.passes()
        share, published = float(passed.mean()), PUBLISHED[point]
        error = float(passed.std() / len(passed) ** 0.5)
        yield f"| {words} | {len(passed):,} | {share:.3f} ± {error:.3f} | {published} | {share - published:+.2f} |"


def quantiles(made: Mapping[tuple[str, int, int], Made], folder: Path) -> Iterator[str]:
    """Yield the table of quantiles, reference / ours."""
    yield f"| | quantity | {' | '.join(f'{100 * at:g} %' for at in QUANTILES)} |\n|{'---|' * (2 + len(QUANTILES))}"
    for point, file in TABLES.items():
        with (folder / "event_variables" / f"{file}.csv").open() as lines:
            theirs = list(csv.DictReader(lines))
        for ours, name in VARIABLES.items():
            reference = np.quantile([float(row[name]) for row in theirs], QUANTILES)
            ratios = reference / np.quantile(made[point].variables[ours], QUANTILES)
            yield f"| {file} | {ours} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


def kinds(made: Mapping[tuple[str, int, int], Made], folder: Path) -> Iterator[str]:
    """Yield the table of objects per event."""
    yield f"| | p~T~ above | {' | '.join(SPECIES)} |\n|{'---|' * (2 + len(SPECIES))}"
    for (name, _, mass), file in TABLES.items():
        if name == SPHALERON:
            continue
        with h5py.File(folder / f"{file}_res50_3000_events.h5") as images:
            events = np.stack([images[event]["data"][...] for event in sorted(images)]).astype(np.float64)
        electromagnetic, tracks, hadronic = np.moveaxis(events, -1, 0)
        theirs = species(electromagnetic, hadronic, tracks) / len(events)
        mine = made[BLACK_HOLE, 4, mass].species
        for place, above in enumerate(ABOVE):
            for who, counts in (("reference", theirs), ("ours", mine)):
                cells = " | ".join(f"{value:.3f}" for value in counts[place])
                yield f"| M{mass // 1000} {who} | {above:g} GeV | {cells} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="reference's black_holes")
    parser.add_argument("--events", type=int, default=600, help="of each point")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of mbh_sph")
    given = parser.parse_args()
    settings = dict(one.split("=", 1) for one in given.set)
    made = {}
    for point in PUBLISHED:
        made[point] = make(point, given.events, settings)
        print(f"{point}: {made[point].passes().mean():.3f}", file=sys.stderr, flush=True)
    tables = (efficiencies(made), quantiles(made, given.folder), kinds(made, given.folder))
    print("\n\n".join("\n".join(table) for table in tables))


if __name__ == "__main__":
    main()
