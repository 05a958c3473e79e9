"""From what a person types to open files: globs, folders, classes, and inputs without events."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from hep_ray.config import Config
from hep_ray.conversion.readers import READERS, Opened, Reader
from hep_ray.dataset.dataset import hashing, sha256_of
from hep_ray.errors import InputError, InvalidConfig, NoEvents, UnreadableInput

MOST_NAMED = 20
"""Inputs that one message names, at most."""


@dataclass(frozen=True)
class Given:
    """An input as it was typed.

    Attributes:
        name: the class in `CLASS=PATH`, None where there is none.
        paths: that it stands for, in natural order: job_2 before job_10.
    """

    name: str | None
    paths: tuple[Path, ...]


def given_inputs(words: Sequence[str], reader: Reader) -> tuple[list[Given], list[str]]:
    """Return the files that some words stand for, and what is to be told of them.

    Args:
        words: `PATH` or `CLASS=PATH`; a path may be a glob, or, where the format has one file for an input, a folder.
        reader: of their format.

    Raises:
        InvalidConfig: there is none, one is empty, some name their class and others do not, or a glob or folder gives
            a mixture.
        UnreadableInput: paths are absent (all are named), or a glob or folder gives none.
    """
    if not words:
        raise InvalidConfig("no input file is given")
    for word in words:
        if not word.strip():
            raise InvalidConfig(
                f"an input is '{word}', which says nothing: type a file, folder or glob for it"
            )
    split = [_named(word) for word in words]
    if any(name for name, _ in split) and not all(name for name, _ in split):
        raise InvalidConfig("some inputs are given as CLASS=PATH and some not: give all so or none")
    found = [(name, matched(text)) for name, text in split]
    refuse_absent(path for _, paths in found for path in paths)
    notes: list[str] = []
    return [Given(name, tuple(files(paths, reader, notes))) for name, paths in found], notes


def names_classes(words: Sequence[str]) -> bool:
    """Return whether words are `CLASS=PATH`, of which all are where one is.

    Raises:
        InvalidConfig: one is neither that nor `PATH`.
    """
    return any(_named(word)[0] for word in words)


def _named(word: str) -> tuple[str | None, str]:
    name, equals, rest = word.partition("=")
    if not equals or "/" in name or Path(word).exists() or (_is_glob(word) and _glob(word)):
        return None, word
    if not name or not rest:
        raise InvalidConfig(f"input '{word}' is neither PATH nor CLASS=PATH")
    return name, rest


def _is_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _glob(text: str) -> list[Path]:
    return sorted(map(Path, glob.glob(text, recursive=True)), key=natural)  # noqa: PTH207 (of any folder)


def matched(text: str) -> list[Path]:
    """Return the path, or all that a glob matches (`**` goes through folders), in natural order.

    Raises:
        UnreadableInput: a glob matches nothing.
        InvalidConfig: it matches files with several endings.
    """
    if not _is_glob(text) or Path(text).exists():
        return [Path(text)]
    if not (found := _glob(text)):
        raise UnreadableInput(f"'{text}' matches no file")
    kinds = Counter(_ending(path) for path in found if path.is_file())
    if len(kinds) > 1:
        counted = " and ".join(f"{count} {ending or 'without ending'}" for ending, count in kinds.items())
        narrower = f"{text.rstrip('*')}*{next(iter(kinds))}"
        raise InvalidConfig(
            f"'{text}' matches files of several formats, {counted}: say which, as in '{narrower}'"
        )
    return found


def refuse_absent(paths: Iterable[Path]) -> None:
    """Refuse paths that are not there; all are named.

    Raises:
        UnreadableInput: there are some.
    """
    if absent := [str(path) for path in paths if not path.exists()]:
        raise UnreadableInput(f"cannot read {listed(absent)}: No such file or directory")


def files(paths: Iterable[Path], reader: Reader, notes: list[str] | None = None) -> list[Path]:
    """Return the paths, and the files in those that are folders, where the format has one file for an input.

    Args:
        paths: that exist.
        reader: of the format.
        notes: takes up what is to be told.

    Raises:
        InvalidConfig: a folder has files of several endings.
        UnreadableInput: it has none of the format.
    """
    taken: list[Path] = []
    for path in paths:
        if reader.takes_folders or not path.is_dir():
            taken.append(path)
            continue
        below = [
            file
            for file in sorted(path.rglob("*"), key=natural)
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        own = [file for file in below if _ending(file) in reader.suffixes]
        kinds = Counter(_ending(file) for file in own)
        others = Counter(_ending(file) or file.name for file in below if _ending(file) not in kinds)
        held = ", ".join(f"{count} {ending}" for ending, count in (kinds or others).items())
        if len(kinds) != 1:
            remedy = f": give a glob of those that are meant, '{path}/*{next(iter(kinds or others), '')}'"
            fits = sorted({_by_ending()[ending] for ending in others if ending in _by_ending()})
            if kinds:
                raise InvalidConfig(f"{path} has files of several kinds, {held}{remedy}")
            if fits:
                remedy = f": --reader {fits[0]} reads them"
            raise UnreadableInput(
                f"{path} has {held or 'none'} and no files that end in one of {', '.join(reader.suffixes)}"
                + remedy * bool(held)
            )
        if others and notes is not None:
            left = ", ".join(f"{count} {ending}" for ending, count in others.items())
            notes.append(f"{path}: {held} files are read, others are not: {left}")
        taken += own
    return taken


def _ending(path: Path) -> str:
    """Return the ending of a file's name, without that of a compression, in small letters."""
    suffix = "".join(path.suffixes[-2:-1]) if path.suffix in COMPRESSIONS else path.suffix
    return suffix.lower()


def _by_ending() -> dict[str, str]:
    """Return ending → name of the format that it tells."""
    return {suffix: name for name in READERS if READERS[name].guessed for suffix in READERS[name].suffixes}


def reader_by_ending(paths: Sequence[Path]) -> str:
    """Return name of the format that the endings of files tell; of folders, those of the files in them.

    Raises:
        InvalidConfig: there is none, or several.
    """
    suffixes = _by_ending()
    found = set()
    for path in paths:
        endings = {_ending(path)}
        if path.is_dir():
            endings = {_ending(file) for file in path.rglob("*") if file.is_file()} & set(suffixes)
        if not endings or not endings <= set(suffixes):
            raise InvalidConfig(
                f"cannot tell the format of {path} by its ending ({', '.join(sorted(suffixes))}): give --reader"
            )
        found |= {suffixes[ending] for ending in endings}
    if len(found) > 1:
        raise InvalidConfig(f"the inputs are of several formats, {', '.join(sorted(found))}")
    return found.pop()


def open_all(
    paths: Sequence[Path], reader: Reader, options: Config
) -> tuple[list[tuple[Path, Opened]], list[str]]:
    """Open every input, leaving out those without events.

    Returns:
        Inputs that hold events, and what is to be told of the others.

    Raises:
        NoEvents: none holds any.
        InputError: inputs cannot be read; all are named.
    """
    opened: list[tuple[Path, Opened]] = []
    faults: list[InputError] = []
    empty: list[str] = []
    for path in paths:
        try:
            found = reader.open(path, options)
        except NoEvents:
            empty.append(str(path))
        except InputError as exc:
            faults.append(exc)
        else:
            opened.append((path, found))
            empty += [f"{path}:{part.name}" for part in found.parts if part.rows == 0]
    if len(faults) == 1:
        raise faults[0]
    if faults:
        said = listed([str(exc) for exc in faults], between="\n- ")
        raise type(faults[0])(f"{len(faults)} of {len(paths)} inputs cannot be read:\n- {said}")
    if not opened:
        raise NoEvents(f"no input holds events: {listed(empty)}")
    verb = "holds" if len(empty) == 1 else "hold"
    notes = [f"{len(empty)} of {len(paths)} inputs {verb} no events: {listed(empty)}"] if empty else []
    return opened, notes


def listed(names: Sequence[str], most: int = MOST_NAMED, between: str = ", ") -> str:
    """Return the first names, and how many more there are."""
    more = [f"and {len(names) - most} more"] * (len(names) > most)
    return between.join([*names[:most], *more])


COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_DIGITS = re.compile("([0-9]+)")


def natural(path: Path) -> list[tuple[str | int, ...]]:
    """Return what sorts numbers in names by their value."""
    return [
        tuple(int(piece) if place % 2 else piece for place, piece in enumerate(_DIGITS.split(part)))
        for part in path.parts
    ]


def stem_of(path: Path) -> str:
    """Return a file's name without its ending and that of a compression, such as `events` of `events.csv.gz`."""
    return path.with_suffix("").stem if path.suffix in COMPRESSIONS else path.stem


def told_apart(paths: Iterable[Path]) -> dict[Path, str]:
    """Return a name for every file: its stem, and where several have it as much of the path as tells them apart.

    `sig/job_1/output.root` and `sig/job_2/output.root` become `job_1/output` and `job_2/output`.
    """
    groups: dict[str, list[Path]] = {}
    for path in dict.fromkeys(paths):
        groups.setdefault(stem_of(path), []).append(path)
    return {path: name for group in groups.values() for path, name in _distinct(group).items()}


def _distinct(paths: Sequence[Path]) -> dict[Path, str]:
    folders = [Path(os.path.abspath(path)).parts[1:-1] for path in paths]  # noqa: PTH100 (links keep their names)
    for names in ([stem_of(path) for path in paths], [path.name for path in paths]):
        for depth in range(max(map(len, folders)) + 1):
            found = [
                "/".join((*parts[len(parts) - depth :], name))
                for parts, name in zip(folders, names, strict=True)
            ]
            if len(set(found)) == len(found):
                return dict(zip(paths, found, strict=True))
    raise InvalidConfig(f"{paths[0]} and {paths[1]} are the same input")


def distinct_digests(paths: Sequence[Path]) -> dict[Path, str]:
    """Return SHA-256 of every input.

    Raises:
        InvalidConfig: two hold the same bytes.
        UnreadableInput: one cannot be read.
    """
    if twice := [path for path, times in Counter(paths).items() if times > 1]:
        raise InvalidConfig(f"{twice[0]} is given twice: give every input once")
    digests, seen = digests_of(paths), dict[str, Path]()
    for path, digest in digests.items():
        if digest in seen:
            raise InvalidConfig(f"{path} and {seen[digest]} hold the same bytes: give every input once")
        seen[digest] = path
    return digests


def digests_of(paths: Sequence[Path]) -> dict[Path, str]:
    """Return SHA-256 of each file, or of the names and digests of a folder's files, several at a time.

    Raises:
        UnreadableInput: one cannot be read; the first of them is named.
    """
    with hashing() as (pool, stop):
        return dict(zip(paths, pool.map(lambda path: _digest_of(path, stop), paths), strict=True))


def _digest_of(path: Path, stop: Event) -> str:
    try:
        if not path.is_dir():
            return sha256_of(path, stop)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_of(file, stop)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    except OSError as exc:
        raise UnreadableInput(f"cannot read {path}: {exc.strerror}") from None
