"""Bring components that are not hep_ray's own to every process that needs them, and to those who use their models.

A search script, a module or a package beside it, any module that is named (`--plugin`, `Search(plugins=…)`) and an
installed package may register models, losses or any other component. Other processes (trials, on any node) do not run
the script: they are given the text of these files and of what they import from beside them, and import that. A module
of an installed package is imported by its name, where the same version must be installed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path

from pydantic import Field

from hep_ray.config import Config
from hep_ray.errors import PluginFailed, UntrustedCode
from hep_ray.own_code import OWN_CODE, importing_from, is_of_a_user
from hep_ray.sources import digest, digest_of, import_source, importing, only_importing, provide, provided

__all__ = [
    "Plugin",
    "code_changes",
    "code_of",
    "differences",
    "import_named",
    "import_script",
    "import_source",
    "importing",
    "load",
    "places",
    "registered",
    "restore",
    "summary",
    "trust",
    "vouched",
    "with_source",
]

logger = logging.getLogger(__name__)

SCRIPT = "_search_"
"""Begins the name under which a search script is imported: its own may be that of another module."""
_NAMED: dict[str, Path] = {}
"""Top-level module that a user named → its file."""


class Plugin(Config):
    """A file that registers components, or that one of those imports.

    Attributes:
        module: the name it is imported under.
        path: where the file was read.
        sha256: of its text.
        registers: what it registers, such as `loss 'mine'`.
        source: its text; empty where the module is installed, and in a journal.
        distribution: the installed package that it belongs to; empty where it belongs to none.
        version: of that package.
    """

    module: str
    path: str
    sha256: str
    registers: tuple[str, ...] = ()
    source: str = Field("", repr=False)
    distribution: str = ""
    version: str = ""

    @property
    def recorded(self) -> Plugin:
        """Return what a journal holds of it: everything but the text."""
        return self.model_copy(update={"source": ""})

    @property
    def package(self) -> str:
        """Return the name of the top-level package or module."""
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        installed = f" ({self.distribution} {self.version})" if self.distribution else ""
        return f"{self.path}{installed}: {', '.join(self.registers)}"


def import_named(words: Iterable[str]) -> None:
    """Import modules that a user names: `mypkg.nets`, or a file, `nets.py`.

    Raises:
        PluginFailed: there is no such module or file, it cannot be imported, or it registers nothing.
    """
    for word in words:
        file = word.endswith(".py")
        name = Path(word).stem if file else word
        if not all(part.isidentifier() for part in name.split(".")):
            raise PluginFailed(f"'{word}' is no plug-in: name a module such as mypkg.nets, or a file nets.py")
        if file and not provided(name):
            _import_file(name, Path(word))
        else:
            _look_in(Path.cwd())
            with only_importing(name), importing_from(word, name.partition(".")[0]):
                importlib.import_module(name)
        top = name.partition(".")[0]
        if not any(_top(module) == top for module in OWN_CODE):
            raise PluginFailed(
                f"plug-in '{word}' registers no component: it must register one, with @model, @loss, @metric, …"
            )
        module = sys.modules[top]
        _NAMED[top] = Path(str(getattr(module, "__file__", None) or word)).resolve()


def _import_file(name: str, path: Path) -> None:
    if not path.is_file():
        raise PluginFailed(f"no plug-in {path}: name a file that is there, or a module such as mypkg.nets")
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main is not None and Path(main).resolve() == path.resolve():
        raise PluginFailed(f"{path} is the script that runs: its components are known without --plugin")
    _look_in(path.resolve().parent)
    with only_importing(name), importing_from(str(path.resolve())):
        module = importlib.import_module(name)
    if Path(str(getattr(module, "__file__", ""))).resolve() != path.resolve():
        raise PluginFailed(
            f"{path} cannot be imported as '{name}', which is {getattr(module, '__file__', 'a part of Python')} here: "
            "give the file another name"
        )


def import_script(name: str, path: Path) -> object:
    """Import a search script for what it states and registers; files beside it are found by it.

    Raises:
        PluginFailed: it cannot be imported; the message names file, line and cause.
    """
    _look_in(path.resolve().parent)
    return import_source(name, path.resolve(), path.read_text(encoding="utf-8"))


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def registered(words: Collection[str] | None = None) -> tuple[Plugin, ...]:
    """Return every file outside hep_ray that registered a component in this process, with the files that it imports.

    Args:
        words: names of components that are asked for. A package that registers none of them, and no metric, is left
            out where it is there only because it is installed. None asks for all.

    Raises:
        PluginFailed: a component was registered where there is no file to send, as in a notebook.
    """
    waiting = [name for name in OWN_CODE if words is None or _is_asked_for(name, words)]
    found: dict[str, Plugin] = {}
    known = set(waiting)
    while waiting:
        name = waiting.pop(0)
        if name in found:  # with its package, whose files are all found at once
            continue
        for module, path in _files_of(name):
            if module in found or (module == "__main__" and _script_name(path) in found):
                continue
            plugin = _plugin_of(module, path)
            found[plugin.module] = plugin
            if plugin.source:
                named = _imports(plugin.source, path) - known
                known |= named
                waiting += sorted(one for one in named if _is_beside(one))
    return tuple(
        sorted(
            found.values(), key=lambda one: not one.registers
        )  # what is sent for the sake of others comes last
    )


def _is_asked_for(module: str, words: Collection[str]) -> bool:
    from_beside = _NAMED.keys() | {"__main__"}
    if _top(module) in from_beside or not _distribution(module)[0]:
        return True
    of_package = [one for name in OWN_CODE if _top(name) == _top(module) for one in OWN_CODE[name]]
    kinds_and_names = [one.partition(" ") for one in of_package]
    return any(kind == "metric" or name.strip("'") in words for kind, _, name in kinds_and_names)


def _files_of(name: str) -> list[tuple[str, Path]]:
    """Module → file, of a module or, where that is part of a package, of the whole package."""
    path, folders = _found_at(name)
    top = sys.modules.get(_top(name))
    if provided(name) and path is not None:
        return [(name, path)]
    folders = [Path(one) for one in getattr(top, "__path__", ())] or folders
    if path is None and not folders:
        raise PluginFailed(
            f"{', '.join(OWN_CODE.get(name, ()))} cannot be sent to trials: it was registered in {name}, which is no "
            "file: write it into a file of its own (in a notebook: %%writefile nets.py) and import that"
        )
    if path is not None and not path.is_file():
        raise PluginFailed(f"{', '.join(OWN_CODE.get(name, ()))} cannot be sent to trials: {path} is no file")
    if not folders:
        return [(name, path)] if path is not None else []
    return [
        (_module_name(_top(name), file.relative_to(folder)), file)
        for folder in folders
        for file in sorted(folder.rglob("*.py"))
        if not any(part.startswith(".") or part == "__pycache__" for part in file.relative_to(folder).parts)
    ]


def _module_name(package: str, file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def _script_name(path: Path) -> str:
    return SCRIPT + re.sub(r"\W", "_", path.stem)


def _plugin_of(module: str, path: Path) -> Plugin:
    source = path.read_text(encoding="utf-8")
    distribution, version = _distribution(module, path)
    return Plugin(
        module=_script_name(path) if module == "__main__" else module,
        path=str(path.resolve()),
        sha256=digest(source),
        registers=tuple(OWN_CODE.get(module, ())),
        source="" if distribution else source,
        distribution=distribution,
        version=version,
    )


@lru_cache(maxsize=1024)
def _imports(source: str, path: Path) -> frozenset[str]:
    """Top-level modules that a file imports anywhere."""
    nodes = list(ast.walk(ast.parse(source, str(path))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    lists = (node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level)
    return frozenset(_top(name) for name in plain | {str(node.module) for node in lists})


def _is_beside(name: str) -> bool:
    """Whether a top-level module is a file or a folder of a user's own."""
    if name in sys.stdlib_module_names or name in {"hep_ray", "__main__", ""}:
        return False
    path, folders = _found_at(name)
    places = [one.resolve() for one in [path, *folders] if one is not None]
    return (
        bool(places)
        and all(is_of_a_user(one) and one.exists() for one in places)
        and not _distribution(name)[0]
    )


def _found_at(name: str) -> tuple[Path | None, list[Path]]:
    """File of a module, and the folders of one that is a package, imported or not."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return Path(file) if file else None, [Path(one) for one in getattr(module, "__path__", ())]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None, []
    return (
        Path(spec.origin) if spec.origin else None,
        [Path(one) for one in spec.submodule_search_locations or ()],
    )


@cache
def _packages() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _distribution(module: str, path: Path | None = None) -> tuple[str, str]:
    """Name and version of the installed distribution that a module's file belongs to; empty where it has none."""
    if path is None:
        file = getattr(sys.modules.get(module), "__file__", None)
        path = Path(file) if file else _found_at(module)[0]
    for name in _packages().get(_top(module), ()):
        files = importlib.metadata.files(name) or ()
        if path is not None and any(
            str(file).endswith(path.name) and Path(str(file.locate())).resolve() == path.resolve()
            for file in files
        ):
            return name, importlib.metadata.version(name)
    if path is not None and not is_of_a_user(path.resolve()):
        return _top(module), "unknown"
    return "", ""


def load(plugins: Iterable[Plugin]) -> None:
    """Import plug-ins in this process; what is there already is left as it is.

    Raises:
        PluginFailed: one cannot be imported, does not register what it did, or is another version here.
    """
    given = list(plugins)
    wanted = [plugin for plugin in given if not _is_here(plugin)]
    texts = [plugin for plugin in wanted if plugin.source]
    if any(plugin.module in sys.modules for plugin in texts):
        # Another version is here, and others may have imported from it: all of them are imported anew.
        wanted, texts = given, [plugin for plugin in given if plugin.source]
        for plugin in texts:
            sys.modules.pop(plugin.module, None)
    for plugin in texts:
        provide(plugin.module, Path(plugin.path), plugin.source)
    for plugin in wanted:
        if not plugin.registers:
            continue
        logger.info("importing %s (SHA-256 %s)", plugin, plugin.sha256[:12])
        advice = (
            f": install {_release(plugin)} everywhere" if plugin.distribution and not plugin.source else ""
        )
        with importing_from(plugin.path, plugin.package, advice):
            module = importlib.import_module(plugin.module)
        if (here := digest_of(module)) != plugin.sha256:
            raise PluginFailed(
                f"{plugin.module} is another version here: SHA-256 {here}, expected {plugin.sha256}: install "
                f"{_release(plugin)} everywhere"
            )
        if absent := [one for one in plugin.registers if one not in OWN_CODE.get(plugin.module, ())]:
            raise PluginFailed(
                f"{plugin.path} registers {', '.join(absent)} where it is run, and not where it is imported: take it "
                "out of `if __name__ == …`"
            )


def _release(plugin: Plugin) -> str:
    known = plugin.distribution and plugin.version != "unknown"
    return f"{plugin.distribution} {plugin.version}" if known else "the same version"


def restore(recorded: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Import here what a search recorded, from the files as they were then; nothing is run that has changed since.

    Args:
        recorded: by a journal, so without their text. A file that was moved is looked for beside what `import_named`
            was told, in the working directory and in its folder `searches/`.

    Raises:
        PluginFailed: a file is not there, or has changed.
    """
    found = tuple(_found(plugin) for plugin in recorded)
    load(found)
    return found


def _found(plugin: Plugin) -> Plugin:
    if plugin.distribution or not (is_of_a_user(Path(plugin.path)) or plugin.module.startswith(SCRIPT)):
        return plugin
    name = _below(plugin)
    places = [*_named_places(plugin), Path(plugin.path), name, Path("searches") / name]
    texts = {place: place.read_text(encoding="utf-8") for place in places if place.is_file()}
    for place, source in texts.items():
        if digest(source) == plugin.sha256:
            return plugin.model_copy(update={"source": source, "path": str(place.resolve())})
    if not texts:
        listed = ", ".join(plugin.registers)
        part = f"registers {listed} of this search" if listed else "is imported by a file of this search"
        raise PluginFailed(
            f"{plugin.path} is not there, and {part}: put it back, or into the working directory, or name it "
            "with --plugin"
        )
    place, source = next(iter(texts.items()))
    raise PluginFailed(
        f"{place} has changed since this search trained with it: SHA-256 was {plugin.sha256[:12]} and is now "
        f"{digest(source)[:12]}: put it back as it was, or train anew with --resume --accept-changed-code"
    )


def _named_places(plugin: Plugin) -> list[Path]:
    """Return where a file would stand beside what the user named."""
    return [path.parents[1 if path.name == "__init__.py" else 0] / _below(plugin) for path in _NAMED.values()]


def _below(plugin: Plugin) -> Path:
    return Path(*Path(plugin.path).parts[-_depth(plugin) :])


def _depth(plugin: Plugin) -> int:
    """Parts of a file's path that its module's name tells."""
    return plugin.module.count(".") + (2 if Path(plugin.path).name == "__init__.py" else 1)


def with_source(plugins: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Return plug-ins with their text, of installed packages too: what a model carries.

    Raises:
        PluginFailed: an installed file has changed meanwhile, or is not here.
    """
    made = []
    for plugin in plugins:
        source = plugin.source or _installed_text(plugin)
        if source is None or digest(source) != plugin.sha256:
            raise PluginFailed(
                f"{plugin.module} is not here as it was when this search trained with it: install {_release(plugin)}"
            )
        made.append(plugin.model_copy(update={"source": source}))
    return tuple(made)


def with_recorded_source(recorded: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Return what a search recorded with the text of its files, as they were then; nothing is imported.

    Raises:
        PluginFailed: a file is not there, or has changed.
    """
    return with_source(map(_found, recorded))


def _installed_text(plugin: Plugin) -> str | None:
    """Text of a plug-in's file as it is installed here; None where no installed package has it. Nothing is imported."""
    inside = plugin.module.replace(".", "/")
    names = {f"{inside}.py", f"{inside}/__init__.py"}
    for distribution in _packages().get(plugin.package, ()):
        for file in importlib.metadata.files(distribution) or ():
            if file.as_posix() in names and Path(str(file.locate())).is_file():
                return Path(str(file.locate())).read_text(encoding="utf-8")
    here = getattr(sys.modules.get(plugin.module), "__file__", None) or plugin.path
    path = Path(here)
    return path.read_text(encoding="utf-8") if path.is_file() and not is_of_a_user(path) else None


def trust(plugins: Sequence[Plugin], *, trust_code: bool) -> None:
    """Make the components of a model that came with its own code available, if the user trusts that code.

    Args:
        plugins: with their text, as a model carries them.
        trust_code: run that text; also by the environment variable HEP_RAY_TRUST_CODE=1. Without it only what is
            imported already, installed here in that version, or named with `import_named`, is used.

    Raises:
        UntrustedCode: the code is not here and is not trusted.
        PluginFailed: it cannot be imported.
    """
    absent = [plugin for plugin in plugins if not _is_here(plugin)]
    others = {plugin.package for plugin in plugins if not _is_installed_here(plugin)}
    installed = {plugin.module for plugin in absent if plugin.package not in others}  # whole packages alone
    foreign = [plugin for plugin in absent if plugin.module not in installed]
    needed = [plugin for plugin in foreign if plugin.registers or plugin.module in sys.modules]
    if not needed:
        load([plugin.recorded for plugin in absent if plugin.module in installed])
        return
    came_with_it = any(plugin.source or plugin.module.startswith(SCRIPT) for plugin in needed)
    trusted = trust_code or os.environ.get("HEP_RAY_TRUST_CODE") == "1" or vouched(plugins)
    if came_with_it and not trusted:
        listed = ", ".join(one for plugin in needed for one in plugin.registers) or needed[0].module
        files = ", ".join(f"{Path(one.path).name} (SHA-256 {one.sha256[:12]})" for one in needed)
        releases = dict.fromkeys(_release(one) for one in needed if one.distribution)
        install = f"install {', '.join(releases)}, or " if releases else ""
        raise UntrustedCode(
            f"{listed} of this model is code of {files} that came with the model: {install}read it (plugins in "
            "model.json); if you trust it, load with --trust-code, --plugin FILE (your own copy of it), "
            "load_model(…, trust_code=True), or HEP_RAY_TRUST_CODE=1 for MLflow"
        )
    load([plugin.recorded if plugin.module in installed else plugin for plugin in plugins])


def vouched(plugins: Iterable[Plugin]) -> bool:
    """Return whether the user has each file that a model carries, the same text: imported, installed, or named."""
    return all(
        _is_here(plugin)
        or _is_installed_here(plugin)
        or any(
            place.is_file() and digest(place.read_text(encoding="utf-8")) == plugin.sha256
            for place in _named_places(plugin)
        )
        for plugin in plugins
    )


def _is_installed_here(plugin: Plugin) -> bool:
    text = _installed_text(plugin) if plugin.distribution or not plugin.source else None
    return text is not None and digest(text) == plugin.sha256


def differences(before: Sequence[Plugin], now: Sequence[Plugin]) -> list[str]:
    """Say what changed of the plug-ins of a search, a sentence for each file; empty where nothing did.

    A file that registers nothing and is new changes nothing by itself: what imports it has changed too.
    """
    known, here = ({plugin.module: plugin for plugin in plugins} for plugins in (before, now))
    sentences = []
    for name in sorted(known.keys() | here.keys()):
        old, new = known.get(name), here.get(name)
        if new is None and old is not None:
            did = f"registered {', '.join(old.registers)}" if old.registers else "was imported"
            sentences.append(f"{old.path} {did} and is not loaded now")
        elif old is None and new is not None and new.registers:
            sentences.append(f"{new.path} registers {', '.join(new.registers)} and was not loaded before")
        elif old is not None and new is not None and old.sha256 != new.sha256:
            releases = {f"{one.distribution} {one.version}" for one in (old, new) if one.distribution}
            of = f" ({' → '.join(sorted(releases))})" if releases else ""
            sentences.append(
                f"{new.path} has changed{of}: SHA-256 was {old.sha256[:12]} and is now {new.sha256[:12]}"
            )
    return sentences


def code_of(kind: str, name: str) -> dict[str, str]:
    """Return file → SHA-256 of the file, or the package, of the user's own that registers a component.

    Empty where the component is hep_ray's, or was registered where there is no file, as in a notebook.
    """
    modules = [one for one, names in OWN_CODE.items() if f"{kind} '{name}'" in names and _found_at(one)[0]]
    files = [path for module in modules for _, path in _files_of(module)]
    return {str(path.resolve()): digest(path.read_text(encoding="utf-8")) for path in files}


def code_changes(recorded: object) -> list[str]:
    """Say which of the files that `code_of` told, as a manifest keeps them, are other ones now; absent ones are not."""
    sentences = []
    for path, before in recorded.items() if isinstance(recorded, dict) else ():
        file = Path(path)
        now = digest(file.read_text(encoding="utf-8")) if file.suffix == ".py" and file.is_file() else before
        if now != before:
            sentences.append(
                f"{path}, which read these events, has changed since: SHA-256 was {before[:12]} and is now {now[:12]}"
            )
    return sentences


def summary(plugins: Sequence[Plugin]) -> Iterator[str]:
    """Say what each file registers, and how many files there are beside."""
    yield from (str(plugin) for plugin in plugins if plugin.registers)
    others = [plugin for plugin in plugins if not plugin.registers]
    if others:
        yield f"with {len(others)} more files: {', '.join(plugin.module for plugin in others)}"


def places(plugins: Iterable[Plugin]) -> dict[Path, str]:
    """Return file, or folder of a package → the release that is installed there, or nothing."""
    found: dict[Path, str] = {}
    for plugin in plugins:
        path = Path(plugin.path)
        if "." in plugin.module or path.name == "__init__.py":
            path = path.parents[_depth(plugin) - 2]
        found[path] = f"{plugin.distribution} {plugin.version}" if plugin.distribution else ""
    return found


def _is_here(plugin: Plugin) -> bool:
    """Whether this process has it: imported in this version, or as the script that it runs."""
    if digest_of(sys.modules.get(plugin.module)) == plugin.sha256:
        return True
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    is_script = path is not None and str(Path(path).resolve()) == plugin.path and "__main__" in OWN_CODE
    return is_script and digest_of(main) == plugin.sha256


def _top(module: str) -> str:
    return module.partition(".")[0]
