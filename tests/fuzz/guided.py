"""Coverage-guided fuzzing of one parser with atheris, which is no dependency of hep_ray: `pip install atheris` first.

    python tests/fuzz/guided.py expressions -max_total_time=60

What follows the target's name goes to libFuzzer. It stops at the first exception that is no `HepRayError`.
"""

import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["hep_ray"]):
    from targets import TARGETS

    from hep_ray.errors import HepRayError


def main() -> None:
    """Fuzz the target that the command line names, beginning with its well-formed bytes."""
    target, make = TARGETS[sys.argv[1]]
    work = Path(tempfile.mkdtemp())
    (work / "seeds").mkdir()
    (work / "corpus").mkdir()
    for number, content in enumerate(make(work / "seeds")):
        (work / "corpus" / str(number)).write_bytes(content)
    folder = work / "input"
    warnings.simplefilter("ignore")

    def one(content: bytes) -> None:
        folder.mkdir()
        try:
            target(folder, content)
        except HepRayError:
            pass
        finally:
            shutil.rmtree(folder)

    atheris.Setup([sys.argv[0], str(work / "corpus"), *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
