"""Every real file at hand converts by one command and is sound, or is refused for a true reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hep_ray.conversion.convert import convert
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import InvalidConfig
from tests.facts import raises

ALICE = [f"alice_pid/{name}.root" for name in ("Electrons", "Pions", "Kaons", "Protons")]


@pytest.mark.parametrize(
    ("schema", "files", "classes", "counts"),
    [
        (
            "hvl",
            [f"black_holes/BH_n4_M{mass}_res50_3000_events.h5" for mass in (8, 10, 12)],
            ["m8", "m10", "m12"],
            {"m8": 3000, "m10": 3000, "m12": 3000},
        ),
        ("cms_jet_images", ["cms_jet_images/jet_images.h5"], None, {"qcd": 3305, "top": 1722}),
        ("uci_susy_text", ["susy_uci/X_train_5000.txt"], None, {"background": 2500, "susy": 2500}),
        ("thesis_png", ["thesis_png"], None, {"sphaleron": 100, "black_hole": 100}),
        (
            "bh_event_variables",
            [f"black_holes/event_variables/{name}.csv" for name in ("SPH_THR9_NSUBPALL", "BH_n4_M10")],
            None,
            # The file of black holes has 9,985 rows; its row numbers have gaps.
            {"sphaleron": 10_000, "black_hole": 9985},
        ),
    ],
)
def test_real_files_become_sound_datasets(
    schema: str,
    files: Sequence[str],
    classes: Sequence[str] | None,
    counts: dict[str, int],
    real_data: Path,
    tmp_path: Path,
) -> None:
    manifest = convert([real_data / file for file in files], None, classes, tmp_path / "d", schema=schema)
    assert manifest.class_counts() == counts
    assert check(tmp_path / "d").problems == ()


def test_text_sorted_by_class_is_shuffled_across_shards(real_data: Path, tmp_path: Path) -> None:
    labels = (real_data / "susy_uci/Y_train_5000.txt").read_text().split()
    assert labels == sorted(labels)
    convert([real_data / "susy_uci/X_train_5000.txt"], None, None, tmp_path / "d", schema="uci_susy_text")
    for shard in Dataset.open(tmp_path / "d").manifest.shards:
        background, susy = shard.classes.values()
        # 719 events of a fair mixture or more: within 4.5 standard deviations of one half.
        assert abs(background - susy) < 4.5 * (background + susy) ** 0.5


@pytest.mark.parametrize("name", ["uproot-Zmumu", "uproot-HZZ", "nanoAOD_2015_CMS_Open_Data_ttbar"])
def test_a_file_without_classes_is_refused(name: str, real_data: Path, tmp_path: Path) -> None:
    with raises(InvalidConfig, "--classes", "CLASS=PATH"):
        convert([real_data / f"root_files/{name}.root"], "root", None, tmp_path / "d")


@pytest.mark.slow
def test_duplicates_of_alice_tracks_are_found_and_dropped(real_data: Path, tmp_path: Path) -> None:
    files = [real_data / file for file in ALICE]
    convert(files, None, None, tmp_path / "all", schema="alice_pid")
    problems = check(tmp_path / "all").problems
    # The distinct rows of the four files were counted with pandas: 800,000 − 731,405 are repetitions.
    assert any("68595 events repeat" in problem for problem in problems)
    assert any("are in 'train' and, with the same content, in 'test'" in problem for problem in problems)
    manifest = convert(files, None, None, tmp_path / "some", schema="alice_pid", drop_duplicates=True)
    assert manifest.class_counts() == {
        "electron": 198_602,
        "pion": 199_250,
        "kaon": 137_682,
        "proton": 195_871,
    }
    assert check(tmp_path / "some").problems == ()
