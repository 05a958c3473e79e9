"""Colour flow: pairs the colour ends of a hard event at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FIRST_TAG = 501
GLUON = 21
QUARKS = range(1, 7)


def random_flow(
    incoming: Sequence[int], outgoing: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, int]] | None:
    """Colour and anticolour tags of incoming, then outgoing particles.

    A flow starts where colour leaves the collision (an outgoing quark or gluon, an incoming antiquark
    or gluon) and ends where anticolour does; each start is tied to a random end, never the two ends
    of one gluon.

    Args:
        incoming: PDG numbers of the colliding partons.
        outgoing: PDG numbers of what they make.
        rng: source of randomness.

    Returns:
        One (colour, anticolour) per particle, 0 for none; None where no flow exists, which is when
        quark number is not conserved, or a lone gluon has nothing to be tied to.
    """
    particles = [*incoming, *outgoing]
    starts: list[int] = []
    ends: list[int] = []
    for index, pdg in enumerate(particles):
        crossed = -pdg if index < len(incoming) else pdg
        if pdg == GLUON or crossed in QUARKS:
            starts.append(index)
        if pdg == GLUON or -crossed in QUARKS:
            ends.append(index)
    if len(starts) != len(ends):
        return None
    order = _without_fixed_ties(starts, ends, rng)
    if order is None:
        return None
    tags = [[0, 0] for _ in particles]
    for number, (start, end) in enumerate(zip(starts, order, strict=True)):
        # An incoming particle carries in the colour that an outgoing one would carry away.
        tags[start][1 if start < len(incoming) else 0] = FIRST_TAG + number
        tags[end][0 if end < len(incoming) else 1] = FIRST_TAG + number
    return [(colour, anticolour) for colour, anticolour in tags]


def _without_fixed_ties(
    starts: list[int], ends: list[int], rng: np.random.Generator, tries: int = 64
) -> list[int] | None:
    for _ in range(tries):
        order = [ends[index] for index in rng.permutation(len(ends))]
        if all(start != end for start, end in zip(starts, order, strict=True)):
            return order
    return None
