"""Files of Delphes: η–φ images of towers and tracks, and reconstructed objects, from the branches that it writes.

Images as in arXiv:2310.15227 and the HVL thesis: 50 × 50 bins of φ ∈ [−π, π] and η ∈ [−5, 5], which hold the sums of
`Tower.Eem`, of `Tower.Ehad` and of `Track.PT`. Event variables have the names and meaning of the simulated ones
(`mbh_sph`), so that the preselection `n_objects_70 >= 5 and st >= 7000` suits both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hep_ray.config import Config
from hep_ray.conversion.paths import listed
from hep_ray.conversion.readers import Opened, Part, reader
from hep_ray.conversion.readers.fields import (
    IMAGE,
    asked,
    field,
    list_array,
    not_empty,
    reading,
    rows_per_batch,
    steps,
    to_arrow,
)
from hep_ray.dataset.histogram import DETECTOR, SLACK
from hep_ray.dataset.schema import EVENT_ID
from hep_ray.errors import InvalidEvents, UnreadableInput

PIXELS, CHANNELS = DETECTOR.pixels, 3
HARD_PT, HARD_ETA = 70.0, 2.4  # GeV
KINDS = ("Jet", "Electron", "Muon", "Photon")
"""Classes of reconstructed objects; `object_kind` counts them in this order."""
RATIO_MAX = 999.9  # Delphes' Jet.EhadOverEem where there is no electromagnetic energy
NUMBER = "Event.Number"
TOWERS = ("Tower.Eta", "Tower.Phi", "Tower.Eem", "Tower.Ehad")
TRACKS = ("Track.Eta", "Track.Phi", "Track.PT")
OBJECTS = (
    *(f"{kind}.{name}" for kind in KINDS for name in ("PT", "Eta", "Phi")),
    "Jet.EhadOverEem",
    "MissingET.MET",
)
LISTS = ("pt", "eta", "phi", "kind", "electromagnetic", "hadronic")
VARIABLES = ("ht", "met", "leading_pt", "n_objects", "st", "n_objects_70")

Values = dict[str, Any]


class DelphesOptions(Config):
    """Options of files of Delphes.

    Attributes:
        tree: that holds the events.
        images: give each event its image; Tower and Track must be there.
        objects: give each event its objects and variables; Jet, Electron, Muon, Photon and MissingET must be there.
            By default those are given whose branches are there.
        allow_empty: of an event without a tower or track in the image, keep the image of zeros; it is refused
            otherwise, unless the selection leaves it out.
    """

    tree: str = "Delphes"
    images: bool | None = None
    objects: bool | None = None
    allow_empty: bool = False


@reader("delphes", DelphesOptions, suffixes=(".root",), guessed=False)
def open_delphes(path: Path, options: DelphesOptions) -> Opened:
    """ROOT file that Delphes wrote: images of towers and tracks, reconstructed objects, event variables.

    Fields: `event_id`, the event's number (and its row, where numbers repeat as in merged files); `image`
    (50, 50, 3) in GeV; lists `object_pt`, `object_eta`, `object_phi`, `object_kind`, `object_electromagnetic` and
    `object_hadronic`, hardest first; `ht`, `met`, `leading_pt`, `n_objects`, `st` and `n_objects_70`. The image of an
    event that has no tower and no track in it is NaN, unless `allow_empty`: such an event is refused where it is kept.

    Raises:
        UnreadableInput: there is no such tree, or branches that were asked for are not in it.
        InvalidEvents: (while reading) a φ lies outside [−π, π], or a value is not finite.
    """
    import uproot

    with reading(f"the tree {options.tree} of {path}", Exception), uproot.open(path) as file:
        classes = file.classnames(recursive=True, cycle=False)
        if options.tree not in classes:
            raise UnreadableInput(
                f"{path} has no tree '{options.tree}', only: {listed(classes) or 'nothing'}"
            )
        tree = file[options.tree]
        branches = {name.split("/")[-1] for name in tree.keys(recursive=True)}
        rows = int(tree.num_entries)
        wanted = _wanted(branches, path, options)
        number = wanted["number"] and _numbers(tree)
    fields = [pa.field(EVENT_ID, pa.string(), nullable=False)]
    if wanted["images"]:
        fields.append(field(IMAGE, np.dtype(np.float32), (*PIXELS, CHANNELS)))
    if wanted["objects"]:
        fields += [field(f"object_{name}", np.dtype(np.float32), jagged=True) for name in LISTS]
        fields += [field(name, np.dtype(np.float32)) for name in VARIABLES]
    part = Part("", rows, pa.schema(fields))

    def read(_part: Part, start: int, stop: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema = asked(part, names, path)
        needed = [NUMBER] if wanted["number"] else []
        needed += [*TOWERS, *TRACKS] if IMAGE in names else []
        needed += OBJECTS if {*names} - {EVENT_ID, IMAGE} else []
        with reading(path, Exception), uproot.open(path) as file:
            tree = file[options.tree]
            for first, last in steps(start, stop, rows, rows_per_batch(schema)):
                with reading(f"{path}, entries {first} to {last}", Exception):
                    raw = {
                        name: tree[name].array(entry_start=first, entry_stop=last, library="ak")
                        for name in needed
                    }
                    made: Values = {EVENT_ID: _ids(raw, first, last, unique=bool(number))}
                    where = f"{path}: {options.tree}"
                    if IMAGE in names:
                        made[IMAGE] = _images(raw, where, first, allow_empty=options.allow_empty)
                    if len(needed) > len(TOWERS) and OBJECTS[0] in raw:
                        made |= _objects(raw)
                    columns = [_arrow(made[item.name], item.type) for item in schema]
                yield pa.record_batch(columns, schema=schema)

    def cell(row: int, name: str) -> str:
        lacks = f" has no tower and no track within |η| < {DETECTOR.eta[1]:g}" if name == IMAGE else ""
        return f"{path}: {options.tree}, entry {row}{lacks}"

    return Opened(not_empty([part], path), read, cell=cell)


def _wanted(branches: set[str], path: Path, options: DelphesOptions) -> dict[str, bool]:
    """Which of images and objects are given; refuse what was asked for and has no branches."""
    wanted = {"number": NUMBER in branches}
    lacking: dict[str, list[str]] = {}
    for name, needed, asked_for in (
        ("images", (*TOWERS, *TRACKS), options.images),
        ("objects", OBJECTS, options.objects),
    ):
        lacking[name] = [branch for branch in needed if branch not in branches]
        wanted[name] = asked_for is not False and not lacking[name]
        if asked_for and lacking[name]:
            raise _without(name, lacking[name], branches, path, options)
    if not wanted["images"] and not wanted["objects"]:
        raise _without("images or objects", lacking["images"], branches, path, options)
    return wanted


def _without(
    name: str, lacking: Sequence[str], branches: set[str], path: Path, options: DelphesOptions
) -> UnreadableInput:
    there = sorted({branch.split(".")[0] for branch in branches})
    card = " (its card must write Tower and Track)" if any(one in TOWERS + TRACKS for one in lacking) else ""
    return UnreadableInput(
        f"{path}: {options.tree} has no branches {listed(lacking)}, which {name} are made of{card}; it has: "
        f"{listed(there)}"
    )


def _numbers(tree: Any) -> bool:
    """Whether the events' numbers tell them apart."""
    import awkward as ak

    found = ak.to_numpy(ak.flatten(tree[NUMBER].array(library="ak"), axis=None))
    return len(found) == tree.num_entries and len(np.unique(found)) == len(found)


def _ids(raw: Values, first: int, last: int, *, unique: bool) -> list[str]:
    import awkward as ak

    rows = [str(row) for row in range(first, last)]
    if NUMBER not in raw:
        return rows
    numbers = ak.to_numpy(ak.flatten(raw[NUMBER], axis=None)).tolist()
    if unique:
        return [str(number) for number in numbers]
    return (
        [f"{number}/{row}" for number, row in zip(numbers, rows, strict=False)]
        if len(numbers) == len(rows)
        else rows
    )


def _images(raw: Values, where: str, first: int, *, allow_empty: bool) -> npt.NDArray[np.float32]:
    """Histograms, shape (N, φ, η, channel); NaN where nothing lies in one, unless `allow_empty`."""
    import awkward as ak

    events = len(raw[TOWERS[0]])
    channels = []
    for eta_name, phi_name, *sums in (TOWERS, TRACKS):
        event = np.repeat(np.arange(events), ak.to_numpy(ak.num(raw[eta_name])))
        eta, phi, *values = (
            _finite(raw[name], name, where, first, event) for name in (eta_name, phi_name, *sums)
        )
        beyond = np.abs(phi) > math.pi + SLACK
        if beyond.any():
            row = int(beyond.argmax())
            raise InvalidEvents(
                f"{phi_name} of {where}, entry {first + event[row]}, is {phi[row]:g}, outside [−π, π]: the image has "
                "no place for it"
            )
        channels.append(DETECTOR.sums(event, eta, phi, np.stack(values, axis=-1), events))
    images = np.concatenate(channels, axis=-1)
    if not allow_empty:
        images[~images.any(axis=(1, 2, 3))] = np.nan
    return images.astype(np.float32)


def _finite(
    values: Any, name: str, where: str, first: int, event: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    import awkward as ak

    flat: npt.NDArray[np.float64] = np.asarray(ak.to_numpy(ak.flatten(values)), dtype=np.float64)
    if not np.isfinite(flat).all():
        row = int(np.argmin(np.isfinite(flat)))
        raise InvalidEvents(f"{name} of {where}, entry {first + event[row]}, is {flat[row]}")
    return flat


def _objects(raw: Values) -> Values:
    """Lists of objects, hardest first, and the event variables."""
    import awkward as ak

    lists: dict[str, list[Any]] = {name: [] for name in LISTS}
    for number, kind in enumerate(KINDS):
        pt, eta, phi = (ak.values_astype(raw[f"{kind}.{name}"], np.float64) for name in ("PT", "Eta", "Phi"))
        energy = pt * np.cosh(eta) * (kind != "Muon")
        share: Any = 0.0
        if kind == "Jet":
            ratio = ak.values_astype(raw["Jet.EhadOverEem"], np.float64)
            ratio = ak.where(ratio > RATIO_MAX, RATIO_MAX, ratio)
            share = ratio / (1 + ratio)
        parts = (pt, eta, phi, ak.ones_like(pt) * number, energy * (1 - share), energy * share)
        for name, values in zip(LISTS, parts, strict=True):
            lists[name].append(values)
    joined = {name: ak.concatenate(values, axis=1) for name, values in lists.items()}
    order = ak.argsort(joined["pt"], axis=1, ascending=False, stable=True)
    made: Values = {f"object_{name}": values[order] for name, values in joined.items()}
    met = ak.to_numpy(ak.firsts(raw["MissingET.MET"])).astype(np.float64)
    pt, eta = joined["pt"], joined["eta"]
    hard = pt[(pt > HARD_PT) & (abs(eta) < HARD_ETA)]
    largest = ak.to_numpy(ak.fill_none(ak.max(pt, axis=1), 0.0))
    variables: Values = {
        "ht": ak.to_numpy(ak.sum(pt, axis=1)) + met,
        "met": met,
        "leading_pt": np.maximum(largest, met),
        "n_objects": ak.to_numpy(ak.num(pt)) + 1,
        "st": ak.to_numpy(ak.sum(hard, axis=1)) + met * (met > HARD_PT),
        "n_objects_70": ak.to_numpy(ak.num(hard)),
    }
    return made | variables


def _arrow(values: Any, kind: pa.DataType) -> pa.Array:
    import awkward as ak

    if pa.types.is_string(kind):
        return pa.array(values, kind)
    if pa.types.is_list(kind):
        return list_array(
            ak.to_numpy(ak.num(values)), ak.to_numpy(ak.flatten(values)).astype(np.float32), kind
        )
    return to_arrow(np.asarray(values, dtype=np.float32), kind)
