"""`hep-ray data convert` and `hep-ray data check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hep_ray.data.manifest import Manifest
from hep_ray.data.splits import SPLITS

app = typer.Typer(no_args_is_help=True, help="Make, convert and check datasets.")


@app.command("convert")
def convert_command(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Input files, in the order of the classes.")
    ],
    reader: Annotated[str, typer.Option(help="Format of the files. hvl: HDF5, one group per event.")],
    out: Annotated[Path, typer.Option(help="Dataset folder to make; absent or empty.")],
    classes: Annotated[str | None, typer.Option(help="Class names, separated by commas: m8,m12.")] = None,
    task: Annotated[str | None, typer.Option(help="Name of the task. Default: the classes.")] = None,
    signal: Annotated[str | None, typer.Option(help="The signal class. Default: the last one.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dataset in --out.")] = False,
) -> None:
    """Turn files into a dataset: Parquet shards in three splits, with a manifest.

    Every event is given to train (60 %), val (15 %) or test (25 %) by a hash of its id, once and for all.
    A search trains on train and ranks by val; test is kept for the final confirmation.

    Example: hep-ray data convert m8.h5 m12.h5 --reader hvl --classes m8,m12 --out data/mine
    """
    from hep_ray.data.convert import convert

    columns = (TextColumn("converting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("converting", total=None)
        manifest = convert(
            inputs,
            reader,
            [name.strip() for name in classes.split(",")] if classes else None,
            out,
            task=task,
            signal=signal,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(row, completed=done, total=total),
        )
    print_dataset(manifest, out)


@app.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Dataset folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Look for what would spoil a training; exit 1 when something is found.

    Compares every shard with the manifest and reads every event: NaN, labels outside the classes, an empty
    split or class, columns that never change, duplicates, and the same event in two splits.
    """
    from hep_ray.data.check import check

    report = check(folder)
    if as_json:
        typer.echo(report.to_json())
    else:
        console = Console()
        console.print(_table(Manifest.read(folder)))
        console.print(f"fingerprint {report.fingerprint}", soft_wrap=True)
        for problem in report.problems:
            console.print(f"problem: {problem}", soft_wrap=True, markup=False, highlight=False)
        if not report.problems:
            console.print("no problems found")
    if report.problems:
        raise typer.Exit(1)


def print_dataset(manifest: Manifest, folder: Path) -> None:
    """Say what a new dataset holds and what to type next."""
    console = Console()
    console.print(_table(manifest))
    console.print(f"fingerprint {manifest.fingerprint}", soft_wrap=True)
    console.print(f"next: python searches/cnn_loss.py --data {folder}", soft_wrap=True, highlight=False)


def _table(manifest: Manifest) -> Table:
    table = Table("class", *SPLITS, "events")
    total = manifest.class_counts()
    for name, events in total.items():
        table.add_row(name, *(str(manifest.class_counts(split)[name]) for split in SPLITS), str(events))
    table.add_section()
    table.add_row("all", *map(str, manifest.split_counts().values()), str(sum(total.values())))
    return table
