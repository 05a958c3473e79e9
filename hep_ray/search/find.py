"""The one way to name a search: by its name in the storage, by its folder, or by its script."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hep_ray.errors import InvalidConfig, NotRun, UnknownName, UnknownSearch
from hep_ray.flags import STORAGE
from hep_ray.search.script import HERE, load_search, script_of
from hep_ray.search.state import SearchState, searches_in
from hep_ray.search.stated import Stated, stated_in
from hep_ray.tracking.journal import FILE_NAME
from hep_ray.tracking.records import SearchStarted

if TYPE_CHECKING:
    from hep_ray.search.definition import Search


@dataclass(frozen=True)
class Found:
    """A search that was run.

    Attributes:
        folder: of the search, with its journal.
        script: that was named, or found by its name; None where the journal was found without.
        scripts: folder where scripts are looked for by name.
    """

    folder: Path
    script: Path | None
    scripts: Path = HERE

    @property
    def name(self) -> str:
        """Of the search."""
        return self.folder.name

    @property
    def storage(self) -> Path:
        """The folder of all searches that it lies in."""
        return self.folder.parent

    def state(self) -> SearchState:
        """Its journal, folded.

        Raises:
            NotRun: the journal has no record yet.
        """
        state = SearchState.read(self.folder)
        if state.started is None:
            raise NotRun(f"a search is looked at when it ran; {self.folder} holds none: run the search first")
        return state

    def stated(self, started: SearchStarted) -> Stated:
        """What it stated; of a journal of an earlier version, which does not tell, what its script states now."""
        return stated_in(started, None if started.stated is not None else self._by_script())

    def _by_script(self) -> Search | None:
        try:
            search = load_search(str(self.script or self.name), self.scripts)
        except UnknownName:
            return None
        return search if search.name == self.name else None


def find_search(target: str, storage: Path = STORAGE, scripts: Path = HERE) -> Found:
    """Find a search.

    - `PATH.py` is its script, wherever it lies; its search is looked for in the storage.
    - A name is that of a search in the storage.
    - A path is the folder of a search, which lies in its own storage.
    - Another name is that of a script in `searches/`.

    Args:
        target: one of these.
        storage: folder of all searches.
        scripts: folder of scripts that are known by their names.

    Raises:
        UnknownSearch: it is none of them; the message lists what there is.
        NotRun: its script is there, and the storage holds no search of it.
        InvalidConfig: a folder, and another storage.
    """
    if target.endswith(".py"):
        return _of_script(target, storage, scripts)
    if target in searches_in(storage):
        return Found(storage / target, None, scripts)
    folder = Path(target)
    if (folder / FILE_NAME).is_file():
        folder = folder if folder.name else folder.resolve()
        named = storage != STORAGE and str(storage) != os.environ.get("HEP_RAY_STORAGE")
        if named and storage.resolve() != folder.resolve().parent:
            raise InvalidConfig(
                f"the folder of a search lies in its storage; {folder} does not lie in --storage {storage}: "
                "leave --storage out, or give the search's name"
            )
        return Found(folder, None, scripts)
    try:
        return _of_script(target, storage, scripts)
    except UnknownName as fault:
        known = ", ".join(searches_in(storage)) or "none"
        raise UnknownSearch(
            f"a search is given by its name, its folder or its script; '{target[:80]}' is none ({fault}); "
            f"{storage} holds searches: {known}"
        ) from None


def _of_script(target: str, storage: Path, scripts: Path) -> Found:
    search = load_search(target, scripts)
    folder = storage / search.name
    if not (folder / FILE_NAME).is_file():
        known = ", ".join(searches_in(storage)) or "none"
        raise NotRun(
            f"a search is looked for where it ran; {folder} holds none: run the search first, or name its --storage; "
            f"{storage} holds searches: {known}"
        )
    return Found(folder, script_of(target, scripts), scripts)
