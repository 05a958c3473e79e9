"""Task `six_hypotheses`: sphalerons and black holes of five kinds, after a preselection, as η–φ images.

Classes and preselection are those of Grefsrud et al., arXiv:2310.15227: which number n of extra dimensions, and which
least mass M in TeV? Events, images and event variables are those of `mbh_sph`.
"""

from __future__ import annotations

from collections.abc import Iterator

from numpy.random import SeedSequence
from pydantic import Field, model_validator

from hep_ray.dataset.schema import EventSchema
from hep_ray.simulate import Columns, mbh_sph, simulation
from hep_ray.simulate.mbh_sph import BLACK_HOLE, SPHALERON, ImagesConfig, MbhSphConfig
from hep_ray.simulate.objects import Event, event_variables
from hep_ray.simulate.pythia import passing

HOLES = {
    "bh_n2_m10": (2, 10),
    "bh_n4_m8": (4, 8),
    "bh_n4_m10": (4, 10),
    "bh_n4_m12": (4, 12),
    "bh_n6_m10": (6, 10),
}
"""Class → number of extra dimensions, least mass in TeV."""
PATIENCE = 2000  # events in a row that the preselection drops

SCHEMA = EventSchema(
    task="six_hypotheses",
    columns=mbh_sph.SCHEMA.columns,
    classes=(SPHALERON, *HOLES),
    class_meaning={
        SPHALERON: mbh_sph.SCHEMA.class_meaning[SPHALERON],
        **{
            name: f"a microscopic black hole of {mass} TeV or more evaporates, with {dimensions} extra dimensions"
            for name, (dimensions, mass) in HOLES.items()
        },
    },
    signal=SPHALERON,
)


class SixHypothesesConfig(ImagesConfig):
    """Parameters of the task.

    Attributes:
        planck_mass: fundamental scale M∗, in GeV.
        sphaleron_threshold: least energy of a transition, in GeV.
        objects_min: least number of objects with p_T > 70 GeV and |η| < 2.4.
        st_min: least S_T, the sum of their p_T and of a missing p_T above 70 GeV, in GeV.
    """

    energy: float = Field(default=13_000.0, gt=12_000)
    planck_mass: float = Field(default=4_000.0, gt=0, lt=8_000)
    sphaleron_threshold: float = Field(default=9_000.0, gt=0)
    objects_min: int = Field(default=5, ge=0)
    st_min: float = Field(default=7_000.0, ge=0)

    @model_validator(mode="after")
    def _reachable(self) -> SixHypothesesConfig:
        if not self.sphaleron_threshold < self.energy:
            raise ValueError(
                f"sphaleron_threshold < energy; got {self.sphaleron_threshold:g}, {self.energy:g} GeV"
            )
        return self

    def of_class(self, class_name: str) -> MbhSphConfig:
        """Parameters of `mbh_sph` that make this class."""
        dimensions, mass = HOLES.get(class_name, (4, 10))
        return MbhSphConfig(
            **self.model_dump(exclude={"objects_min", "st_min"}),
            extra_dimensions=dimensions,
            black_hole_mass_min=1000.0 * mass,
        )


@simulation("six_hypotheses", SixHypothesesConfig, SCHEMA, requires=("pythia8mc",))
def generate(config: SixHypothesesConfig, class_name: str, events: int, seed: SeedSequence) -> Columns:
    """Sphalerons and black holes of five kinds that pass N ≥ 5 and S_T ≥ 7 TeV: 50×50×3 η–φ images."""
    kind = SPHALERON if class_name == SPHALERON else BLACK_HOLE

    def attempts() -> Iterator[list[Event]]:
        for event in mbh_sph.reconstructed(config.of_class(class_name), kind, seed):
            found = event_variables(event.objects)
            passed = found["n_objects_70"] >= config.objects_min and found["st"] >= config.st_min
            yield [event] if passed else []

    wanted = f"event of {class_name} has {config.objects_min} objects and S_T of {config.st_min:g} GeV"
    return mbh_sph.as_columns(config, passing(attempts(), events, PATIENCE, wanted))
