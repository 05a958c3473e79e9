"""Everything that a search or a dataset can be made of, as its registry knows it: names, keys, meanings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hep_ray.console import result_console
from hep_ray.errors import UnknownName
from hep_ray.flags import Plugins
from hep_ray.plugins import import_named
from hep_ray.registry import implementation

if TYPE_CHECKING:
    from hep_ray.config import Config
    from hep_ray.registry import Registry

KINDS = {
    "trainer": "",
    "model": "hep_ray.models.MODELS",
    "loss": "hep_ray.losses.LOSSES",
    "optimizer": "hep_ray.optim.OPTIMIZERS",
    "schedule": "hep_ray.optim.SCHEDULES",
    "augmentation": "hep_ray.loading.augmentations.AUGMENTATIONS",
    "metric": "hep_ray.metrics.METRICS",
    "scaler": "hep_ray.loading.scalers.SCALERS",
    "reader": "hep_ray.conversion.readers.READERS",
    "simulation": "hep_ray.simulate.SIMULATIONS",
}
"""Kind → its registry, imported when it is asked for: what a space states, then what makes datasets."""


@dataclass(frozen=True)
class Key:
    """A parameter of a component.

    Attributes:
        name: as a space or a command line states it.
        default: in words; empty where it must be given.
        values: which ones are allowed, such as `number, 0 ≤, < 1`.
        meaning: from the configuration's docstring.
    """

    name: str
    default: str
    values: str
    meaning: str


@dataclass(frozen=True)
class Component:
    """A registered component.

    Attributes:
        kind: such as `model`.
        name: what a search calls it.
        summary: first line of its docstring.
        keys: its parameters.
    """

    kind: str
    name: str
    summary: str
    keys: tuple[Key, ...]


def components(kind: str) -> list[Component]:
    """Every registered component of a kind, by name.

    Raises:
        UnknownName: there is no such kind.
    """
    return [component(kind, name) for name in registry_of(kind)]


def component(kind: str, name: str) -> Component:
    """One of them.

    Raises:
        UnknownName: there is no such kind, or no such component of it.
    """
    entry = registry_of(kind)[name]
    config = getattr(entry, "config", None) or getattr(entry, "options", None)
    summary = (inspect.getdoc(implementation(entry)) or "").partition("\n")[0]
    return Component(kind, name, summary, () if config is None else keys(config))


def registry_of(kind: str) -> Registry[Any]:
    """Return the registry of a kind. Those of metrics, readers and simulations import no torch.

    Raises:
        UnknownName: there is no such kind.
    """
    if kind not in KINDS:
        raise UnknownName(f"unknown kind of component '{kind}'; known: {', '.join(KINDS)}")
    if kind != "trainer":
        module, _, name = KINDS[kind].rpartition(".")
        found: Registry[Any] = getattr(importlib.import_module(module), name)
        return found
    from hep_ray.loading.augment import AugmentConfig
    from hep_ray.registry import Registry
    from hep_ray.training.config import TrainerConfig

    trainer: Registry[Any] = Registry("part of the trainer", "hep_ray.training")
    for name, config in (("training", TrainerConfig), ("augmentation", AugmentConfig)):
        trainer.add(name, SimpleNamespace(config=config, build=config))
    return trainer


def keys(config: type[Config]) -> tuple[Key, ...]:
    """The fields of a configuration class."""
    meanings = _meanings(config)
    properties: Mapping[str, Mapping[str, Any]] = config.model_json_schema(mode="validation").get(
        "properties", {}
    )
    found = []
    for name, rules in properties.items():
        field = config.model_fields[name]
        default = (
            "" if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
        )
        found.append(Key(name, str(default), _values(rules), meanings.get(name, "")))
    return tuple(found)


BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def _values(rules: Mapping[str, Any]) -> str:
    if "enum" in rules:
        return " | ".join(map(str, rules["enum"]))
    if "anyOf" in rules:
        return " or ".join(_values(one) for one in rules["anyOf"])
    bounds = [text.format(f"{rules[rule]:g}") for rule, text in BOUNDS.items() if rule in rules]
    pattern = [f"like {rules['pattern']}"] if "pattern" in rules else []
    return ", ".join([str(rules.get("type", "any")), *bounds, *pattern])


def _meanings(config: type[Config]) -> dict[str, str]:
    """Field → its entry under `Attributes:` in the class' docstring, or in that of a base."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        section = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[2]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
            found[name] = " ".join(text.split())
    return found


def show(
    kind: Annotated[str | None, typer.Argument(help="model, loss, optimizer, … [default: all].")] = None,
    name: Annotated[str | None, typer.Argument(help="One of that kind: its keys in full.")] = None,
    plugin: Plugins = None,
) -> None:
    """List what a search can be made of, with every key that a space may state.

    Examples: `hep-ray components`, `hep-ray components model`, `hep-ray components loss root_softmax`.

    Raises:
        UnknownName: there is no such kind, or no such component of it.
        PluginFailed: a module that --plugin names cannot be imported.
    """
    from rich.table import Table
    from rich.text import Text

    import_named(plugin or ())
    console = result_console()
    if kind and name:
        one = component(kind, name)
        console.print(Text(f"{kind} {name}: {one.summary}"), soft_wrap=True)
        table = Table("key", "default", "values", "meaning", box=None, padding=(0, 2, 0, 0))
        for key in one.keys:
            table.add_row(*map(Text, (key.name, key.default or "(required)", key.values, key.meaning)))
    else:
        table = Table("kind", "name", "what", "keys", box=None, padding=(0, 2, 0, 0))
        for one in [one for each in ([kind] if kind else KINDS) for one in components(each)]:
            names = ", ".join(key.name for key in one.keys)
            table.add_row(*map(Text, (one.kind, one.name, one.summary, names)))
    console.print(table)
    if not name:
        console.print("\nNext: hep-ray components KIND NAME tells the defaults and meanings of its keys.")
