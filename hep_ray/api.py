"""Searches from Python, in a script or a notebook: `run`, `plan`, and the `Result` of a run or of a folder."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hep_ray.errors import CannotConfirm, NothingCompleted, UnknownName
from hep_ray.flags import STORAGE
from hep_ray.search.find import find_search
from hep_ray.search.options import signature
from hep_ray.search.state import SearchState, TrialState

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from rich.console import Console

    from hep_ray.errors import TrackingUnavailable
    from hep_ray.promote.classifier import Classifier
    from hep_ray.search.definition import Search
    from hep_ray.search.plan import SearchPlan
    from hep_ray.tracking.records import SearchStarted


def plan(search: Search, *, resume: bool = False, **options: Any) -> SearchPlan:
    """Check a search against its data, the storage and the cluster, and return its plan; nothing is trained.

    Args:
        search: what may vary, and how much is run.
        resume: go on with the search in the storage.
        options: those of the search's command line, as keywords: `data`, `preset`, `trials`, `epochs`, …

    Raises:
        UnknownName: there is no such option, or no such preset.
        HepRayError: see `prepare` for what else is refused.
    """
    from hep_ray.search.options import checked
    from hep_ray.search.plan import planned

    return planned(search, checked(options), resume=resume)


def run(search: Search, *, resume: bool = False, console: Console | None = None, **options: Any) -> Result:
    """Train the trials of a search that have not ended yet, and return what was found.

    It is what the search's script does when it is run, with the same options. Ray is joined as it is where the process
    has initialised it, else started, and kept until the process ends. Ctrl-C (in a notebook: interrupt the kernel)
    raises `Interrupted`; `resume=True` goes on.

    Example: `result = run(search, data="data/mbh_sph", trials=20, epochs=10)`.

    Args:
        search: what may vary, and how much is run.
        resume: go on with the search in the storage, with the options it had.
        console: where progress is shown; a notebook shows it below the cell.
        options: those of the search's command line, as keywords: `data`, `preset`, `trials`, `epochs`, …

    Raises:
        StorageError: the storage holds this search already, and `resume` is off.
        Interrupted, SearchFailed: trials have not ended, or all failed; `Result.open` shows what there is.
        HepRayError: see `plan` for what is refused before any trial.
    """
    from hep_ray.search.estimate import estimate
    from hep_ray.search.execute import run_search

    found = plan(search, resume=resume, **options)
    if found.time_budget is not None:
        estimate(found).check(found.time_budget)
    done = run_search(found, resume=resume, console=console)
    return Result(found.folder, done.state, done.untracked)


def _sign() -> None:
    """Give both functions the options as keywords, for help and completion."""
    functions: tuple[Any, ...] = (plan, run)
    for function in functions:
        own = inspect.signature(function).parameters
        function.__signature__ = signature(*(own[name] for name in ("resume", "console") if name in own))


_sign()


class Result:
    """A search that was run, or runs: its trials with their epochs and models, read without Ray.

    Args:
        folder: of the search.
        state: its journal, folded.
        untracked: why MLflow does not hold all of it yet; None where it does, or nobody asked.
    """

    def __init__(
        self, folder: Path, state: SearchState, untracked: TrackingUnavailable | None = None
    ) -> None:
        assert state.started is not None
        self.folder = folder
        self.state = state
        self.untracked = untracked

    @classmethod
    def open(cls, search: str | Path, storage: str | Path = STORAGE) -> Result:
        """Return what the journal of a search tells now; of one that runs, so far.

        Args:
            search: its folder, such as `runs/cnn_loss`, its name, or its script.
            storage: folder of all searches, for a name or a script.

        Raises:
            UnknownSearch: there is none; the message lists those that there are.
            NotRun: it was not run yet.
        """
        found = find_search(str(search), Path(storage))
        return cls(found.folder, found.state())

    @property
    def started(self) -> SearchStarted:
        """First record of the journal: space, metric, dataset, options, provenance."""
        assert self.state.started is not None
        return self.state.started

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.started.search

    @property
    def finished(self) -> bool:
        """Whether all trials have ended."""
        return self.state.finished

    @property
    def best(self) -> TrialResult:
        """The first trial of the leaderboard: the best by the search's metric, at its best epoch, on validation.

        Raises:
            NothingCompleted: no trial has an epoch yet, or all have failed.
        """
        first = self._ranked[0] if self.state.trials else None
        if first is None or not first.history or first.status == "failed":
            raise NothingCompleted(f"no trial of {self.folder} has a result yet")
        return TrialResult(self, first)

    def trial(self, trial_id: str) -> TrialResult:
        """Return a trial by its name, such as `t0003`.

        Raises:
            UnknownName: there is none.
        """
        if trial_id not in self.state.trials:
            raise UnknownName(
                f"no trial '{trial_id}' in {self.folder}; it has: {', '.join(self.state.trials)}"
            )
        return TrialResult(self, self.state.trials[trial_id])

    @property
    def trials(self) -> pd.DataFrame:
        """Return one row for each trial, best first.

        Columns: `trial_id`, `status`, `epochs` trained, the metrics of its best epoch, `params_…`, `seed`, `seconds`;
        where configurations are trained again `repeat_of`, the first trial of each.
        """
        import pandas as pd

        rows = []
        for trial in self._ranked:
            best = trial.best(self.started.metric, self.started.mode) or {}
            metrics = {name: value for name, value in best.items() if name != "epoch"}
            params = {f"params_{name}": value for name, value in trial.started.params.items()}
            rows.append(
                {
                    "trial_id": trial.trial_id,
                    "status": trial.status,
                    "epochs": len(trial.history),
                    "best_epoch": best.get("epoch"),
                    **metrics,
                    **params,
                    "seed": trial.started.seed,
                    **({"repeat_of": trial.started.repeat_of} if self.state.repeats > 1 else {}),
                    **({"fold": trial.started.fold} if trial.started.fold else {}),
                    "seconds": trial.seconds,
                    "cause": trial.finished.cause if trial.finished else "",
                }
            )
        return pd.DataFrame(rows)

    @property
    def study(self) -> optuna.Study:
        """Return the search as an Optuna study in memory, for `optuna.visualization` and `optuna.importance`."""
        from hep_ray.search.study import study_of

        return study_of(self.state)

    @property
    def _ranked(self) -> list[TrialState]:
        return self.state.ranked(self.started.metric, self.started.mode)

    def __repr__(self) -> str:
        from hep_ray.search.notebook import summary

        return f"<Result of {summary(self.state)}>"

    def _repr_html_(self) -> str:
        from html import escape

        from hep_ray.search.notebook import leaderboard_html, summary

        return f"<p><b>{escape(summary(self.state))}</b>, best first:</p>{leaderboard_html(self.state)}"


class TrialResult:
    """One trial of a result.

    Args:
        result: that it is of.
        state: what the journal tells of it.
    """

    def __init__(self, result: Result, state: TrialState) -> None:
        self._result = result
        self.state = state

    @property
    def trial_id(self) -> str:
        """Name of the trial in its search."""
        return self.state.trial_id

    @property
    def status(self) -> str:
        """Whether it was `completed`, `stopped` early, `failed`, or is `running`."""
        return self.state.status

    @property
    def params(self) -> dict[str, Any]:
        """The parameters that the search gave it."""
        return dict(self.state.started.params)

    @property
    def seed(self) -> int:
        """Seed of its weights and of the order of its events."""
        return self.state.started.seed

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of its best epoch; empty before the first has ended."""
        started = self._result.started
        return dict(self.state.best(started.metric, started.mode) or {})

    @property
    def history(self) -> pd.DataFrame:
        """Return the metrics of every epoch: one row each, indexed by `epoch` from 1."""
        import pandas as pd

        frame = pd.DataFrame(self.state.history)
        return frame if frame.empty else frame.astype({"epoch": int}).set_index("epoch")

    def model(self, data: str | Path | None = None, device: str = "cpu") -> Classifier:
        """Return the trained model of the best epoch, in evaluation mode, with its scalers.

        Call it with events (a mapping of columns, a DataFrame, or the one array that it reads) for their class
        probabilities (N, C). `.model` is the torch module, `.scores` gives the log-odds too.

        Args:
            data: dataset that it was trained on, where it is no longer where the search found it.
            device: where it computes.

        Raises:
            NothingCompleted: no model of this trial was kept: a search keeps those of its best trials.
            CannotConfirm: the data are another dataset.
            PluginFailed: the user's own code that it needs is absent or has changed.
        """
        from hep_ray.dataset.dataset import Manifest
        from hep_ray.plugins import restore
        from hep_ray.promote.classifier import Classifier
        from hep_ray.training.checkpoint import BEST, KEEP_BEST, load_checkpoint

        started = self._result.started
        path = self._result.folder / "trials" / self.trial_id / BEST
        if not path.is_file():
            raise NothingCompleted(
                f"no model of trial {self.trial_id} is kept in {path.parent}: a search keeps those of its best "
                f"{KEEP_BEST} trials"
            )
        folder = Path(data if data is not None else started.options["data"])
        manifest = Manifest.load(folder)
        if manifest.fingerprint != started.dataset_fingerprint:
            raise CannotConfirm(
                f"{folder} is another dataset than that of the search (fingerprint {manifest.fingerprint[:12]}, not "
                f"{started.dataset_fingerprint[:12]}): name it by data="
            )
        restore(self._result.state.plugins)
        kept = load_checkpoint(path, device)
        return Classifier(kept["params"], manifest.event_schema, kept["model"], device)

    def __repr__(self) -> str:
        metric = self._result.started.metric
        value = f", {metric} {self.metrics[metric]:.4g}" if self.metrics else ""
        return f"<Trial {self.trial_id} of {self._result.name}: {self.status}{value}>"

    def _repr_html_(self) -> str:
        from hep_ray.drawing.html_table import html_rows
        from hep_ray.search.naming import number

        rows = [("trial", f"{self.trial_id}, {self.status} after {len(self.state.history)} epochs")]
        rows += [("parameters", f"{name}: {number(value)}") for name, value in self.params.items()]
        rows += [("best epoch", f"{name}: {number(value)}") for name, value in self.metrics.items()]
        return html_rows(rows)
