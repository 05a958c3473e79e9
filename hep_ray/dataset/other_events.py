"""Datasets that the variations of a schema name: other events, which are judged in place of the nominal ones."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from hep_ray.dataset.dataset import Dataset, Hashes, Manifest
from hep_ray.dataset.schema import EVENT_ID, EventSchema
from hep_ray.dataset.splits import SPLITS, Split
from hep_ray.dataset.variations import Variation
from hep_ray.errors import InvalidConfig, InvalidEvents, ShardMismatch, UnreadableInput


def other_datasets(dataset: Dataset, *, validated: bool, hashes: Hashes = "once") -> dict[str, Dataset]:
    """Open the datasets that variations name, once their events may stand for the nominal ones.

    Args:
        dataset: opened, whose schema has the variations; where its weights are left out, theirs are too.
        validated: judge the validation split too, beside that of the test.
        hashes: which shards are hashed, see `verify_shards`.

    Returns:
        Variation → dataset; without those that change columns or weights.

    Raises:
        UnreadableInput: a dataset is not there, or cannot be read.
        InvalidConfig: it has other classes, another signal, weight or column, or it is the dataset itself.
        InvalidEvents: a split lacks a class, or models may be trained on events that they are judged by.
        ShardMismatch: it is not whole, or not the one that the schema states.
    """
    splits = SPLITS[1:] if validated else SPLITS[2:]
    return {
        name: _opened(dataset, name, one, splits, hashes)
        for name, one in dataset.schema.variations.items()
        if one.data is not None
    }


def _opened(
    dataset: Dataset, name: str, variation: Variation, splits: Sequence[Split], hashes: Hashes
) -> Dataset:
    folder = dataset.folder / str(variation.data)
    called = f"variation '{name}' names the dataset {folder}"
    weighted = dataset.schema.weight == dataset.manifest.event_schema.weight
    try:
        manifest = Manifest.load(folder)
    except UnreadableInput as exc:
        raise UnreadableInput(
            f"{called}, which cannot be read: {exc}: put it there, or convert {dataset.folder} anew with "
            "another 'data', which is relative to it"
        ) from None
    if variation.fingerprint != manifest.fingerprint:
        raise ShardMismatch(
            f"{called} with the fingerprint {variation.fingerprint}, and there lies {manifest.fingerprint}: state this "
            "one, or leave 'fingerprint' out"
        )
    if manifest.fingerprint == dataset.fingerprint:
        raise InvalidConfig(f"{called}, whose events are the nominal ones, so that it changes nothing")
    if unlike := differs(dataset.manifest.event_schema, manifest.event_schema):
        raise InvalidConfig(f"{called}, which has {unlike}: convert it by the schema of {dataset.folder}")
    try:
        other = Dataset.open(folder, hashes=hashes, weights=weighted, splits=splits)
    except InvalidEvents as exc:
        raise InvalidEvents(f"{called}: {exc}") from None
    for split in splits:
        _refuse_learnt(dataset, other, split, called)
    return other


def differs(own: EventSchema, other: EventSchema, *, inputs: bool = False) -> str | None:
    """Return in words what events lack to be judged by models of others; None where they lack nothing.

    Args:
        own: of the events that models are trained on.
        other: of those that they are to judge; more columns do no harm.
        inputs: only what models may read must be alike.
    """
    for what in ("classes", "signal", "weight"):
        if getattr(own, what) != getattr(other, what):
            return f"{what} {getattr(other, what)}, not {getattr(own, what)}"
    known = {column.name: column for column in other.of_events.columns}
    of_variations = {one.weight for one in own.variations.values()} - {own.weight}
    for column in own.of_events.inputs if inputs else own.of_events.columns:
        if column.name not in of_variations and known.get(column.name) != column:
            return f"no column '{column.name}' of shape {column.shape}, {column.dtype}, unit '{column.unit}'"
    return None


def _refuse_learnt(dataset: Dataset, other: Dataset, split: Split, called: str) -> None:
    """Refuse events that are, by their ids, in an earlier split of the nominal dataset, which models learn from.

    Raises:
        InvalidEvents: there are some.
    """
    if _divided_by_id(dataset.manifest, other.manifest):
        return
    ids = other.values(EVENT_ID, split, purpose="confirm").combine_chunks()
    for earlier in SPLITS[: SPLITS.index(split)]:
        nominal = dataset.values(EVENT_ID, earlier).combine_chunks()
        seen = ids.filter(pc.is_in(ids, nominal)) if len(nominal) else pa.array([], pa.string())
        if len(seen):
            raise InvalidEvents(
                f"{called}: {len(seen)} events of its split '{split}' are in the split '{earlier}' of "
                f"{dataset.folder} by their ids, such as '{seen[0]}', and models would be judged by what they learn "
                "from: convert it with the same --split; where only the ids are the same, tell events "
                "apart by [event_id] of the schema file"
            )


def _divided_by_id(one: Manifest, other: Manifest) -> bool:
    """Return whether equal ids are in equal splits, since the same hash of the id alone decides."""
    rule = one.split_rule
    alone = rule.train_where is None and not rule.stratified and one.event_schema.split_by is None
    return alone and rule == other.split_rule and other.event_schema.split_by is None
