"""Files as Delphes writes them: images beside histograms filled by hand, objects, preselection, bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.conversion.convert import convert
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import HepRayError, InvalidEvents, UnreadableInput
from tests.conversion.delphes_files import write_branches
from tests.facts import raises

EVENTS = 24


def delphes(
    path: Path, seed: int, without: tuple[str, ...] = (), **changed: Any
) -> dict[str, list[np.ndarray]]:
    """Write a file of random events; return its branches, one array per event."""
    rng = np.random.default_rng(seed)
    branches: dict[str, list[np.ndarray]] = {"Event.Number": [np.array([1000 + n]) for n in range(EVENTS)]}

    def add(name: str, most: int, **columns: tuple[float, float]) -> None:
        counts = rng.integers(1, most, EVENTS)
        for column, (low, high) in columns.items():
            branches[f"{name}.{column}"] = [
                rng.uniform(low, high, count).astype(np.float32) for count in counts
            ]

    angles = {"Eta": (-5.5, 5.5), "Phi": (-math.pi, math.pi)}
    add("Tower", 60, ET=(0, 50), Eem=(0, 80), Ehad=(0, 80), **angles)
    add("Track", 40, PT=(0, 90), **{**angles, "Eta": (-2.5, 2.5)})
    add("Jet", 8, PT=(20, 3000), EhadOverEem=(0, 5), **angles)
    for name in ("Electron", "Muon", "Photon"):
        add(name, 3, PT=(10, 900), **angles)
    branches["MissingET.MET"] = [rng.uniform(0, 500, 1).astype(np.float32) for _ in range(EVENTS)]
    branches |= changed
    kept = {name: values for name, values in branches.items() if name.split(".")[0] not in without}
    write_branches(path, kept)
    return branches


def read(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Event id → columns."""
    import pyarrow.parquet as pq

    manifest = Manifest.load(folder)
    found = {}
    for shard in manifest.shards:
        events = manifest.event_schema.decode(
            pq.read_table(folder / shard.file).combine_chunks().to_batches()[0]
        )
        for row, event_id in enumerate(events["event_id"]):
            found[event_id] = {name: values[row] for name, values in events.items()}
    return found


def converted(tmp_path: Path, schema: str, **choices: Any) -> dict[str, dict[str, np.ndarray]]:
    files = [f"{name}={tmp_path / name}.root" for name in ("sph", "bh")]
    convert(files, None, None, tmp_path / "out", schema=schema, **choices)
    return read(tmp_path / "out")


def test_an_image_is_the_histogram_filled_by_hand(tmp_path: Path) -> None:
    made = {name: delphes(tmp_path / f"{name}.root", seed) for seed, name in enumerate(("sph", "bh"))}
    found = converted(tmp_path, "delphes_images")
    assert len(found) == 2 * EVENTS
    edges = [np.linspace(-math.pi, math.pi, 51), np.linspace(-5, 5, 51)]
    for name, branches in made.items():
        for event in range(EVENTS):
            image = found[f"{name}/{name}/{1000 + event}"]["image"]
            for channel, (kind, weight) in enumerate((("Tower", "Eem"), ("Tower", "Ehad"), ("Track", "PT"))):
                phi, eta, weights = (
                    branches[f"{kind}.{column}"][event].astype(np.float64)
                    for column in ("Phi", "Eta", weight)
                )
                by_hand = np.histogram2d(phi, eta, bins=edges, weights=weights)[0]
                np.testing.assert_allclose(image[..., channel], by_hand, rtol=1e-6, atol=1e-5)


def test_objects_their_variables_and_a_preselection(tmp_path: Path) -> None:
    made = {name: delphes(tmp_path / f"{name}.root", seed) for seed, name in enumerate(("sph", "bh"))}
    found = converted(tmp_path, "delphes_objects", selection="n_objects_70 >= 5 and st >= 3000")
    kept = 0
    for name, branches in made.items():
        for event in range(EVENTS):
            pt, eta = (
                np.concatenate(
                    [branches[f"{kind}.{column}"][event] for kind in ("Jet", "Electron", "Muon", "Photon")]
                )
                for column in ("PT", "Eta")
            )
            met = branches["MissingET.MET"][event][0]
            hard = pt[(pt > 70) & (np.abs(eta) < 2.4)]
            st = hard.sum() + (met if met > 70 else 0)
            passes = len(hard) >= 5 and st >= 3000
            kept += passes
            assert (f"{name}/{name}/{1000 + event}" in found) == passes
            if passes:
                row = found[f"{name}/{name}/{1000 + event}"]
                assert row["st"] == pytest.approx(st, rel=1e-5)
                assert row["ht"] == pytest.approx(pt.sum() + met, rel=1e-5)
                np.testing.assert_allclose(row["objects"][: len(pt), 0], np.sort(pt)[::-1], rtol=1e-6)
                assert not row["objects"][len(pt) :].any()
                muon = row["objects"][row["objects"][:, 3] == 2]
                assert not muon[:, 4:].any()
    assert 2 <= kept < 2 * EVENTS


@pytest.mark.parametrize(
    ("changes", "error", "facts"),
    [
        ({"without": ("Tower",)}, UnreadableInput, ["Tower.Eem", "Track", "Jet"]),
        ({"without": ("Track",)}, UnreadableInput, ["Track.PT", "Tower"]),
        (
            {"Tower.Phi": [np.full(2, 4.0)] * EVENTS, "Tower.Eta": [np.zeros(2)] * EVENTS},
            InvalidEvents,
            ["Tower.Phi", 4],
        ),
        ({"Track.PT": [np.array([np.nan])] * EVENTS}, InvalidEvents, ["Track.PT", "nan"]),
    ],
)
def test_bad_files_are_refused_before_anything_is_written(tmp_path: Path, changes, error, facts) -> None:
    columns = {name: values for name, values in changes.items() if "." in name}
    for name in {key.split(".")[0] for key in columns}:
        counts = [len(one) for one in next(values for key, values in columns.items() if key.startswith(name))]
        for column in {"Tower": ("ET", "Eta", "Phi", "Eem", "Ehad"), "Track": ("PT", "Eta", "Phi")}[name]:
            columns.setdefault(f"{name}.{column}", [np.ones(count, dtype=np.float32) for count in counts])
    for name in ("sph", "bh"):
        delphes(tmp_path / f"{name}.root", 1, changes.get("without", ()), **columns)
    with raises(error, *facts):
        converted(tmp_path, "delphes_images")
    assert not (tmp_path / "out").exists()


def beyond(tmp_path: Path, empty: set[int], **changed: Any) -> None:
    """Write files of one tower and one track per event, at η = 5.2 in events of these rows, at 0.1 in others."""
    eta = [np.full(1, 5.2 if row in empty else 0.1) for row in range(EVENTS)]
    for column in ("Tower.ET", "Tower.Eem", "Tower.Ehad", "Tower.Phi", "Track.PT", "Track.Phi"):
        changed[column] = [np.ones(1)] * EVENTS
    for name in ("sph", "bh"):
        delphes(tmp_path / f"{name}.root", 1, **{"Tower.Eta": eta, "Track.Eta": eta}, **changed)


def test_an_event_with_nothing_inside_the_image_is_refused_where_it_is_kept(tmp_path: Path) -> None:
    beyond(tmp_path, {3, 5})
    with raises(InvalidEvents, "|η|", "entry 3", "sph.root", 'all(all(all(isfinite(image))))"'):
        converted(tmp_path, "delphes_images")
    assert not (tmp_path / "out").exists()
    found = converted(tmp_path, "delphes_images", selection="all(all(all(isfinite(image))))")
    assert len(found) == 2 * (EVENTS - 2)
    assert "sph/sph/1003" not in found


def test_a_selection_that_drops_empty_images_keeps_the_file(tmp_path: Path) -> None:
    # Nine jets of 900 GeV in every event but the third, which has at most two electrons, muons and photons each.
    hard = [np.full(0 if row == 3 else 9, 900.0) for row in range(EVENTS)]
    flat = [0 * values for values in hard]
    beyond(tmp_path, {3}, **{"Jet.PT": hard, "Jet.EhadOverEem": flat, "Jet.Eta": flat, "Jet.Phi": flat})
    found = converted(tmp_path, "delphes_images", selection="n_objects_70 >= 9")
    assert set(found) == {
        f"{name}/{name}/{1000 + row}" for name in ("sph", "bh") for row in range(EVENTS) if row != 3
    }


def test_an_empty_image_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    beyond(tmp_path, {3})
    found = converted(tmp_path, "delphes_images", options={"allow_empty": True})
    assert not found["bh/bh/1003"]["image"].any()
    assert found["bh/bh/1004"]["image"].sum() == 3  # 1 GeV in each channel


def test_numbers_that_repeat_are_told_apart_by_their_rows(tmp_path: Path) -> None:
    for name in ("sph", "bh"):
        delphes(tmp_path / f"{name}.root", 1, **{"Event.Number": [np.array([n // 2]) for n in range(EVENTS)]})
    assert "bh/bh/3/7" in converted(tmp_path, "delphes_images")


def test_a_split_without_events_of_a_class_is_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("sph", "bh")):
        delphes(tmp_path / f"{name}.root", seed)
    with raises(HepRayError, "val", "no events"):
        converted(
            tmp_path, "delphes_images", rule=SplitRule(train=0.999, val=0.001, test=0), every_class=True
        )
    assert not (tmp_path / "out").exists()
