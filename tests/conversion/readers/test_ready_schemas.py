"""The ready-made schema files, on the data they were made for or on files of the same layout."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot

from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import known_schemas, load_schema

RANDOM = np.random.default_rng(11)
REAL: dict[str, tuple[list[str], dict[str, int]]] = {
    "cms_jet_images": (["cms_jet_images/jet_images.h5"], {"qcd": 3305, "top": 1722}),
    "uci_susy": (["susy_uci/SUSY_1K.csv"], {"background": 553, "susy": 447}),
    "uci_susy_text": (["susy_uci/X_train_5000.txt"], {"background": 2500, "susy": 2500}),
    "lorenzetti": (
        ["lorenzetti/jf17.NTUPLE.root", "lorenzetti/zee.NTUPLE.root"],
        {"jet": 85, "electron": 73},
    ),
    "bh_event_variables": (
        [f"black_holes/event_variables/{name}.csv" for name in ("SPH_THR9_NSUBPALL", "BH_n4_M10")],
        {"sphaleron": 10000, "black_hole": 9985},
    ),
    "thesis_png": (["thesis_png"], {"sphaleron": 100, "black_hole": 100}),
}
"""Inputs and events per class: the sources' own numbers; for the SUSY rows by awk over the first column; for the
Lorenzetti clusters by numpy, 85 and 75 with 100 rings, two of the latter without cl_weta2."""


@pytest.mark.parametrize("name", REAL)
def test_real_data_is_converted(name: str, real_data: Path, tmp_path: Path) -> None:
    inputs, counts = REAL[name]
    manifest = convert([real_data / path for path in inputs], None, None, tmp_path / "d", schema=name)
    assert manifest.class_counts() == counts
    assert manifest.event_schema.task == load_schema(name).task


def test_the_alice_schema_leaves_the_row_number_out(real_data: Path) -> None:
    branches = uproot.open(real_data / "alice_pid" / "Kaons.root")["data"].keys()
    (track,) = load_schema("alice_pid").columns
    assert sorted([*track.sources, "index"]) == sorted(branches)
    assert len(track.element_units) == len(track.sources)


@pytest.mark.parametrize("name", known_schemas())
def test_every_schema_file_is_sound(name: str) -> None:
    schema = load_schema(name)
    assert schema.columns
    assert schema.signal is None or schema.signal in schema.classes
    for column in schema.columns:
        assert len(set(column.sources)) == len(column.sources)


def test_higgs_csv(tmp_path: Path) -> None:
    rows = np.column_stack([np.arange(400) % 2, RANDOM.normal(size=(400, 28))])
    lines = "".join(",".join(f"{value:.18e}" for value in row) + "\n" for row in rows)
    (tmp_path / "HIGGS.csv.gz").write_bytes(gzip.compress(lines.encode()))
    manifest = convert([tmp_path / "HIGGS.csv.gz"], None, None, tmp_path / "d", schema="uci_higgs")
    assert manifest.class_counts() == {"background": 200, "higgs": 200}
    assert [column.shape for column in manifest.event_schema.columns] == [(21,), (7,)]


def test_hbb_ntuples(tmp_path: Path) -> None:
    jets = 300
    schema = load_schema("cern_hbb")
    kind = np.arange(jets) % 3  # QCD, H -> bb, neither
    truth = {
        "sample_isQCD": kind == 0,
        "fj_isQCD": kind == 0,
        "fj_isH": kind == 1,
        "fj_isBB": kind == 1,
    }
    branches: dict[str, Any] = {name: values.astype(np.int32) for name, values in truth.items()}
    for column in schema.columns:
        for source in column.sources:
            values = RANDOM.normal(size=jets).astype(np.float32)
            if column.pad_to is not None:
                values = ak.values_astype(ak.unflatten(RANDOM.normal(size=4 * jets), 4), np.float32)
                values = ak.from_regular(values)
            branches[source] = ak.Array(values)
    branches["fj_sdmass"] = np.where(np.arange(jets) < 30, 250, 125).astype(np.float32)
    branches["fj_pt"] = np.full(jets, 500, np.float32)
    with uproot.recreate(tmp_path / "ntuple.root") as file:
        file.mktree("deepntuplizer/tree", {name: ak.Array(values).type for name, values in branches.items()})
        file["deepntuplizer/tree"].extend(branches)
    manifest = convert([tmp_path / "ntuple.root"], None, None, tmp_path / "d", schema="cern_hbb")
    assert manifest.class_counts() == {"qcd": 90, "hbb": 90}
    assert {column.name: column.shape for column in manifest.event_schema.columns} == {
        "jet": (27,),
        "tracks": (60, 30),
        "vertices": (5, 14),
        "candidates": (100, 10),
        "sdmass": (),
        "pt": (),
    }


def test_atlas_electrons(tmp_path: Path) -> None:
    # (p_iffTruth, p_TruthType, charge of the first e/gamma mother's PDG id) of the six classes and of one that is none.
    kinds = [(2, 2, -11), (2, 2, 11), (5, 0, 0), (8, 0, 0), (10, 4, 0), (10, 17, 0), (1, 0, 0)]
    events = 40 * len(kinds)
    truth = np.array(kinds * 40)
    schema = load_schema("atlas_electron_hdf5")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for column in schema.columns:
            for source in column.sources:
                shape = {"fine": (56, 11), "layers": (7, 11), "tracks": (15, 13)}.get(column.name, ())
                file[source] = RANDOM.normal(size=(events, *shape)).astype(np.float16)
        file["p_iffTruth"], file["p_TruthType"], file["p_firstEgMotherPdgId"] = truth.T
        file["p_charge"] = np.ones(events, np.int64)
    manifest = convert([tmp_path / "e.h5"], None, None, tmp_path / "d", schema="atlas_electron_hdf5")
    assert manifest.class_counts() == dict.fromkeys(schema.classes, 40)
    shapes = {column.name: column.shape for column in manifest.event_schema.columns}
    assert shapes["fine"] == (56, 11, 1)
    assert shapes["layers"] == (7, 11, 6)
    assert shapes["scalars"] == (15,)
