"""A name → component table that fills itself from the modules of one folder.

Adding a model, loss or simulation is adding one file to its folder: the registry imports
the folder's modules the first time it is asked for anything.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from hep_ray.errors import DuplicateName, UnknownName

T = TypeVar("T")


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
        self._discovered = False

    def add(self, name: str, entry: T) -> T:
        """Enter a component.

        Raises:
            DuplicateName: the name is taken by another entry.
        """
        if name in self._entries:
            raise DuplicateName(
                f"a {self.kind} name is used once; '{name}' is registered twice in {self.package}"
            )
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """`add` as a decorator."""
        return lambda entry: self.add(name, entry)

    def __getitem__(self, name: str) -> T:
        """The entry of that name.

        Raises:
            UnknownName: no entry has it; the message lists all of them and the nearest.
        """
        self._discover()
        try:
            return self._entries[name]
        except (KeyError, TypeError):  # a name from a file may be a list
            nearest = difflib.get_close_matches(str(name), self._entries, n=1)
            hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
            raise UnknownName(
                f"unknown {self.kind} '{name}'{hint}; known: {', '.join(sorted(self._entries))}"
            ) from None

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
        folder = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(folder.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._discovered = True
