"""Runs every search in `searches/` with its preset `smoke` to the end, on tiny simulated datasets.

    python tests/searches/smoke.py [FOLDER]

The datasets are simulated once, into FOLDER (data/smoke unless given). What the searches write goes into a temporary
folder, which stays where one of them fails: there it stops, with the exit code of what failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hep_ray.report.study import load_search

REPOSITORY = Path(__file__).parents[2]
HEP_RAY = str(Path(sys.executable).with_name("hep-ray"))
EVENTS = {
    "mbh_sph": 120,
    "six_hypotheses": 180,
    "electron_id": 1200,
    "jet_images": 120,
    "susy": 120,
    "atlas_objects": 200,
}
"""Simulation → events, enough for every class to be in every split."""
CENTRAL = "electron_central"


def make_datasets(folder: Path) -> None:
    """Simulate what is not there."""
    for task, events in EVENTS.items():
        if not (folder / task / "manifest.json").is_file():
            words = ("data", "simulate", task, "--events", str(events), "--seed", "1")
            timed(f"events of {task}", (HEP_RAY, *words, "--out", str(folder / task)), folder / f"{task}.log")
    if not (folder / CENTRAL / "manifest.json").is_file():
        words = ("data", "convert", str(folder / "electron_id"), "--reader", "parquet", "--task", CENTRAL)
        words = (*words, "--train-where", "abs(eta) < 0.65", "--out", str(folder / CENTRAL))
        timed(f"events of {CENTRAL}", (HEP_RAY, *words), folder / f"{CENTRAL}.log")


def timed(what: str, command: Sequence[str], log: Path) -> None:
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
    start = time.perf_counter()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "data/smoke").absolute()
    make_datasets(folder)
    storage = Path(tempfile.mkdtemp(prefix="hep_ray-smoke-"))
    ran = skipped = 0
    for script in sorted((REPOSITORY / "searches").glob("*.py")):
        task = load_search(str(script)).task
        if not (folder / task).is_dir():
            print(f"{script.stem:28}skipped: its events ({task}) are not simulated")
            skipped += 1
            continue
        words = ("--preset", "smoke", "--data", str(folder / task), "--storage", str(storage))
        timed(script.stem, (sys.executable, str(script), *words), storage / f"{script.stem}.log")
        if not (storage / script.stem / "leaderboard.json").is_file():
            sys.exit(f"{script.stem} ended without a leaderboard; it wrote into {storage}")
        ran += 1
    shutil.rmtree(storage)
    minutes = (time.perf_counter() - start) / 60
    print(f"{ran} searches ran to the end in {minutes:.1f} minutes, {skipped} skipped, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
