"""Modules whose text came from elsewhere: from a search script's process, a journal's files, or a promoted model."""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from hep_ray.own_code import importing_from

_IMPORTING: list[str] = []
_TEXTS: dict[str, tuple[Path, str]] = {}
"""Module → where its file was read, and its text."""


def digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(module: ModuleType | None) -> str | None:
    """Return the SHA-256 of a module's text as it was imported from one, else as its file is now."""
    path = getattr(module, "__file__", None)
    recorded: str | None = getattr(module, "__hep_ray_sha256__", None)
    if recorded or path is None or not Path(path).is_file():
        return recorded
    return digest(Path(path).read_text(encoding="utf-8"))


def importing() -> bool:
    """Whether a script is being imported for what it registers, rather than run."""
    return bool(_IMPORTING)


@contextmanager
def only_importing(name: str) -> Iterator[None]:
    """Within, `main(search)` of a script that is imported does nothing."""
    _IMPORTING.append(name)
    try:
        yield
    finally:
        _IMPORTING.pop()


def provide(name: str, path: Path, text: str) -> None:
    """Have a module imported from its text from here on; a file `__init__.py` is that of a package."""
    _TEXTS[name] = path, text


def provided(name: str) -> bool:
    """Return whether a module is imported from its text."""
    return name in _TEXTS


def import_source(name: str, path: Path, source: str) -> ModuleType:
    """Import a module from its text; within it, `main(search)` does nothing.

    Raises:
        PluginFailed: the text cannot be run; the message names file, line and cause.
    """
    former, text = sys.modules.pop(name, None), _TEXTS.get(name)
    provide(name, path, source)
    try:
        return importlib.import_module(name)
    except BaseException:
        del _TEXTS[name]
        if text is not None:
            _TEXTS[name] = text
        if former is not None:
            sys.modules[name] = former
        raise


class _Texts(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and runs the modules of `_TEXTS`, before any file of that name."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname in _TEXTS:
            file = _TEXTS[fullname][0]
            spec = ModuleSpec(fullname, self, origin=str(file), is_package=file.name == "__init__.py")
            spec.has_location = True
            return spec
        if any(name.startswith(f"{fullname}.") for name in _TEXTS) and fullname not in sys.modules:
            return ModuleSpec(fullname, None, is_package=True)  # a folder without __init__.py
        return None

    def get_source(self, fullname: str) -> str:
        return _TEXTS[fullname][1]

    def is_package(self, fullname: str) -> bool:
        return _TEXTS[fullname][0].name == "__init__.py"

    def exec_module(self, module: ModuleType) -> None:
        path, source = _TEXTS[module.__name__]
        linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
        with only_importing(module.__name__), importing_from(str(path)):
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the user's own script
        module.__dict__["__hep_ray_sha256__"] = digest(source)


sys.meta_path.insert(0, _Texts())
