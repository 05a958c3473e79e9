"""Final states of Pythia's own processes, event by event."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hep_ray.simulate.generator import Generator, GeneratorConfig
from hep_ray.simulate.shower import FinalState

BATCH = 32


class Process:
    """Stable particles of a process that Pythia knows; what it makes depends on the seed alone.

    Args:
        config: energy, the process and further settings.

    Raises:
        MissingPackage: Pythia is not installed.
        SimulationFailed: Pythia refuses a setting or does not initialise.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        # A detector sees π⁰ as one deposit.
        settings = ("111:mayDecay = off", *config.settings)
        self._generator = Generator(config.model_copy(update={"settings": settings}))

    def events(self, seed: int) -> Iterator[FinalState]:
        """Simulate event after event, without end.

        Args:
            seed: 1 to 900,000,000.

        Raises:
            SimulationFailed: Pythia gives up on many events in a row.
        """
        for batch in self._generator.batches(BATCH, seed):
            final = np.flatnonzero(batch.final)
            starts = np.searchsorted(batch.event[final], np.arange(1, batch.events))
            for kept in np.split(final, starts):
                yield FinalState(batch.pdg[kept], batch.charge[kept], batch.momentum[kept])
