"""Keep what the reading tasks of a conversion have finished beside the dataset-to-be until that is written.

A conversion that was killed goes on from there: the same files, rules and version give the same folder, and a task of
which all runs are in it is not done again.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hep_ray.conversion.assemble import Cut
from hep_ray.conversion.external_sort import SortedRun
from hep_ray.files import ONE_WRITER, lock, make_folder, remove_abandoned, storing, sync, write_whole

SUFFIX = "conversion"
DIGITS = 16


class KeptRuns:
    """Folder of the runs of one conversion; use it as a context manager.

    It vanishes when the block ends, well or with an error; Ctrl-C or a kill leave it.

    Args:
        out: the dataset folder to be.
        identity: JSON values of all that decides the runs.

    Attributes:
        folder: of the runs.
    """

    def __init__(self, out: Path | str, identity: Mapping[str, Any]) -> None:
        self._out = Path(out).absolute()
        text = json.dumps(identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
        self.folder = self._out.parent / f".{self._out.name}.{digest}.{SUFFIX}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with storing(self._out):
            others = self._out.parent.glob(f".{glob.escape(self._out.name)}.*.{SUFFIX}")
            remove_abandoned(one for one in others if one != self.folder)
            make_folder(self.folder)
            self._stack.enter_context(lock(self.folder, ONE_WRITER))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if exc is None or isinstance(exc, Exception):
                shutil.rmtree(self.folder, ignore_errors=True)


def keep(
    folder: Path, name: str, runs: Sequence[SortedRun], events: int, cuts: Mapping[str, Cut] | None = None
) -> None:
    """Record that the task of that name has spilled these runs, once they are on the disk, and what lists lost."""
    for run in runs:
        sync(run.path)
    listed = [
        {
            "file": run.path.name,
            "split": run.split,
            "rows": run.rows,
            "classes": run.classes,
            "filled": dict(run.filled),
            "sparse": run.sparse,
            "size": run.size,
        }
        for run in runs
    ]
    lost = {column: dataclasses.astuple(cut) for column, cut in (cuts or {}).items()}
    write_whole(folder / f"{name}.json", json.dumps({"events": events, "runs": listed, "cuts": lost}))


def kept(folder: Path, name: str) -> tuple[list[SortedRun], int, dict[str, Cut]] | None:
    """Return the runs of a finished task, how many rows it read and what lists lost; None where it is to be done."""
    try:
        found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        runs = [
            SortedRun(
                path=folder / one["file"],
                split=one["split"],
                rows=one["rows"],
                classes=tuple(one["classes"]),
                filled=one["filled"],
                sparse=tuple(one["sparse"]),
                size=one["size"],
            )
            for one in found["runs"]
        ]
        cuts = {column: Cut(*lost) for column, lost in found["cuts"].items()}
        whole = all(run.path.stat().st_size == run.size for run in runs)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it was not finished
    return (runs, int(found["events"]), cuts) if whole else None
