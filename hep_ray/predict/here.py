"""Prediction in this process, by threads: for small inputs, since workers take seconds to start, and small machines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from hep_ray.cores import usable_cores
from hep_ray.predict.inputs import Prediction
from hep_ray.predict.pieces import Piece
from hep_ray.predict.scores import score_piece
from hep_ray.promote.classifier import Classifier

PATIENCE = 30.0
"""Seconds of work left for which no workers are started."""
THREADS = 4
"""The most that work here: the more they are, the longer each waits for Python's lock. torch has all cores anyway."""


def score_here(
    classifier: Classifier,
    prediction: Prediction,
    todo: Sequence[Piece],
    out: Path,
    digest: str,
    batch: int,
    *,
    patience: float = PATIENCE,
) -> Iterator[tuple[str, int]]:
    """Score pieces, and stop early if what is left, by the pieces done so far, is work for more than some patience.

    Reading and torch let go of Python's lock, so that threads fill the cores as processes would.

    Args:
        classifier: the model, on the CPU.
        prediction: how the inputs are read.
        todo: pieces, in order.
        out: folder of the scores.
        digest: names the model.
        batch: events per forward pass.
        patience: seconds.

    Yields:
        File and events of every piece that is done.

    Raises:
        HepRayError: whatever named error a piece raises.
    """
    import torch

    cores = torch.get_num_threads()
    threads = min(places(), len(todo))
    # Else every batch would put the model into training mode and back, while other threads use it.
    classifier.model.eval()
    torch.set_num_threads(max(1, min(cores, usable_cores()) // threads))
    running: dict[Future[int], Piece] = {}
    waiting, done, start = iter(todo), 0, time.monotonic()
    worth_workers = False
    pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
    try:
        while True:
            while not worth_workers and len(running) < threads and (piece := next(waiting, None)) is not None:
                running[pool.submit(score_piece, classifier, prediction, piece, out, digest, batch)] = piece
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


def places() -> int:
    """Threads that work here at a time."""
    return min(usable_cores(), THREADS)
