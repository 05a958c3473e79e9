"""How many events of each class there are, in all and in each split."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hep_ray.dataset.manifest import Manifest
from hep_ray.dataset.splits import SPLITS

LARGEST_RATIO = 1.5
"""Events of the largest class over those of the smallest that are worth no note."""
LARGEST_PULL = 3.0
"""Standard deviations from the overall share that are worth no note."""


def balance_problems(manifest: Manifest) -> Iterator[str]:
    """Splits without events, or without events of a class."""
    for split in SPLITS:
        counts = manifest.class_counts(split)
        absent = [name for name, count in counts.items() if not count]
        if manifest.split_rule.fraction(split) > 0 and not any(counts.values()):
            yield f"the split '{split}' is empty"
        elif absent and any(counts.values()):
            yield f"the split '{split}' has no events of {', '.join(absent)}"


def balance_notes(manifest: Manifest) -> Iterator[str]:
    """Classes of unequal size, and splits whose shares differ from the overall ones by more than chance.

    A class of share p has n p ± √(n p (1 − p)) events in a split of n.
    """
    overall = manifest.class_counts()
    events = sum(overall.values())
    if not events:
        return
    largest, smallest = max(overall.values()), min(overall.values())
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
                    f"({pull:+.1f} standard deviations)"
                )
