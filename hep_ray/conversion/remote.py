"""Inputs at an address (`https://`, `s3://`, `gs://`, `root://`, `sftp://`, …), fetched through fsspec.

A conversion hashes every byte of an input, may read it twice, and shares it out to workers by ranges of rows. So a file
is fetched whole, once, to a hidden folder beside what is made of it, which all workers of a cluster see, and is read
from there. The folder mirrors the addresses, so that globs, folders and names mean what they mean on a disk. It goes
when the work is done; until then a file that has not changed since is not fetched again.

Credentials are those that the file system's own package finds (environment, its files, or fsspec's configuration).
"""

from __future__ import annotations

import glob
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hep_ray.addresses import PAGES, STAMPED_BY, file_system, reading, shown
from hep_ray.errors import HepRayError, Interrupted, InvalidConfig, StorageError, UnreadableInput
from hep_ray.files import ONE_WRITER, lock, make_folder, storing, write_whole

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and those that are wanted, as far as they are known."""
AT_ONCE = 4
"""Files that are fetched side by side."""
STAMPS = "fetched.json"
_ADDRESS = re.compile(r"(?:([^/=]+)=)?(([a-z][a-z0-9+.-]*)://.*)", re.DOTALL)


@dataclass(frozen=True)
class Fetched:
    """Inputs of which those at addresses were fetched.

    Attributes:
        words: as they were typed, a path on the disk in place of every address.
        addresses: without user, password and query, which may be secrets.
        folder: that took them up; None where none was fetched.
    """

    words: tuple[str, ...]
    addresses: tuple[str, ...]
    folder: Path | None = None

    def typed(self, path: Path) -> str:
        """Return the address that a file was fetched from, or its path where it was not."""
        if self.folder is None or not path.is_relative_to(self.folder):
            return str(path)
        protocol, *rest = path.relative_to(self.folder).parts
        return f"{protocol}://{'/'.join(rest)}"


@dataclass(frozen=True)
class _File:
    """A file at an address: its name there and here, and what is told of it there."""

    system: Any
    name: str
    local: Path
    size: int
    stamp: Mapping[str, str]


@contextmanager
def fetching(out: Path | str, words: Sequence[str], progress: Progress | None = None) -> Iterator[Fetched]:
    """Fetch the inputs that lie at addresses; what was fetched goes when the block ends well.

    Args:
        out: what is made of them; the folder that it lies in takes them up.
        words: `PATH` or `CLASS=PATH`, where a path may be an address of a file or folder, or a glob of addresses.
        progress: called as bytes come.

    Raises:
        InvalidConfig: no file system is known by an address, or it names several in a chain.
        MissingPackage: that of the file system is not installed.
        UnreadableInput: there is nothing at an address, or it cannot be fetched.
        StorageError: the disk has no room for it, or cannot be written.
        StorageHeld: another process fetches for the same `out`.
        Interrupted: Ctrl-C was pressed; files that had been fetched are kept.
    """
    found = [_ADDRESS.fullmatch(word) for word in words]
    if not any(found):
        yield Fetched(tuple(words), ())
        return
    target = Path(out).absolute()
    folder = target.parent / f".{target.name}.fetched"
    local: list[str] = []
    files: dict[Path, _File] = {}
    for word, match in zip(words, found, strict=True):
        if match is None:
            local.append(word)
            continue
        path, below = _looked_up(match[2], match[3], folder)
        files |= {one.local: one for one in below}
        local.append(f"{match[1]}={path}" if match[1] else path)
    with storing(folder):
        make_folder(folder)
    with lock(folder, ONE_WRITER):
        _fetch(list(files.values()), folder, progress)
        yield Fetched(tuple(local), tuple(shown(match[2]) for match in found if match), folder)
        shutil.rmtree(folder, ignore_errors=True)


def _looked_up(address: str, protocol: str, folder: Path) -> tuple[str, list[_File]]:
    """Return the path, folder or glob on the disk that stands for an address, and the files to be fetched for it."""
    named, pages = shown(address), protocol in PAGES
    if "::" in address:
        raise InvalidConfig(f"'{named}' chains file systems: give the address of a file itself")
    text = address.partition("?")[0] if pages else address  # a query is no glob
    marks = [text.index(mark) for mark in "*?[" if mark in text]
    cut = text.rindex("/", 0, min(marks, default=len(text.rstrip("/")))) + 1
    start, rest = text[:cut], text[cut:].rstrip("/")
    if not rest or ".." in start.split("/") + rest.split("/"):
        raise InvalidConfig(f"'{named}' names no file: give the address of one, of a folder, or a glob")
    system, path = file_system(address, protocol, named)
    with reading(named):
        if marks:
            names = [one for one in system.glob(path) if pages or not system.isdir(one)]
        elif text.endswith("/") if pages else system.isdir(path):
            names = system.find(path)
        else:
            names = [path]
        infos = {name: system.info(name) for name in sorted(names)}
    if not infos:
        raise UnreadableInput(f"'{named}' has no file")
    parts = urlsplit(start)
    base = folder.joinpath(protocol, *filter(None, [parts.netloc.rpartition("@")[2], *parts.path.split("/")]))
    before = len(file_system(start, protocol, named)[1].rstrip("/"))
    files = []
    for name, info in infos.items():
        inner = rest if name == path and not marks else name[before:].strip("/")
        stamp = {key: str(info[key]) for key in STAMPED_BY if info.get(key) is not None}
        files.append(_File(system, name, base / unquote(inner), int(info.get("size") or 0), stamp))
    escaped = glob.escape(str(base)) if marks else str(base)
    return f"{escaped}/{unquote(rest)}", files


class _Stopped(HepRayError):
    """Another file could not be fetched, or Ctrl-C was pressed."""


def _fetch(files: Sequence[_File], folder: Path, progress: Progress | None) -> None:
    """Fetch files that are not there, or have changed since, some side by side."""
    stamps = _stamps(folder)
    missing = [
        one for one in files if not one.local.is_file() or stamps.get(_key(one, folder)) != dict(one.stamp)
    ]
    total, there = sum(one.size for one in files), sum(one.size for one in files if one not in missing)
    free, wanted = shutil.disk_usage(folder).free, total - there
    if wanted > free:
        raise StorageError(
            f"the inputs have {wanted / 1e9:.3g} GB, and {folder.parent}, where they are fetched to, has room for "
            f"{free / 1e9:.3g} GB: give --out on a larger disk, or fewer inputs"
        )
    guard, stop, done = threading.Lock(), threading.Event(), there

    def came(count: int) -> None:
        nonlocal done
        if stop.is_set():
            raise _Stopped
        with guard:
            done += count
            if progress:
                progress(done, total)

    came(0)

    def fetch(one: _File) -> None:
        _one(one, came)
        with guard:
            stamps[_key(one, folder)] = dict(one.stamp)
            write_whole(folder / STAMPS, json.dumps(stamps, indent=1))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(fetch, one) for one in missing]
        try:
            for future in as_completed(running):
                future.result()
        except BaseException as exc:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(exc, KeyboardInterrupt):
                kept = len(files) - len(missing) + sum(_complete(future) for future in running)
                raise Interrupted(
                    f"fetching was interrupted; {kept} of {len(files)} files are kept in {folder}, and the same "
                    "command goes on from there"
                ) from None
            raise


def _complete(future: Future[None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _one(file: _File, came: Callable[[int], None]) -> None:
    """Fetch a file: it is there whole, or not at all."""
    from fsspec.callbacks import Callback

    class Bytes(Callback):  # type: ignore[misc]
        value = 0

        def relative_update(self, inc: int = 1) -> None:
            came(inc)

        def absolute_update(self, value: int) -> None:
            came(value - self.value)
            self.value = value

    named = shown(file.system.unstrip_protocol(file.name))
    part = file.local.with_name(f".{file.local.name}.part")
    with storing(file.local):
        file.local.parent.mkdir(parents=True, exist_ok=True)
    try:
        with reading(named):
            file.system.get_file(file.name, str(part), callback=Bytes())
        if file.size and (size := part.stat().st_size) != file.size:
            raise UnreadableInput(f"cannot read {named}: it has {file.size} bytes, and {size} of them came")
        with storing(file.local):
            part.replace(file.local)
    finally:
        part.unlink(missing_ok=True)


def _key(file: _File, folder: Path) -> str:
    return file.local.relative_to(folder).as_posix()


def _stamps(folder: Path) -> dict[str, dict[str, str]]:
    try:
        found = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # nothing was fetched yet, or the power failed
        return {}
    return found if isinstance(found, dict) else {}
