"""`hep-ray data simulate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hep_ray.conversion.cli import parse_settings, print_dataset, split_rule
from hep_ray.errors import Interrupted, InvalidConfig
from hep_ray.flags import SEED, Overwrite, Plugins, Settings, Split, Stratify, typed

if TYPE_CHECKING:
    from hep_ray.simulate import Simulation


def simulate(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The simulation; `--list` shows them all.")
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="Events of all classes together.")] = 6000,
    seed: Annotated[int, SEED] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Dataset folder. Default: NAME in the folder HEP_RAY_DATA, or in data/."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="CPUs to use. Default: all.")] = None,
    overwrite: Overwrite = False,
    settings: Settings = None,
    split: Split = None,
    stratify: Stratify = False,
    listing: Annotated[
        bool, typer.Option("--list", help="List the simulations and their parameters.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Simulate collisions and write them as a dataset, ready for a search.

    Events are made in parallel on Ray: with RAY_ADDRESS set on that cluster, else on this machine. They
    depend on the seed and the parameters alone, not on the machine or the number of workers. After an interruption, the
    same command goes on with what is missing. Needs Pythia 8: pip install 'hep-ray[sim]'.

    Example: hep-ray data simulate mbh_sph --events 6000 --seed 1 --out data/mbh_sph

    Images of reconstructed objects in place of towers and tracks: add --set images=objects
    """
    from hep_ray.plugins import import_named
    from hep_ray.simulate import SIMULATIONS

    import_named(plugin or ())
    if listing:
        for known in SIMULATIONS:
            _describe(SIMULATIONS[known])
        return
    if name is None:
        raise InvalidConfig(f"simulate needs the name of a simulation; known: {', '.join(SIMULATIONS)}")

    from hep_ray.simulate.run import simulate as run

    folder = out or Path(os.environ.get("HEP_RAY_DATA") or "data") / name
    words = settings or []
    try:
        manifest = run(
            name,
            events,
            seed,
            folder,
            workers=workers,
            overwrite=overwrite,
            settings=parse_settings(words),
            rule=split_rule(split, None, stratified=stratify),
            progress=True,
        )
    except Interrupted as exc:
        again = [word for setting in words for word in ("--set", setting)]
        again += [word for module in plugin or () for word in ("--plugin", module)]
        again += ["--overwrite"] * overwrite + ["--stratify"] * stratify
        again = ["hep-ray", "data", "simulate", name, *again]
        command = typed(*again, events=events, seed=seed, out=folder, split=split, workers=workers)
        raise Interrupted(f"{exc}: {command}") from None
    print_dataset(manifest, folder)


def _describe(entry: Simulation) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{entry.name}[/bold]  {entry.summary}", highlight=False)
    for class_name in entry.schema.classes:
        meaning = entry.schema.class_meaning.get(class_name)
        console.print(f"  {class_name}" + (f": {meaning}" if meaning else ""), highlight=False)
    table = Table("--set KEY", "default")
    for key, field in entry.config.model_fields.items():
        table.add_row(key, str(field.default))
    console.print(table)
