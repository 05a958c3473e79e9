"""The one command line that all search scripts share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hep_ray.cluster import describe
from hep_ray.console import result_console, run_app
from hep_ray.flags import LARGEST_SEED, STORAGE, Storage, python, typed
from hep_ray.masking import mask
from hep_ray.plugins import importing
from hep_ray.search.definition import Search

if TYPE_CHECKING:
    from hep_ray.search.plan import SearchPlan
    from hep_ray.search.run import SearchResult

DEFAULTS: dict[str, Any] = {
    "preset": "laptop",
    "seed": 0,
    "cpus_per_trial": 1,
    "gpus_per_trial": 0.0,
    "workers_per_trial": 1,
    "epoch_timeout": 21600.0,
    "cache": "auto",
}
"""Of the flags that --resume takes from the search it goes on with."""
SHOWN = 5
"""Trials named beside a cause of failure."""


def main(search: Search) -> None:
    """Run a search script: parse the command line, run, print the leaderboard and what to type next.

    Where the script is only imported, for the search and the components that it states, this does nothing.
    """
    if importing():
        return
    run_app(build_app(search), prog=sys.argv[0])


def build_app(search: Search) -> typer.Typer:
    """The command line of a search."""
    app = typer.Typer(
        add_completion=False, rich_markup_mode="markdown", context_settings={"max_content_width": 100}
    )
    presets = "; ".join(
        f"{name}: {preset.trials or 'all'} trials × {preset.epochs} epochs, {preset.sampler}, {preset.stopping}"
        for name, preset in search.presets.items()
    )

    @app.command(help=f"{search.title}\n\nPresets: {presets}.")
    def run(
        data: Annotated[
            Path | None,
            typer.Option(
                help="Dataset folder [default: the search's task in the folder HEP_RAY_DATA, or in data/].",
                show_default=False,
            ),
        ] = None,
        preset: Annotated[
            str | None, typer.Option(help="How much to run, see above [default: laptop].")
        ] = None,
        trials: Annotated[
            int | None, typer.Option(min=1, help="Trials to draw, instead of the preset's.")
        ] = None,
        epochs: Annotated[
            int | None, typer.Option(min=1, help="Epochs of a full trial, instead of the preset's.")
        ] = None,
        storage: Storage = STORAGE,
        tracking_uri: Annotated[
            str | None,
            typer.Option(
                envvar="MLFLOW_TRACKING_URI",
                help="MLflow server or database [default: SQLite in the storage].",
                show_default=False,
            ),
        ] = None,
        seed: Annotated[
            int | None,
            typer.Option(min=0, max=LARGEST_SEED, help="Of draws, weights and order of events [default: 0]."),
        ] = None,
        resume: Annotated[
            bool,
            typer.Option("--resume", help="Go on with the search in the storage, with the flags it had."),
        ] = False,
        accept_changed_code: Annotated[
            bool,
            typer.Option(
                "--accept-changed-code",
                help="With --resume: go on although a file that registers components has changed; it is recorded.",
            ),
        ] = False,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", help="Check everything, print space and resource plan, train nothing."),
        ] = False,
        workers_per_trial: Annotated[
            int | None,
            typer.Option(help="Processes, on one node or several, that train a trial together [default: 1]."),
        ] = None,
        min_workers_per_trial: Annotated[
            int | None,
            typer.Option(
                help="Go on with as few workers while the cluster lacks nodes for all [default: all]."
            ),
        ] = None,
        cpus_per_trial: Annotated[
            int | None,
            typer.Option(
                "--cpus-per-worker", "--cpus-per-trial", help="Cores of each worker of a trial [default: 1]."
            ),
        ] = None,
        gpus_per_trial: Annotated[
            float | None,
            typer.Option(
                "--gpus-per-worker",
                "--gpus-per-trial",
                help="GPUs of each worker of a trial; a fraction shares one among trials [default: 0].",
            ),
        ] = None,
        epoch_timeout: Annotated[
            float | None,
            typer.Option(
                help="Seconds that an epoch may take; a trial whose epoch takes longer hangs, is ended, and tried "
                "once more [default: 21600, six hours]."
            ),
        ] = None,
        cache: Annotated[
            str | None,
            typer.Option(
                help="resident: load the events into memory once; streaming: read them in every epoch, with a core for "
                "it on each node; auto: stream what exceeds the memory budget [default: auto]."
            ),
        ] = None,
        memory_budget: Annotated[
            float | None,
            typer.Option(
                help="GB of a node's memory for the events [default: half of the smallest object store of Ray].",
                show_default=False,
            ),
        ] = None,
    ) -> None:
        from hep_ray.search.options import SearchOptions
        from hep_ray.search.plan import prepare
        from hep_ray.search.run import run_search

        console = Console(stderr=True)
        _check_resume(storage / search.name, resume=resume, accept_changed_code=accept_changed_code)
        given = {
            "data": data,
            "preset": preset,
            "trials": trials,
            "epochs": epochs,
            "seed": seed,
            "tracking_uri": tracking_uri,
            "cpus_per_trial": cpus_per_trial,
            "gpus_per_trial": gpus_per_trial,
            "workers_per_trial": workers_per_trial,
            "min_workers_per_trial": min_workers_per_trial,
            "epoch_timeout": epoch_timeout,
            "cache": cache,
            "memory_budget": memory_budget,
            "grace_epochs": None,
        }
        chosen = _complete(given, _recorded(storage / search.name) if resume else {}, search)
        options = SearchOptions(
            storage=storage,
            source=Path(sys.argv[0]).resolve(),
            accept_changed_code=accept_changed_code,
            **chosen,
        )
        plan = prepare(search, options)
        _print_plan(plan, console)
        if dry_run:
            console.print("\nNothing was run. Leave out [bold]--dry-run[/] to start.")
            return
        result = run_search(plan, resume=resume, console=console)
        _print_result(result, plan)
        if result.untracked is not None:
            raise result.untracked

    return app


def _complete(given: dict[str, Any], recorded: dict[str, Any], search: Search) -> dict[str, Any]:
    """Flags as given, else as recorded by the search that is resumed, else the defaults."""
    if given["preset"] not in (None, recorded.get("preset")):  # numbers recorded are those of another preset
        recorded = {key: value for key, value in recorded.items() if key not in ("trials", "epochs")}
    defaults = {"data": Path(os.environ.get("HEP_RAY_DATA") or "data") / search.task, **DEFAULTS}
    chosen: dict[str, Any] = {
        key: next(
            (value for value in (value, recorded.get(key), defaults.get(key)) if value is not None), None
        )
        for key, value in given.items()
    }
    return {**chosen, "data": Path(chosen["data"])}


def _recorded(folder: Path) -> dict[str, Any]:
    from hep_ray.search.state import SearchState, recorded_uri

    started = SearchState.read(folder).started
    if started is None:
        return {}
    stated = started.options.get("tracking_uri") is not None
    uri = recorded_uri(folder, started) if stated else None
    return {**started.options, "tracking_uri": uri, "grace_epochs": started.grace_epochs}


def _check_resume(folder: Path, *, resume: bool, accept_changed_code: bool) -> None:
    """Known before anything is planned, so that --dry-run says it too."""
    from hep_ray.errors import CannotResume
    from hep_ray.search.state import SearchState

    if resume and SearchState.read(folder).started is None:
        raise CannotResume(f"--resume goes on with a search; {folder} holds none: start it without --resume")
    if accept_changed_code and not resume:
        raise CannotResume(
            "--accept-changed-code is for a search that goes on: type --resume too, or leave it out"
        )


def _print_plan(plan: SearchPlan, console: Console) -> None:
    from hep_ray.tracking.client import default_uri
    from hep_ray.tracking.provenance import doubts

    table = Table.grid(padding=(0, 2))
    schema = plan.dataset.schema
    splits = ", ".join(f"{plan.dataset.rows(split)} {split}" for split in ("train", "val"))
    table.add_row("[bold]search[/]", f"{plan.search.name}, preset {plan.given.preset}")
    table.add_row(
        "[bold]data[/]", f"{plan.given.data}: {schema.task}, {' / '.join(schema.classes)}, {splits} events"
    )
    for index, (name, text) in enumerate(plan.space.parameters.items()):
        table.add_row("[bold]space[/]" if index == 0 else "", f"{name}: {text}")
    for plugin in plan.plugins:
        table.add_row("[bold]own code[/]", f"{plugin.path}: {', '.join(plugin.registers)}")
    for index, params in enumerate(plan.search.references):
        words = ", ".join(f"{name}={value}" for name, value in params.items())
        table.add_row("[bold]references[/]" if index == 0 else "", words)
    table.add_row("[bold]budget[/]", plan.budget)
    table.add_row("[bold]goal[/]", f"{plan.search.mode} {plan.search.metric}")
    table.add_row("[bold]cluster[/]", describe())
    table.add_row("[bold]resources[/]", str(plan.resources))
    table.add_row("[bold]patience[/]", f"an epoch may take {plan.given.epoch_timeout:g} s")
    table.add_row("[bold]events[/]", str(plan.resources.ingest))
    table.add_row("[bold]storage[/]", str(plan.folder))
    table.add_row("[bold]tracking[/]", mask(plan.given.tracking_uri or default_uri(plan.storage)))
    for place, doubt in enumerate(doubts(plan.provenance)):
        table.add_row("[bold]promotion[/]" if place == 0 else "", f"will be refused as things are: {doubt}")
    console.print(table, soft_wrap=True)


def _print_result(result: SearchResult, plan: SearchPlan) -> None:
    from hep_ray.search.failures import causes
    from hep_ray.search.leaderboard import table

    console = result_console()
    console.print()
    console.print(table(result.state))
    for cause, trials in causes(result.state.trials.values()):
        names = ", ".join([trial.trial_id for trial in trials[:SHOWN]] + ["…"] * (len(trials) > SHOWN))
        line = f"{len(trials)} of {len(result.state.trials)} trials failed ({names}): {cause}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    commands = "\n".join(f"  {command}" for command in _next(result, plan))
    console.print(
        f"\nLeaderboard: {result.leaderboard}\nRuns:        {mask(result.tracking_uri)}\n\n"
        "The best of many noisy validation scores is a biased pick; the test split is untouched.\nNext:\n"
        f"{commands}",
        highlight=False,
        soft_wrap=True,
    )


def _next(result: SearchResult, plan: SearchPlan) -> Iterator[str]:
    """Commands that go on from here, as a shell takes them."""
    from hep_ray.search.stated import stated_in, words_to_confirm
    from hep_ray.tracking.client import look

    started, storage = result.state.started, plan.storage
    assert started is not None
    yield look(result.tracking_uri, storage)
    if words := words_to_confirm(result.state, stated_in(started, plan.search)):
        yield typed("hep-ray", *words, storage=storage)
    if plan.preset.sampler != "grid":
        more = 2 * len(result.state.trials)
        yield typed(python(), sys.argv[0], "--resume", "--trials", more, storage=storage)
