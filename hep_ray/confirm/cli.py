"""`hep-ray confirm`: is the gain real?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from hep_ray.flags import STORAGE, SearchName, Storage, TrackingUri, typed
from hep_ray.masking import mask

if TYPE_CHECKING:
    from rich.console import Console

    from hep_ray.confirm.plan import ConfirmPlan
    from hep_ray.confirm.run import ConfirmResult
    from hep_ray.loading.cache import Cache


def confirm(  # noqa: PLR0917 - one argument per flag
    name: SearchName,
    top: Annotated[int, typer.Option(help="Finalists: the best K configurations by validation.")] = 3,
    seeds: Annotated[
        int,
        typer.Option(
            help="Trainings of each, the same seeds for all; with 1 there is no interval, no p-value."
        ),
    ] = 5,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="EXPR",
            help="What they are to beat: loss=root_softmax,root_index=1 or trial=t0003 "
            "[default: what the search states, else cross-entropy].",
            show_default=False,
        ),
    ] = None,
    storage: Storage = STORAGE,
    data: Annotated[
        Path | None, typer.Option(help="Dataset folder [default: that of the search].", show_default=False)
    ] = None,
    level: Annotated[float, typer.Option(help="Confidence level of the intervals.")] = 0.95,
    tracking_uri: TrackingUri = None,
    cpus_per_trial: Annotated[
        int | None, typer.Option(help="Cores of one training [default: as in the search].")
    ] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="GPUs of one training [default: as in the search].")
    ] = None,
    epoch_timeout: Annotated[
        float | None, typer.Option(help="Seconds that an epoch may take [default: as in the search].")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help="resident, streaming or auto [default: as in the search].")
    ] = None,
    memory_budget: Annotated[
        float | None,
        typer.Option(help="GB of a node's memory for the events [default: as in the search]."),
    ] = None,
    allow_unfinished: Annotated[
        bool,
        typer.Option("--allow-unfinished", help="Leave out trials that have not ended, instead of refusing."),
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Start anew; an earlier confirmation is set aside, and its look at the test counted.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print finalists, baseline and resource plan; train nothing.")
    ] = False,
) -> None:
    """Retrain the finalists of a search and its baseline with several seeds, and evaluate each once on the test split.

    A search ranks by validation, and the best of many noisy scores is a biased pick. Here every contender is trained
    at full length with the same seeds, none of which the search used. Only when all have ended is the test split
    opened. Printed: mean ± s.d., Student's interval, the difference to the baseline, paired by seed and event, with the
    p-value that counts the noise of both, and that corrected for the number of finalists (Holm). Trials of a search
    that differ in their seed only are one configuration.

    Example: `hep-ray confirm cnn_loss --top 3 --seeds 5`. Typed again after an interruption, it goes on.

    Raises:
        UnknownSearch: there is no such search.
        CannotConfirm: it was not run, still runs, has no completed trial, or was of another dataset.
        CannotResume: another confirmation of it was begun.
    """
    from rich.console import Console

    from hep_ray.confirm.plan import ConfirmOptions, prepare_confirmation
    from hep_ray.confirm.run import run_confirmation

    console = Console(stderr=True)
    plan = prepare_confirmation(
        ConfirmOptions(
            search=name,
            top=top,
            seeds=seeds,
            baseline=baseline,
            storage=storage,
            data=data,
            tracking_uri=tracking_uri,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            epoch_timeout=epoch_timeout,
            cache=cast("Cache | None", cache),
            memory_budget=memory_budget,
            level=level,
            allow_unfinished=allow_unfinished,
        )
    )
    _print_plan(plan, console, again=again)
    if dry_run:
        console.print("\nNothing was run. Leave out [bold]--dry-run[/] to start.")
        return
    _print_result(run_confirmation(plan, again=again, console=console), plan)


def _print_plan(plan: ConfirmPlan, console: Console, *, again: bool) -> None:
    from rich.table import Table

    from hep_ray.tracking.provenance import doubts

    metric = plan.started.metric
    table = Table.grid(padding=(0, 2))
    table.add_row("[bold]confirm[/]", f"{plan.started.search}: {plan.ranked} configurations by {metric}")
    for index, one in enumerate(plan.finalists):
        trials = f", mean of {len(one.trials)} trials" if len(one.trials) > 1 else ""
        table.add_row(
            "[bold]finalists[/]" if index == 0 else "", f"{one.name}: {metric} {one.value:.4f}{trials}"
        )
    if len(plan.finalists) < plan.given.top:
        table.add_row(
            "", f"no more than {len(plan.finalists)} beside the baseline, of {plan.given.top} asked for"
        )
    table.add_row("[bold]baseline[/]", plan.baseline.origin)
    runs = len(plan.runs)
    table.add_row(
        "[bold]budget[/]", f"{runs} trainings of {plan.started.epochs} epochs; seeds {_range(plan.seeds)}"
    )
    table.add_row("[bold]time[/]", _duration(plan))
    table.add_row(
        "[bold]test split[/]", f"{plan.dataset.rows('test')} events, opened when all trainings have ended"
    )
    table.add_row("[bold]resources[/]", str(plan.resources))
    table.add_row("[bold]patience[/]", f"an epoch may take {plan.epoch_timeout:g} s")
    table.add_row("[bold]events[/]", str(plan.resources.ingest))
    table.add_row("[bold]intervals[/]", f"at {plan.given.level:.4g}")
    table.add_row("[bold]storage[/]", str(plan.folder))
    if again:
        aside = "is set aside first" if plan.folder.exists() else "is not there: --again is not needed"
        table.add_row("", f"an earlier confirmation {aside}")
    table.add_row("[bold]tracking[/]", mask(plan.tracking_uri))
    for place, doubt in enumerate(doubts(plan.provenance)):
        table.add_row("[bold]promotion[/]" if place == 0 else "", f"will be refused as things are: {doubt}")
    console.print(table, soft_wrap=True)


def _range(seeds: tuple[int, ...]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def _duration(plan: ConfirmPlan) -> str:
    """By the seconds that the finalists' epochs took in the search."""
    trials = [trial for one in plan.finalists for trial in one.trials]
    per_epoch = sum(trial.seconds for trial in trials) / sum(len(trial.history) for trial in trials)
    seconds = per_epoch * plan.started.epochs * len(plan.runs) / plan.resources.concurrent
    return f"about {seconds / 60:.0f} min, by the epochs of the search" if seconds > 90 else "about a minute"  # noqa: PLR2004


def _print_result(result: ConfirmResult, plan: ConfirmPlan) -> None:
    from hep_ray.confirm.confirmation import uses_of_others
    from hep_ray.confirm.table import confirmation_table, contender_lines, verdict
    from hep_ray.console import result_console
    from hep_ray.tracking.client import look

    found, storage, data = result.confirmation, plan.given.storage, plan.given.data
    console = result_console()
    console.print()
    console.print(confirmation_table(found))
    others = uses_of_others(plan.given.storage, found.search, found.dataset_fingerprint)
    lines = [*contender_lines(found), "", verdict(found), f"Baseline: {found.baseline_origin}."]
    if result.earlier_uses:
        lines.append(
            f"Caution: the test split had been read {result.earlier_uses} times for this search before; the choice of "
            "these finalists may know it."
        )
    if others:
        counts = ", ".join(f"{name} ({count})" for name, count in others.items())
        lines.append(f"The same test split was also read for: {counts}.")
    lines += [
        "Intervals and p-values cover the seeds of the trainings. 'test sample' is what the finite test split adds to",
        "the error of the difference, the same for every seed.",
        "",
        f"Confirmation: {result.path}",
        f"Runs:         {mask(result.tracking_uri)}",
        "",
        "Next:",
        *(
            f"  {command}"
            for command in (
                look(result.tracking_uri, storage),
                typed("hep-ray", "report", found.search, storage=storage, data=data),
                typed("hep-ray", "promote", found.search, "--dry-run", storage=storage, data=data),
            )
        ),
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
