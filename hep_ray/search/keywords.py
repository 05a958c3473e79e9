"""The options of a search as keywords of a Python function, made from those of its command line."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from typer.models import OptionInfo

from hep_ray.errors import InvalidConfig
from hep_ray.registry import check_name
from hep_ray.search.options import SearchOptions, annotations_of


def keywords() -> dict[str, tuple[Any, OptionInfo, Any]]:
    """Return the options that a person gives: name → type, flag and default."""
    defaults = {one.name: one.default for one in dataclasses.fields(SearchOptions)}
    found = {}
    for name, (kind, *marks) in annotations_of(SearchOptions).items():
        flag = next((mark for mark in marks if isinstance(mark, OptionInfo)), None)
        if flag is not None:
            found[name] = (kind, flag, defaults[name])
    return found


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options given by keyword, converted and checked as their flags would be.

    The environment variable of a flag counts where its keyword is not given.

    Raises:
        UnknownName: there is no such option.
        InvalidConfig: a value is of another type, or out of range.
    """
    known = keywords()
    for name in values:
        check_name("option", name, known)
    found = {}
    for name, (kind, flag, _) in known.items():
        value = values.get(name)
        if value is None and isinstance(flag.envvar, str):
            value = os.environ.get(flag.envvar) or None
        if value is not None:
            found[name] = _checked(name, value, kind, flag)
    return found


def _checked(name: str, value: Any, kind: Any, flag: OptionInfo) -> Any:
    if flag.parser is not None and isinstance(value, str):
        value = flag.parser(value)
    if list[str] in (kind, *get_args(kind)):  # a flag that may be typed several times
        value = [value] if isinstance(value, str | os.PathLike) else value
        if isinstance(value, list | tuple):
            value = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in value]
    if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
        raise InvalidConfig(f"option {name} cannot be {value!r}: it should be a number or a text")
    try:
        value = TypeAdapter(kind).validate_python(value)
    except ValidationError as exc:
        raise InvalidConfig(f"option {name} cannot be {value!r}: {exc.errors()[0]['msg']}") from None
    low, high = flag.min, flag.max
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidConfig(f"option {name} must be {bounds}; got {value!r}")
    return value


def signature(*own: inspect.Parameter) -> inspect.Signature:
    """Return the signature of a function of a search, some parameters of its own, and every option as a keyword."""
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if default is dataclasses.MISSING else default,
            annotation=kind,
        )
        for name, (kind, _, default) in keywords().items()
    ]
    search = inspect.Parameter("search", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="Search")
    return inspect.Signature([search, *options, *own])
