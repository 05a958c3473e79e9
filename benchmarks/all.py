"""Runs the benchmarks one after the other, prints their lines as they come, and all of them side by side at the end.

    python benchmarks/all.py [NAME …]     (make bench)

Of one benchmark, `python benchmarks/NAME.py --help` tells what it measures and its flags. One that fails is told at the
end, and the others are run. Nothing else should run on the machine meanwhile: it takes some hours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PROGRAMS: tuple[tuple[str, ...], ...] = (
    ("baselines",),
    ("trial_overhead",),
    ("many_trials",),
    ("many_nodes",),
    ("tracking", "--trials", "2000", "--epochs", "50", "--page"),
    ("epoch_overhead",),
    ("fused_trials",),
    ("fused_trials", "--confirm", "--search"),
    ("ddp_scaling",),
    ("ingest",),
    ("ingest", "--growth", "100000", "1000000", "3000000", "10000000"),
    ("ingest_to_batches",),
    ("sparse_images",),
    ("memory",),
    ("predict",),
    ("scale_model",),
    ("search_cost",),
    ("search_efficiency", "--quick"),
    ("repeats",),
    ("shift_test",),
)
"""Script and flags of each. `gpu` has a target of its own (make bench-gpu), and so have the rivals (make rival)."""
FIGURES = ("ours", "peer", "ratio", "peer_is")


def lines(program: tuple[str, ...]) -> Iterator[dict[str, Any] | str]:
    """Yield what a benchmark prints: its lines of JSON, and as text what is none.

    Raises:
        RuntimeError: it ended with an error.
    """
    script, *flags = program
    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py")), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            yield json.loads(line) if line.startswith("{") else line.rstrip("\n")
    if running.returncode:
        raise RuntimeError(f"{' '.join(program)} ended with {running.returncode}")


def side_by_side(found: list[dict[str, Any]]) -> Table:
    """Return all lines that have a ratio as one table."""
    table = Table(box=SIMPLE_HEAD, title="A ratio above 1 means that hep_ray is better", title_justify="left")
    for name in ("what", *FIGURES):
        table.add_column(name.replace("_", " "), overflow="fold")
    for line in found:
        if "ratio" in line:
            table.add_row(str(line["what"]), *(str(line.get(name, "–")) for name in FIGURES))
    return table


def main() -> int:
    """Run what is named; return 1 where anything failed."""
    known = sorted({script for script, *_ in PROGRAMS})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all unless given")
    names = parser.parse_args().names
    if unknown := set(names) - set(known):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    console, found, failed = Console(soft_wrap=True), [], []
    for program in PROGRAMS:
        if names and program[0] not in names:
            continue
        try:
            for line in lines(program):
                print(line if isinstance(line, str) else json.dumps(line), flush=True)
                found += [line] if isinstance(line, dict) else []
        except RuntimeError as exc:
            failed.append(str(exc))
    console.print(side_by_side(found))
    for words in failed:
        console.print(f"failed: {words}", style="bold red")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
