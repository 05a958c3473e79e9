"""Files at an address (`https://`, `s3://`, `gs://`, `root://`, `memory://`, …), read through fsspec.

An `Address` is a path, so that what reads below a folder reads below an address too. It is never written to.

Credentials are those that the file system's own package finds (environment, its files, or fsspec's configuration).
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PosixPath
from typing import Any, NoReturn
from urllib.parse import urlsplit

from hep_ray.errors import HepRayError, InvalidConfig, MissingPackage, StorageError, UnreadableInput

STAMPED_BY = (
    "size",
    "ETag",
    "etag",
    "mtime",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "created",
)
"""What file systems tell of a file and changes when it does."""
PAGES = ("http", "https")
GONE = (404, 410)
"""Answers of a web server that has no such file."""
PATIENCE = 300
"""Seconds that a web server may send nothing before it counts as gone."""
BUFFER = 8 * 2**20
"""Bytes that are asked for at once where a file is read from its beginning to its end."""
PAUSES = (0.5, 2.0, 8.0)
"""Seconds before what failed for a while is tried again."""
_FIRST = re.compile(r"([a-z][a-z0-9+.-]+):")
_ANY = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\")]+")


class Address(PosixPath):
    """A file or folder at an address, as a path: `Address("s3://bucket/data") / "manifest.json"`; see `located`.

    What is read is read by ranges of bytes, and nothing is kept here. What would write is refused.
    """

    __slots__ = ()

    def __str__(self) -> str:
        first, slash, rest = super().__str__().partition("/")
        return f"{first}//{rest}" if slash and _FIRST.fullmatch(first) else first + slash + rest

    def __fspath__(self) -> str:
        return str(self)

    def __truediv__(self, key: Any) -> Any:
        if (other := located(key)).is_absolute():
            return other
        joined = super().__truediv__(key)
        if ".." not in joined.parts:
            return joined
        return type(self)(posixpath.normpath("/".join(joined.parts)))

    def is_absolute(self) -> bool:
        """Return that it needs no folder to start from."""
        return True

    def absolute(self) -> Any:
        """Return the same address."""
        return self

    def resolve(self, strict: bool = False) -> Any:  # noqa: ARG002 (as of a path)
        """Return the same address."""
        return self

    @property
    def protocol(self) -> str:
        """Return what stands before `://`."""
        return self.parts[0].rstrip(":")

    def facts(self) -> Mapping[str, Any]:
        """Return what the file system tells of it.

        Raises:
            FileNotFoundError: there is nothing.
            UnreadableInput: it cannot be asked.
        """
        system, name = self._there()
        with _reading_or_absent(str(self)):
            found: Mapping[str, Any] = _patiently(system.info, name)
            return found

    def stamp(self) -> tuple[int, int]:
        """Return the size, and a number made of what changes with the content, such as its ETag; 0 where nothing does.

        Raises:
            FileNotFoundError, UnreadableInput: see `facts`.
        """
        info = self.facts()
        told = {key: str(info[key]) for key in STAMPED_BY if key != "size" and info.get(key) is not None}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return int(info.get("size") or 0), 1 + int(digest[:12], 16) if told else 0

    def exists(self, *_: Any, **__: Any) -> bool:
        """Return whether there is anything."""
        return self._type() is not None

    def is_file(self, *_: Any, **__: Any) -> bool:
        """Return whether it is a file."""
        return self._type() == "file"

    def is_dir(self, *_: Any, **__: Any) -> bool:
        """Return whether it is a folder."""
        return self._type() == "directory"

    def _type(self) -> str | None:
        try:
            return str(self.facts().get("type", "file"))
        except FileNotFoundError:
            return None

    def open(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        """Open it for reading: as a text, or as bytes in `rb`.

        Raises:
            StorageError: for writing.
            FileNotFoundError, UnreadableInput: see `facts`.
        """
        if mode not in ("r", "rt", "rb"):
            self._refuse()
        raw = io.BufferedReader(self.ranges(), BUFFER)
        return raw if mode == "rb" else io.TextIOWrapper(raw, "utf-8")

    def ranges(self) -> Ranges:
        """Open it for reading ranges of bytes.

        Raises:
            FileNotFoundError, UnreadableInput: see `facts`.
        """
        return Ranges(*self._there(), int(self.facts().get("size") or 0), str(self))

    def read_bytes(self) -> bytes:
        """Return all bytes.

        Raises:
            UnreadableInput: it cannot be read.
        """
        system, name = self._there()
        with reading(str(self)):
            return bytes(_patiently(system.cat_file, name))

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        """Return the text; see `read_bytes`."""
        return self.read_bytes().decode(encoding or "utf-8")

    def copy_to(self, target: Path) -> None:
        """Copy the file to a local one.

        Raises:
            UnreadableInput: it cannot be read.
            OSError: the local file cannot be written.
        """
        with self.open("rb") as source, target.open("wb") as copied:
            while piece := source.read(BUFFER):
                copied.write(piece)

    def glob(self, pattern: str, *_: Any, **__: Any) -> Generator[Any, None, None]:
        """Yield the files below that match; none of a web server, which lists no folder.

        Raises:
            UnreadableInput: it cannot be asked.
        """
        if self.protocol in PAGES:
            return
        system, name = self._there()
        with reading(str(self)):
            system.invalidate_cache()
            found = system.glob(f"{name.rstrip('/')}/{pattern}")
        for one in found:
            yield self / one.rpartition("/")[2]

    def _there(self) -> tuple[Any, str]:
        return file_system(str(self), self.protocol, str(self))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise StorageError(f"cannot write to {self}: an address is only read; give a folder on a disk")

    write_text = write_bytes = mkdir = touch = unlink = rename = replace = rmdir = _refuse
    symlink_to = hardlink_to = _refuse


class Ranges(io.RawIOBase):
    """A file at an address that is read by ranges of bytes; each is asked for once more where it did not come.

    Args:
        system: of fsspec.
        name: there.
        size: in bytes.
        shown: the address, for messages.

    Raises:
        UnreadableInput: (while reading) a range cannot be read.
    """

    def __init__(self, system: Any, name: str, size: int, shown: str) -> None:
        super().__init__()
        self._system, self._name, self._size, self._shown = system, name, size, shown
        self._at = 0

    def readable(self) -> bool:
        """Return that it is read."""
        return True

    def seekable(self) -> bool:
        """Return that it may be read anywhere."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return so many bytes, all that are left by default."""
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        with reading(self._shown):
            found: bytes = _patiently(self._system.cat_file, self._name, start=self._at, end=end)
        if len(found) != end - self._at:
            raise UnreadableInput(
                f"cannot read {self._shown}: {end - self._at} of its bytes were asked for and {len(found)} came, so "
                "that its server gives no ranges of bytes or the file has changed"
            )
        self._at = end
        return found

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return how many bytes there were."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def located(place: Path | str) -> Path:
    """Return a path: an `Address` where it names one, and a local path for `file://`.

    Args:
        place: also an address that was made a path, which lost a slash (`s3:/bucket/data`).

    Raises:
        InvalidConfig: no file system is known by the address, or it names no folder, or several file systems in a
            chain, or has a user or a query.
    """
    if isinstance(place, Address):
        return place
    text = str(place)
    found = _FIRST.match(text)
    if found is None or not text[found.end() :].startswith("/"):
        return Path(place)
    protocol, rest = found[1], text[found.end() :].lstrip("/")
    if "://" not in text and Path(found[0]).is_dir():  # a folder of such a name, which may be
        return Path(place)
    if protocol == "file":
        return Path("/", rest)
    named = shown(f"{protocol}://{rest}")
    if "::" in text:
        raise InvalidConfig(f"'{named}' chains file systems: give the address of a folder itself")
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise InvalidConfig(
            f"'{named}' was given with a user or a query: what it takes to read belongs into the configuration of its "
            "file system or fsspec, so that no record of the search has it"
        )
    _refuse_unknown(protocol, named)
    if not rest:
        raise InvalidConfig(f"'{protocol}://' names no folder: give the address of one")
    return Address(f"{protocol}:/{rest}")


def shown(address: str) -> str:
    """Return an address without user, password and query, which may be secrets."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def file_system(address: str, protocol: str, named: str) -> tuple[Any, str]:
    """Return the file system of an address, and its name there.

    Args:
        address: whole.
        protocol: what stands before its `://`.
        named: for messages.

    Raises:
        InvalidConfig: no file system is known by the protocol.
        MissingPackage: its package is not installed.
        UnreadableInput: it refuses the address.
    """
    from fsspec.core import url_to_fs

    _refuse_unknown(protocol, named)
    options: dict[str, Any] = {}
    if protocol in PAGES:
        from aiohttp import ClientTimeout

        # Its default ends every transfer after five minutes, however well it goes.
        options["client_kwargs"] = {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=PATIENCE)}
    try:
        with reading(named):
            system, path = url_to_fs(address, **options)
    except ImportError as exc:
        raise MissingPackage(f"files at {protocol}:// need a package that is not installed: {exc}") from None
    return system, str(path)


@contextmanager
def reading(named: str) -> Iterator[None]:
    """Turn what file systems raise, which is of any kind, into an error that names the address.

    Raises:
        UnreadableInput: the block raised anything but an error of hep_ray or `ImportError`.
    """
    try:
        with _reading_or_absent(named):
            yield
    except FileNotFoundError:
        raise UnreadableInput(f"cannot read {named}: there is no such file") from None


@contextmanager
def _reading_or_absent(named: str) -> Iterator[None]:
    try:
        yield
    except (HepRayError, ImportError):
        raise
    except FileNotFoundError as exc:
        if _absent(exc):
            raise
        raise UnreadableInput(f"cannot read {named}: {_said(exc.__cause__ or exc)}") from exc
    except Exception as exc:
        raise UnreadableInput(f"cannot read {named}: {_said(exc)}") from exc


def _absent(exc: FileNotFoundError) -> bool:
    """Return whether there is no such file: fsspec makes that of any answer of a web server, and of none."""
    cause = exc.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in GONE


def _said(exc: BaseException) -> str:
    """Return what an error says, without the secrets of addresses."""
    return _ANY.sub(lambda found: shown(found[0]), str(exc)) or type(exc).__name__


def _patiently(work: Any, *args: Any, **options: Any) -> Any:
    """Do what may fail for a while; what the server refuses is not asked for again."""
    for pause in PAUSES:
        try:
            return work(*args, **options)
        except (PermissionError, ImportError, HepRayError):
            raise
        except Exception as exc:
            if isinstance(exc, FileNotFoundError) and _absent(exc):
                raise
            status = int(getattr(exc.__cause__ or exc, "status", 0) or 0)
            if 400 <= status < 500:  # noqa: PLR2004 (HTTP: it is the asker's fault)
                raise
            time.sleep(pause)
    return work(*args, **options)


def _refuse_unknown(protocol: str, named: str) -> None:
    from fsspec import available_protocols

    if protocol not in (known := sorted(available_protocols())):
        raise InvalidConfig(
            f"no file system is known by '{protocol}://' ({named}): known are {', '.join(known)}"
        )
