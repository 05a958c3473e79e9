"""Simulating a dataset: chunks of events as Ray tasks, written as Parquet shards.

Chunk k of class c draws from SeedSequence(seed, spawn_key=(c, k)) and from nothing else, so the dataset
is the same for any number of tasks, in any order of their ending.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue

from hep_ray.cluster import connect
from hep_ray.config import Config, parse
from hep_ray.data.events import EVENT_ID, LABEL, Arrays
from hep_ray.data.manifest import Manifest
from hep_ray.data.shards import ShardWriter
from hep_ray.errors import HepRayError, Infeasible, InvalidConfig, MissingPackage
from hep_ray.simulate import SIMULATIONS, Simulation

if TYPE_CHECKING:
    from rich.progress import Progress

CHUNK = 100  # events


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Events of one class that are simulated together.

    Args:
        label: index of the class.
        number: of the chunk within its class.
        events: how many.
    """

    label: int
    number: int
    events: int


def plan(events: int, classes: int, chunk: int) -> list[Chunk]:
    """Splits events over the classes as equally as can be, then into chunks, classes in turn.

    Raises:
        InvalidConfig: there is not an event for every class, or not one for a chunk.
    """
    if chunk < 1:
        raise InvalidConfig(f"a chunk holds 1 event or more; got {chunk}")
    if events < classes:
        raise InvalidConfig(f"every one of the {classes} classes gets an event or more; got {events} in all")
    chunks = []
    for label in range(classes):
        share = events // classes + (label < events % classes)
        chunks += [
            Chunk(label, number, min(chunk, share - start))
            for number, start in enumerate(range(0, share, chunk))
        ]
    return sorted(chunks, key=lambda one: (one.number, one.label))


def simulate_chunk(entry: Simulation, config: Config, seed: int, chunk: Chunk) -> Arrays:
    """The events of one chunk with their ids and labels, as `ShardWriter` takes them."""
    name = entry.schema.classes[chunk.label]
    sequence = np.random.SeedSequence(seed, spawn_key=(chunk.label, chunk.number))
    columns = entry.generate(config, name, chunk.events, sequence)
    ids = [f"{name}/{seed}/{chunk.number}/{index}" for index in range(chunk.events)]
    return {
        EVENT_ID: np.array(ids, dtype=object),
        LABEL: np.full(chunk.events, chunk.label, dtype=np.int64),
        **columns,
    }


def simulate(
    name: str,
    events: int,
    seed: int,
    out: Path | str,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    chunk: int = CHUNK,
    progress: bool = False,
) -> Manifest:
    """Simulate a dataset and write it.

    Args:
        name: of a registered simulation.
        events: of all classes together.
        seed: 0 or more; the same seed and settings give the same dataset.
        out: dataset folder.
        workers: simulate on so many CPUs; on all of the cluster unless given.
        overwrite: replace an earlier dataset there.
        settings: parameters of the simulation by name; defaults for the rest.
        chunk: events that share one stream of random numbers; another size gives another dataset.
        progress: show a bar on stderr.

    Raises:
        UnknownName: there is no such simulation.
        InvalidConfig: a setting, the number of events or the seed is refused.
        MissingPackage: a package that the simulation needs is not installed.
        Infeasible: the cluster has fewer CPUs than `workers`.
        StorageError: `out` is occupied or cannot be written.
        SimulationFailed: the generator gives up.
    """
    entry = SIMULATIONS[name]
    config = parse(entry.config, settings or {}, f"settings of the simulation {name}")
    chunks = plan(events, len(entry.schema.classes), chunk)
    if seed < 0:
        raise InvalidConfig(f"a seed is 0 or more; got {seed}")
    if workers is not None and workers < 1:
        raise InvalidConfig(f"events are simulated by 1 worker or more; got {workers}")
    source: dict[str, JsonValue] = {
        "simulation": name,
        "events": events,
        "seed": seed,
        "chunk": chunk,
        "settings": config.model_dump(mode="json"),
        "packages": dict(required_versions(entry)),
    }
    with (
        ShardWriter(out, entry.schema, source=source, overwrite=overwrite) as writer,
        _bar(events, shown=progress) as bar,
    ):
        for arrays in _in_tasks(entry, config, seed, chunks, workers):
            writer.write(arrays)
            bar.advance(bar.task_ids[0], len(arrays[LABEL]))
    return writer.manifest


def required_versions(entry: Simulation) -> dict[str, str]:
    """Versions of the packages that decide a simulation's events.

    Raises:
        MissingPackage: one of them is not installed.
    """
    for package in entry.requires:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(
                f"the simulation {entry.name} needs the package {package}, which is absent: "
                "pip install 'hep-ray[sim]'"
            )
    return {package: importlib.metadata.version(package) for package in entry.requires}


def _in_tasks(
    entry: Simulation, config: Config, seed: int, chunks: Sequence[Chunk], workers: int | None
) -> Iterator[Arrays]:
    """Results of all chunks as their tasks end; at most `workers` tasks at a time."""
    import ray
    from ray.exceptions import RayTaskError

    with _cluster():
        cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if workers is not None and workers > cpus:
            raise Infeasible(f"each worker takes 1 CPU; asked for {workers} of the {cpus} in the cluster")
        task = ray.remote(num_cpus=1)(_named_chunk)
        waiting = list(reversed(chunks))
        running: list[ray.ObjectRef[Arrays]] = []
        try:
            while waiting or running:
                while waiting and len(running) < (workers or cpus):
                    running.append(task.remote(entry.name, config, seed, waiting.pop()))
                done, running = ray.wait(running)
                yield ray.get(done[0])
        except RayTaskError as fault:
            if isinstance(fault.cause, HepRayError):
                raise fault.cause from None
            raise
        finally:
            for reference in running:
                ray.cancel(reference)


def _named_chunk(name: str, config: Config, seed: int, chunk: Chunk) -> Arrays:
    return simulate_chunk(SIMULATIONS[name], config, seed, chunk)


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """The Ray cluster at hand, or one of this machine for as long as it is needed."""
    import ray

    if ray.is_initialized():
        yield
        return
    connect()
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _bar(events: int, *, shown: bool) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed or 0:.0f} events/s")

    with Progress(
        "simulating",
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    ) as bar:
        bar.add_task("simulating", total=events)
        yield bar
