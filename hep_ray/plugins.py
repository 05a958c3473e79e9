"""Bring components that a user's own file registers to every process that needs them.

A search script may register a model, a loss or any other component. Other processes (trials, on any node) do not run
that script: they are given its source, import it as a module, and so have what it registers. A module that is
installed is imported by its name.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import logging
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from pydantic import Field

from hep_ray.config import Config
from hep_ray.errors import HepRayError, PluginFailed, UntrustedCode
from hep_ray.registry import OWN_CODE

logger = logging.getLogger(__name__)

SCRIPT = "_search_"
"""Begins the name under which a search script is imported: its own may be that of another module."""
_IMPORTING: list[str] = []


class Plugin(Config):
    """A file of a user's own that registers components.

    Attributes:
        module: the name it is imported under.
        path: where the file was read.
        sha256: of its text.
        registers: what it registers, such as `loss 'mine'`.
        source: its text; empty where the module is installed, and in a journal.
    """

    module: str
    path: str
    sha256: str
    registers: tuple[str, ...] = ()
    source: str = Field("", repr=False)

    @property
    def recorded(self) -> Plugin:
        """Return what a journal holds of it: everything but the text."""
        return self.model_copy(update={"source": ""})


def registered() -> tuple[Plugin, ...]:
    """Every file outside hep_ray that has registered a component in this process.

    Raises:
        PluginFailed: a component was registered where there is no file to send, as in a notebook.
    """
    found: dict[str, Plugin] = {}
    for name, registers in OWN_CODE.items():
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if path is None or not Path(path).is_file():
            raise PluginFailed(
                f"{', '.join(registers)} cannot be sent to trials: it was registered in {name}, which is no file: "
                "write it into a file of its own (in a notebook: %%writefile nets.py) and import that"
            )
        source = Path(path).read_text(encoding="utf-8")
        plugin = Plugin(
            module=SCRIPT + re.sub(r"\W", "_", Path(path).stem) if name == "__main__" else name,
            path=str(Path(path).resolve()),
            sha256=_digest(source),
            registers=tuple(registers),
            source="" if _is_installed(Path(path)) or "." in name else source,
        )
        found[plugin.path] = plugin
    return tuple(found.values())


def load(plugins: Iterable[Plugin]) -> None:
    """Import plug-ins in this process; what is there already is left as it is.

    Raises:
        PluginFailed: one cannot be imported, or is another version than the one that is asked for.
    """
    for plugin in plugins:
        if _is_here(plugin):
            continue
        logger.info(
            "importing %s (SHA-256 %s): %s", plugin.path, plugin.sha256[:12], ", ".join(plugin.registers)
        )
        if plugin.source:
            import_source(plugin.module, Path(plugin.path), plugin.source)
            continue
        with _told(plugin.path):
            module = importlib.import_module(plugin.module)
        if (here := _digest_of(module)) != plugin.sha256:
            raise PluginFailed(
                f"{plugin.module} is another version here: SHA-256 {here}, expected {plugin.sha256}: install the same "
                "version everywhere"
            )


def restore(recorded: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Import here what a search recorded, from the files as they were then; nothing is run that has changed since.

    Args:
        recorded: by a journal, so without their text. A file that was moved is looked for in the working directory
            and in its folder `searches/`.

    Raises:
        PluginFailed: a file is not there, or has changed.
    """
    found = tuple(_found(plugin) for plugin in recorded)
    load(found)
    return found


def _found(plugin: Plugin) -> Plugin:
    if not plugin.module.startswith(SCRIPT) and _is_installed(Path(plugin.path)):
        return plugin
    name = Path(plugin.path).name
    places = [Path(plugin.path), Path(name), Path("searches") / name]
    texts = {place: place.read_text(encoding="utf-8") for place in places if place.is_file()}
    for place, source in texts.items():
        if _digest(source) == plugin.sha256:
            return plugin.model_copy(update={"source": source, "path": str(place.resolve())})
    if not texts:
        raise PluginFailed(
            f"{plugin.path} is not there, and registers {', '.join(plugin.registers)} of this search: put it back, or "
            "into the working directory"
        )
    place, source = next(iter(texts.items()))
    raise PluginFailed(
        f"{place} has changed since this search trained with it: SHA-256 was {plugin.sha256[:12]} and is now "
        f"{_digest(source)[:12]}: put it back as it was, or train anew with --resume --accept-changed-code"
    )


def trust(plugins: Sequence[Plugin], *, trust_code: bool) -> None:
    """Make the components of a model that came with its own code available, if the user trusts that code.

    Args:
        plugins: with their text, as a model carries them.
        trust_code: run that text; also by the environment variable HEP_RAY_TRUST_CODE=1. Without it only what is
            imported already, or installed here in that version, is used.

    Raises:
        UntrustedCode: the code is not here and is not trusted.
    """
    for plugin in plugins:
        if _is_here(plugin):
            continue
        came_with_it = bool(plugin.source) or plugin.module.startswith(SCRIPT)
        if came_with_it and not (trust_code or os.environ.get("HEP_RAY_TRUST_CODE") == "1"):
            raise UntrustedCode(
                f"{', '.join(plugin.registers)} of this model is code of {Path(plugin.path).name} (SHA-256 "
                f"{plugin.sha256[:12]}) that came with the model: read it (plugins in model.json); if you trust it, "
                "load with --trust-code, load_model(…, trust_code=True), or HEP_RAY_TRUST_CODE=1 for MLflow"
            )
        load([plugin])


def import_source(name: str, path: Path, source: str) -> ModuleType:
    """Import a module from its text; within it, `main(search)` does nothing.

    Raises:
        PluginFailed: the text cannot be run; the message names file, line and cause.
    """
    module = ModuleType(name)
    module.__file__ = str(path)
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    former = sys.modules.get(name)
    sys.modules[name] = module
    _IMPORTING.append(name)
    try:
        with _told(str(path)):
            exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the user's own script
    except BaseException:
        sys.modules.pop(name)
        if former is not None:
            sys.modules[name] = former
        raise
    finally:
        _IMPORTING.pop()
    module.__dict__["__hep_ray_sha256__"] = _digest(source)
    return module


def importing() -> bool:
    """Whether a script is being imported for what it registers, rather than run."""
    return bool(_IMPORTING)


def differences(before: Sequence[Plugin], now: Sequence[Plugin]) -> list[str]:
    """Say what changed of the plug-ins of a search, a sentence for each file; empty where nothing did."""
    known, here = ({plugin.module: plugin for plugin in plugins} for plugins in (before, now))
    sentences = []
    for name in sorted(known.keys() | here.keys()):
        old, new = known.get(name), here.get(name)
        if new is None and old is not None:
            sentences.append(f"{old.path} registered {', '.join(old.registers)} and is not loaded now")
        elif old is None and new is not None:
            sentences.append(f"{new.path} registers {', '.join(new.registers)} and was not loaded before")
        elif old is not None and new is not None and old.sha256 != new.sha256:
            sentences.append(
                f"{new.path} has changed: SHA-256 was {old.sha256[:12]} and is now {new.sha256[:12]}"
            )
    return sentences


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except HepRayError:
        raise
    except Exception as exc:
        lines = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == path]
        line = getattr(exc, "lineno", None) if isinstance(exc, SyntaxError) else (lines or [None])[-1]
        where = f"{path}, line {line}" if line else path
        raise PluginFailed(f"cannot import {where}: {type(exc).__name__}: {exc}") from exc


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


def _digest_of(module: ModuleType | None) -> str | None:
    """Digest a module's text as it was imported from source, else as its file is now."""
    path = getattr(module, "__file__", None)
    recorded: str | None = getattr(module, "__hep_ray_sha256__", None)
    if recorded or path is None or not Path(path).is_file():
        return recorded
    return _digest(Path(path).read_text(encoding="utf-8"))


def _is_here(plugin: Plugin) -> bool:
    """Whether this process has it: imported in this version, or as the script that it runs."""
    if _digest_of(sys.modules.get(plugin.module)) == plugin.sha256:
        return True
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return path is not None and str(Path(path).resolve()) == plugin.path and "__main__" in OWN_CODE


def _is_installed(path: Path) -> bool:
    return any(
        path.resolve().is_relative_to(Path(sysconfig.get_path(place)).resolve())
        for place in ("purelib", "platlib")
    )
