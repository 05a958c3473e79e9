"""The one command line that all search scripts share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hep_ray.console import end_dry_run, print_rows, print_text, result_console, run_app
from hep_ray.flags import DryRun, python, typed
from hep_ray.plugins import importing
from hep_ray.search.definition import Search
from hep_ray.search.options import SearchOptions, in_words, with_flags

if TYPE_CHECKING:
    from hep_ray.search.execute import SearchResult
    from hep_ray.search.plan import SearchPlan

SHOWN = 5
"""Trials named beside a cause of failure."""


def main(search: Search) -> None:
    """Run a search script: parse the command line, run, print the leaderboard and what to type next.

    Where the script is only imported, for the search and the components that it states, this does nothing.
    """
    if importing():
        return
    app = build_app(search)
    run_app(app, prog=sys.argv[0])


def build_app(search: Search) -> typer.Typer:
    """Return the command line of a search."""
    app = typer.Typer(
        add_completion=False, rich_markup_mode="markdown", context_settings={"max_content_width": 100}
    )
    presets = "; ".join(
        f"{name}: {preset.trials or ('trials in a time budget' if preset.endless else 'all')}"
        f"{'' if preset.endless else ' trials'} × {preset.epochs} epochs, {preset.sampler_name}, {preset.stopping}"
        for name, one in search.presets.items()
        for preset in [one.resolved(search)]
    )

    @app.command(help=f"{search.title}\n\nPresets: {presets}.")
    @with_flags(SearchOptions)
    def run(
        *,
        resume: Annotated[
            bool,
            typer.Option("--resume", help="Go on with the search in the storage, with the flags it had."),
        ] = False,
        dry_run: DryRun = False,
        **given: Any,
    ) -> None:
        from hep_ray.search.estimate import LONGEST, estimate
        from hep_ray.search.execute import run_search
        from hep_ray.search.plan import planned

        console = Console(stderr=True)
        plan = planned(search, given, resume=resume, hashes="none" if dry_run else "once")
        print_rows(console, plan.rows())
        if dry_run or plan.time_budget is not None:
            console.print(f"[dim]timing a few batches of each kind of trial, for at most {LONGEST:g} s …[/]")
            cost = estimate(plan)
            print_rows(console, cost.rows())
            cost.check(plan.time_budget)
        if dry_run:
            end_dry_run(console)
            return
        result = run_search(plan, resume=resume, console=console)
        _print_result(result, plan)
        if result.untracked is not None:
            raise result.untracked

    return app


def _print_result(result: SearchResult, plan: SearchPlan) -> None:
    from hep_ray.search.leaderboard import table
    from hep_ray.search.state import causes

    console = result_console()
    commands = "\n".join(f"  {command}" for command in _next(result, plan))
    console.print()
    console.print(table(result.state))
    for cause, trials in causes(result.state.trials.values()):
        names = ", ".join([trial.trial_id for trial in trials[:SHOWN]] + ["…"] * (len(trials) > SHOWN))
        print_text(console, f"{len(trials)} of {len(result.state.trials)} trials failed ({names}): {cause}")
    print_text(
        console,
        f"{result.few_seeds}\nLeaderboard: {result.leaderboard}\nRuns:        {result.tracking_uri}\n\n"
        "The best of many noisy validation scores is a biased pick; the test split is untouched.\nNext:\n"
        f"{commands}",
    )


def _next(result: SearchResult, plan: SearchPlan) -> Iterator[str]:
    """Commands that go on from here, as a shell takes them."""
    from hep_ray.search.state import words_to_confirm

    state, storage = result.state, plan.storage
    yield plan.given.to_look
    if result.out_of_time:
        budget = in_words(plan.time_budget or 0.0)
        yield typed(python(), sys.argv[0], "--resume", "--time-budget", budget, storage=storage)
    if words := words_to_confirm(state, result.stated or plan.search):
        words += ["--allow-unfinished"] * bool(result.out_of_time)
        yield typed("hep-ray", *words, storage=storage)
    if plan.folds is not None and not result.out_of_time:  # a score for every event, and the set of models
        yield typed("hep-ray", "folds", plan.experiment, "--folds", plan.folds, storage=storage)
    if not result.out_of_time and plan.preset.sampler != "grid":
        more = 2 * plan.trials
        yield typed(python(), sys.argv[0], "--resume", "--trials", more, storage=storage)
