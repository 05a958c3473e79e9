"""Prediction: what is little is scored in this process, and the rest by Ray Data.

There a pool of actors, each with the model loaded once, takes piece after piece. Starting it takes as long as scoring
some ten thousand images. Unless the user asks for workers or GPUs, the first pieces are scored here, and workers are
started only where what is left then is worth it and the cluster has room for more of them than there are threads here.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hep_ray import errors
from hep_ray.cluster import connected
from hep_ray.conversion.remote import fetching
from hep_ray.cores import usable_cores
from hep_ray.errors import HepRayError, Infeasible, InvalidConfig
from hep_ray.files import storing
from hep_ray.predict.friend import Friend, branches_of, plan_friends, write_friends
from hep_ray.predict.inputs import Piece, Prediction, Ways, open_inputs, refuse_ways
from hep_ray.predict.output import (
    Further,
    finish,
    identity,
    identity_of_model,
    predicting,
    refuse_another,
    score_columns,
    score_piece,
)
from hep_ray.predict.seen import with_ids_of_training
from hep_ray.predict.shift import Shift, ShiftSettings, reference_for, sampled, shift_test
from hep_ray.promote.classifier import Classifier
from hep_ray.promote.package import Package
from hep_ray.training.evaluation import BATCH

if TYPE_CHECKING:
    from hep_ray.promote.fold_set import Training

Progress = Callable[[int, int], None]
"""Told the pieces that are done and how many there are."""


@dataclass(frozen=True)
class Crew:
    """The processes that compute.

    Attributes:
        workers: actors; by default none where this process is done sooner, else as many as the cluster has room for,
            at most one per piece.
        gpus_per_worker: GPUs of one actor; 0 computes on CPU.
        batch: events per forward pass.
    """

    workers: int | None = None
    gpus_per_worker: float = 0
    batch: int = BATCH

    def __post_init__(self) -> None:
        if (
            self.batch < 1
            or not 0 <= self.gpus_per_worker < math.inf
            or (self.workers is not None and self.workers < 1)
        ):
            raise InvalidConfig(
                f"there is a worker or more, with 0 GPUs or more and batches of 1 event or more; got {self}"
            )


@dataclass(frozen=True)
class Predicted:
    """Result of a prediction.

    Attributes:
        out: folder of the scores.
        events: that have scores.
        files: of scores.
        reused: files that were there before.
        units: whether the input states them.
        notes: what is to be told of the inputs, such as which hold no events.
        shift: whether the inputs are like those of the training; None where that was not tested.
        friends: trees of scores that are friends of the inputs', where they were asked for.
    """

    out: Path
    events: int
    files: int
    reused: int
    units: str
    notes: tuple[str, ...] = ()
    shift: Shift | None = None
    friends: tuple[Friend, ...] = ()


class Scorer:
    """One worker of the pool.

    Args:
        shared: reference to the model's package and to how the inputs are read.
        out: folder of the scores, on storage that every worker sees.
        batch: events per forward pass.
        gpu: whether the worker holds one, or part of one.
    """

    def __init__(self, shared: Any, out: str, batch: int, *, gpu: bool) -> None:
        import ray
        import torch

        package, prediction = ray.get(shared)
        if not gpu:
            torch.set_num_threads(1)
        self._classifier = package.build("cuda" if gpu else "cpu")
        self._digest = package.digest
        self._prediction, self._out, self._batch = prediction, Path(out), batch

    def __call__(self, row: dict[str, Any]) -> dict[str, list[Any]]:
        """Score one piece; a named error is handed to the driver instead of being tried again."""
        piece: Piece = self._prediction.pieces[int(row["item"][0])]
        rows, kind, message = -1, "", ""
        try:
            rows = score_piece(
                self._classifier, self._prediction, piece, self._out, self._digest, self._batch
            )
        except HepRayError as exc:
            kind, message = type(exc).__name__, str(exc)
        return {"file": [piece.file], "rows": [rows], "error": [kind], "message": [message]}


def predict(
    package: Package,
    inputs: Sequence[Path | str],
    out: Path,
    *,
    ways: Ways | None = None,
    crew: Crew | None = None,
    origin: str = "",
    progress: Progress | None = None,
    shift: ShiftSettings | None = None,
    friend: str | None = None,
    fetched: Progress | None = None,
    training: Training | None = None,
) -> Predicted:
    """Score every event of some inputs, or what is left of them.

    Args:
        package: the model.
        inputs: files or folders of one format, or one dataset folder. Those at an address (`https://`, `s3://`, …) are
            fetched first, beside `out`, and go when all is scored.
        out: folder of the scores.
        ways: how the inputs are read.
        crew: who computes.
        origin: where the model comes from, for the manifest.
        progress: called whenever a piece is done.
        shift: how the inputs are compared with those of the training, before the first is scored; None does not.
        friend: name of a friend that is written for the tree of each input too, see `write_friends`; None writes none.
        fetched: called as bytes come from addresses.
        training: what is known of the training of folds, see `with_ids_of_training`.

    Raises:
        InvalidConfig: friends are asked for, and the inputs have no trees, or names of the friends already, or are of
            the training of folds without ids that tell it.
        ModelMismatch: the events lack a column of the model, or have another shape, type or unit, or the model holds
            no reference inputs to compare with, or no calibration that was asked for.
        MissingPackage: an address needs one that is not installed.
        UnreadableInput, ShardMismatch, InvalidEvents: an input cannot be read, or an event cannot be scored.
        StorageError: the folder holds something else or cannot be written.
        Infeasible: the cluster has no room for the workers.
    """
    crew = crew or Crew()
    classifier = package.build()
    columns = score_columns(classifier)
    # What no input can change is told before any is fetched.
    refuse_ways(ways)
    if friend is not None:
        branches_of(columns, friend)
    compared = None
    if shift is not None:
        compared = reference_for(package.reference, classifier.classes, shift, origin or "the model")
    with storing(out):
        refuse_another(
            out, identity_of_model(package.digest, classifier.classes, calibrated=package.calibrated)
        )
    with fetching(out, [str(one) for one in inputs], fetched) as local:
        paths = [Path(word) for word in local.words]
        prediction = open_inputs(paths, classifier, ways)
        prediction, unknown = with_ids_of_training(classifier, prediction, training)
        if unknown and friend is not None:
            raise InvalidConfig(f"no friend tree: {unknown[0]}, or leave out --friend")
        plan = None if friend is None else plan_friends(prediction, columns, out, friend)
        description = package.description
        model = {
            "digest": package.digest,
            "uri": origin,
            "dataset_fingerprint": description.dataset_fingerprint,
            **description.origin,
        }
        what = identity(prediction, model, classifier.classes, calibrated=package.calibrated)
        found = None
        if shift is not None and compared is not None:
            new = sampled(classifier, prediction)
            found = shift_test(new, compared, shift) if len(new) else None  # no event, no shift
        with predicting(out, what, model) as files:
            reused = len(files)
            todo = [piece for piece in prediction.pieces if piece.file not in files]
            for file, rows in _Scoring(package, classifier, prediction, out, crew).pieces(todo):
                files[file] = rows
                if progress:
                    progress(len(files), len(prediction.pieces))
            rows_of = {piece.file: files[piece.file] for piece in prediction.pieces}
            friends = [] if plan is None else write_friends(prediction, plan, rows_of, out, local.typed)
            more = Further(
                None if found is None else found.record(), [one.record for one in friends], local.addresses
            )
            total = finish(out, what, model, rows_of, more)
        return Predicted(
            out,
            total,
            len(files),
            reused,
            prediction.units,
            (*prediction.notes, *unknown),
            found,
            tuple(friends),
        )


PATIENCE = 30.0
"""Seconds of work left for which no workers are started."""
THREADS = 4
"""The most that work here: the more they are, the longer each waits for Python's lock. torch has all cores anyway."""


@dataclass(frozen=True)
class _Scoring:
    """Pieces scored here while that is sooner, then by workers; each method yields files and their events."""

    package: Package
    classifier: Classifier
    prediction: Prediction
    out: Path
    crew: Crew

    def pieces(self, todo: Sequence[Piece]) -> Iterator[tuple[str, int]]:
        here = self.crew.workers is None and not self.crew.gpus_per_worker
        done = set()
        if here and todo:
            for file, rows in self.here(todo, PATIENCE):
                done.add(file)
                yield file, rows
        left = [piece for piece in todo if piece.file not in done]
        if not left:
            return
        with connected():
            import ray

            room = ray.cluster_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
            yield from self.here(left, math.inf) if here and room <= places() else self.by_workers(left)

    def by_workers(self, todo: Sequence[Piece]) -> Iterator[tuple[str, int]]:
        import ray
        import ray.data

        crew = self.crew
        size = _pool(ray.cluster_resources(), len(todo), crew)  # type: ignore[no-untyped-call]
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        pieces = ray.data.from_items([piece.number for piece in todo], override_num_blocks=len(todo))
        pieces.context.enable_progress_bars = False
        scored = pieces.map_batches(
            Scorer,
            batch_size=1,
            fn_constructor_args=(
                ray.put((self.package, self.prediction)),
                str(self.out.absolute()),
                crew.batch,
            ),
            fn_constructor_kwargs={"gpu": crew.gpus_per_worker > 0},
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=1,
            num_gpus=crew.gpus_per_worker or None,
        )
        for row in scored.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"])(row["message"])
            yield row["file"], int(row["rows"])

    def here(self, todo: Sequence[Piece], patience: float) -> Iterator[tuple[str, int]]:
        """Stop early if what is left, by the pieces done so far, is work for more seconds than `patience`.

        Reading and torch let go of Python's lock, so that threads fill the cores as processes would.
        """
        import torch

        cores = torch.get_num_threads()
        threads = min(places(), len(todo))
        # Else every batch would put the model into training mode and back, while other threads use it.
        self.classifier.eval()
        torch.set_num_threads(max(1, min(cores, usable_cores()) // threads))
        running: dict[Future[int], Piece] = {}
        waiting, done, start = iter(todo), 0, time.monotonic()
        of_job = (self.out, self.package.digest, self.crew.batch)
        worth_workers = False
        pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
        try:
            while True:
                while not worth_workers and len(running) < threads and (piece := next(waiting, None)):
                    scoring = pool.submit(score_piece, self.classifier, self.prediction, piece, *of_job)
                    running[scoring] = piece
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future).file, future.result()
                    done += 1
                per_piece = (time.monotonic() - start) / done
                worth_workers |= done >= threads and per_piece * (len(todo) - done) > patience
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)


def _pool(resources: dict[str, float], pieces: int, crew: Crew) -> int:
    """Return how many workers there will be.

    Raises:
        Infeasible: there is no room for those that were asked for, or for any.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    room = int(cpus)
    if crew.gpus_per_worker:
        room = min(room, int(gpus / crew.gpus_per_worker + 1e-9))
    wanted = crew.workers or 1
    if room < wanted:
        raise Infeasible(
            f"{wanted} workers of 1 CPU and {crew.gpus_per_worker:g} GPUs each fit into the cluster; it has "
            f"{cpus:g} CPUs and {gpus:g} GPUs, room for {room}"
        )
    return min(crew.workers or room, pieces)


def places() -> int:
    """Threads that work here at a time."""
    return min(usable_cores(), THREADS)
