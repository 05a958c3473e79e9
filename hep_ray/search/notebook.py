"""How searches look in a notebook: tables of a result, a space and a plan, and progress in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from hep_ray.drawing.html_table import CELL, html_table
from hep_ray.metrics.labels import metric_words
from hep_ray.search.leaderboard import with_error
from hep_ray.search.means import heading_of_means, mean_words
from hep_ray.search.naming import count_words, number
from hep_ray.search.state import ENDLESS, SearchState, TrialState

SHOWN = 10
"""Trials in the table of a result."""
BAR = "display:inline-block;height:8px;border-radius:2px;background:"


def leaderboard_html(state: SearchState, rows: int = SHOWN) -> str:
    """Return the best trials of a search, as HTML.

    Args:
        state: the search, with its first record.
        rows: trials that are shown.
    """
    started = state.started
    assert started is not None
    ranked = state.ranked(started.metric, started.mode)
    naming = state.naming
    lines = []
    for trial in ranked[:rows]:
        shown = [with_error(trial.best(started.metric, started.mode) or {}, started.metric)]
        params = trial.started.params
        shown += [mean_words(state, trial)] if state.repeats > 1 else []
        epochs = f"{len(trial.history)}/{started.epochs}"
        own = [number(params[name]) if name in params else "" for name in naming.varied]
        if naming.apart(params):  # a reference, which is beside the space: in words, across its columns
            own = [naming.words(params)]
        lines.append([trial.trial_id, *shown, epochs, state.end_of(trial), *own])
    more = f"<p>{len(ranked) - rows} more in <code>trials</code></p>" if len(ranked) > rows else ""
    means = [heading_of_means(state)] if state.repeats > 1 else []
    head = ["trial", metric_words(started.metric), *means, "epochs", "end", *(naming.varied or [""])]
    return html_table(head, lines) + more


def summary(state: SearchState) -> str:
    """Return in one line how far a search is."""
    started = state.started
    assert started is not None
    counts = Counter(trial.status for trial in state.drawn())
    parts = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none yet"
    epochs = sum(len(trial.history) for trial in state.drawn())
    end = "" if state.finished else "; it has not ended"
    return f"{started.search}: {count_words(len(state.trials), 'trial')} ({parts}), {count_words(epochs, 'epoch')}{end}"


MOST_SHOWN = 32
"""Trials that have a bar of their own: two stacks of a search that trains several as one network."""


def shown_of(trials: Sequence[TrialState]) -> tuple[Sequence[TrialState], int]:
    """Return the trials that are shown, those that have trained first, and how many others there are."""
    first = sorted(trials, key=lambda trial: not trial.history)  # stable: else in the order of their drawing
    return first[:MOST_SHOWN], len(trials[MOST_SHOWN:])


def progress_html(state: SearchState, total: int, epochs: int, metric: str, mode: str, clock: str) -> str:
    """Return how a search gets on: a bar for all trials, one for each that runs, and the best so far."""
    ended = sum(trial.finished is not None for trial in state.drawn())
    of = "" if total >= ENDLESS else f"/{total}"
    rows = [_bar("trials", ended, total, f"{ended}{of}, {clock}")]
    shown, more = shown_of(state.unfinished())
    for trial in shown:
        best = trial.best(metric, mode)
        value = f", {metric} {best[metric]:.4f}" if best else ""
        done = len(trial.history)
        rows.append(_bar(trial.trial_id, done, epochs, f"epoch {done}/{epochs}{value}"))
    table = f"<table>{''.join(rows)}</table>" + (f"<p>… {more} more</p>" if more else "")
    return table + (leaderboard_html(state, 5) if any(trial.history for trial in state.drawn()) else "")


def _bar(name: str, done: int, total: int, text: str) -> str:
    filled = round(200 * min(done / total, 1)) if total else 0
    bars = (
        f'<span style="{BAR}#3949ab;width:{filled}px"></span>'
        f'<span style="{BAR}#c5cae9;width:{200 - filled}px"></span>'
    )
    cells = (escape(name), bars, escape(text))
    return "<tr>" + "".join(f'<td style="{CELL}">{one}</td>' for one in cells) + "</tr>"


class NotebookView:
    """Output of a notebook's cell whose content is replaced as often as one likes.

    Rich's own live display would need ipywidgets, on the side of the browser too.
    """

    def __init__(self) -> None:
        import IPython.display

        shown: Any = IPython.display
        self._html = shown.HTML
        self._handle = shown.display(self._html(""), display_id=True)

    def show(self, html: str) -> None:
        """Replace what is shown."""
        self._handle.update(self._html(html))
