"""`hep-ray confirm`: is the gain real? `folds`: a score for every event. `refit`: once more, on train and val."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hep_ray.console import end_dry_run, print_rows, print_text, result_console
from hep_ray.dataset.splits import SPLITS
from hep_ray.flags import DryRun, typed
from hep_ray.masking import mask
from hep_ray.search.naming import count_words
from hep_ray.search.options import AfterSearch, ConfirmOptions, FoldOptions, in_words, with_flags

if TYPE_CHECKING:
    from rich.table import Table

    from hep_ray.confirm.folds import CrossValidation, FoldsPlan
    from hep_ray.confirm.plan import ConfirmPlan
    from hep_ray.confirm.refit import RefitPlan
    from hep_ray.confirm.run import ConfirmResult

Options = TypeVar("Options", bound=AfterSearch)


@with_flags(ConfirmOptions)
def confirm(
    *,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Start anew; an earlier confirmation is set aside, and its look at the test counted.",
        ),
    ] = False,
    dry_run: DryRun = False,
    **given: Any,
) -> None:
    """Retrain the finalists of a search and its baseline with several seeds, and evaluate each once on the test split.

    A search ranks by validation, and the best of many noisy scores is a biased pick. Here every contender is trained
    at full length with the same seeds, none of which the search used. Only when all have ended is the test split
    opened. Printed: mean ± s.d., Student's interval, the difference to the baseline, paired by seed and event, with the
    p-value that counts the noise of both, and that corrected for the number of finalists (Holm). Trials of a search
    that differ in their seed only are one configuration. With --ensemble the mean of all finalists stands beside them.

    Example: `hep-ray confirm cnn_loss --top 3 --seeds 5`. Typed again after an interruption, it goes on.

    Raises:
        UnknownSearch: there is no such search.
        CannotConfirm: it was not run, still runs, has no completed trial, or was of another dataset.
        CannotResume: another confirmation of it was begun.
    """
    from rich.console import Console

    options = _known(ConfirmOptions(**given))
    from hep_ray.confirm.plan import prepare_confirmation
    from hep_ray.confirm.run import run_confirmation
    from hep_ray.search.state import SearchState

    console = Console(stderr=True)
    plan = prepare_confirmation(options, hashes="none" if dry_run else "once")
    print_rows(console, _plan_rows(plan, again=again))
    if dry_run:
        if not again:
            plan.refuse_another(SearchState.read(plan.folder))
        end_dry_run(console)
        return
    result = run_confirmation(plan, again=again, console=console)
    _print_result(result, plan)
    if result.untracked is not None:
        raise result.untracked


@with_flags(FoldOptions)
def folds(
    *,
    again: Annotated[
        bool, typer.Option("--again", help="Start anew; earlier folds are set aside, nothing is deleted.")
    ] = False,
    dry_run: DryRun = False,
    **given: Any,
) -> None:
    """Train a configuration of a search on K folds, so that every event is scored by a model that never saw it.

    It is the candidate of the search's confirmation, else the first of its ranking, unless --trial names another.
    The events are divided into K parts anew, by the hash of their ids or groups. Each fold tests on one part, chooses
    its epoch by the next and learns from the rest. The scores of all events are one file, and metrics of all of them
    together have about half the error of a test split of a quarter. The configuration itself was chosen with the
    search's training and validation events: metrics of its test split alone, which no choice has seen, stand beside.

    Example: `hep-ray folds susy --folds 5`. Typed again after an interruption, it goes on.

    Raises:
        UnknownSearch: there is no such search.
        CannotConfirm: it was not run, still runs, has no completed trial or no such one, or was of another dataset.
        CannotResume: folds of another configuration are there.
    """
    from rich.console import Console

    options = _known(FoldOptions(**given))
    from hep_ray.confirm.folds import prepare_folds, run_folds

    console = Console(stderr=True)
    plan = prepare_folds(options, hashes="none" if dry_run else "once")
    print_rows(console, _folds_rows(plan, again=again))
    if dry_run:
        if not again:
            plan.refuse_another()
        end_dry_run(console)
        return
    found = run_folds(plan, again=again, console=console)
    result = result_console()
    result.print()
    result.print(_folds_table(found))
    own = plan.options
    lines = [
        "All events: each is scored by the model of its fold, which never saw it. Test split of the search: the same",
        "scores, of the events alone with which the configuration was not chosen.",
        "",
        f"Scores: {plan.folder / found.scores}",
        f"Result: {plan.folder / 'folds.json'}",
        "",
        "Next:",
        f"  {typed('hep-ray', *_after_folds(plan), storage=own.storage, data=own.data)}",
    ]
    print_text(result, "\n".join(lines))


@with_flags(AfterSearch)
def refit(
    *,
    again: Annotated[
        bool, typer.Option("--again", help="Start anew; an earlier refit is set aside, nothing is deleted.")
    ] = False,
    dry_run: DryRun = False,
    **given: Any,
) -> None:
    """Train the confirmed configuration once more, on training and validation events, to hand that model on.

    The configuration is the finalist that `hep-ray promote` would take: the best by validation over its confirmed
    trainings. With the validation events learnt from, nothing chooses an epoch: it is trained for the median of those
    that its confirmed trainings found best, under the schedule of the full length, with a seed of its own. The test
    split is read once, afterwards; the values stand beside those of the confirmed trainings, paired by event. They
    choose nothing: what speaks for the model is the confirmation.

    Example: `hep-ray refit susy`, after `hep-ray confirm susy`. Typed again after an interruption, it goes on.

    Raises:
        UnknownSearch: there is no such search.
        StorageError: it is not confirmed.
        CannotConfirm: its configuration cannot learn from more events, or the search is of another dataset.
        CannotResume: the refit of another confirmation is there.
    """
    from rich.console import Console

    options = _known(AfterSearch(**given))
    from hep_ray.confirm.refit import prepare_refit, run_refit
    from hep_ray.confirm.refit_result import (
        FILE_NAME,
        WHAT_SPEAKS,
        against_confirmed,
        refit_difference,
        refit_rows,
    )
    from hep_ray.confirm.table import titled
    from hep_ray.search.state import SearchState

    console = Console(stderr=True)
    plan = prepare_refit(options, hashes="none" if dry_run else "once")
    print_rows(console, _refit_rows(plan, again=again))
    if dry_run:
        if not again:
            plan.refuse_another(SearchState.read(plan.folder))
        end_dry_run(console)
        return
    found = run_refit(plan, again=again, console=console)
    result, own = result_console(), plan.options
    result.print()
    head, rows = refit_rows(found, plan.candidate, plan.original.rows("train"))
    table = titled(f"{found.search}, {found.trial}: refit on training and validation events, test split")
    for place, heading in enumerate(head):
        table.add_column(heading, justify="right" if place else "left")
    for place, row in enumerate(rows):
        table.add_row(*row, style="bold" if place else None)
    result.print(table)
    both = against_confirmed(plan.storage / found.search, found, plan.candidate, plan.original.schema)
    lines = [
        refit_difference(found, both, plan.confirmation.level),
        WHAT_SPEAKS,
        "",
        f"Result: {plan.folder / FILE_NAME}",
        "",
        "Next:",
        f"  {typed('hep-ray', 'promote', found.search, '--refit', '--dry-run', storage=own.storage, data=own.data)}",
    ]
    print_text(result, "\n".join(lines))


def _known(options: Options) -> Options:
    """Return options of a search that is there; refused before torch and Ray are imported, which takes seconds.

    Raises:
        UnknownSearch, UnknownName, NotRun, InvalidConfig: see `find_search`.
        PluginFailed: a module that --plugin names cannot be imported.
    """
    from hep_ray.plugins import import_named
    from hep_ray.search.find import refuse_unknown

    import_named(options.plugin or ())
    refuse_unknown(options.search, options.storage, options.scripts)
    return options


def _machine_rows(plan: ConfirmPlan | FoldsPlan | RefitPlan) -> Iterator[tuple[str, str]]:
    """Yield the rows that say where trainings run, on what, and where their events are."""
    from hep_ray.search.hardware import hardware_rows

    yield "cluster", plan.resources.cluster
    yield "resources", str(plan.resources)
    yield from hardware_rows(plan.deterministic, plan.compiling, plan.resources)
    yield "patience", f"an epoch may take {in_words(plan.epoch_timeout)}"
    yield "events", str(plan.resources.ingest)


def _refit_rows(plan: RefitPlan, *, again: bool) -> Iterator[tuple[str, str]]:
    from hep_ray.tracking.provenance import doubts

    dataset, candidate = plan.original, plan.candidate
    yield "refit", f"{plan.started.search}: {candidate.name}, the candidate of its confirmation"
    yield (
        "events",
        f"{plan.events} to learn from: {dataset.rows('train')} of training and {dataset.rows('val')} of validation",
    )
    best = ", ".join(map(str, plan.best_epochs))
    of = "one fit" if plan.epochs == 1 else f"{plan.until} of {plan.epochs} epochs, with the schedule of all"
    yield "budget", f"one training, {of}; seed {plan.seed}"
    yield (
        "epochs",
        f"the median of {best}, which were best in the confirmed trainings; nothing is chosen here",
    )
    yield "test split", f"{dataset.rows('test')} events, read once when the training has ended"
    yield from _machine_rows(plan)
    aside = "; an earlier refit is set aside first" if again and plan.folder.exists() else ""
    yield "storage", f"{plan.folder}, with links to the events{aside}"
    if again and not aside:
        yield "storage", "there is no earlier refit: --again is not needed"
    yield "tracking", mask(plan.tracking_uri)
    for doubt in doubts(plan.provenance):
        yield "promotion", f"will be refused as things are: {doubt}"


def _folds_rows(plan: FoldsPlan, *, again: bool) -> Iterator[tuple[str, str]]:
    dataset, count = plan.dataset, len(plan.rules)
    events = sum(dataset.rows(split) for split in SPLITS)
    chosen = plan.configuration
    yield "folds", f"{plan.started.search}: {chosen.name}, {plan.started.metric} {chosen.value:.4f}"
    if chosen.name == plan.candidate:
        yield "chosen", "it is the candidate of the confirmation, whose models would be promoted"
    else:
        yield "chosen from", count_words(plan.ranked, "configuration")
        if plan.candidate:
            yield "promotion", f"would ask for folds of {plan.candidate}, the candidate of the confirmation"
    yield "events", f"{events}, about {events // count} in each of {count} parts"
    if dataset.schema.split_by is not None:
        yield "groups", f"events of one {dataset.schema.split_by} are in one part"
    yield (
        "budget",
        f"{count} trainings of {plan.started.epochs} epochs, one after the other; seed {plan.seed}",
    )
    yield from _machine_rows(plan)
    aside = "; earlier folds are set aside first" if again and plan.folder.exists() else ""
    yield "storage", f"{plan.folder}, with a copy of the events for each fold{aside}"
    if again and not aside:
        yield "storage", "there are no earlier folds: --again is not needed"
    yield "tracking", mask(plan.tracking_uri)


def _after_folds(plan: FoldsPlan) -> tuple[str, ...]:
    """Return the command that comes next: what is not confirmed is, and a candidate's models can be promoted."""
    search = plan.started.search
    if not plan.candidate:
        return "confirm", search
    if plan.candidate != plan.configuration.name:
        return "report", search
    return "promote", search, "--folds", str(len(plan.rules)), "--dry-run"


def _folds_table(found: CrossValidation) -> Table:
    """Tabulate each fold, all events together, and the search's own test split."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    names = dict.fromkeys((found.metric, "test_auc", "test_accuracy", "test_loss"))
    shown = [name for name in names if name in found.metrics]
    made = Table(
        title=f"{found.search}, {found.trial}: {len(found.folds)} folds",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    made.add_column("")
    for name in shown:
        made.add_column(name.removeprefix("test_").replace("_", " "), justify="right")

    def cells(metrics: Mapping[str, float]) -> list[str]:
        errors = [metrics.get(f"{name}_error") for name in shown]
        return [
            f"{metrics[name]:.4f}" + ("" if error is None else f" ± {error:.4f}")
            for name, error in zip(shown, errors, strict=True)
        ]

    for number, fold in enumerate(found.folds, 1):
        made.add_row(f"fold {number}, {fold.events} events", *cells(fold.metrics))
    spread = [found.of_folds(name) for name in shown]
    made.add_row("mean ± s.d. of folds", *(f"{mean:.4f} ± {sd:.4f}" for mean, sd in spread))
    made.add_row("all events", *cells(found.metrics), style="bold")
    made.add_row("test split of the search", *cells(found.held_out))
    return made


def _plan_rows(plan: ConfirmPlan, *, again: bool) -> Iterator[tuple[str, str]]:
    from hep_ray.search.fused import stacks_of, when_fused
    from hep_ray.search.state import SearchState
    from hep_ray.tracking.provenance import doubts

    metric = plan.started.metric
    yield "confirm", f"{plan.started.search}: {count_words(plan.ranked, 'configuration')} by {metric}"
    for one in plan.finalists:
        trials = f", mean of {len(one.trials)} trials" if len(one.trials) > 1 else ""
        yield "finalists", f"{one.name}: {metric} {one.value:.4f}{trials}"
    if plan.breaking:
        yield "left out", f"{len(plan.breaking)} that break a constraint, {plan.breaking[0]} the best of them"
    if len(plan.finalists) < plan.given.top:
        yield (
            "finalists",
            f"no more than {len(plan.finalists)} beside the baseline, of {plan.given.top} asked for",
        )
    if plan.members:
        yield (
            "ensemble",
            f"mean probability of {', '.join(plan.members)}, paired by seed; nothing is trained for it",
        )
    yield "baseline", plan.baseline.origin
    seeds = f"seed {plan.seeds[0]}" if len(plan.seeds) == 1 else f"seeds {plan.seeds[0]} to {plan.seeds[-1]}"
    yield "budget", f"{len(plan.runs)} trainings of {plan.started.epochs} epochs; {seeds}"
    stacks = stacks_of(plan.runs, SearchState(), plan.resources, plan.started.unstated, plan.fuse)
    if stacks:
        number = sum(map(len, stacks))
        yield (
            "together",
            f"{number} trainings in {len(stacks)} stacked networks, {when_fused(plan.fuse)}",
        )
    yield "time", _duration(plan)
    yield "test split", f"{plan.dataset.rows('test')} events, opened when all trainings have ended"
    if plan.members:
        yield (
            "validation",
            f"{plan.dataset.rows('val')} events, on which finalists are evaluated for the ensemble",
        )
    yield from _variation_rows(plan)
    yield from _machine_rows(plan)
    yield "intervals", f"at {plan.given.level:.4g}"
    yield "storage", str(plan.folder)
    if again:
        aside = "is set aside first" if plan.folder.exists() else "is not there: --again is not needed"
        yield "storage", f"an earlier confirmation {aside}"
    yield "tracking", mask(plan.tracking_uri)
    for doubt in doubts(plan.provenance):
        yield "promotion", f"will be refused as things are: {doubt}"


def _variation_rows(plan: ConfirmPlan) -> Iterator[tuple[str, str]]:
    """Say under what each model is evaluated beside, what changes nothing for it, and what is left out."""
    names = {column.name: column.elements for column in plan.dataset.schema.columns}
    for name, one in plan.variations.items():
        touched = {change.column for change in one.changes(names)}
        idle = one.weight is None and one.data is None and touched <= set(plan.resources.unread)
        yield "variations", f"{name}: {one}" + "; no contender reads it, so that nothing changes" * idle
    for name, one in plan.dataset.manifest.event_schema.variations.items():
        if name not in plan.variations:
            yield "variations", f"{name}: {one}; left out, since the search is --weights off"


def _duration(plan: ConfirmPlan) -> str:
    """Return the expected time in words, by the seconds that the finalists' epochs took in the search."""
    trials = [trial for one in plan.finalists for trial in one.trials]
    per_epoch = sum(trial.seconds for trial in trials) / sum(len(trial.history) for trial in trials)
    seconds = per_epoch * plan.started.epochs * len(plan.runs) / plan.resources.concurrent
    return f"about {seconds / 60:.0f} min, by the epochs of the search" if seconds > 90 else "about a minute"  # noqa: PLR2004


def _print_result(result: ConfirmResult, plan: ConfirmPlan) -> None:
    from hep_ray.confirm.confirmation import uses_of_others
    from hep_ray.confirm.table import (
        confirmation_table,
        contender_lines,
        errors_in_words,
        variations_table,
        verdict,
        worst_variations,
    )
    from hep_ray.tracking.client import look

    found, storage, data = result.confirmation, plan.given.storage, plan.given.data
    console = result_console()
    console.print()
    console.print(confirmation_table(found))
    if found.variations:
        console.print(variations_table(found))
    others = uses_of_others(plan.given.storage, found.search, found.dataset_fingerprint)
    lines = [
        *contender_lines(found),
        *worst_variations(found),
        "",
        verdict(found),
        f"Baseline: {found.baseline_origin}.",
    ]
    if result.earlier_uses:
        lines.append(
            f"Caution: the test split had been read {count_words(result.earlier_uses, 'time')} for this search before; "
            "the choice of these finalists may know it."
        )
    if others:
        counts = ", ".join(f"{name} ({count_words(count, 'time')})" for name, count in others.items())
        lines.append(f"The same test split was also read for: {counts}.")
    lines += [
        *errors_in_words(found),
        "",
        f"Confirmation: {result.path}",
        f"Runs:         {result.tracking_uri}",
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
    print_text(console, "\n".join(lines))
