"""The look of all pictures, and pictures as text for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import matplotlib as mpl
import mplhep
from matplotlib.figure import Figure

COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
"""Ten colours that colour-blind people tell apart; M. A. Petroff, arXiv:2107.02270."""
COLOUR_MAP = "viridis"
SIGNED_MAP = "RdBu_r"
"""Of values on both sides of zero, which is white."""
LineStyle = Literal["-", "--", "-.", ":"]
LINES: tuple[LineStyle, ...] = get_args(LineStyle)
DPI = 110
"""Pixels per inch; a page is 10 inches wide."""


def colour(label: int) -> str:
    """The colour of a class."""
    return COLOURS[label % len(COLOURS)]


def line(label: int) -> LineStyle:
    """The line style of a class: a second mark of it beside the colour."""
    return LINES[label % len(LINES)]


@contextmanager
def house_style() -> Iterator[None]:
    """The ATLAS style of mplhep, smaller, for figures of several panels."""
    with mpl.rc_context():
        mpl.rcParams.update({key: value for key, value in mplhep.style.ATLAS.items() if value is not None})
        mpl.rcParams.update(
            {
                "font.size": 9,
                "axes.titlesize": 10,
                "axes.labelsize": 9,
                "axes.unicode_minus": True,
                "axes.labelpad": 4,
                "axes.autolimit_mode": "data",
                "axes.formatter.limits": (-3, 5),
                "xtick.labelsize": 8,
                "ytick.labelsize": 8,
                "xtick.major.size": 4,
                "xtick.minor.size": 2,
                "ytick.major.size": 4,
                "ytick.minor.size": 2,
                "lines.linewidth": 1.3,
                "legend.fontsize": 9,
                "figure.constrained_layout.use": True,
            }
        )
        yield


def png(figure: Figure) -> str:
    """A figure as the address of an embedded PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
