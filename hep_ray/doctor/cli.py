"""`hep-ray doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hep_ray.flags import (
    CPUS_PER_WORKER,
    GPUS_PER_WORKER,
    IN_STORAGE,
    STORAGE,
    WORKERS_PER_TRIAL,
    AsJson,
    Storage,
)


def doctor(
    storage: Storage = STORAGE,
    data: Annotated[Path | None, typer.Option(help="A dataset folder that every node must read.")] = None,
    tracking_uri: Annotated[str | None, IN_STORAGE] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of the search to come.")] = 64,
    workers_per_trial: Annotated[int, WORKERS_PER_TRIAL] = 1,
    cpus_per_trial: Annotated[int, CPUS_PER_WORKER] = 1,
    gpus_per_trial: Annotated[float, GPUS_PER_WORKER] = 0.0,
    code: Annotated[
        str | None,
        typer.Option(help="What --print-code says on the laptop: the nodes must run the same hep_ray."),
    ] = None,
    print_code: Annotated[
        bool, typer.Option("--print-code", help="Print the hash of the hep_ray installed here, and end.")
    ] = False,
    as_json: AsJson = False,
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
