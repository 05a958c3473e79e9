"""From the name of a search to the `Search` that its script states."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from hep_ray.errors import UnknownName
from hep_ray.plugins import SCRIPT, import_source

if TYPE_CHECKING:
    from hep_ray.search.definition import Search

_FILE_NAME = re.compile(r"[\w.-]{1,100}")
HERE = Path("searches")
OURS = Path(__file__).resolve().parents[2] / "searches"
"""Scripts of the checkout that hep_ray is installed from: on a cluster's head commands are typed elsewhere."""


def load_search(name: str, folder: Path = HERE) -> Search:
    """The `Search` that a script states.

    Args:
        name: of a script in `folder`, or the path of one.
        folder: of the scripts; where the default one has none of that name, hep_ray's own checkout is looked at.

    Raises:
        UnknownName: there is no such script, or it states no search.
    """
    from hep_ray.search.definition import Search

    if not name.endswith(".py") and not _FILE_NAME.fullmatch(Path(name).name):
        raise UnknownName(f"a search is the name of a script, or its path; got '{name[:80]}'")
    path = script_of(name, folder)
    if not _is_file(path):
        folder = OURS if path.parent == OURS else folder
        known = ", ".join(sorted(script.stem for script in folder.glob("*.py")))
        raise UnknownName(f"a search is a script; {path} is not there; {folder} has: {known or 'none'}")
    module = import_source(
        SCRIPT + re.sub(r"\W", "_", path.stem), path.resolve(), path.read_text(encoding="utf-8")
    )
    search = getattr(module, "search", None)
    if not isinstance(search, Search):
        raise UnknownName(f"a search script has a variable 'search' of class Search; {path} has none")
    return search


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
