"""Images that schema files make of lists: beside numpy's histograms, centred, from several formats; bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from hep_ray.conversion.convert import convert, in_pieces
from hep_ray.conversion.images import rows_at_once
from hep_ray.conversion.readers import BATCH_BYTES
from hep_ray.conversion.schema_file import SchemaFile, load_schema, parse_schema
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.histogram import EtaPhiGrid
from hep_ray.dataset.schema import Column
from hep_ray.errors import InvalidConfig, InvalidEvents, InvalidSchema
from tests.conversion.readers.test_delphes import converted, delphes
from tests.facts import raises

EVENTS = 60
RANDOM = np.random.default_rng(5)
LENGTHS = RANDOM.integers(8, 30, EVENTS)
ETA = RANDOM.normal(0, 0.4, int(LENGTHS.sum())).astype(np.float32)
PHI = RANDOM.normal(0, 0.4, int(LENGTHS.sum())).astype(np.float32)
PT = RANDOM.exponential(20, int(LENGTHS.sum())).astype(np.float32)
AXIS_ETA, AXIS_PHI = RANDOM.normal(0, 1, EVENTS), RANDOM.uniform(-math.pi, math.pi, EVENTS)
EVENT = np.repeat(np.arange(EVENTS), LENGTHS)
AROUND = "pixels = [6, 5]\nphi_range = [-0.9, 0.9]\neta_range = [-0.5, 0.5]\n"
FROM_AXIS = 'eta = "part_eta - jet_eta"\nphi = "part_phi - jet_phi"\n'


def rules(
    image: str = AROUND, layer: str = f'{FROM_AXIS}sums = ["part_pt"]', more: str = "", reader: str = "root"
) -> SchemaFile:
    return parse_schema(
        f'reader = "{reader}"\nclasses = ["a", "b"]\n[label]\nfrom = "field"\nfield = "label"\n[event_id]\n'
        f'fields = ["number"]\nas_is = true\n[[columns]]\nname = "image"\n{more}\n[columns.image]\n{image}\n'
        f"[[columns.image.layers]]\n{layer}\n",
        "here",
    )


def flat_branches() -> dict[str, np.ndarray]:
    eta, phi = ETA + AXIS_ETA[EVENT], PHI + AXIS_PHI[EVENT]  # φ runs beyond π, as many ntuples have it not
    return {"part_eta": eta, "part_phi": (phi + math.pi) % (2 * math.pi) - math.pi, "part_pt": PT}


def numbers() -> dict[str, np.ndarray]:
    label, number = np.arange(EVENTS) % 2, np.arange(EVENTS)
    return {"label": label, "number": number, "jet_eta": AXIS_ETA, "jet_phi": AXIS_PHI}


def write_root(path: Path, **changed: Any) -> Path:
    branches = {**{name: ak.unflatten(flat, LENGTHS) for name, flat in flat_branches().items()}, **changed}
    with uproot.recreate(path) as file:
        file["tree"] = {**numbers(), **branches}
    return path


def images(folder: Path) -> np.ndarray:
    """The images by the number of the event."""
    manifest = Manifest.load(folder)
    found: dict[int, np.ndarray] = {}
    for shard in manifest.shards:
        batch = pq.read_table(folder / shard.file).combine_chunks().to_batches()[0]
        events = manifest.event_schema.decode(batch)
        found |= {
            int(number): image for number, image in zip(events["event_id"], events["image"], strict=True)
        }
    return np.stack([found[number] for number in sorted(found)])


def by_hand(eta: np.ndarray, phi: np.ndarray, pixels: tuple[int, int] = (6, 5)) -> np.ndarray:
    window = [(-0.9, 0.9), (-0.5, 0.5)]
    return np.stack(
        [
            np.histogram2d(
                phi[one == EVENT], eta[one == EVENT], bins=pixels, range=window, weights=PT[one == EVENT]
            )[0]
            for one in range(EVENTS)
        ]
    )[..., None]


def test_constituents_become_the_histogram_that_numpy_fills(tmp_path: Path) -> None:
    manifest = convert([write_root(tmp_path / "jets.root")], None, None, tmp_path / "out", schema=rules())
    (column,) = manifest.event_schema.columns
    assert (column.shape, column.axes, column.dtype) == ((6, 5, 1), ("delta_phi", "delta_eta"), "float32")
    np.testing.assert_allclose(images(tmp_path / "out"), by_hand(ETA, PHI), rtol=1e-5, atol=1e-4)


def test_axes_the_other_way_round_transpose_the_image(tmp_path: Path) -> None:
    turned = rules(more='axes = ["delta_eta", "delta_phi"]')
    manifest = convert([write_root(tmp_path / "jets.root")], None, None, tmp_path / "out", schema=turned)
    assert manifest.event_schema.columns[0].shape == (5, 6, 1)
    np.testing.assert_allclose(
        images(tmp_path / "out"), by_hand(ETA, PHI).swapaxes(1, 2), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("centre", ["hardest", "weighted"])
def test_centred_images_do_not_depend_on_where_the_jet_is(centre: str, tmp_path: Path) -> None:
    layer = 'eta = "part_eta"\nphi = "part_phi"\nsums = ["part_pt"]'
    around = rules(f'{AROUND}centre = "{centre}"', layer)
    convert([write_root(tmp_path / "jets.root")], None, None, tmp_path / "out", schema=around)
    eta, phi = ETA.astype(np.float64), PHI.astype(np.float64)
    for one in range(EVENTS):
        own = one == EVENT
        hardest = np.flatnonzero(own)[PT[own].argmax()]
        weight = PT[own] if centre == "weighted" else np.arange(len(PT))[own] == hardest
        eta[own] -= np.average(eta[own], weights=weight)
        phi[own] -= np.average(phi[own], weights=weight)
    np.testing.assert_allclose(images(tmp_path / "out"), by_hand(eta, phi), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("centre", ["hardest", "weighted"])
def test_a_jet_across_the_end_of_phi_is_centred_as_another_is(centre: str) -> None:
    from hep_ray.conversion.images import _centres

    event = np.array([0, 0, 1, 1, 2])
    phi = np.array([3.1, 3.1 + 0.2 - 2 * math.pi, 0.1, 0.3, 0.0])
    values = np.array([[3.0], [1.0], [3.0], [1.0], [0.0]])
    eta, azimuth = _centres((event, np.full(5, 0.5), phi, values), centre, 3)
    at = 0.0 if centre == "hardest" else 0.05
    assert azimuth == pytest.approx([3.1 + at, 0.1 + at, 0.0])
    assert eta == pytest.approx([0.5, 0.5, 0.0])  # the third event has nothing to be centred on


def test_events_read_together_of_which_none_is_kept_make_no_image(tmp_path: Path) -> None:
    path = write_root(tmp_path / "jets.root")
    stated = rules()
    with raises(InvalidEvents):  # no event at all is left, which is told as of any other columns
        convert([path], None, None, tmp_path / "out", schema=stated, selection="number > 1e6")


def test_arrays_of_fixed_length_are_read_up_to_the_count_of_their_items(tmp_path: Path) -> None:
    room = int(LENGTHS.max())
    with h5py.File(tmp_path / "jets.h5", "w") as file:
        for name, values in {**numbers(), "n_parts": LENGTHS}.items():
            file[name] = values
        for name, flat in flat_branches().items():
            filled = np.full((EVENTS, room), np.nan, np.float32)
            filled[np.arange(room) < LENGTHS[:, None]] = flat
            file[name] = filled
    counted = rules(more='count = "n_parts"', reader="hdf5")
    convert([tmp_path / "jets.h5"], None, None, tmp_path / "out", schema=counted)
    np.testing.assert_allclose(images(tmp_path / "out"), by_hand(ETA, PHI), rtol=1e-5, atol=1e-4)
    with raises(InvalidEvents, "'part_eta - jet_eta' of the image 'image' is nan", "row"):
        convert([tmp_path / "jets.h5"], None, None, tmp_path / "no", schema=rules(reader="hdf5"))


def test_the_rule_makes_of_delphes_branches_what_its_reader_makes(tmp_path: Path) -> None:
    for seed, name in enumerate(("sph", "bh")):
        delphes(tmp_path / f"{name}.root", seed)
    theirs = converted(tmp_path, "delphes_images")
    made = parse_schema(
        'reader = "root"\nclasses = ["sph", "bh"]\n[options]\ntree = "Delphes"\n[event_id]\nfields = ["Event.Number"]\n'
        '[[columns]]\nname = "image"\n[columns.image]\npixels = [50, 50]\neta_range = [-5, 5]\n'
        '[[columns.image.layers]]\neta = "Tower.Eta"\nphi = "Tower.Phi"\nsums = ["Tower.Eem", "Tower.Ehad"]\n'
        '[[columns.image.layers]]\neta = "Track.Eta"\nphi = "Track.Phi"\nsums = ["Track.PT"]\n',
        "here",
    )
    files = [f"{name}={tmp_path / name}.root" for name in ("sph", "bh")]
    manifest = convert(files, None, None, tmp_path / "own", schema=made)
    assert manifest.event_schema.columns[0].axes == ("phi", "eta")
    found: dict[str, np.ndarray] = {}
    for shard in manifest.shards:
        batch = pq.read_table(tmp_path / "own" / shard.file).combine_chunks().to_batches()[0]
        events = manifest.event_schema.decode(batch)
        found |= dict(zip(events["event_id"], events["image"], strict=True))
    assert len(found) == len(theirs)
    for number, columns in theirs.items():
        kind, _, event = number.split("/")
        assert np.array_equal(found[f"{kind}/[{event}]"], columns["image"])


def test_jets_of_cern_open_data_become_the_images_of_the_study(tmp_path: Path) -> None:
    jets = 60
    schema = load_schema("cern_hbb_images")
    kind = np.arange(jets) % 2
    counts = RANDOM.integers(1, 40, jets)
    lists = {name: RANDOM.normal(0, 0.2, counts.sum()) for name in ("pfcand_etarel", "pfcand_phirel")}
    lists["pfcand_ptrel"] = RANDOM.uniform(0, 1, counts.sum())
    with uproot.recreate(tmp_path / "ntuple.root") as file:
        file["deepntuplizer/tree"] = {
            **dict.fromkeys(("sample_isQCD", "fj_isQCD"), (kind == 0).astype(np.int32)),
            **dict.fromkeys(("fj_isH", "fj_isBB"), (kind == 1).astype(np.int32)),
            "fj_sdmass": np.full(jets, 125, np.float32),
            "fj_pt": np.full(jets, 500, np.float32),
            **{name: ak.unflatten(flat.astype(np.float32), counts) for name, flat in lists.items()},
        }
    manifest = convert([tmp_path / "ntuple.root"], None, None, tmp_path / "out", schema=schema)
    (column,) = manifest.event_schema.columns
    assert (column.shape, column.unit, column.axes) == ((224, 224, 1), "GeV", ("delta_phi", "delta_eta"))
    assert manifest.class_counts() == {"qcd": 30, "hbb": 30}
    total = 0.0
    for shard in manifest.shards:
        batch = pq.read_table(tmp_path / "out" / shard.file).combine_chunks().to_batches()[0]
        total += float(manifest.event_schema.decode(batch)["image"].sum(dtype=np.float64))
    inside = (np.abs(lists["pfcand_etarel"]) < 0.8) & (np.abs(lists["pfcand_phirel"]) < 0.8)
    assert total == pytest.approx(500 * lists["pfcand_ptrel"][inside].sum(), rel=1e-4)


def test_no_place_of_the_circle_is_lost() -> None:
    grid = EtaPhiGrid((8, 1), (-math.pi, math.pi), (-1, 1))
    phi = np.array([-math.pi, np.float64(np.float32(math.pi)), 5 * math.pi / 4, 2 * math.pi - 0.1])
    made = grid.sums(np.arange(4), np.zeros(4), phi, np.ones((4, 1)), 4)[..., 0, 0]
    assert made.argmax(axis=1).tolist() == [0, 7, 1, 3]
    assert made.sum(axis=1).tolist() == [1] * 4
    beyond = grid.sums(np.zeros(2, int), np.array([-1.0, 1.0]), np.zeros(2), np.ones((2, 1)), 1)
    assert beyond.sum() == 1  # the lower edge belongs to the window, the upper one does not


def test_many_pixels_are_made_a_few_events_at_a_time() -> None:
    rule = load_schema("cern_hbb_images").columns
    large = {"image": Column(name="image", shape=(224, 224, 1))}
    assert rows_at_once(rule, large) == BATCH_BYTES // (8 * 224 * 224)
    assert rows_at_once(load_schema("cern_hbb").columns, {}) is None
    import pyarrow as pa

    batch = pa.record_batch({"x": pa.array(range(10))})
    assert [piece.num_rows for piece in in_pieces(batch, 4)] == [4, 4, 2]


SHORT = ak.unflatten(np.append(flat_branches()["part_pt"], 1), [*LENGTHS[:-1], LENGTHS[-1] + 1])


@pytest.mark.parametrize(
    ("schema", "changed", "error", "said"),
    [
        (
            rules(layer='eta = "part_etaa"\nphi = "part_phi"\nsums = ["part_pt"]'),
            {},
            InvalidSchema,
            "did you mean",
        ),
        (
            rules(layer='eta = "jet_eta"\nphi = "part_phi"\nsums = ["part_pt"]'),
            {},
            InvalidSchema,
            "reads no lists",
        ),
        (
            rules(),
            {"part_pt": SHORT},
            InvalidEvents,
            f"lists of different lengths in one event.*row {EVENTS - 1}",
        ),
        (
            rules(AROUND.replace("[-0.5, 0.5]", "[7, 8]")),
            {},
            InvalidEvents,
            "is empty, and .* allow_empty = true",
        ),
        (rules(more='count = "n"'), {}, InvalidSchema, "counted by a field"),
        (
            rules(layer=f'{FROM_AXIS}sums = ["1 / (part_pt - part_pt)"]'),
            {},
            InvalidEvents,
            "is inf for an item",
        ),
    ],
    ids=["absent", "no-lists", "lengths", "empty", "count", "infinite"],
)
def test_what_cannot_be_an_image_is_refused(
    schema: SchemaFile, changed: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        convert([write_root(tmp_path / "jets.root", **changed)], None, None, tmp_path / "out", schema=schema)
    assert not (tmp_path / "out").exists()


def test_one_count_of_two_layers_is_refused() -> None:
    layer = f'{FROM_AXIS}sums = ["part_pt"]'
    with raises(InvalidSchema, "2 layers", "count"):
        rules(layer=f"{layer}\n[[columns.image.layers]]\n{layer}", more='count = "n_parts"')


def test_empty_images_are_kept_where_the_rule_says_so(tmp_path: Path) -> None:
    kept = rules(AROUND.replace("[-0.5, 0.5]", "[7, 8]") + "allow_empty = true")
    convert([write_root(tmp_path / "jets.root")], None, None, tmp_path / "out", schema=kept)
    assert not images(tmp_path / "out").any()


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"image": AROUND.replace("[-0.9, 0.9]", "[0.9, 0.9]")}, "phi_range = [0.9, 0.9] is empty"),
        ({"image": AROUND.replace("[-0.9, 0.9]", "[-4, 4]")}, "more than the circle"),
        ({"image": AROUND.replace("[6, 5]", "[0, 5]")}, "greater than 0"),
        ({"more": 'sources = ["part_pt"]'}, "and 'sources'"),
        ({"more": 'axes = ["x", "y"]'}, "a histogram has phi and eta"),
        ({"layer": f"{FROM_AXIS}sums = []"}, "sums"),
        ({"layer": f'{FROM_AXIS}sums = ["part_pt ++"]'}, "is no expression"),
    ],
)
def test_a_rule_that_says_no_image_is_refused(schema: dict[str, Any], said: str) -> None:
    with raises((InvalidSchema, InvalidConfig), said):
        rules(**schema)
