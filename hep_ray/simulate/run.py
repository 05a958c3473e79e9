"""Simulating a dataset: chunks of events as Ray tasks, kept as they end, then written as Parquet shards.

Chunk k of class c draws from SeedSequence(seed, spawn_key=(c, k)) and from nothing else, so the dataset
is the same for any number of tasks, in any order of their ending, after any interruption.

Finished chunks lie in a hidden folder beside the dataset to be. Its name is a hash of everything that decides the
events, so that the same command finds its own chunks again and no other's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from pydantic import JsonValue

from hep_ray.cluster import in_tasks
from hep_ray.config import Config, parse
from hep_ray.conversion.shards import DEFAULT_RULE, ShardWriter, refuse_absent, refuse_many
from hep_ray.dataset.dataset import MANIFEST, Manifest
from hep_ray.dataset.schema import EVENT_ID, LABEL, Arrays, EventSchema
from hep_ray.dataset.splits import SPLITS, SplitRule, event_hashes, split_codes
from hep_ray.errors import (
    Interrupted,
    InvalidConfig,
    MissingPackage,
    SimulationFailed,
    StorageHeld,
)
from hep_ray.files import refuse_occupied, storing, whole
from hep_ray.plugins import registered
from hep_ray.simulate import SIMULATIONS, Simulation

if TYPE_CHECKING:
    from rich.progress import Progress

DIGITS = 16
"""Hexadecimal digits of a hash in a name."""
SUFFIX = ".arrow"
LOCK = "lock"


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

    @property
    def name(self) -> str:
        """Unique within a simulation."""
        return f"{self.label}-{self.number:06d}"


class ChunkStore:
    """Keeps finished chunks; use it as a context manager.

    Each file is named after its chunk and the hash of its bytes. A file whose bytes do not have that hash,
    such as one torn by a crash, counts as absent. The folder goes when the block fails with
    `SimulationFailed` or nothing was kept; after any other end it stays until `discard`.

    Args:
        target: the dataset folder to be.
        schema: of the events.
        source: everything else that decides the events.

    Raises:
        StorageError: the folder cannot be made, or another process uses it.

    Attributes:
        folder: of the files.
    """

    def __init__(self, target: Path, schema: EventSchema, source: Mapping[str, JsonValue]) -> None:
        identity = {"schema": schema.model_dump(mode="json"), "source": dict(source)}
        key = _digest(json.dumps(identity, sort_keys=True).encode())
        self._target = target.absolute()
        self._schema = schema
        self._paths: dict[str, Path] = {}
        self.folder = self._target.parent / f".{target.name}.{key}.chunks"
        self._lock = FileLock(self.folder / LOCK)

    def __enter__(self) -> Self:
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise StorageHeld(
                    f"another process simulates {self._target}: one does at a time, so wait for it to end"
                ) from None
        with storing(self.folder):
            self._paths = {path.name.split(".")[0]: path for path in self._sound_files()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(exc, SimulationFailed) or not self._paths:
            self.discard()
        self._lock.release()

    def __contains__(self, chunk: Chunk) -> bool:
        return chunk.name in self._paths

    def save(self, chunk: Chunk, events: Arrays) -> None:
        """Keep a chunk: either the whole file is there afterwards or none.

        Raises:
            InvalidEvents: the events break the schema.
            StorageError: the file cannot be written.
        """
        batch = self._schema.encode(self._schema.checked(events))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            file.write_batch(batch)
        content = sink.getvalue().to_pybytes()
        path = self.folder / f"{chunk.name}.{_digest(content)}{SUFFIX}"
        with storing(self.folder), whole(path) as filling:
            filling.write_bytes(content)
        self._paths[chunk.name] = path

    def load(self, chunk: Chunk) -> Arrays:
        """The events of a kept chunk."""
        with pa.ipc.open_file(self._paths[chunk.name].read_bytes()) as file:
            return self._schema.decode(file.get_batch(0))

    def discard(self) -> None:
        """Remove everything that was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._paths = {}

    def _sound_files(self) -> Iterator[Path]:
        for path in sorted(self.folder.iterdir()):
            if path.name == LOCK:
                continue
            content = path.read_bytes()
            if path.name.endswith(f".{_digest(content)}{SUFFIX}"):
                yield path
            else:
                path.unlink()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGITS]


@dataclasses.dataclass(frozen=True)
class Job:
    """One chunk of one simulation: all that decides its events.

    Args:
        simulation: name of a registered one.
        config: its parameters.
        seed: of the dataset.
        chunk: which events.
    """

    simulation: str
    config: Config
    seed: int
    chunk: Chunk


def plan(events: int, shares: Sequence[float], chunk: int) -> list[Chunk]:
    """Divide events among the classes in proportion to their shares, then into chunks, classes in turn.

    What is left over by rounding down goes to the classes that lost most, the earlier one when they tie.

    Args:
        events: of all classes together.
        shares: relative number of events of each class.
        chunk: events of one class that are simulated together, at most.

    Raises:
        InvalidConfig: there is not an event for every class, or not one for a chunk.
    """
    if chunk < 1:
        raise InvalidConfig(f"chunk must be at least 1 event, got {chunk}")
    exact = [events * share / sum(shares) for share in shares]
    counts = [int(count) for count in exact]
    by_loss = sorted(range(len(shares)), key=lambda label: counts[label] - exact[label])
    for label in by_loss[: events - sum(counts)]:
        counts[label] += 1
    if min(counts) < 1:
        raise InvalidConfig(
            f"{events} events in the proportion {':'.join(f'{share:g}' for share in shares)} leave a class without "
            f"any: each of the {len(shares)} classes must get an event or more"
        )
    chunks = [
        Chunk(label, number, min(chunk, count - start))
        for label, count in enumerate(counts)
        for number, start in enumerate(range(0, count, chunk))
    ]
    return sorted(chunks, key=lambda one: (one.number, one.label))


def simulate_chunk(entry: Simulation, config: Config, seed: int, chunk: Chunk) -> Arrays:
    """The events of one chunk with their ids and labels, as `ShardWriter` takes them."""
    name = entry.schema.classes[chunk.label]
    sequence = np.random.SeedSequence(seed, spawn_key=(chunk.label, chunk.number))
    columns = entry.generate(config, name, chunk.events, sequence)
    return {
        EVENT_ID: np.array(_ids(entry, seed, chunk), dtype=object),
        LABEL: np.full(chunk.events, chunk.label, dtype=np.int64),
        **columns,
    }


def _ids(entry: Simulation, seed: int, chunk: Chunk) -> list[str]:
    """Return the ids of the events of a chunk."""
    name = entry.schema.classes[chunk.label]
    return [f"{name}/{seed}/{chunk.number}/{index}" for index in range(chunk.events)]


def _refuse_empty_splits(entry: Simulation, seed: int, chunks: Sequence[Chunk], rule: SplitRule) -> None:
    """Refuse a rule that leaves a class without events in a split, as far as ids alone decide it, before any work."""
    if rule.stratified:
        refuse_many(sum(one.events for one in chunks))
    if rule.stratified or rule.train_where is not None or entry.schema.split_by is not None:
        return
    counts = np.zeros((len(SPLITS), len(entry.schema.classes)), dtype=np.int64)
    wanted = [rule.fraction(split) > 0 for split in SPLITS]
    for one in sorted(chunks, key=lambda chunk: chunk.number):  # of all classes in turn
        codes = split_codes(event_hashes(_ids(entry, seed, one), rule.salt), rule)
        counts[:, one.label] += np.bincount(codes, minlength=len(SPLITS))
        if counts[wanted].all():
            return
    refuse_absent(rule, entry.schema, counts)


def simulate(
    name: str,
    events: int,
    seed: int,
    out: Path | str,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    rule: SplitRule | None = None,
    progress: bool = False,
) -> Manifest:
    """Simulate a dataset and write it.

    Finished chunks are kept beside `out`. The same call after an interruption, however rough, goes on from
    there to the same dataset; they vanish when the dataset is written.

    Args:
        name: of a registered simulation.
        events: of all classes together, which share them as the simulation says.
        seed: 0 or more; the same seed and settings give the same dataset.
        out: dataset folder.
        workers: simulate on so many CPUs; on all of the cluster unless given.
        overwrite: replace an earlier dataset there.
        settings: parameters of the simulation by name; defaults for the rest.
        chunk: events that share one stream of random numbers; another size gives another dataset. As the
            simulation says unless given.
        rule: of the splits; where one is given, every class must get events in each of them.
        progress: show a bar on stderr.

    Raises:
        UnknownName: there is no such simulation.
        InvalidConfig: a setting, the number of events or the seed is refused.
        InvalidEvents: a class would have no events in a split.
        MissingPackage: a package that the simulation needs is not installed.
        Infeasible: the cluster has fewer CPUs than `workers`.
        StorageError: `out` is occupied or cannot be written.
        SimulationFailed: the generator gives up; nothing is kept.
        Interrupted: Ctrl-C was pressed; finished chunks are kept.
    """
    entry = SIMULATIONS[name]
    config = parse(entry.config, settings or {}, f"settings of the simulation {name}")
    chunk = entry.chunk if chunk is None else chunk
    chunks = plan(events, entry.shares or (1.0,) * len(entry.schema.classes), chunk)
    if seed < 0:
        raise InvalidConfig(f"seed must be 0 or more, got {seed}")
    if workers is not None and workers < 1:
        raise InvalidConfig(f"workers must be at least 1, got {workers}")
    refuse_occupied(Path(out), MANIFEST, overwrite=overwrite)
    if rule is not None:
        _refuse_empty_splits(entry, seed, chunks, rule)
    source: dict[str, JsonValue] = {
        "simulation": name,
        "events": events,
        "seed": seed,
        "chunk": chunk,
        "settings": config.model_dump(mode="json"),
        "packages": dict(required_versions(entry)),
    }
    if own := [one for one in registered(set()) if not one.distribution]:
        source["own_code"] = {one.module: one.sha256 for one in own}
    version = importlib.metadata.version("hep-ray")
    with ChunkStore(Path(out), entry.schema, {**source, "hep_ray": version}) as store:
        with _bar(events, shown=progress) as bar:
            _fill(store, [Job(name, config, seed, one) for one in chunks], workers, bar)
        with ShardWriter(
            out,
            entry.schema,
            rule or DEFAULT_RULE,
            source,
            overwrite=overwrite,
            every_class=rule is not None,
        ) as writer:
            for one in chunks:
                writer.write(store.load(one))
        store.discard()
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


def _fill(store: ChunkStore, jobs: Sequence[Job], workers: int | None, bar: Progress) -> None:
    """Simulate every chunk that the store lacks."""
    task = bar.task_ids[0]
    missing = [job for job in jobs if job.chunk not in store]
    events, lacking = (sum(job.chunk.events for job in some) for some in (jobs, missing))
    if lacking < events:
        bar.print(
            f"{len(jobs) - len(missing)} of {len(jobs)} chunks ({events - lacking} of {events} events) are there "
            "from an earlier run"
        )
        bar.advance(task, events - lacking)
    if not missing:
        return
    try:
        for job, arrays in in_tasks(_simulate_job, missing, workers):
            store.save(job.chunk, arrays)
            lacking -= job.chunk.events
            bar.advance(task, job.chunk.events)
    except KeyboardInterrupt:
        raise Interrupted(
            f"the simulation was interrupted; {events - lacking} of {events} events are kept in {store.folder}, "
            "and the same command goes on from there"
        ) from None


def _simulate_job(job: Job) -> Arrays:
    return simulate_chunk(SIMULATIONS[job.simulation], job.config, job.seed, job.chunk)


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
        console=Console(stderr=True, quiet=not shown),
        disable=not shown,
    ) as bar:
        bar.add_task("simulating", total=events)
        yield bar
