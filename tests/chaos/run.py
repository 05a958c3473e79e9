"""Disturb real searches at random, repair what a person would repair, and audit what is left.

    python -m tests.chaos.run [--seeds 5] [--first-seed 0] [--faults 6] [--trials 30] [--kinds actor,node,…] [--stacked]

Exit code 0 only where no epoch was lost or told twice, every trial that was interrupted gave, to the last bit, the
numbers that it gives undisturbed, and no process, placement group or temporary file is left.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from hep_ray.cluster import SETTINGS
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import LABEL, Column, EventSchema
from hep_ray.loading.batches import Events
from hep_ray.loading.shards import packed
from hep_ray.search.audit import Audit, compare
from hep_ray.search.state import TrialState
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import start_trial
from tests.chaos.faults import KINDS, USUAL, Fault, inject
from tests.chaos.rig import Rig, Stuck
from tests.conftest import toy_events, toy_schema

EVENTS, SIZE, SIZE_STACKED = 600, 28, 12
TRIALS, TRIALS_STACKED = 30, 96
NOISE = 0.2
"""Share of labels that are wrong, so that trials differ and ASHA has something to stop."""


@dataclass
class Outcome:
    """What a seed left.

    Attributes:
        seed: of the faults and of the search.
        faults: injected, in order.
        found: the audit of the search.
        seconds: of it all.
        by_hand: times that the driver ended by itself and was started again.
        lost: journalled epochs that are gone or changed, by kind of the last fault before.
        replayed: interrupted trials that were trained again, undisturbed.
        other: of these, trials that gave other numbers.
        groups: placement groups that were left.
        orphans: processes that were left.
    """

    seed: int
    faults: list[Fault] = field(default_factory=list)
    found: Audit | None = None
    seconds: float = 0.0
    by_hand: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    replayed: int = 0
    other: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is lost, told twice, different or left over."""
        assert self.found is not None
        bad = [*self.found.findings, *self.other, *self.groups, *self.orphans, *self.lost]
        return not bad and self.found.failed == 0


def disturb(
    seed: int, data: Path, trials: int, faults: int, kinds: tuple[str, ...], folder: Path, *, stacked: bool
) -> Outcome:
    """Run one search to its end among faults, its trials one by one or stacked."""
    start = time.monotonic()
    dice = random.Random(seed)
    outcome = Outcome(seed)
    planned = (
        [*kinds, *dice.choices(kinds, k=faults)][:faults]
        if faults >= len(kinds)
        else dice.sample(kinds, faults)
    )
    dice.shuffle(planned)
    rig = Rig(folder, data, trials, seed, stacked=stacked)
    try:
        rig.start()
        for number, kind in enumerate(planned):
            await_trials(rig, int(0.85 * trials * (number + dice.random()) / len(planned)))
            fault = inject(kind, rig, dice)
            if fault is None:
                break
            outcome.faults.append(fault)
            over = f"over after {fault.seconds:.1f} s; {rig.ended()} trials ended"
            say(f"seed {seed}: {kind} {fault.victim} killed, {over}")
        rig.until(lambda: rig.driver.poll() == 0, "the search ends")
        outcome.groups = rig.held()
        rig.until(lambda: not rig.busy_workers(), "actors are gone")
        outcome.found = compare(rig.search, rig.server.uri)
        after = rig.epochs()
        state = rig.state()
    finally:
        outcome.orphans = rig.close()
        outcome.by_hand = rig.by_hand
    for fault in outcome.faults:
        lost = sum(after.get(key) != row for key, row in fault.before.items())
        if lost:
            outcome.lost[fault.kind] = outcome.lost.get(fault.kind, 0) + lost
    interrupted = {trial for fault in outcome.faults for trial in fault.interrupted}
    again = [state.trials[name] for name in sorted(interrupted)]
    replay(Dataset.open(data), again, outcome, stacked=stacked)
    outcome.seconds = time.monotonic() - start
    return outcome


def await_trials(rig: Rig, number: int) -> None:
    """Wait until so many trials have ended, or the search has."""
    rig.until(lambda: rig.ended() >= number or rig.driver.poll() == 0, f"{number} trials end")


def replay(dataset: Dataset, trials: Iterable[TrialState], outcome: Outcome, *, stacked: bool) -> None:
    """Train interrupted trials again without a break, one by one, and compare every number but the seconds."""
    torch.set_num_threads(1)
    schema = dataset.schema
    names = [column.name for column in schema.columns]
    splits: dict[str, Events] = {}
    for split in ("train", "val"):
        tables = (pq.read_table(path, columns=[LABEL, *names]) for path in dataset.paths(split))
        splits[split] = packed(tables, dataset.rows(split), schema.columns)
    for trial in trials:
        config = TrialConfig.from_params(trial.started.params)
        loop = start_trial(config, schema, splits["train"], splits["val"], epochs=8, seed=trial.started.seed)
        outcome.replayed += 1
        for row in trial.history:
            own = loop.run_epoch()
            # Losses of a stack's steps are summed in another order: see hep_ray/training/fused.py.
            near = math.isclose(own["train_loss"], row["train_loss"], rel_tol=1e-6 if stacked else 0)
            same = {"epoch_seconds": 0, "train_loss": 0}
            if not near or own | same != row | same:
                outcome.other.append(trial.trial_id)
                break


def table(outcomes: list[Outcome]) -> str:
    """Markdown: a row per kind of fault, and what is left of all seeds."""
    rows = [
        "| killed | times | seconds to get over it: median | most | epochs lost |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        seconds = [fault.seconds for one in outcomes for fault in one.faults if fault.kind == kind]
        if seconds:
            lost = sum(one.lost.get(kind, 0) for one in outcomes)
            rows.append(
                f"| {kind} | {len(seconds)} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | {lost} |"
            )
    return "\n".join(rows)


def totals(outcomes: list[Outcome]) -> dict[str, Any]:
    """Everything that is counted."""
    found = [one.found for one in outcomes if one.found is not None]
    kinds = [finding.kind for one in found for finding in one.findings]
    return {
        "seeds": len(outcomes),
        "faults": sum(len(one.faults) for one in outcomes),
        "trials": sum(one.trials for one in found),
        "epochs": sum(one.epochs for one in found),
        "failed trials": sum(one.failed for one in found),
        "epochs lost": sum(sum(one.lost.values()) for one in outcomes) + kinds.count("lost"),
        "twice": kinds.count("twice"),
        "different": kinds.count("differs"),
        "temporary files": kinds.count("left over"),
        "orphans": sum(len(one.orphans) for one in outcomes),
        "placement groups": sum(len(one.groups) for one in outcomes),
        "replayed": sum(one.replayed for one in outcomes),
        "not bit-identical": sum(len(one.other) for one in outcomes),
        "driver started by hand": sum(one.by_hand for one in outcomes),
        "minutes": round(sum(one.seconds for one in outcomes) / 60, 1),
    }


def write_events(folder: Path, *, stacked: bool) -> None:
    """Write a dataset of images, or of their numbers for networks that can be stacked."""
    size = SIZE_STACKED if stacked else SIZE
    events, schema = toy_events(EVENTS, size), toy_schema(size)
    events["label"] = np.where(
        np.random.default_rng(0).random(EVENTS) < NOISE, 1 - events["label"], events["label"]
    )
    if stacked:
        events["numbers"] = events.pop("image").reshape(EVENTS, -1)
        column = Column(name="numbers", shape=events["numbers"].shape[1:], unit="GeV")
        schema = EventSchema(task=schema.task, columns=(column,), classes=schema.classes)
    with ShardWriter(folder, schema, source={"seed": 0}) as writer:
        writer.write(events)


def tell(outcome: Outcome) -> None:
    """Print how a seed went."""
    found = outcome.found
    assert found is not None
    counts = f"{len(outcome.faults)} faults in {outcome.seconds:.0f} s, {found.trials} trials, {found.epochs} epochs"
    say(
        f"seed {outcome.seed}: {counts}, {outcome.replayed} trained again: {'all well' if outcome.good else 'NOT WELL'}"
    )
    texts = [f"{one.kind}: {one.text}" for one in found.findings]
    texts += [f"orphan: {one}" for one in outcome.orphans] + [
        f"placement group: {one}" for one in outcome.groups
    ]
    texts += [f"other numbers: {one}" for one in outcome.other]
    for text in texts:
        say(f"  {text[:300]}")


def say(text: str) -> None:
    """Tell of progress."""
    print(text, flush=True)


def main() -> None:
    """Parse, disturb, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="searches, each with faults of its own [5]")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=6, help="injected per search [6]")
    parser.add_argument("--trials", type=int, help=f"of each search [{TRIALS}; {TRIALS_STACKED} of stacks]")
    parser.add_argument("--kinds", default=",".join(USUAL), help=f"of {','.join(KINDS)} [{','.join(USUAL)}]")
    parser.add_argument("--stacked", action="store_true", help="trials are trained together, as one network")
    given = parser.parse_args()
    kinds = tuple(given.kinds.split(","))
    trials = given.trials or (TRIALS_STACKED if given.stacked else TRIALS)
    if not set(kinds) <= set(KINDS):
        parser.error(f"--kinds are of {', '.join(KINDS)}; got {given.kinds}")
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    logging.getLogger("ray").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that what runs is stopped
    folder = Path(tempfile.mkdtemp(prefix="hep_ray-chaos-"))
    sockets = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="c")  # the path of a socket is short
    outcomes = []
    write_events(folder / "toy", stacked=given.stacked)
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        place = folder / str(seed)
        place.mkdir()
        try:
            outcome = disturb(seed, folder / "toy", trials, given.faults, kinds, place, stacked=given.stacked)
        except Stuck as fault:
            sys.exit(f"seed {seed}: {fault}")
        outcomes.append(outcome)
        tell(outcome)
        if outcome.good:
            shutil.rmtree(place)
    say(f"\n{table(outcomes)}\n\n{json.dumps(totals(outcomes))}")
    if not all(one.good for one in outcomes):
        sys.exit(f"something is not well; what was written: {folder}")
    shutil.rmtree(folder)
    shutil.rmtree(sockets)


if __name__ == "__main__":
    main()
