"""Which events are there more than once, told by 64-bit hashes of their values.

Two different events have the same hash with a probability of 2⁻⁶⁴: among 10⁸ events, 3 in 10,000 datasets
would show a repetition that is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SLICES = 16
"""Parts of the range of hashes that are sorted one after the other."""


def row_hashes(columns: Sequence[npt.NDArray[Any]]) -> Hashes:
    """A hash of every event's values, bit by bit.

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
        words = _words(column)
        keys = (np.arange(place + 1, place + 1 + words.shape[1], dtype=np.uint64)) * GOLDEN
        total += _mixed(words + keys).sum(axis=1, dtype=np.uint64)
        place += words.shape[1]
    return _mixed(total)


def _words(column: npt.NDArray[Any]) -> Hashes:
    """The bytes of each row as 64-bit words, filled up with zeros; (N, W)."""
    rows = np.ascontiguousarray(column).reshape(len(column), -1).view(np.uint8)
    words: Hashes = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64)
    return words


def _mixed(words: Hashes) -> Hashes:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@dataclasses.dataclass(frozen=True)
class Counts:
    """How often hashes come again.

    Attributes:
        repeated: events that have the hash of an earlier one.
        contradictory: events that have the hash of an event with another label.
        shared: (earlier split, later split) → hashes that are in both.
    """

    repeated: int
    contradictory: int
    shared: Mapping[tuple[int, int], int]


class Repetitions:
    """Collects hashes, labels and splits of events; 10 bytes for each hash and its class and split."""

    def __init__(self) -> None:
        self._hashes: list[Hashes] = []
        self._marks: list[npt.NDArray[np.int16]] = []

    def add(self, hashes: Hashes, labels: npt.NDArray[np.int64], split: int) -> None:
        """Add events of one split (0, 1 or 2)."""
        self._hashes.append(hashes.copy())
        self._marks.append((labels * 4 + split).astype(np.int16))

    def count(self) -> Counts:
        """Sort and count."""
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
        return Counts(repeated, contradictory, shared)

    def _slices(self) -> Iterator[tuple[Hashes, npt.NDArray[np.int16]]]:
        """All events in the order of their hashes, a part of the range at a time."""
        for part in range(SLICES):
            within = [hashes >> np.uint64(60) == part for hashes in self._hashes]
            if not sum(int(mask.sum()) for mask in within):
                continue
            pairs = zip(self._hashes, self._marks, within, strict=True)
            taken = [(hashes[mask], marks[mask]) for hashes, marks, mask in pairs]
            hashes, marks = (np.concatenate(pieces) for pieces in zip(*taken, strict=True))
            order = np.argsort(hashes)
            yield hashes[order], marks[order]
