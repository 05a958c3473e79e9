"""The folder of a prediction: files of scores, and a manifest that says of which inputs and model.

A file of scores is renamed into place when it is whole, so whatever is there is done. A prediction that was
killed is typed again: it does what is not there, and only for the same model and inputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.conversion.assemble import assemble
from hep_ray.conversion.labels import BatchOrigin
from hep_ray.conversion.readers import READERS, parse_options
from hep_ray.dataset.dataset import sha256_of
from hep_ray.dataset.schema import EVENT_ID, Arrays, EventSchema
from hep_ray.errors import StorageError
from hep_ray.files import UNFINISHED, lock, remove_abandoned, storing, whole, write_whole
from hep_ray.predict.inputs import Piece, Prediction
from hep_ray.promote.classifier import Classifier

MANIFEST = "_predictions.json"
"""Its name begins with `_`, so that readers of Parquet folders pass it over."""
FORMAT = 2
"""2 has the log-odds beside the probabilities."""


def identity_of_model(digest: str, classes: tuple[str, ...], *, calibrated: bool = False) -> dict[str, Any]:
    """Return the part of `identity` that is known before the inputs are."""
    return {"format": FORMAT, "model_digest": digest, "classes": list(classes), "calibrated": calibrated}


def identity(
    prediction: Prediction, model: Mapping[str, str], classes: tuple[str, ...], *, calibrated: bool = False
) -> dict[str, Any]:
    """Return what makes two predictions the same: model, inputs, how they are read and cut.

    Args:
        prediction: opened inputs.
        model: its digest under `digest`, and where it comes from.
        classes: of its scores.
        calibrated: whether its scores are calibrated.
    """
    return {
        **identity_of_model(model["digest"], classes, calibrated=calibrated),
        "inputs": [list(pair) for pair in prediction.digests],
        "rules": _stated(prediction.rules.model_dump(mode="json", by_alias=True)),
        "columns": [_without_image(rule.model_dump(mode="json")) for rule in prediction.columns],
        "units": prediction.units,
        "pieces": [[piece.file, piece.part, piece.start, piece.stop] for piece in prediction.pieces],
        **({"ids": [list(pair) for pair in prediction.known_as]} if prediction.known_as else {}),
    }


def _stated(rules: dict[str, Any]) -> dict[str, Any]:
    """Return rules as predictions of earlier versions wrote them, where they say nothing else."""
    return {**rules, "columns": [_without_image(rule) for rule in rules["columns"]]}


def _without_image(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key != "image" or value is not None}


@contextmanager
def predicting(out: Path, what: Mapping[str, Any], model: Mapping[str, str]) -> Iterator[dict[str, int]]:
    """Hold a folder for one prediction.

    Args:
        out: absent, empty, or that of the same prediction.
        what: its `identity`.
        model: for the manifest.

    Yields:
        Files that are there already → their events.

    Raises:
        StorageError: it holds something else, another process is at work in it, or it cannot be written.
    """
    with storing(out):
        refuse_another(out, what)
        out.mkdir(parents=True, exist_ok=True)
    with lock(out, "one process predicts into a folder at a time"):
        with storing(out):
            remove_abandoned(out.glob(UNFINISHED))
            if not (out / MANIFEST).exists():
                _write(out, {**what, "model": dict(model), "complete": False})
        done = {name: _rows(out / name, str(what["model_digest"])) for name, *_ in what["pieces"]}
        yield {name: rows for name, rows in done.items() if rows is not None}


@dataclass(frozen=True)
class Further:
    """Facts for a manifest beside the files of scores, where there are some.

    Attributes:
        shift_test: record of the shift test.
        friends: records of the friend trees; those of earlier ones whose files are still there are kept.
        addresses: from which inputs were fetched.
    """

    shift_test: Mapping[str, Any] | None = None
    friends: Sequence[Mapping[str, Any]] = ()
    addresses: Sequence[str] = ()


def finish(
    out: Path,
    what: Mapping[str, Any],
    model: Mapping[str, str],
    files: Mapping[str, int],
    further: Further | None = None,
) -> int:
    """Write the manifest of a prediction whose files are all there.

    Args:
        out: folder.
        what: identity.
        model: where it comes from.
        files: name → events.
        further: what it says beside them.

    Returns:
        Events in all files.
    """
    further = further or Further()
    listed = [{"file": name, "events": rows, "sha256": sha256_of(out / name)} for name, rows in files.items()]
    total = sum(files.values())
    with storing(out):
        friends = {one["file"]: one for one in (*_earlier_friends(out), *further.friends)}
        more = {
            "shift_test": further.shift_test,
            "friends": list(friends.values()),
            "addresses": list(further.addresses),
        }
        values = {**what, "model": dict(model), "complete": True, "events": total, "files": listed}
        _write(out, values | {name: value for name, value in more.items() if value})
    return total


def _earlier_friends(out: Path) -> list[Mapping[str, Any]]:
    found = json.loads((out / MANIFEST).read_text(encoding="utf-8")).get("friends", [])
    return [one for one in found if (out / one["file"]).is_file()]


def refuse_another(out: Path, what: Mapping[str, Any]) -> None:
    """Refuse a folder that is neither absent, nor empty, nor that of a prediction of this identity, or of a part of it.

    Raises:
        StorageError: it is not.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise StorageError(
            f"scores are written into an absent or empty folder, or their own; {out} is neither"
        )
    try:
        found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as exc:
        raise StorageError(f"{MANIFEST} is JSON; that of {out} is not: {exc}") from None
    wanted = json.loads(json.dumps(what))
    found.setdefault("calibrated", False)  # earlier versions had no calibration
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise StorageError(
            f"a prediction goes on with the same model and inputs; {out} holds one with other {', '.join(differing)}: "
            "name another --out"
        )


def _rows(path: Path, digest: str) -> int | None:
    """Return the events of a finished file of scores; None where it is not there."""
    try:
        found = pq.read_metadata(path)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as exc:
        raise StorageError(f"files of scores are whole; {path} is not ({exc}): remove it and go on") from None
    if (found.metadata or {}).get(MODEL, b"").decode() != digest:
        raise StorageError(f"files of scores are of one model; {path} is of another: remove it and go on")
    return int(found.num_rows)


def _write(out: Path, values: Mapping[str, Any]) -> None:
    write_whole(out / MANIFEST, json.dumps(values, indent=1) + "\n")


MODEL = b"hep_ray.model_digest"
"""Key in a file's metadata: which model gave the scores."""
FOLD = "fold"
"""Column of the scores by the models of folds."""


def score_columns(classifier: Classifier) -> pa.Schema:
    """Return the columns of the files of a classifier's scores, see `score_piece`."""
    fields = [pa.field(EVENT_ID, pa.string(), nullable=False)]
    fields += [pa.field(name, pa.float32(), nullable=False) for name in classifier.score_names]
    fields += [pa.field(name, pa.float64(), nullable=False) for name in classifier.rank_names]
    if classifier.fold_of([]) is not None:
        fields.append(pa.field(FOLD, pa.int32(), nullable=False))
    return pa.schema(fields)


def score_piece(
    classifier: Classifier, prediction: Prediction, piece: Piece, out: Path, digest: str, batch: int
) -> int:
    """Score the events of a piece in bounded memory and write `event_id`, `score_<class>` and `log_odds_<class>`.

    Of the models of folds also `fold`: from 1 the one that scored the event, 0 where all did.

    Args:
        classifier: the model.
        prediction: how the inputs are read.
        piece: of them.
        out: folder of the scores.
        digest: names the model.
        batch: events per forward pass.

    Returns:
        Events that were scored.

    Raises:
        UnreadableInput: the input cannot be read; file and row are named.
        InvalidEvents: a value is absent, NaN or infinite, or does not fit its column.
        StorageError: the scores cannot be written.
    """
    schema = score_columns(classifier).with_metadata({MODEL: digest.encode()})
    target, rows = out / piece.file, 0
    with (
        storing(target),
        whole(target) as filling,
        pq.ParquetWriter(filling, schema, compression="zstd") as writer,
    ):
        for events in read_events(classifier, prediction, piece):
            ids = events[EVENT_ID]
            if not len(ids):
                continue
            for column in classifier.columns:
                column.checked(events[column.name], ids)
            scores, log_odds = classifier.scores(events, batch=batch)
            columns = [pa.array(ids, pa.string()), *map(pa.array, scores.T), *map(pa.array, log_odds.T)]
            if (folds := classifier.fold_of(ids)) is not None:
                columns.append(pa.array(folds))
            writer.write_batch(pa.record_batch(columns, schema=schema))
            rows += len(ids)
    return rows


def scored_by_one(out: Path) -> int:
    """Return how many events of a prediction by the models of folds were scored by one of them alone."""
    files = sorted(out.glob("*.parquet"))
    return sum(int(np.count_nonzero(pq.read_table(path, columns=[FOLD])[FOLD].to_numpy())) for path in files)


FILLS = "missing = VALUE of the column in a schema file (--schema)"


def read_events(classifier: Classifier, prediction: Prediction, piece: Piece) -> Iterator[Arrays]:
    """Yield the model's columns and the ids of a piece's events, batch by batch; their labels are not read."""
    rules, known = prediction.rules, classifier.schema
    schema = EventSchema(
        task=known.task, columns=classifier.columns, classes=known.classes, signal=known.signal
    )
    reader = READERS[rules.reader]
    opened = reader.open(piece.path, parse_options(reader, rules.options))
    part, row = opened.parts[piece.part], piece.start
    for batch in opened.read(part, piece.start, piece.stop, prediction.names):
        # Every event is given the first class: assembling asks for a label, and nothing here reads it.
        origin = BatchOrigin(piece.prefix, str(piece.path), 0, row, opened.cell, piece.prefix, FILLS)
        events = assemble(batch, origin, rules, prediction.columns, schema)
        row += batch.num_rows
        bare = events[EVENT_ID].to_pylist()
        ids = np.array([piece.prefix + name for name in bare], dtype=object)
        for beginning in piece.among:
            others = np.array([beginning + name for name in bare], dtype=object)
            own = classifier.fold_of(others)
            ids = ids if own is None else np.where(own > 0, others, ids)
        events[EVENT_ID] = ids
        yield events
