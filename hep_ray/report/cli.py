"""`hep-ray report`: what a search has found, as a page or as the tables of its study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hep_ray.console import print_text, result_console
from hep_ray.errors import HepRayError, InvalidConfig
from hep_ray.flags import STORAGE, Data, Plugins, SearchName, Storage, TrackingUri

if TYPE_CHECKING:
    from hep_ray.search.definition import Stated


def report(
    name: SearchName,
    storage: Storage = STORAGE,
    out: Annotated[
        Path | None,
        typer.Option(help="The page [default: report.html in the search's folder].", show_default=False),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Folder for every figure as PNG and PDF, and the numbers of importance and gradients as JSON.",
            show_default=False,
        ),
    ] = None,
    data: Data = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Quantities in whose bins signal efficiency and background rejection are shown, separated by commas: "
            "columns, elements of columns, or expressions of them. Default: abs(eta), pt and et, where there are such.",
            show_default=False,
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
    *,
    plugin: Plugins = None,
    table: Annotated[bool, typer.Option("--table", help="Only print the study's own tables.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With --table: in Markdown, for a document.")
    ] = False,
    importance: Annotated[
        bool,
        typer.Option("--importance", help="Only print how much each input matters to the best model."),
    ] = False,
) -> None:
    """Write what a search has found on one HTML page, and attach it to the search's run in MLflow.

    Learning curves with bands over seeds, ROC and background rejection with working points, confusion matrix,
    calibration, scores, what the parameters did, how trials ended, provenance. The test split is shown only after
    `hep-ray confirm`; before, the figures are of the validation split and say so. It can be asked while the search
    runs.

    `--importance` prints instead how much worse the best model is on the validation split where one input is another
    event's, with errors: `hep-ray report susy --importance`.

    `--table` prints the tables of the study instead, beside what was published: `hep-ray report cnn_loss --table`.

    Raises:
        UnknownSearch: there is no such search.
        StorageError: it was never run in this storage.
        NothingCompleted: no trial has completed.
        InvalidConfig: `--table` of a search that states no table, or flags of the page beside `--table` or
            `--importance`.
        TrackingUnavailable: the page is written, but MLflow does not take it.
    """
    from hep_ray.plugins import import_named
    from hep_ray.search.find import find_search

    import_named(plugin or ())
    found = find_search(name, storage)
    started = found.state().started
    assert started is not None
    search, storage = found.stated(started), found.storage
    if not search.known:
        typer.echo(
            f"the journal of {found.name} is of an earlier version and tells no baseline and no study tables: "
            "they are left out; name its script to have them",
            err=True,
        )
    page = {"--out": out, "--figures": figures, "--against": against}
    if table or markdown:
        _refuse(
            "--table prints the study's tables alone", {**page, "--data": data, "--importance": importance}
        )
        _print_tables(search, storage, markdown=markdown)
        return
    if importance:
        _refuse("--importance prints a table alone", page)
        _print_importance(search, storage, data)
        return
    quantities = quantities_of(against) if against is not None else ()
    from hep_ray.report.answer import answer
    from hep_ray.report.page import attach, still_running, write_report

    report = write_report(search, storage, out=out, figures=figures, data=data, against=quantities)
    typer.echo(f"wrote {report.path} ({report.path.stat().st_size / 1e6:.1f} MB): open it in a browser")
    if figures is not None:
        typer.echo(f"wrote {len(report.figures)} files of figures into {figures}")
    told = answer(report.data)
    typer.echo(told.headline)
    for question, words in told.facts.items():
        typer.echo(f"  {question + ('' if question.endswith('?') else ':'):14}{words}")
    for sentence in (still_running(report.data), *report.data.notes):
        if sentence:
            typer.echo(sentence)
    run_id = attach(report, storage, tracking_uri)
    typer.echo(f"attached to MLflow run {run_id}")
    if told.command:
        typer.echo(f"next: {told.command}")


def quantities_of(text: str) -> tuple[str, ...]:
    """Return the expressions that commas outside of brackets separate.

    >>> quantities_of("abs(eta), hypot(px, py)")
    ('abs(eta)', 'hypot(px, py)')

    Raises:
        InvalidConfig: one is empty.
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    found = tuple(part.strip() for part in parts)
    if not all(found):
        raise InvalidConfig(f"--against '{text}' has an empty quantity: name columns, such as abs(eta),pt")
    return found


def _refuse(rule: str, flags: Mapping[str, object]) -> None:
    """Refuse flags that are for the page.

    Raises:
        InvalidConfig: one is given.
    """
    if stated := [word for word, value in flags.items() if value]:
        raise InvalidConfig(f"{rule}; {', '.join(stated)} is for the page: leave it out")


def _print_importance(search: Stated, storage: Path, data: Path | None) -> None:
    from rich.table import Table

    from hep_ray.metrics.labels import metric_words
    from hep_ray.report.figures.inputs import input_importance
    from hep_ray.report.report_data import gather

    gathered = gather(search, storage, data)
    found = input_importance(gathered)
    what = metric_words(f"val_{found.metric}")
    console = result_console()
    table = Table("input", f"worse {what}", "error")
    for one in found.inputs:
        table.add_row(one.name, f"{one.loss:.4f}", f"{one.error:.4f}")
    console.print(table)
    print_text(
        console,
        f"trial {found.trial}: {what} {found.value:.4f} on {found.events:,} validation events, and how much worse it "
        f"is where one input is another event's; {found.repeats} permutations of each. Of inputs that tell the same "
        "each stands for the other.",
    )
    try:
        moved = gathered.attributions
    except HepRayError as exc:
        print_text(console, f"What moves the network's answer is left out: {exc}.")
        return
    if moved is None:  # no network
        return
    table = Table("input", "moves log-odds by", "error")
    for part in moved.contributions:
        table.add_row(part.name, f"{part.size:.4g}", f"{part.error:.2g}")
    console.print(table)
    add = "add up to" if moved.adds_up else "do not add up to"
    print_text(
        console,
        f"Integrated gradients of {moved.events:,} validation events, without their signs. The contributions of an "
        f"event {add} what its log-odds move: {moved.moved:.3g} on average without its sign, of which their sum misses "
        f"{moved.missed:.2g}.",
    )


def _print_tables(search: Stated, storage: Path, *, markdown: bool) -> None:
    from hep_ray.report.study import read_state, rendered

    state = read_state(search, storage)
    console = result_console()
    if not search.tables:
        raise InvalidConfig(f"{search.name} states no study table (tables=… of its Search)")
    for one in search.tables:
        if markdown:
            print_text(console, f"\n**{one.title}**\n")
        console.print(rendered(one, state, markdown=markdown))
    ended = sum(trial.finished is not None for trial in state.trials.values())
    print_text(
        console,
        f"Ours: validation split, mean ± s.d. over trials (their number); {ended} of {len(state.trials)} trials "
        "have ended. Published numbers are of the data named in their column, not of ours.",
    )
