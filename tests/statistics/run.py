"""Print what simulations say of the platform's own statistics, one JSON line each.

    python -m tests.statistics.run [--only gate_false_alarms,diverged_share]

Each line states what was simulated, what is asked for and what was measured. The same simulations, longer, are tests
marked slow.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import tests.statistics


def simulations() -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
    """Every simulation of the modules beside this one, each of which holds a dict `SIMULATIONS`."""
    found: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {}
    for module in sorted(pkgutil.iter_modules(tests.statistics.__path__), key=lambda module: module.name):
        if module.name != "run" and not module.name.startswith("test_"):
            found |= importlib.import_module(f"tests.statistics.{module.name}").SIMULATIONS
    return found


def main() -> None:
    """Run the simulations that are asked for, all unless told otherwise."""
    known = simulations()
    parser = argparse.ArgumentParser(prog="make statistics", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", default=",".join(known), help="names, comma-separated (default: %(default)s)"
    )
    names = parser.parse_args().only.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown simulation {unknown[0]!r}; there are: {', '.join(known)}")
    for name in names:
        for line in known[name]():
            print(json.dumps({"what": name, **line}), flush=True)


if __name__ == "__main__":
    main()
