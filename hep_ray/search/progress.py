"""Show how a search gets on: bars on a terminal, a line per event in a log file."""

from __future__ import annotations

import time
from html import escape
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hep_ray.search.notebook import NotebookView, progress_html, shown_of, summary
from hep_ray.search.state import ENDLESS, SearchState, TrialState
from hep_ray.tracking.records import (
    EpochFinished,
    NoGainLeft,
    Record,
    SearchStarted,
    TrialFinished,
    TrialGoesOn,
    TrialLost,
    TrialPaused,
    TrialStarted,
)

REDRAW_SECONDS = 0.5
"""At least so much time passes between two views of a notebook."""


class Progress:
    """Display that follows the records of a search; a context manager.

    Args:
        state: kept up to date by the recorder.
        total: trials to run.
        epochs: full length of a trial.
        metric: key shown per trial.
        mode: whether more or less of it is better.
        console: where to write; a terminal and a notebook get a live view, anything else plain lines.
        budget: epochs in all, where trials pause and their number is not known before.
    """

    def __init__(
        self,
        state: SearchState,
        total: int,
        epochs: int,
        metric: str,
        mode: str,
        console: Console,
        budget: int | None = None,
    ) -> None:
        self._budget = budget
        self._state, self._total, self._epochs = state, total, epochs
        self._metric, self._mode = metric, mode
        self._console = console
        self._start = time.monotonic()
        self._done_before = sum(len(trial.history) for trial in state.drawn())
        self._notebook: NotebookView | None = None
        self._shown = 0.0
        self._live = Live(get_renderable=self._view, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_jupyter:
            self._notebook = None if self._console.quiet else NotebookView()
        elif self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._notebook is not None:
            self._notebook.show(f"<p>{escape(summary(self._state))}; {self._clock()}</p>")
        if self._live.is_started:
            self._live.stop()

    def record(self, record: Record) -> None:
        """Print a line about a new record to a log file, redraw in a notebook; a terminal's view redraws by itself."""
        if self._console.is_jupyter:
            self._redraw()
            return
        if self._console.is_terminal and not isinstance(record, TrialFinished | TrialLost | NoGainLeft):
            return
        line = self._line(record)
        if line:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _redraw(self) -> None:
        now = time.monotonic()
        if self._notebook is not None and now - self._shown > REDRAW_SECONDS:
            self._shown = now
            page = progress_html(
                self._state, self._total, self._epochs, self._metric, self._mode, self._clock() + self._left()
            )
            self._notebook.show(page)

    def _line(self, record: Record) -> str:
        if isinstance(record, SearchStarted):
            return ""
        if isinstance(record, TrialStarted):
            why = f" ({record.reason})" if record.reason else ""
            return f"{self._clock()} {record.trial_id} starts: {_params(record)}{why}"
        if isinstance(record, TrialGoesOn):
            why = f": {record.reason}" if record.reason else ""
            return f"{self._clock()} {record.trial_id} goes on to epoch {record.until}{why}"
        if isinstance(record, TrialPaused):
            best, end = self._best_of(self._state.trials[record.trial_id]), ""
            if record.ending:
                low, middle, high = record.ending
                end = f", in full {middle:.4f} ({low:.4f} to {high:.4f}) expected"
            return f"{self._clock()} {record.trial_id} pauses after epoch {record.epoch}{best}{end}"
        if isinstance(record, EpochFinished):
            value = record.metrics[self._metric]
            return f"{self._clock()} {record.trial_id} epoch {record.epoch}/{self._epochs}: {self._metric} {value:.4f}"
        if isinstance(record, NoGainLeft):
            return (
                f"{self._clock()} nothing above the noise is left to gain: {self._metric} is expected to rise by "
                f"{record.gain:.2g}, were the search to go on for ever, and {record.trial_id}, the best, is known to "
                f"{record.noise:.2g}. --resume --no-until-no-gain goes on all the same"
            )
        if isinstance(record, TrialLost):
            return f"{self._clock()} {record.trial_id} goes on after epoch {record.epoch}: {record.cause}"
        if isinstance(record, TrialFinished):
            trial = self._state.trials[record.trial_id]
            cause = f": {record.cause.splitlines()[0]}" if record.cause else ""
            return (
                f"{self._clock()} {record.trial_id} {record.status} after {len(trial.history)} epochs"
                f"{self._best_of(trial)}{cause}  [{self._done()}{self._left()}]"
            )
        return ""

    def _view(self) -> Group:
        running = Table.grid(padding=(0, 1))
        shown, more = shown_of(self._state.running())
        for trial in shown:
            running.add_row(
                trial.trial_id,
                ProgressBar(total=self._epochs, completed=len(trial.history), width=20),
                f"epoch {len(trial.history)}/{self._epochs}",
                self._best_of(trial).removeprefix(", "),
                Text(_params(trial.started), style="dim", overflow="ellipsis", no_wrap=True),
            )
        if more:
            running.add_row(f"… {more} more")
        overall = Table.grid(padding=(0, 1))
        kind, done, total = ("trials", self._ended(), self._total)
        if self._budget is not None:
            kind, done, total = "epochs", self._epochs_done(), self._budget
        overall.add_row(
            Text(kind, style="bold"),
            ProgressBar(total=None if total >= ENDLESS else total, completed=done, width=40),
            f"{done}{'' if total >= ENDLESS else f'/{total}'}, {self._clock()}{self._left()}",
        )
        ranked = self._state.ranked(self._metric, self._mode)
        lead = (
            f"leading: {ranked[0].trial_id}{self._best_of(ranked[0])}" if ranked and ranked[0].history else ""
        )
        return Group(running, overall, Text(lead))

    def _ended(self) -> int:
        return sum(trial.finished is not None for trial in self._state.drawn())

    def _epochs_done(self) -> int:
        return sum(len(trial.history) for trial in self._state.drawn())

    def _done(self) -> str:
        if self._budget is not None:
            return f"{self._epochs_done()} of {self._budget} epochs"
        return f"{self._ended()}{'' if self._total >= ENDLESS else f' of {self._total}'} trials"

    def _best_of(self, trial: TrialState) -> str:
        best = trial.best(self._metric, self._mode)
        return f", {self._metric} {best[self._metric]:.4f}" if best else ""

    def _clock(self) -> str:
        return _duration(time.monotonic() - self._start)

    def _left(self) -> str:
        """Estimate the time left, if trials go on taking as long as those that ended in this run."""
        ended = [trial for trial in self._state.drawn() if trial.finished]
        elapsed = time.monotonic() - self._start
        epochs = self._epochs_done() - self._done_before
        if self._budget is not None:
            left = self._budget - self._epochs_done()
            return f", about {_duration(max(left, 0) * elapsed / epochs)} left" if epochs and left > 0 else ""
        if not ended or epochs < 1 or len(ended) == self._total or self._total >= ENDLESS:
            return ""
        per_trial = sum(len(trial.history) for trial in ended) / len(ended)
        to_run = per_trial * (self._total - len(ended)) - sum(
            len(t.history) for t in self._state.unfinished()
        )
        return f", about {_duration(max(to_run, 0) * elapsed / epochs)} left"


def _params(started: TrialStarted) -> str:
    def text(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key}={text(value)}" for key, value in started.params.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
