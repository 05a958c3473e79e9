"""A name → component table that fills itself from the modules of one folder, and takes what users register.

Adding a model, loss or simulation is adding one file to its folder: the registry imports
the folder's modules the first time it is asked for anything. A search script may register its own beside them, and so
may an installed package that names a module in the entry-point group `hep_ray.components`, imported at the same time.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import logging
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from hep_ray.errors import DuplicateName, InvalidConfig, UnknownName, did_you_mean
from hep_ray.own_code import INSTALLED, OWN_CODE, importing_from, tell_errors_of_scripts

logger = logging.getLogger(__name__)
tell_errors_of_scripts()  # a file that imports a registry states components next, and a search after them

T = TypeVar("T")
C = TypeVar("C")

GROUP = "hep_ray.components"
"""Entry points of installed packages that register components: each names a module."""
_loaded_points: set[str] = set()
_points_lock = threading.RLock()


def implementation(entry: Any) -> Any:
    """The class or function behind an entry, which carries its docstring and names its module."""
    parts = (getattr(entry, part, None) for part in ("factory", "generate", "open", "build", "compute"))
    return next((part for part in parts if part is not None), entry)


def check_name(kind: str, name: object, known: Iterable[str]) -> None:
    """Refuse a name that a closed set lacks, where it is stated: before anything else is taken in its place.

    Raises:
        UnknownName: the message lists the names that there are, and the nearest.
    """
    names = list(known)
    if name not in names:
        raise _unknown(kind, name, names)


def _unknown(kind: str, name: object, known: Sequence[str]) -> UnknownName:
    return UnknownName(f"unknown {kind} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}")


def check_kind(what: str, value: object, kind: Any, example: str) -> None:
    """Refuse a value of another kind, with an example of what is meant.

    Raises:
        InvalidConfig: it is of another kind.
    """
    if not isinstance(value, kind):
        raise InvalidConfig(f"{what} must be given as {example}; got {type(value).__name__} {value!r}"[:400])


def takes_named_fields(cls: type[C]) -> type[C]:
    """Let a class that scripts make refuse a field that it lacks, one too many, and the want of one, by a named error.

    Raises:
        InvalidConfig: from then on, where it is made so; the message lists the fields that there are.
    """
    made: Callable[..., None] = cls.__init__
    fields = list(inspect.signature(made).parameters.values())[1:]
    rest = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in fields)
    named = [one for one in fields if one.kind is not inspect.Parameter.VAR_POSITIONAL]
    names = [one.name for one in named]
    in_order = [one.name for one in named if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    needed = [one.name for one in named if one.default is inspect.Parameter.empty]

    @functools.wraps(made)
    def init(self: C, *args: Any, **given: Any) -> None:
        unknown = [name for name in given if name not in names]
        if unknown:
            has = (
                f"it has: {', '.join(names)}"
                if names
                else f"it takes values without names, as {cls.__name__}(3, 4)"
            )
            hint = did_you_mean(unknown[0], names)
            raise InvalidConfig(f"{cls.__name__} has no field '{unknown[0]}'{hint}; {has}")
        if len(args) > len(in_order) and not rest:
            raise InvalidConfig(
                f"{cls.__name__} takes {', '.join(in_order)} in this order and no more; got {args!r}"[:400]
            )
        twice = [name for name in in_order[: len(args)] if name in given]
        if twice:
            raise InvalidConfig(f"{cls.__name__} got {', '.join(twice)} twice: by place and by name")
        lacking = [name for name in needed if name not in {*in_order[: len(args)], *given}]
        if lacking:
            stated = ", ".join(f"{name}=…" for name in needed)
            raise InvalidConfig(
                f"{cls.__name__} lacks {', '.join(lacking)}; it needs {cls.__name__}({stated})"
            )
        made(self, *args, **given)

    setattr(cls, "__init__", init)  # noqa: B010 - mypy takes no method that is assigned
    return cls


class Registry(Generic[T]):
    """Components of one kind by name.

    Args:
        kind: what an entry is called in messages, such as `model`.
        package: dotted name of the folder whose modules register entries when imported.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._discovered = self._discovering = False
        self._lock = threading.RLock()

    def add(self, name: str, entry: T) -> T:
        """Enter a component. A file outside hep_ray that is run again replaces what it registered before.

        Raises:
            DuplicateName: another file has registered the name.
        """
        module = str(getattr(implementation(entry), "__module__", self.package))
        outside = module.partition(".")[0] != "hep_ray"
        if outside:
            self._discover()  # so that a name of hep_ray's own is taken, whoever comes first
        if name in self._entries:
            before = str(getattr(implementation(self._entries[name]), "__module__", self.package))
            again = before == module and not module.startswith("_") and module.partition(".")[0] in INSTALLED
            if not (outside and (again or _file(before) == _file(module))):
                raise DuplicateName(
                    f"{self.kind} '{name}' is registered twice, by {_whose(before)} and by {_whose(module)}: "
                    "a name is used once, so give one of them another"
                    + (", or uninstall one" if {_top(before), _top(module)} & INSTALLED.keys() else "")
                )
        if outside and f"{self.kind} '{name}'" not in OWN_CODE.setdefault(module, []):
            OWN_CODE[module].append(f"{self.kind} '{name}'")
        self._entries[name] = entry
        return entry

    def decorator(self, name: str, entry_of: Callable[[Any], T]) -> Callable[[C], C]:
        """Return a decorator that enters what `entry_of` makes of the decorated, and leaves that as it is."""

        def register(component: C) -> C:
            self.add(name, entry_of(component))
            return component

        return register

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            UnknownName: no entry has it; the message lists all of them and the nearest.
        """
        self._discover()
        try:
            return self._entries[name]
        except (KeyError, TypeError):  # a name from a file may be a list
            raise _unknown(self.kind, name, sorted(self._entries)) from None

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def _discover(self) -> None:
        if self._discovered:
            return
        with self._lock:  # other threads wait; a module of the folder that registers does not begin again
            if self._discovering:
                return
            self._discovering = True
            try:
                folder = importlib.import_module(self.package)
                for module in pkgutil.iter_modules(folder.__path__):
                    importlib.import_module(f"{self.package}.{module.name}")
                load_installed()
                self._discovered = True
                logger.debug("%s: %s", self.package, ", ".join(sorted(self._entries)))
            finally:
                self._discovering = False


def load_installed() -> None:
    """Import the modules that installed packages name in the entry-point group `hep_ray.components`, each once.

    Raises:
        PluginFailed: one cannot be imported; the message names the package, the file and the line.
        DuplicateName: one registers a name that is taken.
    """
    with _points_lock:
        for point in importlib.metadata.entry_points(group=GROUP):
            if point.value in _loaded_points:
                continue
            _loaded_points.add(point.value)
            named = (
                "an installed package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
            )
            INSTALLED[_top(point.module)] = named
            try:
                with importing_from(
                    point.module, _top(point.module), f" (an entry point of {named}: mend or uninstall it)"
                ):
                    point.load()
            except BaseException:
                _loaded_points.discard(point.value)
                raise
            logger.debug("imported %s of %s", point.value, named)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _whose(module: str) -> str:
    """The file of a module, and the distribution that it came with."""
    installed = INSTALLED.get(_top(module))
    return f"{_file(module)} ({installed})" if installed else _file(module)


def _file(module: str) -> str:
    """The file of a module, or its name where it has none, as in a notebook."""
    path = getattr(sys.modules.get(module), "__file__", None)
    return str(Path(path).resolve()) if path else module
