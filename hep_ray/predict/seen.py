"""Inputs that the models of folds learnt from, where the ids of their events do not tell.

An event's id is `class/stem/row` in a dataset, or `class/fields`. A prediction knows no class, and takes the stem from
the path as it is typed. So events of the training could count as new, and models that saw them would score them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hep_ray.addresses import located
from hep_ray.conversion.paths import stem_of
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import EVENT_ID, Arrays
from hep_ray.dataset.shard_file import open_shard
from hep_ray.predict.inputs import Piece, Prediction
from hep_ray.predict.output import read_events
from hep_ray.promote.classifier import Classifier, FoldClassifier, values_of

if TYPE_CHECKING:
    from hep_ray.promote.fold_set import Training

Rows = npt.NDArray[np.intp]

LOOKED_UP = 2000
"""Events of an input, at most, whose ids are looked up with other beginnings."""
COMPARED = 20
"""Events of an input, at most, whose values are compared with those of the training."""


def with_ids_of_training(
    classifier: Classifier, prediction: Prediction, training: Training | None = None
) -> tuple[Prediction, list[str]]:
    """Give events of the training's files the ids that they have there.

    A file is known by its SHA-256; what stands before its ids, by the manifest of the dataset, else by events of the
    folds with these ids and equal values.

    Args:
        classifier: the model; only those of folds know events.
        prediction: opened inputs.
        training: what is known of it. Where nothing is, a file is taken to be of the training whose events would be of
            the folds with a class, and more or less of its path, before their ids.

    Returns:
        The inputs with these ids, and a sentence on each file of which the ids remain unknown.
    """
    if not isinstance(classifier, FoldClassifier) or not prediction.inputs:
        return prediction, []
    digests = dict(zip(prediction.inputs, (digest for _, digest in prediction.digests), strict=True))
    prefixes: dict[Path, tuple[str, ...]] = {}
    unknown = []
    for path, piece in {piece.path: piece for piece in reversed(prediction.pieces)}.items():
        if training is not None and digests[path] not in training.digests:
            continue
        # A number of an event is that of its row there, unless fields make the ids here.
        if (
            training is not None
            and (known := training.ids.get(digests[path]))
            and not prediction.rules.event_id.fields
        ):
            prefixes[path] = known
            continue
        events: Arrays = next(read_events(classifier, prediction, piece), {EVENT_ID: np.array([], object)})
        ids = [str(one) for one in events[EVENT_ID]]
        if not ids or (classifier.membership(ids) >= 0).any():
            continue
        bare = [one[len(piece.prefix) :] for one in ids[:LOOKED_UP]]
        found = dict(_beginnings(classifier, piece, bare))
        equal = []
        if training is not None and training.by_file and training.events is not None:
            equal = _equal(classifier, events, bare, found, training.events)
        if len(equal) == 1:
            prefixes[path] = (equal[0],)
        elif training is not None or found:
            unknown.append(_sentence(path, ids[0], [f"{one}{bare[rows[0]]}" for one, rows in found.items()]))
    pieces = tuple(_known(one, prefixes.get(one.path, ())) for one in prediction.pieces)
    notes = [
        f"{path} is a file of the training: its events have the ids {' or '.join(f'{one}…' for one in own)}"
        for path, own in prefixes.items()
    ]
    known_as = tuple((path.name, one) for path, own in prefixes.items() for one in own)
    return replace(prediction, pieces=pieces, notes=(*prediction.notes, *notes), known_as=known_as), unknown


def _known(piece: Piece, beginnings: tuple[str, ...]) -> Piece:
    if len(beginnings) == 1:
        return replace(piece, prefix=beginnings[0])
    return replace(piece, among=beginnings)


def _sentence(path: Path, known: str, others: Sequence[str]) -> str:
    what = (
        f"may be of the training, which has ids such as '{others[0]}'"
        if others
        else "is a file of the training"
    )
    return (
        f"{path} {what}, and none of its own, such as '{known}', is of the folds, so that models which saw its events "
        "would score them: predict the dataset in its place"
    )


def _beginnings(classifier: FoldClassifier, piece: Piece, bare: Sequence[str]) -> Iterator[tuple[str, Rows]]:
    """Yield what may stand in a dataset before the ids of events, and the events that then are of the folds.

    Args:
        classifier: the models of folds.
        piece: of an input.
        bare: ids of its events, without what a prediction sets before them.
    """
    fronts = [""]
    if piece.prefix:
        folders, stem = Path(os.path.abspath(piece.path)).parts[1:-1], stem_of(piece.path)  # noqa: PTH100 (as in paths)
        fronts = ["/".join((*folders[len(folders) - depth :], stem, "")) for depth in range(len(folders) + 1)]
    for front in fronts:
        for name in classifier.classes:
            prefix = f"{name}/{front}"
            rows = np.flatnonzero(classifier.membership([prefix + one for one in bare]) >= 0)
            if len(rows):
                yield prefix, rows


def _equal(
    classifier: FoldClassifier,
    events: Arrays,
    bare: Sequence[str],
    found: Mapping[str, Rows],
    folder: Path,
) -> list[str]:
    """Return the beginnings of ids with which events have the values that they have in the dataset.

    Args:
        classifier: the models of folds.
        events: of an input.
        bare: their ids, without a beginning.
        found: beginning → events that then are of the folds.
        folder: of a dataset, whose events are compared.
    """
    wanted = {one + bare[row]: (one, row) for one, rows in found.items() for row in rows[:COMPARED]}
    equal, left = dict.fromkeys(found, True), dict(wanted)
    ours = {column.name: values_of(events, column) for column in classifier.columns}
    manifest = Manifest.read(folder)
    for batch in _with_ids(manifest, folder, wanted):
        decoded = manifest.event_schema.decode(batch)
        theirs = {column.name: values_of(decoded, column) for column in classifier.columns}
        for place, name in enumerate(decoded[EVENT_ID]):
            one, row = wanted[name]
            left.pop(name, None)
            equal[one] &= all(
                np.array_equal(values[row], theirs[column][place], equal_nan=True)
                for column, values in ours.items()
            )
    absent = {one for one, _ in left.values()}
    return [one for one, same in equal.items() if same and one not in absent]


def _with_ids(manifest: Manifest, folder: Path, event_ids: Iterable[str]) -> Iterator[pa.RecordBatch]:
    """Yield the events of a dataset that have some ids."""
    ids = pa.array(list(event_ids), pa.string())
    for shard in manifest.shards:
        for batch in open_shard(located(folder) / shard.file).iter_batches():
            found = batch.filter(pc.is_in(batch.column(EVENT_ID), ids))
            if found.num_rows:
                yield found
