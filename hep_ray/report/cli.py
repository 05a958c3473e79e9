"""`hep-ray report`: the tables of a study, from the journal of its search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hep_ray.console import result_console
from hep_ray.errors import InvalidConfig


def report(
    name: Annotated[str, typer.Argument(help="Search: a script in searches/, or the path of one.")],
    table: Annotated[bool, typer.Option("--table", help="The study's own tables.")] = False,
    storage: Annotated[Path, typer.Option(envvar="HEP_RAY_STORAGE", help="Folder of all searches.")] = Path(
        "runs"
    ),
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables in Markdown, for a document.")] = False,
) -> None:
    """Print what a search has found, beside what was published.

    Example: `hep-ray report cnn_loss --table`. Results are of the validation split: mean ± s.d. over the trials of
    a row, with their number. It can be asked while the search runs.

    Raises:
        UnknownName: there is no such search.
        StorageError: it was never run in this storage.
        InvalidConfig: it states no table.
    """
    from hep_ray.report.study import load_search, read_state, rendered

    search = load_search(name)
    state = read_state(search, storage)
    console = result_console()
    if not table:
        from hep_ray.search.leaderboard import table as leaderboard_table

        console.print(leaderboard_table(state))
        return
    if not search.tables:
        raise InvalidConfig(f"a study table is stated by its search (tables=…); {search.name} states none")
    for one in search.tables:
        if markdown:
            console.print(f"\n**{one.title}**\n", highlight=False, soft_wrap=True)
        console.print(rendered(one, state, markdown=markdown))
    ended = sum(trial.finished is not None for trial in state.trials.values())
    console.print(
        f"Ours: validation split, mean ± s.d. over trials (their number); {ended} of {len(state.trials)} trials "
        "have ended. Published numbers are of the data named in their column, not of ours.",
        highlight=False,
        soft_wrap=True,
    )
