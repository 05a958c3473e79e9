"""`make fuzz`: every parser against hostile bytes for a set time, in processes with limits on memory and time.

    python tests/fuzz/campaign.py --seconds 60 [--only npz]

Prints, for each target, the inputs tried and the distinct faults: an exception that is no `HepRayError`, more than
`--seconds-each` for one input, or more memory than the limit. Exit code 1 where there are any. Faulty inputs are kept
in the folder `--keep`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
MEMORY = 6 * 2**30
"""Address space of a process, bytes: torch, pyarrow and friends alone reserve about half."""
LONGEST = 10
"""Seconds for one input."""


class Slow(BaseException):
    """One input took too long."""


def attack(name: str, seconds: float, seed: int, keep: Path) -> dict[str, object]:
    """Try one target for a time; faults by the place where they were raised."""
    import pyarrow as pa
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from mutate import inputs
    from targets import TARGETS

    from hep_ray.errors import HepRayError

    target, make = TARGETS[name]
    faults: dict[str, str] = {}
    tried = refused = 0
    work = Path(tempfile.mkdtemp())
    (work / "seeds").mkdir()
    seeds = list(make(work / "seeds"))
    for content in seeds:
        (work / "well").mkdir()
        try:
            target(work / "well", content)  # also imports what it needs, with no clock running
        except HepRayError:
            assert name in UNSOUND, name
        shutil.rmtree(work / "well")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _too_slow)
    pa.set_cpu_count(1)
    warnings.simplefilter("ignore")
    end = time.monotonic() + seconds
    rounds = 0

    def one(content: bytes) -> None:
        nonlocal tried, refused
        if time.monotonic() > end:
            return
        tried += 1
        folder = work / "input"
        folder.mkdir()
        signal.alarm(LONGEST)
        try:
            target(folder, content)
        except HepRayError:
            refused += 1
        except (Exception, Slow) as fault:
            where = traceback.extract_tb(fault.__traceback__)
            ours = [frame for frame in where if "/hep_ray/" in frame.filename]
            line = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
            key = f"{type(fault).__name__} at {line}"
            if key not in faults:
                faults[key] = str(fault)[:200]
                keep.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256(content).hexdigest()[:12]
                (keep / f"{name.replace(' ', '_')}-{digest}").write_bytes(content)
        finally:
            signal.alarm(0)
            shutil.rmtree(folder)

    while time.monotonic() < end:
        rounds += 1
        quick = settings(
            max_examples=500, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        seeded(seed + rounds)(quick(given(inputs(name, seeds))(one)))()
    shutil.rmtree(work)
    return {"target": name, "inputs": tried, "refused": refused, "faults": faults}


UNSOUND = {"expressions", "names and paths", "spaces", "parameters", "manifests"}
"""Targets whose first bytes are not all accepted."""


def _too_slow(*_: object) -> None:
    raise Slow(f"more than {LONGEST} s")


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20, help="for each target")
    parser.add_argument("--only", help="one target")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "hep_ray_fuzz")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = random.randrange(2**31) if given.seed is None else given.seed
    if given.worker:
        print(json.dumps(attack(given.only, given.seconds, seed, given.keep)))
        return
    from targets import TARGETS

    names = [given.only] if given.only else list(TARGETS)
    total = faulty = 0
    for name in names:
        words = [sys.executable, __file__, "--worker", "--only", name, "--seconds", str(given.seconds)]
        words += ["--seed", str(seed), "--keep", str(given.keep)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        try:
            told = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            how = f"the process ended with {done.returncode}: {done.stderr[-500:]}"
            told = {"target": name, "inputs": 0, "refused": 0, "faults": {"crash": how}}
        total += told["inputs"]
        faulty += len(told["faults"])
        print(
            f"{name:<24} {told['inputs']:>8} inputs, {told['refused']:>8} refused, {len(told['faults'])} faults"
        )
        for key, text in told["faults"].items():
            print(f"    {key}: {text}")
    print(f"{total} inputs, {faulty} distinct faults; seed {seed}; faulty inputs in {given.keep}")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
