"""Frozen, typed configuration: unknown keys are refused, bad values say which rule they break."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Never, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from hep_ray.errors import HepRayError, InvalidConfig, did_you_mean

FORMERLY: dict[str, Any] = {
    "last_batch": "keep",
    "length_pool": 1,
    "decay_norms_and_biases": True,
    "patience_metric": "val_loss",
}
"""Parameters of training that some journals and checkpoints are older than → what training did before it had them."""


class Config(BaseModel):
    """Base of every configuration; a component's config stands beside the component it builds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    def __init__(self, *unnamed: Never, **values: Any) -> None:
        """Take the fields by name.

        Raises:
            InvalidConfig: a key is unknown or absent, or a value is refused.
        """
        made = type(self)
        if unnamed:
            raise InvalidConfig(
                f"{made.__name__} takes its fields by name, as {made.__name__}({made.field_names()[0]}=…)"
            )
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise InvalidConfig(f"{made.__name__}: " + "; ".join(_sentences(made, exc))) from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined] # so that what is parsed tells every fault

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of the fields, in the order of their definition."""
        return tuple(cls.model_fields)


C = TypeVar("C", bound=Config)
ABSENT = 6
"""Absent keys that a message names; of more it tells how many."""


def parse(
    config: type[C], values: Mapping[str, Any], what: str, error: type[HepRayError] = InvalidConfig
) -> C:
    """Build a config from plain values.

    Args:
        config: the class to build.
        values: field names and values.
        what: what is being configured, for the message.
        error: the named error to raise.

    Raises:
        InvalidConfig: (or `error`) it is no mapping, a key is unknown or a value is refused; every fault is listed.
    """
    if not isinstance(values, Mapping):
        raise error(f"{what}: keys with values are expected; got {type(values).__name__}")
    try:
        return config.model_validate(dict(values))
    except ValidationError as exc:
        raise error(f"{what}: " + "; ".join(_sentences(config, exc))) from None


def _fields_at(config: type[Config], place: Iterable[int | str]) -> tuple[str, ...]:
    """Return the fields of what lies in a config at a place: names of fields, keys and numbers."""
    for part in place:
        if part in config.model_fields:
            config = next(_configs_in(config.model_fields[str(part)].annotation), config)
    return config.field_names()


def _configs_in(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for part in get_args(annotation):
        yield from _configs_in(part)


def _sentences(config: type[Config], exc: ValidationError) -> list[str]:
    sentences, absent = [], []
    for detail in exc.errors():
        where = ".".join(str(part) for part in detail["loc"]) or config.__name__
        if detail["type"] == "extra_forbidden":
            known = _fields_at(config, detail["loc"][:-1])
            sentences.append(
                f"unknown key '{where}'{did_you_mean(detail['loc'][-1], known)}; "
                + (f"known: {', '.join(known)}" if known else "none is known here")
            )
        elif detail["type"] == "missing":
            absent.append(f"'{where}'")
        elif detail["type"] != "default_factory_not_called":  # for which another fault is the cause
            message = detail["msg"].removeprefix("Value error, ")
            sentences.append(f"{where}: {message} (got {detail['input']!r})")
    if absent:
        more = f" and {len(absent) - ABSENT} more" if len(absent) > ABSENT else ""
        are = "is" if len(absent) == 1 else "are"
        sentences.append(f"{', '.join(absent[:ABSENT])}{more} {are} required and absent")
    return sentences
