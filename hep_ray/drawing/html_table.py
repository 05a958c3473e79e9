"""Tables of texts as HTML, for a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

CELL = "text-align:left;vertical-align:top;padding:2px 8px"
SHORT = 20
"""Letters of a text that is kept on one line."""


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts, as HTML; the last text of a row that is shorter than the head spans the rest."""
    titles = "".join(f'<th style="{CELL}">{escape(one)}</th>' for one in head)
    lines = []
    for row in rows:
        cells = [
            f'<td style="{CELL}{";white-space:nowrap" * (len(one) <= SHORT)}">{escape(one)}</td>'
            for one in row
        ]
        if len(row) < len(head):
            cells[-1] = cells[-1].replace("<td", f'<td colspan="{len(head) - len(row) + 1}"', 1)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div style="overflow-x:auto">{table}</div>'


def html_rows(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and what they are in two columns, as HTML; a name that follows itself is shown once."""
    shown, last = [], ""
    for name, text in rows:
        shown.append(("" if name == last else name, text))
        last = name
    return html_table(("", ""), shown)
