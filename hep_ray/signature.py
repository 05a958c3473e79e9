"""Configurations from annotated signatures: `hidden: int = 64` becomes a key with its kind, bounds and meaning."""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, PydanticUserError, TypeAdapter, ValidationError, create_model

from hep_ray.config import Config
from hep_ray.errors import InvalidConfig
from hep_ray.own_code import blaming, defined_at
from hep_ray.registry import takes_named_fields

KINDS = (bool, int, float, str)
"""What a space may state."""
_SECTION = re.compile(r"^(?:Args|Arguments|Parameters|Attributes):\n((?:[ \t]+.*\n?|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+)(?: \([^)]*\))?: (.*(?:\n {5,}.*)*)", re.MULTILINE)


@takes_named_fields
@dataclass(frozen=True)
class Range:
    """Bounds of a key, both included: `dropout: Annotated[float, Range(0, 0.9)] = 0.1`.

    Attributes:
        low: least value; None for none.
        high: largest value; None for none.
    """

    low: float | None = None
    high: float | None = None


def component_of(
    made: Callable[..., Any], what: str, *, leaving_out: int
) -> tuple[type[Config], Callable[..., Any]]:
    """Return `config_of` a function or class, and what calls it with a configuration and its leading arguments.

    What it raises then is told with the user's own line first.
    """
    keys = config_of(made, what, leaving_out=leaving_out)

    @functools.wraps(made, updated=())
    def build(config: Config, *leading: Any) -> Any:
        with blaming(f"building {what}"):
            return made(*leading, **{key: getattr(config, key) for key in keys.model_fields})

    return keys, build


def config_of(function: Callable[..., Any], what: str, *, leaving_out: int) -> type[Config]:
    """Return the configuration class whose fields are the parameters of a function or class.

    Args:
        function: whose parameters are annotated, and whose docstring may say what they mean.
        what: is registered, such as `model 'mine'`, for messages.
        leaving_out: number of leading parameters that are no keys.

    Raises:
        InvalidConfig: a parameter has no annotation, another kind than a key can have, or a default that its own
            bounds refuse; the message begins with file and line.
    """
    where = defined_at(function) or f"{what}: "
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    except (NameError, TypeError, AttributeError, SyntaxError) as exc:
        raise InvalidConfig(f"{where}an annotation of {what} cannot be read: {exc}") from exc
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if sum(one.kind in positional for one in parameters) < leaving_out:
        taken = ", ".join(one.name for one in parameters) or "nothing"
        raise InvalidConfig(
            f"{where}{what} takes {taken}; it must take {leaving_out} arguments before its keys"
        )
    told = meanings(function)
    fields = {one.name: _field(one, where, what, told.get(one.name, "")) for one in parameters[leaving_out:]}
    listed = "".join(f"    {name}: {told.get(name, '')}\n" for name in fields)
    doc = f"Configuration of {what}.\n" + (f"\nAttributes:\n{listed}" if listed else "")
    made: type[Config] = create_model(
        f"{getattr(function, '__name__', 'Own')}Config", __base__=Config, **fields
    )
    made.__doc__ = doc
    return made


def _field(one: inspect.Parameter, where: str, what: str, meaning: str) -> Any:
    if one.kind in (
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.POSITIONAL_ONLY,
    ):
        raise InvalidConfig(
            f"{where}{what} takes '{one}': name every parameter, as a space states keys by name"
        )
    if one.annotation is inspect.Parameter.empty:
        kind = type(one.default).__name__ if isinstance(one.default, KINDS) else "int"
        default = "" if one.default is inspect.Parameter.empty else f" = {one.default!r}"
        raise InvalidConfig(
            f"{where}parameter '{one.name}' of {what} has no annotation: write {one.name}: {kind}{default}, so that "
            "a space can check it"
        )
    if not _is_kind(one.annotation):
        raise InvalidConfig(
            f"{where}parameter '{one.name}' of {what} is {inspect.formatannotation(one.annotation)}: a key must be "
            "bool, int, float, str or a Literal, with bounds as in Annotated[float, Range(0, 1)]"
        )
    annotation = one.annotation
    for bounds in (part for part in get_args(annotation)[1:] if isinstance(part, Range)):
        annotation = Annotated[annotation, Field(ge=bounds.low, le=bounds.high)]
    if one.default is not inspect.Parameter.empty:
        try:
            TypeAdapter(annotation).validate_python(one.default)
        except (ValidationError, PydanticUserError) as exc:
            told = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else exc
            raise InvalidConfig(
                f"{where}default {one.default!r} of parameter '{one.name}' of {what} is refused by its own "
                f"annotation: {told}"
            ) from None
    if meaning:
        annotation = Annotated[annotation, Field(description=meaning)]
    return (annotation, ... if one.default is inspect.Parameter.empty else one.default)


def _is_kind(annotation: Any) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _is_kind(args[0])
    if origin is Literal:
        return all(isinstance(one, KINDS) for one in args)
    if origin in (Union, types.UnionType):
        return all(_is_kind(one) for one in args)
    return annotation in KINDS


def meanings(documented: Any) -> dict[str, str]:
    """Return parameter → its entry in a docstring, under `Args:` or `Attributes:`."""
    doc = inspect.cleandoc(getattr(documented, "__doc__", None) or "") + "\n"
    return {
        name: " ".join(text.split())
        for section in _SECTION.findall(doc)
        for name, text in _ENTRY.findall(section)
    }
