"""Find a search that was run, by its name, folder or script."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hep_ray.errors import InvalidConfig, NotRun, UnknownName, UnknownSearch
from hep_ray.flags import STORAGE
from hep_ray.plugins import SCRIPT, import_script
from hep_ray.search.definition import Search, Stated, stated_in
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import FILE_NAME
from hep_ray.tracking.records import SearchStarted

_FILE_NAME = re.compile(r"[\w.-]{1,100}")
HERE = Path("searches")
OURS = Path(__file__).resolve().parents[2] / "searches"
"""Scripts of the checkout that hep_ray is installed from: on a cluster's head commands are typed elsewhere."""


def load_search(name: str, folder: Path = HERE) -> Search:
    """Return the `Search` that a script states.

    Args:
        name: of a script in `folder`, or the path of one.
        folder: of the scripts; where the default one has none of that name, hep_ray's own checkout is looked at.

    Raises:
        UnknownName: there is no such script, or it states no search.
    """
    path = _script_there(name, folder)
    module = import_script(SCRIPT + re.sub(r"\W", "_", path.stem), path)
    search = getattr(module, "search", None)
    if not isinstance(search, Search):
        raise UnknownName(f"no search in {path}: it must have a variable 'search' of class Search")
    return search


def _script_there(name: str, folder: Path) -> Path:
    """Return the path of a script.

    Raises:
        UnknownName: there is no such script.
    """
    if not name.endswith(".py") and not _FILE_NAME.fullmatch(Path(name).name):
        raise UnknownName(f"no search '{name[:80]}': it is neither the name of a script nor its path")
    path = script_of(name, folder)
    if not _is_file(path):
        folder = OURS if path.parent == OURS else folder
        known = ", ".join(sorted(script.stem for script in folder.glob("*.py")))
        raise UnknownName(f"no search script {path}; {folder} has: {known or 'none'}")
    return path


def script_of(name: str, folder: Path = HERE) -> Path:
    """The path of a script by its name or path; in the default folder, or else in hep_ray's own checkout."""
    path = Path(name) if name.endswith(".py") else folder / f"{name}.py"
    if not _is_file(path) and path.parent == HERE and (not HERE.is_dir() or (OURS / path.name).is_file()):
        return OURS / path.name
    return path


def _is_file(path: Path) -> bool:
    """Whether there is one; no path that the system cannot take is one."""
    try:
        return path.is_file()
    except OSError:
        return False


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
        """Name of the search."""
        return self.folder.name

    @property
    def storage(self) -> Path:
        """The folder of all searches that it lies in."""
        return self.folder.parent

    def state(self) -> SearchState:
        """Read its journal.

        Raises:
            NotRun: the journal has no record yet.
        """
        state = SearchState.read(self.folder)
        if state.started is None:
            raise NotRun(f"no search was run in {self.folder}: run it first")
        return state

    def stated(self, started: SearchStarted) -> Stated:
        """Return what it stated; for an earlier version's journal, which does not tell, what its script states now."""
        search = None
        if started.stated is None:
            with suppress(UnknownName):
                search = load_search(str(self.script or self.name), self.scripts)
        return stated_in(started, search if search is not None and search.name == self.name else None)


def searches_in(storage: Path) -> list[str]:
    """Return the names of the searches that a storage holds."""
    return sorted(path.parent.name for path in storage.glob(f"*/{FILE_NAME}"))


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
    found = _without_script(target, storage, scripts)
    if found is not None:
        return found
    with _telling_what_is_there(target, storage):
        search = load_search(target, scripts)
    folder = storage / search.name
    if not _is_file(folder / FILE_NAME):
        known = ", ".join(searches_in(storage)) or "none"
        raise NotRun(
            f"no search was run in {folder}: run it first, or name its --storage; "
            f"{storage} holds searches: {known}"
        )
    return Found(folder, script_of(target, scripts), scripts)


def refuse_unknown(target: str, storage: Path = STORAGE, scripts: Path = HERE) -> None:
    """Refuse a search that `find_search` would not find, before what its work needs is imported, which takes seconds.

    A script is run where the storage holds no search of its name. Another one may still turn out to state a search that
    was never run.

    Raises:
        UnknownSearch, UnknownName, NotRun, InvalidConfig: as `find_search` does.
    """
    if _without_script(target, storage, scripts) is None:
        with _telling_what_is_there(target, storage):
            path = _script_there(target, scripts)
        if path.stem not in searches_in(storage):
            find_search(target, storage, scripts)


def _without_script(target: str, storage: Path, scripts: Path) -> Found | None:
    """Return a search by its name or folder; None where a script is asked for, or may be."""
    if target.endswith(".py"):
        return None
    if target in searches_in(storage):
        return Found(storage / target, None, scripts)
    folder = Path(target)
    if _is_file(folder / FILE_NAME):
        folder = folder if folder.name else folder.resolve()
        named = storage != STORAGE and str(storage) != os.environ.get("HEP_RAY_STORAGE")
        if named and storage.resolve() != folder.resolve().parent:
            raise InvalidConfig(
                f"{folder} does not lie in --storage {storage}: "
                "leave --storage out, or give the search's name"
            )
        return Found(folder, None, scripts)
    return None


@contextmanager
def _telling_what_is_there(target: str, storage: Path) -> Iterator[None]:
    """Within, a script that is not there is a search that is not there; one that is named as a script stays one."""
    try:
        yield
    except UnknownName as exc:
        if target.endswith(".py"):
            raise
        known = ", ".join(searches_in(storage)) or "none"
        raise UnknownSearch(
            f"unknown search '{target[:80]}', which is neither a name, nor a folder, nor a script ({exc}); "
            f"{storage} holds searches: {known}"
        ) from None
