"""Everything that can be found wrong with a dataset before it is trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.addresses import located
from hep_ray.config import Config
from hep_ray.dataset.dataset import ContentHash, Manifest, Shard, refuse_sums, shard_problems, weight_sums
from hep_ray.dataset.expressions import unknown
from hep_ray.dataset.leakage import Leakage, identifier_like
from hep_ray.dataset.schema import EVENT_ID, LABEL, Arrays
from hep_ray.dataset.shard_file import open_shard
from hep_ray.dataset.splits import SPLITS, hashes_of, split_codes
from hep_ray.errors import InvalidConfig, InvalidEvents
from hep_ray.plugins import code_changes

BATCH_BYTES = 32 * 2**20
"""Decoded events that are looked at together."""


class CheckReport(Config):
    """Contents of a dataset, and the faults found in it.

    Attributes:
        events: in all splits.
        classes: class name → events.
        splits: split name → events.
        fingerprint: of the manifest.
        problems: one sentence each; empty for a sound dataset.
        notes: what is worth knowing and no fault; not part of the JSON.
    """

    events: int
    classes: dict[str, int]
    splits: dict[str, int]
    fingerprint: str
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return one JSON object with the keys events, classes, splits, fingerprint and problems."""
        return json.dumps(self.model_dump(mode="json", exclude={"notes"}), indent=2)


def check(folder: Path | str, accept: Sequence[str] = ()) -> CheckReport:
    """Compare a dataset with its manifest and look through all of its events, in bounded memory.

    Problems are: files that differ from the manifest; a fingerprint that is not that of the manifest's
    entries; an empty split, or one that lacks a class; NaN or infinity; labels outside the classes; a column
    that models read, or a named element of one, with a single value throughout; events in a split that the
    rule does not give them; ids used twice; events whose inputs repeat those of another, of the same class
    or, counted apart, of another, within a split or, as leakage, across splits; events of one value of an identifier or
    spectator in several splits; columns that separate a class from the others alone, wholly or as they look like row
    numbers, identifiers, weights or labels; weights that sum to 0 or less in a class of a split.

    Notes are: classes of unequal size, and splits in which a class is rarer or commoner than overall; columns that
    nearly separate a class alone, identifiers and weights, and values that seem to stand for missing ones.

    Args:
        folder: of the dataset.
        accept: columns that are meant, such as measurements: what is found of them is noted only.

    Raises:
        UnreadableInput: there is no readable manifest.
        InvalidConfig: `accept` names a column that the dataset has not.
    """
    folder = located(folder)
    manifest = Manifest.read(folder)
    known = [column.name for column in manifest.event_schema.columns]
    for name in accept:
        if name not in known:
            raise InvalidConfig(f"--accept names no column: {unknown(name, known)}")
    problems = [problem] if (problem := manifest.fingerprint_problem()) else []
    problems += shard_problems(folder, manifest)
    recorded = manifest.weights
    if not problems and recorded and recorded != weight_sums(folder, manifest.event_schema, manifest.shards):
        problems.append("the sums of the weights in the manifest are not those of the shards")
    told = [] if problems else list(weight_problems(folder, manifest))
    accepted = told if manifest.event_schema.weight in accept else []
    problems += [one for one in told if one not in accepted]
    problems += balance_problems(manifest)
    scan = _EventScan(manifest)
    for shard in manifest.shards:
        problems += scan.read(folder, shard)
    problems += scan.problems()
    problems += scan.torn(accept)
    grave, notes = scan.leakage.findings(accept)
    problems += grave
    return CheckReport(
        events=sum(shard.rows for shard in manifest.shards),
        classes=manifest.class_counts(),
        splits=manifest.split_counts(),
        fingerprint=manifest.fingerprint,
        problems=tuple(problems),
        notes=(
            *code_changes(manifest.source.get("own_code")),
            *balance_notes(manifest),
            *accepted,
            *notes,
        ),
    )


class _EventScan:
    """Findings of one pass over the events: 18 bytes per event, and a sample of them.

    Attributes:
        leakage: the sample.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._schema = manifest.event_schema
        self._rule = manifest.split_rule
        self._ranges: dict[str, tuple[Any, Any]] = {}  # lowest and highest of each named element
        self.leakage = Leakage(manifest)
        self._contents = Repetitions()
        self._ids = Repetitions()
        self._groups = {
            column.name: Repetitions()
            for column in self._schema.columns
            if not column.shape
            and column.name not in self._schema.weights
            and (
                self._rule.by_test_file  # or events of one value are in one split by the rule
                if column.name == self._schema.split_by
                else column.name in self._schema.spectators or identifier_like(column.name, whole=True)
            )
        }
        self._batch_rows = max(1, BATCH_BYTES // sum(column.nbytes for column in self._schema.columns))

    def read(self, folder: Path, shard: Shard) -> Iterator[str]:
        """Look through one shard; a file that cannot be read is left to `shard_problems`."""
        content, rows = ContentHash(self._schema), 0
        try:
            with open_shard(folder / shard.file) as parquet:
                for batch in parquet.iter_batches(batch_size=self._batch_rows):
                    events = self._schema.decode(batch)
                    yield from self._event_problems(events, shard)
                    content.update(events)
                    rows += len(events[LABEL])
        except (OSError, pa.ArrowException):
            return
        except InvalidEvents as exc:
            yield f"{shard.file}: {exc}"
            return
        if rows == shard.rows and content.hexdigest() != shard.content:
            yield f"{shard.file} holds other events than those its manifest describes"

    def _event_problems(self, events: Arrays, shard: Shard) -> Iterator[str]:
        labels, event_ids = events[LABEL], events[EVENT_ID]
        try:
            self._schema.checked(events)
        except InvalidEvents as exc:
            yield f"{shard.file}: {exc}"
        groups = None if self._schema.split_by is None else events[self._schema.split_by]
        hashes = hashes_of(event_ids, self._rule.salt, groups)
        split = SPLITS.index(shard.split)
        strays = split_codes(hashes, self._rule, self._schema.quantities(events), labels) != split
        if strays.any():
            yield (
                f"{shard.file}: {int(strays.sum())} events belong to another split than '{shard.split}', "
                f"such as '{event_ids[int(strays.argmax())]}'"
            )
        for column in self._schema.inputs:
            values = events[column.name].reshape(-1, len(column.elements) or 1)
            low, high = self._ranges.get(column.name, (np.inf, -np.inf))
            self._ranges[column.name] = (
                np.fmin(low, np.fmin.reduce(values, axis=0)),  # which pass over NaN
                np.fmax(high, np.fmax.reduce(values, axis=0)),
            )
        inputs = [events[column.name] for column in self._schema.inputs]
        self._contents.add(row_hashes(inputs), labels, split)
        self._ids.add(hashes[:, 1], labels, split)
        for name, found in self._groups.items():
            found.add(row_hashes([events[name] + 0]), labels, split)  # in its own type; -0 becomes 0
        self.leakage.add(events, hashes[:, 1], split)

    def problems(self) -> Iterator[str]:
        """Yield what only the whole dataset shows."""
        for column in self._schema.inputs if self._ranges else ():
            lows, highs = self._ranges[column.name]
            if lows.min() == highs.max():
                yield f"column '{column.name}' is {lows[0]:g} in every event"
                continue
            for element, low, high in zip(column.elements, lows, highs, strict=False):
                if low == high:
                    yield f"element '{element}' of column '{column.name}' is {low:g} in every event"
        if repeats := self._ids.count()[0]:
            yield f"{repeats} events have the id of another event"
        repeated, contradictory, shared = self._contents.count()
        if repeated:
            yield f"{repeated} events repeat the content of another event"
        if contradictory:
            yield f"{contradictory} events have the content of an event of another class"
        for (left, right), events in shared.items():
            if events:
                yield f"{events} events are in '{SPLITS[left]}' and, with the same content, in '{SPLITS[right]}'"

    def torn(self, accepted: Collection[str] = ()) -> Iterator[str]:
        """Yield identifiers and spectators whose events of one value, such as a collision's, are in several splits."""
        for name, found in self._groups.items():
            events = sum(len(hashes) for hashes in found.hashes)
            repeated, _, shared = found.count()
            groups, torn = events - repeated, sum(shared.values())
            tested = shared[0, 2] + shared[1, 2]
            if name == self._schema.split_by:
                if tested:
                    yield (
                        f"column '{name}' says which events belong together, and {tested} times one of its values is "
                        "in the test files and in 'train' or 'val': hep-ray data convert of the files refuses them"
                    )
                continue
            if name in accepted or not torn or groups < FEWEST_GROUPS:
                continue
            if not FEWEST_IN_GROUP < events / groups < MOST_IN_GROUP:
                continue
            given = ""
            if self._rule.by_test_file:
                given = " beside --test-file" + " once no value is in a test file and in another" * bool(
                    tested
                )
            yield (
                f"column '{name}' has {groups} values, each in {events / groups:.1f} events on average, and {torn} "
                "times the same one in two splits: if events of one value belong together, as candidates of one "
                f"collision do, a model is judged by what it has seen. hep-ray data convert … --split-by {name} keeps "
                f"them in one split{given}; if they do not: hep-ray data check … --accept {name}"
            )


FEWEST_IN_GROUP, MOST_IN_GROUP, FEWEST_GROUPS = 1.02, 100, 100
"""Events of one value of an identifier, on average, and values between which they may belong together: unlike runs."""
LARGEST_RATIO = 1.5
"""Events of the largest class over those of the smallest that are worth no note."""
LARGEST_PULL = 3.0
"""Standard deviations from the overall share that are worth no note."""


def balance_problems(manifest: Manifest) -> Iterator[str]:
    """Yield splits without events, or without events of a class."""
    for split in SPLITS:
        counts = manifest.class_counts(split)
        absent = [name for name, count in counts.items() if not count]
        if manifest.split_rule.fraction(split) > 0 and not any(counts.values()):
            yield f"the split '{split}' is empty"
        elif absent and any(counts.values()):
            yield f"the split '{split}' has no events of {', '.join(absent)}"


def weight_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield splits in which the weights of a class that has events sum to 0 or less, as a search refuses them."""
    sums = manifest.weights or weight_sums(folder, manifest.event_schema, manifest.shards)
    for split, of_classes in sums.items():
        counts = manifest.class_counts(split)
        try:
            refuse_sums(
                {name: signed for name, (signed, _) in of_classes.items() if counts[name]}, f"split '{split}'"
            )
        except InvalidEvents as exc:
            yield f"{exc}; if all shall: hep-ray data check … --accept {manifest.event_schema.weight}"


def balance_notes(manifest: Manifest) -> Iterator[str]:
    """Yield classes of unequal size, and splits whose shares differ from the overall ones by more than chance.

    A class of share p has n p ± √(n p (1 − p)) events in a split of n.
    """
    overall = manifest.class_counts()
    events = sum(overall.values())
    if not events:
        return
    smallest, *_, largest = sorted(overall.values())
    if largest > LARGEST_RATIO * smallest:
        shares = ", ".join(f"{name} {count / events:.1%}" for name, count in overall.items())
        ratio = f"{largest / smallest:.1f} times" if smallest else "more than"
        yield (
            f"the classes are unequal: {shares}; the largest is {ratio} the smallest. Accuracy favours large "
            "classes; class weights or down-sampling even them out"
        )
    for split in SPLITS:
        rows = manifest.rows(split)
        for name, count in manifest.class_counts(split).items():
            share = overall[name] / events
            spread = math.sqrt(rows * share * (1 - share))
            if spread and (pull := (count - rows * share) / spread) and abs(pull) > LARGEST_PULL:
                yield (
                    f"{name} is {count / rows:.1%} of '{split}' and {share:.1%} of all events "
                    f"({pull:+.1f} standard deviations); --stratify of the command that made it keeps the shares"
                )


Hashes = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SLICES = 16
"""Parts of the range of hashes that are sorted one after the other."""


def row_hashes(columns: Sequence[npt.NDArray[Any]]) -> Hashes:
    """Return a hash of every event's values, bit by bit.

    Words of 8 bytes are mixed, each with a key of its place, and added up; the mixing is the output function
    of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        columns: (N, ...) each, of any number type.

    Returns:
        (N,)
    """
    total: Hashes = np.zeros(len(columns[0]), dtype=np.uint64)
    place = 0
    for column in columns:
        rows = np.ascontiguousarray(column).reshape(len(column), -1).view(np.uint8)
        words = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64)  # filled up with zeros
        keys = (np.arange(place + 1, place + 1 + words.shape[1], dtype=np.uint64)) * GOLDEN
        total += _mixed(words + keys).sum(axis=1, dtype=np.uint64)
        place += words.shape[1]
    return _mixed(total)


def _mixed(words: Hashes) -> Hashes:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Repetitions:
    """Collects hashes, labels and splits of events; 10 bytes for each hash and its class and split."""

    def __init__(self) -> None:
        self.hashes: list[Hashes] = []
        self._marks: list[npt.NDArray[np.int16]] = []

    def add(self, hashes: Hashes, labels: npt.NDArray[np.int64], split: int) -> None:
        """Add events of one split (0, 1 or 2)."""
        self.hashes.append(hashes.copy())
        self._marks.append((labels * 4 + split).astype(np.int16))

    def count(self) -> tuple[int, int, dict[tuple[int, int], int]]:
        """Sort and count.

        Returns:
            Events that have the hash of an earlier one; events that have the hash of an event with another label;
            (earlier split, later split) → hashes that are in both.
        """
        repeated = contradictory = 0
        shared = dict.fromkeys(((0, 1), (0, 2), (1, 2)), 0)
        for hashes, marks in self._slices():
            starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
            sizes = np.diff(starts, append=len(hashes))
            repeated += int((sizes - 1).sum())
            labels, splits = marks >> 2, np.left_shift(1, marks & 3)
            differ = np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts)
            contradictory += int(sizes[differ].sum())
            present = np.bitwise_or.reduceat(splits, starts)
            for left, right in shared:
                shared[left, right] += int(((present >> left) & (present >> right) & 1).sum())
        return repeated, contradictory, shared

    def _slices(self) -> Iterator[tuple[Hashes, npt.NDArray[np.int16]]]:
        """Yield all events in the order of their hashes, a part of the range at a time."""
        for part in range(SLICES):
            within = [hashes >> np.uint64(60) == part for hashes in self.hashes]
            if any(mask.any() for mask in within):
                pairs = zip(self.hashes, self._marks, within, strict=True)
                taken = [(hashes[mask], marks[mask]) for hashes, marks, mask in pairs]
                hashes, marks = map(np.concatenate, zip(*taken, strict=True))
                order = np.argsort(hashes)
                yield hashes[order], marks[order]
