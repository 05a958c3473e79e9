"""Scores of one piece of input, in one Parquet file that is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hep_ray.conversion.assemble import assemble
from hep_ray.conversion.labels import BatchOrigin
from hep_ray.conversion.readers import READERS, parse_options
from hep_ray.dataset.schema import EVENT_ID, Arrays
from hep_ray.files import storing, whole
from hep_ray.predict.inputs import Prediction, schema_of_model
from hep_ray.predict.pieces import Piece
from hep_ray.promote.classifier import Classifier

MODEL = b"hep_ray.model_digest"
"""Key in a file's metadata: which model gave the scores."""


def score_piece(
    classifier: Classifier, prediction: Prediction, piece: Piece, out: Path, digest: str, batch: int
) -> int:
    """Score the events of a piece in bounded memory and write them.

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
    schema = scores_schema(classifier, digest)
    target, rows = out / piece.file, 0
    with (
        storing(target),
        whole(target) as filling,
        pq.ParquetWriter(filling, schema, compression="zstd") as writer,
    ):
        for ids, scores, log_odds in _scored(classifier, prediction, piece, batch):
            columns = [pa.array(ids, pa.string()), *map(pa.array, scores.T), *map(pa.array, log_odds.T)]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            rows += len(ids)
    return rows


FILLS = "missing = VALUE of the column in a schema file (--schema)"


def scores_schema(classifier: Classifier, digest: str) -> pa.Schema:
    """Of a file of scores: `event_id`, then `score_<class>` and `log_odds_<class>` of every class."""
    fields = [pa.field(EVENT_ID, pa.string(), nullable=False)]
    fields += [pa.field(name, pa.float32(), nullable=False) for name in classifier.score_names]
    fields += [pa.field(name, pa.float64(), nullable=False) for name in classifier.rank_names]
    return pa.schema(fields, metadata={MODEL: digest.encode()})


def _scored(
    classifier: Classifier, prediction: Prediction, piece: Piece, batch: int
) -> Iterator[tuple[npt.NDArray[np.object_], npt.NDArray[np.float32], npt.NDArray[np.float64]]]:
    for events in read_events(classifier, prediction, piece):
        ids = events[EVENT_ID]
        if len(ids):
            for column in classifier.columns:
                column.checked(events[column.name], ids)
            yield ids, *classifier.scores(events, batch=batch)


def read_events(classifier: Classifier, prediction: Prediction, piece: Piece) -> Iterator[Arrays]:
    """The model's columns and the ids of a piece's events, batch by batch; their labels are not read."""
    rules, schema = prediction.rules, schema_of_model(classifier)
    reader = READERS[rules.reader]
    opened = reader.open(piece.path, parse_options(reader, rules.options))
    part, row = opened.parts[piece.part], piece.start
    for batch in opened.read(part, piece.start, piece.stop, prediction.names):
        # Every event is given the first class: assembling asks for a label, and nothing here reads it.
        origin = BatchOrigin(piece.prefix, str(piece.path), 0, row, opened.cell, piece.prefix, FILLS)
        events = assemble(batch, origin, rules, prediction.columns, schema)
        row += batch.num_rows
        if piece.prefix:
            events[EVENT_ID] = np.array([piece.prefix + name for name in events[EVENT_ID]], dtype=object)
        yield events
