"""Two ranks whose network file system shows them different files: they go on from one checkpoint, or none does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hep_ray.errors import CorruptCheckpoint
from hep_ray.training.checkpoint import LAST, save_checkpoint, seen_by_all
from hep_ray.training.distributed import ALONE

RANK = """
import sys, threading
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from hep_ray.errors import CorruptCheckpoint
from hep_ray.training.checkpoint import LAST, load_checkpoint, save_checkpoint, seen_by_all
from hep_ray.training.distributed import Communicator

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
meet, wait = f"file://{folder}/meet", timedelta(seconds=60)
dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2, timeout=wait)
ranks = Communicator.of_process_group()

def seen(case, patience):
    path = folder / str(rank) / case / LAST
    try:
        there = seen_by_all(path, ranks, patience)
        return load_checkpoint(path)["epoch"] if there else "none"
    except CorruptCheckpoint as fault:
        return "refused for rank 1" if "for rank 1 than for rank 0" in str(fault) else str(fault)

if rank == 1:  # what the other node wrote shows here after a while
    late = threading.Timer(1.0, save_checkpoint, (folder / "1" / "late" / LAST, {"epoch": 2}))
    late.start()
print(seen("same", 5), seen("late", 30), seen("stale", 0.6), seen("absent", 0.6), seen("new", 5), sep=", ")
"""


@pytest.mark.slow
@pytest.mark.ci
def test_ranks_go_on_from_the_checkpoint_that_rank_0_sees_or_not_at_all(tmp_path: Path) -> None:
    for rank, cases in enumerate(
        [
            {"same": 3, "late": 2, "stale": 2, "absent": 2},
            {"same": 3, "late": 1, "stale": 1},
        ]
    ):
        for case, epoch in cases.items():
            save_checkpoint(tmp_path / str(rank) / case / LAST, {"epoch": epoch})
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    told = [process.communicate(timeout=120) for process in ranks]
    expected = "3, 2, refused for rank 1, refused for rank 1, none\n"
    assert [out for out, _ in told] == [expected, expected], told


def test_alone_there_is_a_checkpoint_or_none_and_a_torn_one_is_refused_when_it_is_read(
    tmp_path: Path,
) -> None:
    from hep_ray.training.checkpoint import load_checkpoint

    path = tmp_path / LAST
    assert not seen_by_all(path, ALONE)
    save_checkpoint(path, {"weights": torch.ones(3)})
    assert seen_by_all(path, ALONE)
    path.write_bytes(path.read_bytes()[:100])
    assert seen_by_all(path, ALONE)
    with pytest.raises(CorruptCheckpoint):
        load_checkpoint(path)
