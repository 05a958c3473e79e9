"""`hep-ray`: data in, searches looked at. Searches themselves are scripts: `python searches/NAME.py --help`."""

from __future__ import annotations

from typing import Annotated

import typer

import hep_ray
from hep_ray.bundle.cli import bundle
from hep_ray.components import show as components
from hep_ray.confirm.cli import confirm, folds, refit
from hep_ray.console import run_app
from hep_ray.conversion.cli import app as data_app
from hep_ray.dataset.show import show_command
from hep_ray.doctor.cli import doctor
from hep_ray.new import new
from hep_ray.predict.cli import predict
from hep_ray.promote.cli import promote
from hep_ray.report.cli import report
from hep_ray.search.audit import audit, track
from hep_ray.side_by_side import compare_command
from hep_ray.simulate.cli import simulate
from hep_ray.tracking.views import ui

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Find, trust and hand on particle-physics classifiers.\n\n"
    "First data: `hep-ray data simulate mbh_sph --events 6000 --out data/mbh_sph` or `hep-ray data convert`. "
    "Then a search: `python searches/cnn_loss.py`. Then look: `hep-ray ui`. "
    "Is the gain real? `hep-ray confirm cnn_loss`. Hand it on: `hep-ray promote cnn_loss`, "
    "then `hep-ray predict models:/mbh_sph@champion INPUT --out scores`.",
    rich_markup_mode="markdown",
)
data_app.command("simulate")(simulate)
data_app.command("show")(show_command)
app.command("new")(new)
app.command("confirm")(confirm)
app.command("folds")(folds)
app.command("refit")(refit)
app.command("compare")(compare_command)
app.command("report")(report)
app.command("components")(components)
app.command("doctor")(doctor)
app.command("audit")(audit)
app.command("promote")(promote)
app.command("predict")(predict)
app.command("bundle")(bundle)
app.command("track")(track)
app.command("ui")(ui)
app.add_typer(data_app, name="data", help="Convert, simulate, check and show datasets.")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hep_ray {hep_ray.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, expose_value=False, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    run_app(app, prog="hep-ray")
