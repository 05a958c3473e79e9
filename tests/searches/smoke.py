"""Runs every search in `searches/` with its preset `smoke` to the end, on tiny simulated datasets and on real files.

    python tests/searches/smoke.py [--data FOLDER] [NAME …]

The datasets are simulated once, into data/smoke unless a folder is given. Real files, of HEP_RAY_TEST_DATA or of
../shared/data, are converted beside them, with small train and validation splits; where one is absent, its runs
are left out, and it is named. Searches are processes of their own on one Ray, that of RAY_ADDRESS or one started here.
What they write goes into a temporary folder, which stays where one of them fails or a trial does: there it stops.
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
from hep_ray.search.state import SearchState

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
REAL = Path(os.environ.get("HEP_RAY_TEST_DATA", REPOSITORY.parent / "shared/data"))
FEW = ("--split", "6/4/90")
CMS = ("{real}/cms_jet_images/jet_images.h5", "--schema", "cms_jet_images", *FEW)
ALICE = ("Electrons", "Pions", "Kaons", "Protons")
FILES = {
    "uci_susy": ("{real}/susy_uci/SUSY_1K.csv", "--schema", "uci_susy"),
    "uci_susy_text": ("{real}/susy_uci/X_train_5000.txt", "--schema", "uci_susy_text", *FEW),
    "cms_jet_images": CMS,
    "cms_jet_images_balanced": (*CMS, "--balance"),
    "alice_pid": (
        *(f"{name.lower()[:-1]}={{real}}/alice_pid/{name}.root" for name in ALICE),
        *("--schema", "alice_pid", "--drop-duplicates", "--split", "0.4/0.2/99.4"),
    ),
    "thesis_png": ("{real}/thesis_png", "--schema", "thesis_png", "--split", "50/30/20"),
    "black_holes": (
        *(f"m{mass}={{real}}/black_holes/BH_n4_M{mass}_res50_3000_events.h5" for mass in (8, 10, 12)),
        *("--schema", "hvl", "--classes", "m8,m10,m12", "--split", "2/1/97"),
    ),
}
"""Dataset of real events → words of `hep-ray data convert`; `{real}` is the folder of the files."""
ON_FILES = {
    "particle_id": ("alice_pid",),
    "susy": ("uci_susy", "uci_susy_text"),
    "jet_images": ("cms_jet_images", "cms_jet_images_balanced"),
    "cnn_loss": ("thesis_png", "black_holes"),
    **dict.fromkeys(("resnet_loss", "architectures", "outlook", "pretrained"), ("thesis_png",)),
}
"""Search → the datasets of real events that have the columns which it reads."""


def absent_files(dataset: str) -> list[str]:
    """Return the real files of a dataset that are not there."""
    named = [word.partition("{real}/")[2] for word in FILES[dataset] if "{real}/" in word]
    return [name for name in named if not (REAL / name).exists()]


def make_dataset(task: str, folder: Path) -> None:
    """Simulate the events of a task, or convert those of its simulation, where they are not there."""
    out = folder / task
    if (out / "manifest.json").is_file():
        return
    if task in FILES:
        words = ["convert", *(word.format(real=REAL) for word in FILES[task])]
    elif task in MADE_FROM:
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
    print(f"{what:44}{time.perf_counter() - start:6.0f} s", flush=True)
    if done.returncode:
        print(*log.read_text(encoding="utf-8").splitlines()[-30:], sep="\n")
        print(f"\n{what} failed (exit code {done.returncode}); all it wrote: {log}")
        sys.exit(done.returncode)


def search(name: str, data: Path, storage: Path) -> int:
    """Run a search's preset `smoke` on a dataset and return its trials, each of which has completed or was stopped."""
    words = ["--preset", "smoke", "--data", str(data), "--storage", str(storage)]
    run(f"{name} {data.name}", [sys.executable, str(SCRIPTS[name]), *words], storage / f"{name}.log")
    if not (storage / name / "leaderboard.json").is_file():
        sys.exit(f"{name} ended without a leaderboard; what it wrote: {storage}")
    trials = SearchState.read(storage / name).trials
    if failed := [trial for trial, state in trials.items() if state.status not in {"completed", "stopped"}]:
        sys.exit(f"{name} on {data.name}: {', '.join(failed)} did not complete; what it wrote: {storage}")
    return len(trials)


def main() -> None:
    """Make the datasets, run the searches."""
    parser = argparse.ArgumentParser(
        description="Run searches with their preset smoke on simulated and real events."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a search; all unless given")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data/smoke", help="folder of the datasets")
    given = parser.parse_args()
    start = time.perf_counter()
    connect()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    storage = Path(tempfile.mkdtemp(prefix="hep_ray-smoke-"))
    ran = skipped = trials = real = 0
    for name in given.names or SCRIPTS:
        task = load_search(name, REPOSITORY / "searches").task
        datasets = [task] if task in {*EVENTS, *MADE_FROM} else []
        for dataset in ON_FILES.get(name, ()) if REAL.is_dir() else ():
            if absent := absent_files(dataset):
                print(f"{f'{name} {dataset}':44}left out: not in {REAL}: {', '.join(absent)}")
            else:
                datasets.append(dataset)
        if not datasets:
            print(f"{name:44}skipped: its events ({task}) are not simulated, and no real ones are in {REAL}")
            skipped += 1
            continue
        for dataset in datasets:
            make_dataset(dataset, given.data.absolute())
            trials += search(name, given.data.absolute() / dataset, storage / dataset)
        ran += 1
        real += sum(dataset in FILES for dataset in datasets)
    shutil.rmtree(storage)
    minutes = (time.perf_counter() - start) / 60
    print(
        f"{ran} searches ran to the end in {minutes:.1f} minutes, {skipped} skipped; {real} runs on real events; "
        f"{trials} trials, none failed; {os.cpu_count()} CPUs"
    )


if __name__ == "__main__":
    main()
