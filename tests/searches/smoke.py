"""Runs every search in `searches/` with its preset `smoke` to the end, on tiny simulated datasets.

    python tests/searches/smoke.py [--data FOLDER] [NAME …]

The datasets are simulated once, into data/smoke unless a folder is given. Searches are processes of their own on one
Ray, that of RAY_ADDRESS or one started here. What they write goes into a temporary folder, which stays where one of
them fails: there it stops, with the exit code of what failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ray

from hep_ray.cluster import connect
from hep_ray.search.find import load_search

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in sorted((REPOSITORY / "searches").glob("*.py"))}
HEP_RAY = str(Path(sys.executable).with_name("hep-ray"))
EVENTS = {
    "mbh_sph": 120,
    "six_hypotheses": 180,
    "electron_id": 1200,
    "jet_images": 120,
    "jet_clouds": 120,
    "susy": 120,
    "atlas_objects": 200,
}
"""Simulation → events, enough for every class to be in every split."""
BINARY = "electron_id_binary"
CENTRAL = "electron_central"
MADE_FROM = {
    BINARY: ("electron_id", "--classes", "background=others,electron"),
    CENTRAL: (BINARY, "--train-where", "abs(eta) < 1.15"),
}
"""Task of a dataset that is converted → that of the one it is made from, and how."""


def make_dataset(task: str, folder: Path) -> None:
    """Simulate the events of a task, or convert those of its simulation, where they are not there."""
    out = folder / task
    if (out / "manifest.json").is_file():
        return
    if task in MADE_FROM:
        origin, *how = MADE_FROM[task]
        make_dataset(origin, folder)
        words = ["convert", str(folder / origin), "--reader", "parquet", "--task", task, *how]
    else:
        words = ["simulate", task, "--events", str(EVENTS[task]), "--seed", "1"]
    run(f"events of {task}", [HEP_RAY, "data", *words, "--out", str(out)], folder / f"{task}.log")


def run(what: str, command: Sequence[str], log: Path) -> None:
    """Run a command, print its name and its seconds; when it fails, the end of what it wrote, and stop."""
    start = time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY, check=False)
    print(f"{what:28}{time.perf_counter() - start:6.0f} s", flush=True)
    if done.returncode:
        print(*log.read_text(encoding="utf-8").splitlines()[-30:], sep="\n")
        print(f"\n{what} failed (exit code {done.returncode}); all it wrote: {log}")
        sys.exit(done.returncode)


def main() -> None:
    """Make the datasets, run the searches."""
    parser = argparse.ArgumentParser(description="Run searches with their preset smoke on simulated events.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a search; all unless given")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data/smoke", help="folder of the datasets")
    given = parser.parse_args()
    start = time.perf_counter()
    connect()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    storage = Path(tempfile.mkdtemp(prefix="hep_ray-smoke-"))
    ran = skipped = 0
    for name in given.names or SCRIPTS:
        task = load_search(name, REPOSITORY / "searches").task
        if task not in {*EVENTS, *MADE_FROM}:
            print(f"{name:28}skipped: its events ({task}) are not simulated")
            skipped += 1
            continue
        make_dataset(task, given.data.absolute())
        words = ["--preset", "smoke", "--data", str(given.data.absolute() / task), "--storage", str(storage)]
        run(name, [sys.executable, str(SCRIPTS[name]), *words], storage / f"{name}.log")
        if not (storage / name / "leaderboard.json").is_file():
            sys.exit(f"{name} ended without a leaderboard; what it wrote: {storage}")
        ran += 1
    shutil.rmtree(storage)
    minutes = (time.perf_counter() - start) / 60
    print(f"{ran} searches ran to the end in {minutes:.1f} minutes, {skipped} skipped; {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
