"""Check a model that was handed on, with onnxruntime and numpy alone: `python check.py`.

It stands in every bundle, beside `metadata.json`. Asked are: whether each file is as it was written, whether the model
says that it is the one of the metadata, and whether it gives every event the score that was handed on with it, in
batches of several sizes. It ends with 0 where all of that is so, else with 1 and what is not.

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
BATCHES = (1, 7, 256)
"""Events of a batch: a few are scored one by one and by sevens, all of them by 256."""
FEW = 14
INPUT = "input_"
"""Before the name of a column in the file of events."""


def changed_files(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the files of a bundle, by their SHA-256."""
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        path = folder / name
        if not path.is_file():
            yield f"{name} is not there"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            yield f"{name} is not as it was written"


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
) -> tuple[str, bool]:
    """Score events and return what was found in a line, and whether the scores are those that were handed on."""
    count = len(events["label"]) if size == BATCHES[-1] else FEW
    part = {name: values[:count] for name, values in events.items()}
    probabilities, log_odds = scored(session, part, size)
    logistic = 1 / (1 + np.exp(-log_odds.astype(np.float64)))
    kept = part["probabilities"]
    apart = np.maximum(np.abs(probabilities - kept), np.abs(logistic - kept)).max(axis=1)
    tolerance = metadata["tolerance"]
    line = (
        f"{len(kept)} events in batches of {size}: probabilities differ by {apart.max():.1e} at most "
        f"({tolerance:.0e} is allowed)"
    )
    good = bool((apart <= tolerance).all())  # NaN is not
    if not good:
        worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
        line += f"; most of {part['event_id'][worst]}: {probabilities[worst]}, handed on was {kept[worst]}"
    return line, good


def check(folder: Path) -> bool:
    """Check a bundle, print what is found, and return whether it is as it was handed on."""
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    faults = list(changed_files(folder))
    session = onnxruntime.InferenceSession(
        str(folder / metadata["model"]), providers=["CPUExecutionProvider"]
    )
    faults += another_model(session, metadata)
    with np.load(folder / metadata["events"], allow_pickle=False) as file:
        events = {name: file[name] for name in file.files}
    print(f"{metadata['name']}: {metadata['task']}, {' against '.join(metadata['classes'])}")
    for size in BATCHES:
        line, good = other_scores(session, events, metadata, size)
        if good:
            print(line)
        else:
            faults.append(line)
    right = np.mean(events["probabilities"].argmax(axis=1) == events["label"])
    print(f"{right:.1%} of these validation events are given their class")
    for fault in faults:
        print(f"WRONG: {fault}")
    print("not as it was handed on" if faults else "as it was handed on")
    return not faults


if __name__ == "__main__":
    sys.exit(0 if check(Path(__file__).resolve().parent) else 1)
