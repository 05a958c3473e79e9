"""`hep-ray doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hep_ray.flags import STORAGE, Storage


def doctor(
    storage: Storage = STORAGE,
    data: Annotated[Path | None, typer.Option(help="A dataset folder that every node must read.")] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_TRACKING_URI",
            help="MLflow server or database [default: SQLite in the storage].",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of the search to come.")] = 64,
    workers_per_trial: Annotated[int, typer.Option(min=1, help="Processes that train a trial together.")] = 1,
    cpus_per_trial: Annotated[
        int, typer.Option("--cpus-per-worker", "--cpus-per-trial", help="Cores of each worker of a trial.")
    ] = 1,
    gpus_per_trial: Annotated[
        float, typer.Option("--gpus-per-worker", "--gpus-per-trial", help="GPUs of each worker of a trial.")
    ] = 0.0,
    code: Annotated[
        str | None,
        typer.Option(help="What --print-code says on the laptop: the nodes must run the same hep_ray."),
    ] = None,
    print_code: Annotated[
        bool, typer.Option("--print-code", help="Print the hash of the hep_ray installed here, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Check this machine, or the cluster that it belongs to, before a search: exit code 1 when something fails.

    Versions, code, cores, GPUs, authentication, clocks, shared storage, MLflow and the resource plan; a failed line
    says what to do.

    On a cluster: `ray exec clusters/gpu.yaml 'hep-ray doctor --gpus-per-trial 1'`
    """
    from hep_ray.doctor.examine import Wanted, examine
    from hep_ray.tracking.provenance import code_hash

    if print_code:
        typer.echo(code_hash())
        return
    found = examine(
        Wanted(storage, data, tracking_uri, trials, cpus_per_trial, gpus_per_trial, code, workers_per_trial)
    )
    failed = [check for check in found if not check.ok]
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps({"ok": not failed, "checks": [asdict(check) for check in found]}, indent=2))
    else:
        for check in found:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<14}  {check.found}")
            if check.advice:
                typer.echo(f"      {'':<14}  → {check.advice}")
        typer.echo(
            f"{len(failed)} of {len(found)} checks failed." if failed else "Everything is ready for a search."
        )
    raise typer.Exit(1 if failed else 0)
