"""The folder of a prediction: files of scores, and a manifest that says of which inputs and model.

A file of scores is renamed into place when it is whole, so whatever is there is done. A prediction that was
killed is typed again: it does what is not there, and only for the same model and inputs.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.dataset.manifest import sha256_of
from hep_ray.errors import StorageError
from hep_ray.files import UNFINISHED, remove_abandoned, storing, write_whole
from hep_ray.predict.inputs import Prediction
from hep_ray.predict.scores import MODEL

MANIFEST = "_predictions.json"
"""Its name begins with `_`, so that readers of Parquet folders pass it over."""
FORMAT = 2
"""2 has the log-odds beside the probabilities."""


def identity(prediction: Prediction, model: Mapping[str, str], classes: tuple[str, ...]) -> dict[str, Any]:
    """What makes two predictions the same: model, inputs, how they are read and cut.

    Args:
        prediction: opened inputs.
        model: its digest under `digest`, and where it comes from.
        classes: of its scores.
    """
    return {
        "format": FORMAT,
        "model_digest": model["digest"],
        "classes": list(classes),
        "inputs": [list(pair) for pair in prediction.digests],
        "rules": prediction.rules.model_dump(mode="json", by_alias=True),
        "columns": [rule.model_dump(mode="json") for rule in prediction.columns],
        "units": prediction.units,
        "pieces": [[piece.file, piece.part, piece.start, piece.stop] for piece in prediction.pieces],
    }


@contextmanager
def predicting(out: Path, what: Mapping[str, Any], model: Mapping[str, str]) -> Iterator[set[str]]:
    """Hold a folder for one prediction.

    Args:
        out: absent, empty, or that of the same prediction.
        what: its `identity`.
        model: for the manifest.

    Yields:
        Names of the files that are there already.

    Raises:
        StorageError: it holds something else, another process is at work in it, or it cannot be written.
    """
    with storing(out):
        _refuse_another(out, what)
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"one process predicts into a folder at a time; another one is in {out}"
            ) from None
        with storing(out):
            remove_abandoned(out.glob(UNFINISHED))
            if not (out / MANIFEST).exists():
                _write(out, {**what, "model": dict(model), "complete": False})
        yield {name for name, *_ in what["pieces"] if _is_done(out / name, str(what["model_digest"]))}
    finally:
        os.close(descriptor)


def finish(out: Path, what: Mapping[str, Any], model: Mapping[str, str], files: Mapping[str, int]) -> int:
    """Write the manifest of a prediction whose files are all there.

    Args:
        out: folder.
        what: identity.
        model: where it comes from.
        files: name → events.

    Returns:
        Events in all files.
    """
    listed = [{"file": name, "events": rows, "sha256": sha256_of(out / name)} for name, rows in files.items()]
    total = sum(files.values())
    with storing(out):
        _write(out, {**what, "model": dict(model), "complete": True, "events": total, "files": listed})
    return total


def rows_of(path: Path) -> int:
    """Events in a file of scores."""
    return int(pq.read_metadata(path).num_rows)


def _refuse_another(out: Path, what: Mapping[str, Any]) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise StorageError(
            f"scores are written into an absent or empty folder, or their own; {out} is neither"
        )
    try:
        found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as fault:
        raise StorageError(f"{MANIFEST} is JSON; that of {out} is not: {fault}") from None
    wanted = json.loads(json.dumps(what))
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise StorageError(
            f"a prediction goes on with the same model and inputs; {out} holds one with other {', '.join(differing)}: "
            "name another --out"
        )


def _is_done(path: Path, digest: str) -> bool:
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except FileNotFoundError:
        return False
    except (OSError, pa.ArrowException) as fault:
        raise StorageError(
            f"files of scores are whole; {path} is not ({fault}): remove it and go on"
        ) from None
    if metadata.get(MODEL, b"").decode() != digest:
        raise StorageError(f"files of scores are of one model; {path} is of another: remove it and go on")
    return True


def _write(out: Path, values: Mapping[str, Any]) -> None:
    write_whole(out / MANIFEST, json.dumps(values, indent=1) + "\n")
