"""Which shards were found to be as their manifests say, on this host: they are hashed once, not at every opening.

A record names a file's size, time of change (in nanoseconds) and inode. A file that was changed in another way than one
that keeps all three, as a disk's fault does, is hashed again; `hep-ray data check` and a promotion hash every file.
At an address nothing is hashed for an opening but what has another size, ETag or time than at the first one, since
that would fetch all of it: a record holds what was seen first, or what a check or a promotion found.
Whoever writes a dataset reads every file back to hash it, and records that for the host where it was done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from hep_ray.addresses import Address
from hep_ray.files import write_whole

logger = logging.getLogger(__name__)

CACHE = "HEP_RAY_CACHE"
"""Environment variable: the folder of what hep_ray remembers of this host's files; `~/.cache/hep_ray` by default."""
SETTLED_NS = 2_000_000_000
"""A file that was changed less than 2 s ago may change again without another time of change: it is not recorded."""

Stamp = tuple[int, int, int, str]
"""Size, time of change in ns, inode and the SHA-256 that was found; at an address see `Address.stamp`."""
UNSOUND = -1
"""Takes the place of the size of a file at an address that was found altered, and so is hashed until it is sound."""


def stamp_of(path: Path, sha256: str) -> Stamp:
    """Return what tells a file from a changed one, with the hash that it should have.

    Raises:
        FileNotFoundError: there is none.
        UnreadableInput: its address cannot be asked.
    """
    if isinstance(path, Address):
        return *path.stamp(), 0, sha256
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, sha256


def settle(path: Path) -> None:
    """Date a file that was just written 4 s back: whatever changes it from now on gives it another time of change.

    Without that a change soon after could have the same time, as those that `record` leaves out.
    """
    stat = path.stat()
    with suppress(OSError):  # then it is hashed again when it is opened
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 2 * SETTLED_NS))


def recorded(folder: Path) -> dict[str, Stamp]:
    """Return what is known of the files of a folder, by name; nothing where there is no record that can be read."""
    try:
        found = json.loads(_record(folder).read_text(encoding="utf-8"))
        return {
            str(name): (int(size), int(changed), int(inode), str(sha256))
            for name, (size, changed, inode, sha256) in found["files"].items()
        }
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {}  # it only saves time


def record(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Keep what was found of the files of a folder; without a place to keep it they are hashed again next time."""
    latest = time.time_ns() - SETTLED_NS
    # Where a file system keeps no times, as some that are mounted do, each is 0 and tells of no change.
    files = {name: stamp for name, stamp in stamps.items() if 0 < stamp[1] < latest}
    if not files:
        return
    text = json.dumps({"folder": str(folder.absolute()), "files": files})
    try:
        write_whole(_record(folder), text)
    except (OSError, RuntimeError) as exc:
        logger.info("cannot record that %s was verified: %s", folder, exc)


def _record(folder: Path) -> Path:
    place = os.environ.get(CACHE)
    root = Path(place) if place else Path.home() / ".cache" / "hep_ray"
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return root / "verified" / f"{name}.json"
