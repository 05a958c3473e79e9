"""One HTML file that needs nothing beside it: no script, no address, pictures inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from hep_ray.drawing.style import png
from hep_ray.files import write_whole

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.2rem; margin-top: 2.2rem }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem }
table { border-collapse: collapse } th, td { padding: .2rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead th, tfoot td { border-bottom: 1px solid #999 }
tfoot td { border-top: 1px solid #999; border-bottom: none }
td { white-space: nowrap } td.text, th.text { text-align: left } td.text { color: #555; white-space: normal }
img { max-width: 100%; display: block; margin: .6rem 0 }
code { font-size: .85em; overflow-wrap: anywhere } .note { color: #555 }
pre { font-size: .8rem; overflow-x: auto; background: #f5f5f5; padding: .6rem }
figure { margin: 1rem 0 1.6rem; break-inside: avoid } figcaption { color: #444; font-size: .9rem; max-width: 60rem }
.mark { border-left: 4px solid #e76300; background: #fff4ea; padding: .5rem .8rem }
.wide { overflow-x: auto }
@media print {
  body { font-size: 10pt; max-width: none; margin: 0 } h2, h3 { break-after: avoid } tr { break-inside: avoid }
  pre { white-space: pre-wrap } .wide { overflow: visible }
}
"""


def document(title: str, body: str) -> str:
    """The whole page.

    Args:
        title: in plain words.
        body: HTML below the title.
    """
    words = escape(title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{words}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{words}</h1>\n{body}\n</body>\n</html>\n"
    )


def picture(figure: Figure, words: str) -> str:
    """A figure as an image element.

    Args:
        figure: drawn.
        words: what it shows, for those who cannot see it.
    """
    return f'<img src="{png(figure)}" alt="{escape(words)}">'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: Iterable[int] = (0,)) -> str:
    """A table of plain words.

    Args:
        head: of the columns.
        rows: one cell per column.
        text: columns that hold words and so start at the left; the others hold numbers.
    """
    left = set(text)

    def line(cells: Sequence[str], tag: str) -> str:
        marks = [' class="text"' if place in left else "" for place in range(len(cells))]
        return "".join(
            f"<{tag}{mark}>{escape(cell)}</{tag}>" for cell, mark in zip(cells, marks, strict=True)
        )

    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{line(head, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{top}\n<tbody>\n{body}\n</tbody></table></div>'


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all; `OSError` where that cannot be done."""
    write_whole(path, text)
