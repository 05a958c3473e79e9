"""Pages that are one HTML file and need nothing beside it: Jinja2 templates, no script, no address, pictures inside."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hep_ray.drawing.style import png


@dataclass(frozen=True)
class PageTable:
    """A table of plain words, as the macro `table` of `macros.html` writes it.

    Attributes:
        head: of the columns.
        rows: one cell per column.
        text: columns that hold words and so start at the left; the others hold numbers.
        foot: a last row of sums.
        title: above it.
        notes: sentences below it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Collection[int] = (0,)
    foot: Sequence[str] = ()
    title: str = ""
    notes: Sequence[str] = ()


def render(template: Path, **values: Any) -> str:
    """Return the HTML of a template, which may extend `base.html` and import `macros.html`.

    Args:
        template: its file.
        **values: what it names; all text in them is escaped.

    Raises:
        jinja2.UndefinedError: the template names what is not given.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["png"] = png
    return environment.get_template(template.name).render(**values)
