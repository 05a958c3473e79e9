"""Code that is not hep_ray's: which modules register components, and the user's own line that a fault lies in."""

from __future__ import annotations

import inspect
import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from hep_ray.errors import HepRayError, PluginFailed
from hep_ray.masking import mask

OWN_CODE: dict[str, list[str]] = {}
"""Module outside hep_ray → what it registered, such as `loss 'mine'`."""
INSTALLED: dict[str, str] = {}
"""Top-level package that an entry point names → its distribution and version."""
SITES = {"site-packages", "dist-packages"}
_BEGINS_WITH_A_LINE = re.compile(r"(cannot import )?\S.*?\.py, line \d+\b")
_STDLIB = Path(sysconfig.get_path("stdlib")).resolve()


def is_of_a_user(path: Path) -> bool:
    """Return whether a file is neither Python's own nor below the folder of installed packages."""
    return not SITES & set(path.parts) and not path.is_relative_to(_STDLIB)


def own_line(exc: BaseException, package: str = "") -> str:
    """Return the last line of a user's own code that an exception passed, or nothing.

    Args:
        exc: as caught.
        package: top-level name whose code counts as the user's own, though it is installed.

    Returns:
        Such as `/analysis/nets.py, line 7, in forward: x = self.linear(x)`.
    """
    own = [(frame, line) for frame, line in traceback.walk_tb(exc.__traceback__) if _is_own(frame, package)]
    if not own:
        return ""
    frame, line = own[-1]
    path, function = frame.f_code.co_filename, frame.f_code.co_name
    text = linecache.getline(path, line, frame.f_globals).strip().rstrip(",")
    where = f"{path}, line {line}" + (f", in {function}" if function != "<module>" else "")
    return where + (f": {text}" if text else "")


def told_at_own_line(exc: HepRayError, package: str = "") -> str:
    """Return the message of a named error, with the user's own line that it was raised at before it.

    Args:
        exc: as caught.
        package: top-level name whose code counts as the user's own, though it is installed.

    Returns:
        The message alone where no line of a user's own was passed, or where it begins with a file and a line already.
    """
    message, line = str(exc), own_line(exc, package)
    if not line or _BEGINS_WITH_A_LINE.match(message):
        return message
    return f"{line}: {message}"


def tell_errors_of_scripts() -> None:
    """From here on, tell a named error of a script's own lines, such as its `@model(…)` or `Search(…)`, on one line.

    The user's own line comes first. Whatever else is raised, and all errors of a prompt, are left as they are.
    """
    former = sys.excepthook

    def hook(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
        prompt = sys.flags.interactive or not hasattr(sys.modules["__main__"], "__file__")
        if prompt or not isinstance(exc, HepRayError) or "--debug" in sys.argv:
            former(kind, exc, trace)
        else:
            sys.exit(tell(exc, told_at_own_line(exc)))

    sys.excepthook = hook


def tell(exc: HepRayError, message: str) -> int:
    """Print an error on stderr as one paragraph, without passwords, and return its exit code."""
    print(f"error: {mask(message)}", file=sys.stderr)  # noqa: T201 - this is the place that prints errors
    return exc.exit_code


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Within, what a user's own code raises becomes a named error that begins with their own line.

    Args:
        what: was done with it, such as `building model 'mine'`.

    Raises:
        PluginFailed: something else than a named error was raised by code that is not hep_ray's.
    """
    try:
        yield
    except HepRayError:
        raise
    except Exception as exc:
        if not (line := own_line(exc)):
            raise
        raise PluginFailed(f"{line}: {type(exc).__name__}: {exc} ({what})") from exc


def defined_at(made: Any) -> str:
    """Return where a user's own function or class is defined, `/analysis/nets.py, line 7: `; nothing for hep_ray's."""
    made = inspect.unwrap(made)
    if str(getattr(made, "__module__", "hep_ray")).partition(".")[0] == "hep_ray":
        return ""
    code = getattr(made, "__code__", None) or getattr(getattr(made, "__init__", None), "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}: " if code is not None else ""


@contextmanager
def importing_from(path: str, package: str = "", what: str = "") -> Iterator[None]:
    """Within, what an import raises becomes a named error with the file and the line.

    Args:
        path: of the file that is imported, or the module's name.
        package: top-level name whose code counts as the user's own.
        what: is imported, where the path does not tell.

    Raises:
        HepRayError: the file raised it, as by a `Space` that cannot be; the user's own line is put before its message.
        PluginFailed: something else was raised.
    """
    try:
        yield
    except HepRayError as exc:
        exc.args = (told_at_own_line(exc, package),)
        raise
    except Exception as exc:
        file, line = path, None
        if isinstance(exc, SyntaxError) and exc.lineno is not None:
            file, line = exc.filename or path, exc.lineno
        else:
            for frame, number in traceback.walk_tb(exc.__traceback__):
                if _is_own(frame, package) or frame.f_code.co_filename == path:
                    file, line = frame.f_code.co_filename, number
        where = f"{file}, line {line}" if line else file
        raise PluginFailed(f"cannot import {where}: {type(exc).__name__}: {exc}{what}") from exc


def _is_own(frame: FrameType, package: str) -> bool:
    name, file = str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename
    top = name.partition(".")[0]
    if top == "hep_ray" or file.startswith("<"):
        return False
    packages = {package, *(one.partition(".")[0] for one in OWN_CODE)} - {""}
    return top in packages or is_of_a_user(Path(file))
