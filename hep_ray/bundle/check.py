"""Check a model that was handed on, with onnxruntime and numpy alone: `python check.py`.

It stands in every bundle, beside `metadata.json`. Asked are: whether each file is as it was written, whether the model
says that it is the one of the metadata, and whether it gives every event the probabilities and log-odds that were
handed on with it, in batches of several sizes. It ends with 0 where all of that is so, else with 1 and what is not.
Files that were not handed on are named.

Shape suffixes: N events, C classes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

METADATA = "metadata.json"
SUMS = "SHA256SUMS"
LAST = "score.cpp"
"""Last file of the sums, which lacks where they are cut off."""
BATCHES = (1, 7, 256)
"""Events of a batch: a few are scored one by one and by sevens, all of them by 256."""
FEW = 14
INPUT = "input_"
"""Before the name of a column in the file of events."""


def sums_of(folder: Path) -> dict[str, str]:
    """Return name of a file → SHA-256, as a bundle states them; empty where it does not."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def changed_files(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the files of a bundle, by their SHA-256."""
    sums = sums_of(folder)
    if LAST not in sums:
        yield f"{SUMS} is not there, or is cut off"
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is not there"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"{name} is not as it was written"


def unlisted_files(folder: Path) -> list[str]:
    """Return the files in the folder that the bundle does not state."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(there - sums_of(folder).keys() - {SUMS})


def another_model(session: Any, metadata: dict[str, Any]) -> Iterator[str]:
    """Yield in what a model differs from the one that the metadata describe."""
    own = session.get_modelmeta().custom_metadata_map
    for key in ("model_digest", "classes"):
        told = own.get(key)
        wanted = metadata[key] if isinstance(metadata[key], str) else json.dumps(metadata[key])
        if told != wanted:
            yield f"the model says {key} {told}, the metadata {wanted}"
    known = {one["name"] for one in metadata["inputs"]}
    unknown = [one.name for one in session.get_inputs() if one.name not in known]
    if unknown:
        yield f"the model reads {', '.join(unknown)}, of which the metadata do not tell"


def scored(session: Any, events: dict[str, np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and log-odds (N, C) of events, `size` of them at a time."""
    read = {one.name: events[INPUT + one.name] for one in session.get_inputs()}
    parts = [
        session.run(
            ["probabilities", "log_odds"],
            {name: values[start : start + size] for name, values in read.items()},
        )
        for start in range(0, len(events["label"]), size)
    ]
    probabilities, log_odds = (np.concatenate(part) for part in zip(*parts, strict=True))
    return probabilities, log_odds


def other_scores(
    session: Any, events: dict[str, np.ndarray], metadata: dict[str, Any], size: int
) -> tuple[str, float, bool]:
    """Score events in batches and compare with the scores that were handed on with them.

    Returns:
        What was found in a line, the greatest difference of a probability, and whether all scores are those.
    """
    count = len(events["label"]) if size == BATCHES[-1] else FEW
    part = {name: values[:count] for name, values in events.items()}
    probabilities, log_odds = scored(session, part, size)
    logistic = (1 + np.tanh(log_odds.astype(np.float64) / 2)) / 2
    kept, kept_odds = part["probabilities"], part["log_odds"]
    apart = np.maximum(np.abs(probabilities - kept), np.abs(logistic - kept)).max(axis=1)
    with np.errstate(invalid="ignore"):  # two infinities
        odds_apart = (np.abs(log_odds - kept_odds) / np.maximum(np.abs(kept_odds), 1)).max(axis=1)
    tolerance, odds_tolerance = metadata["tolerance"], metadata["log_odds_tolerance"]
    line = (
        f"{len(kept)} events in batches of {size}: probabilities differ by {apart.max():.1e} at most "
        f"({tolerance:.0e} is allowed), log-odds by {odds_apart.max():.1e} of themselves or of 1 "
        f"({odds_tolerance:.0e} is allowed)"
    )
    good = bool((apart <= tolerance).all() and (odds_apart <= odds_tolerance).all())  # NaN is not
    if not good:
        worse = np.maximum(apart / tolerance, odds_apart / odds_tolerance)
        worst = int(np.argmax(np.where(np.isnan(worse), np.inf, worse)))
        line += (
            f"; most of {part['event_id'][worst]}: {probabilities[worst]}, log-odds {log_odds[worst]}; handed on were "
            f"{kept[worst]}, {kept_odds[worst]}"
        )
    return line, float(apart.max()), good


def wrong_scores(folder: Path) -> Iterator[str]:
    """Score the events that were handed on, print what is as it was, and yield what is not."""
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(
        str(folder / metadata["model"]), providers=["CPUExecutionProvider"]
    )
    yield from another_model(session, metadata)
    with (folder / metadata["events"]).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        events = {name: file[name] for name in file.files}
    print(f"{metadata['name']}: {metadata['task']}, {' against '.join(metadata['classes'])}")
    for size in BATCHES:
        line, _, good = other_scores(session, events, metadata, size)
        if good:
            print(line)
        else:
            yield line
    right = np.mean(events["probabilities"].argmax(axis=1) == events["label"])
    learnt = ", which the model has learnt from," if metadata.get("origin", {}).get("refit") else ""
    print(f"{right:.1%} of these validation events{learnt} are given their class")


def check(folder: Path) -> bool:
    """Check a bundle, print what is found, and return whether it is as it was handed on."""
    faults = list(changed_files(folder))
    try:
        faults += wrong_scores(folder)
    except Exception as exc:  # noqa: BLE001 - whatever a damaged file makes of it
        faults.append(f"the events cannot be scored: {type(exc).__name__}: {exc}")
    for name in unlisted_files(folder):
        print(f"was not handed on: {name}")
    for fault in faults:
        print(f"WRONG: {fault}")
    print("not as it was handed on" if faults else "as it was handed on")
    return not faults


if __name__ == "__main__":
    sys.exit(0 if check(Path(__file__).resolve().parent) else 1)
