"""`hep-ray data`: what a person and a program see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from hep_ray.data.cli import app


@pytest.mark.parametrize(
    ("pixels", "step"), [(26, "python searches/cnn_loss.py --data"), (4, "hep-ray data show")]
)
def test_convert_ends_with_a_table_and_the_next_command(pixels: int, step: str, tmp_path: Path) -> None:
    for offset, name in enumerate(("a", "b")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for number in range(40):
                file[f"e{number}/data"] = np.full((pixels, pixels, 3), number + offset / 2, dtype=np.float32)
    out = tmp_path / "d"
    arguments = ["convert", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "--reader", "hvl"]
    result = CliRunner().invoke(app, [*arguments, "--classes", "bg,sig", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"{step} {out}" in result.stdout
    assert (out / "manifest.json").is_file()


def test_check_prints_json_and_exits_by_what_it_found(make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset(60)
    sound = CliRunner().invoke(app, ["check", str(folder), "--json"])
    assert sound.exit_code == 0
    assert json.loads(sound.stdout)["problems"] == []
    (folder / "train-00000.parquet").unlink()
    spoilt = CliRunner().invoke(app, ["check", str(folder), "--json"])
    assert spoilt.exit_code == 1
    assert json.loads(spoilt.stdout)["problems"] == ["train-00000.parquet is missing"]
    readable = CliRunner().invoke(app, ["check", str(folder)])
    assert readable.exit_code == 1
    assert "problem: train-00000.parquet is missing" in readable.stdout
