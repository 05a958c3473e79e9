"""Write the folder by which a promoted model is handed on to those who have no hep_ray."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import hep_ray
from hep_ray.bundle.hepdata import table_of_metrics, tables_of_scores, write_tables
from hep_ray.config import Config
from hep_ray.confirm.confirmation import load_confirmation
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EVENT_ID, LABEL, Column
from hep_ray.dataset.shard_file import read_shard
from hep_ray.dataset.values import mask_of
from hep_ray.drawing.style import house_style
from hep_ray.errors import ExportFailed, HepRayError, InvalidConfig, ModelMismatch, StorageError
from hep_ray.files import replacing, storing
from hep_ray.predict.onnx_export import OUTPUT, RANKS, TOLERANCE, add_metadata, export_onnx
from hep_ray.promote.classifier import Classifier
from hep_ray.promote.package import Description, Package, model_card
from hep_ray.report.figures import of_section
from hep_ray.report.page import Shown, save
from hep_ray.report.report_data import ReportData
from hep_ray.report.scores import Scores, confirmed_scores
from hep_ray.search.find import Found

MODEL = "model.onnx"
EVENTS = "events.npz"
METADATA = "metadata.json"
SUMS = "SHA256SUMS"
CHECK = "check.py"
CARD = "MODEL_CARD.md"
FIRST = "first_event"
FORMAT = 1
FIGURES = ("confirmed", "roc", "rejection", "confusion", "scores", "calibration")
"""Those of a report that show what was confirmed."""
LOG_ODDS_TOLERANCE = 1e-4
"""Largest difference of a log-odds between ONNX Runtime and torch, of itself or, below 1, of 1."""
PLACES = ("command", "host", "script", "plugins")
"""What a provenance says of the machine and its folders, which a card that is handed on leaves out."""
C_TYPES = {
    "float": "float",
    "float32": "float",
    "double": "double",
    "float64": "double",
    "float16": "Ort::Float16_t",
}
"""Name of a type in ONNX or numpy → that of C++, where it is not `std::<name>_t`."""


@dataclass(frozen=True)
class Bundle:
    """A folder that was written.

    Attributes:
        folder: that is handed on.
        files: in it, relative to it.
        events: validation events with their scores.
        difference: greatest one of a probability between ONNX Runtime and torch, of these events.
        notes: what is left out, and why, in sentences.
    """

    folder: Path
    files: tuple[str, ...]
    events: int
    difference: float
    notes: tuple[str, ...]


class InputText(Config):
    """An input, as `metadata.json` describes it.

    Attributes:
        name: of the ONNX file's input.
        shape: of one event; the first size of lists is the greatest length.
        dtype: numpy's.
        unit: of all values.
        elements: names along the last axis.
        element_units: of each.
        lists: whether events have lists of varying length, filled up with NaN.
        missing: whether NaN stands for a missing value.
        categories: what the values 0, 1, … stand for; empty of a quantity.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    elements: tuple[str, ...]
    element_units: tuple[str, ...]
    lists: bool
    missing: bool
    categories: tuple[str, ...] = ()


def write_bundle(
    package: Package,
    name: str,
    dataset: Dataset,
    out: Path,
    *,
    events: int = 1000,
    search: Found | None = None,
) -> Bundle:
    """Write the folder, whole or not at all.

    Args:
        package: of the model.
        name: by which it is known, such as `models:/susy/3`.
        dataset: that it was trained on; its validation split is read.
        out: the folder; absent.
        events: validation events that are handed on, at most.
        search: that it came of; None leaves out figures and tables of scores.

    Raises:
        InvalidConfig: there are to be no events, or it is the models of several folds.
        ModelMismatch: it was trained on another dataset.
        MissingPackage, ExportFailed: see `export_onnx`; or the file does not give these events their scores.
        StorageError: something is at `out`, or it cannot be written.
    """
    if events < 1:
        raise InvalidConfig(f"--events {events} leaves nothing to check the model with: 1 or more")
    if package.members:
        instead = "was promoted without --folds" if package.of_folds else "is one model"
        raise InvalidConfig(
            f"a bundle holds one model, and {name} is {package.words}: name a version that {instead}"
        )
    if out.exists():
        raise StorageError(f"{out} exists, and a bundle is a new folder: name another --out, or remove it")
    description = package.description
    if dataset.fingerprint != description.dataset_fingerprint:
        raise ModelMismatch(
            f"the dataset {dataset.folder} has the fingerprint {dataset.fingerprint[:12]}; the model was trained on "
            f"{description.dataset_fingerprint[:12]}, whose validation events it is handed on with: name that one with "
            "--data"
        )
    classifier = package.build()
    with replacing(out) as folder, storing(out):
        kept = validation_events(dataset, classifier, events)
        np.savez_compressed(folder / EVENTS, allow_pickle=False, **kept)
        metadata = metadata_of(package, name, classifier)
        export_onnx(classifier, folder / MODEL)
        texts = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()
        }
        add_metadata(folder / MODEL, texts)
        session = _session(folder / MODEL)
        difference = _compared(session, kept, metadata)
        package.write(folder / "hep_ray_model")
        notes = _evidence(package, dataset, folder, search)
        if description.evidence is not None:
            (folder / CARD).write_text(_card(name, description), encoding="utf-8")
        else:
            notes.append("The model card is left out: the model was never confirmed.")
        shutil.copyfile(Path(__file__).with_name(CHECK), folder / CHECK)
        first = _first_event(folder, kept, classifier.columns)
        shown: dict[str, Any] = {
            "name": name,
            "metadata": metadata,
            "first": first,
            "notes": notes,
            "there": {path.name for path in folder.iterdir()},
            "own_code": bool(description.plugins),
            **_types(session),
        }
        shown |= {"expected": kept["probabilities"][0].tolist(), "events": len(kept["label"])}
        shown["expected_odds"] = kept["log_odds"][0].tolist()
        for template, file in (("readme.md.jinja", "README.md"), ("score.cpp.jinja", "score.cpp")):
            (folder / file).write_text(_filled(template, shown), encoding="utf-8")
        (folder / METADATA).write_text(
            json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        sums = [f"{hashlib.sha256((folder / file).read_bytes()).hexdigest()}  {file}\n" for file in files]
        (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    return Bundle(out, tuple(files), len(kept["label"]), difference, tuple(notes))


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _compared(session: Any, kept: dict[str, npt.NDArray[Any]], metadata: dict[str, Any]) -> float:
    """Return the greatest difference of a probability that `check.py` will find.

    Raises:
        ExportFailed: it is too great, or that of the log-odds.
    """
    from hep_ray.bundle import check  # needs onnxruntime, of an extra

    largest = 0.0
    for size in check.BATCHES:
        line, difference, good = check.other_scores(session, kept, metadata, size)
        if not good:
            raise ExportFailed(
                "ONNX Runtime and torch in float32 agree on the validation events that are handed on; they do not: "
                f"{line}"
            )
        largest = max(largest, difference)
    return largest


def _card(name: str, description: Description) -> str:
    """Return the card under the name that the registry knows, without places of the machine that trained the model."""
    known = name.removeprefix("models:/").partition("/")[0]
    provenance = {key: value for key, value in description.provenance.items() if key not in PLACES}
    return model_card(known, description.model_copy(update={"provenance": provenance}))


def metadata_of(package: Package, name: str, classifier: Classifier) -> dict[str, Any]:
    """Return what `metadata.json`, and the ONNX file itself, say of a model."""
    description = package.description
    schema = description.event_schema
    return {
        "format": FORMAT,
        "name": name,
        "task": schema.task,
        "classes": list(schema.classes),
        "signal": schema.signal or "",
        "inputs": [
            InputText(**{key: getattr(column, key) for key in InputText.model_fields}).model_dump(mode="json")
            for column in classifier.columns
        ],
        "outputs": {
            OUTPUT: "(N, classes): probability of each class",
            RANKS: "(N, classes): ln p - ln(1 - p), to cut on where probabilities have all become 1",
        },
        "model": MODEL,
        "events": EVENTS,
        "tolerance": TOLERANCE,
        "log_odds_tolerance": LOG_ODDS_TOLERANCE,
        "precision": "float32",
        "trained_in": "bfloat16" if classifier.half else "float32",
        "model_digest": package.digest,
        "dataset_fingerprint": description.dataset_fingerprint,
        "origin": description.origin,
        "params": {key: str(value) for key, value in description.params.items()},
        "metrics": description.metrics,
        "calibration": None
        if description.calibration is None
        else description.calibration.model_dump(mode="json"),
        "created_by": f"hep_ray {hep_ray.__version__}",
    }


def validation_events(
    dataset: Dataset, classifier: Classifier, most: int, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Return a random sample of validation events: ids, labels, the columns that the model reads, and its scores.

    Columns have `input_` before their names. Lists are cut to the greatest length among them. The scores are in
    float32, as the ONNX file computes.

    Args:
        dataset: opened.
        classifier: that scores them.
        most: events.
        seed: of the choice.
    """
    rows = dataset.rows("val")
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:most])
    names = [column.name for column in classifier.columns]
    parts: list[dict[str, npt.NDArray[Any]]] = []
    start = 0
    for path in dataset.paths("val"):
        table = read_shard(path, [EVENT_ID, LABEL, *names])
        own = chosen[(chosen >= start) & (chosen < start + len(table))] - start
        start += len(table)
        for batch in table.take(own).combine_chunks().to_batches():
            events = {
                column.name: column.to_numpy(batch.column(column.name)) for column in classifier.columns
            }
            probabilities, log_odds = classifier.scores(events, half=False)
            parts.append(
                {
                    "event_id": np.array(batch.column(EVENT_ID).to_pylist(), dtype=np.str_),
                    "label": batch.column(LABEL).to_numpy().astype(np.int64),
                    "probabilities": probabilities,
                    "log_odds": log_odds,
                    **{f"input_{key}": np.asarray(values) for key, values in events.items()},
                }
            )
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for column in classifier.columns:
        if column.lists:
            values = found[f"input_{column.name}"]
            found[f"input_{column.name}"] = values[:, : max(1, int(mask_of(values).sum(axis=1).max()))]
    return found


def _evidence(package: Package, dataset: Dataset, folder: Path, search: Found | None) -> list[str]:
    """Write figures and tables, and return what is left out."""
    notes, tables = [], []
    if (of_metrics := table_of_metrics(package.description)) is not None:
        tables.append(of_metrics)
    try:
        data = _confirmed(package, dataset, search)
    except HepRayError as exc:
        why = _without_places(str(exc), [dataset.folder, *([] if search is None else [search.folder])])
        notes.append(f"Figures and tables of scores on the test split are left out: {why}.")
    else:
        scores, evidence = data.scores, package.description.evidence
        assert scores is not None
        assert evidence is not None
        of_model = next(one for one in scores.contenders if one.name == evidence.contender.name)
        trials = [run.trial_id for run in evidence.contender.runs]
        if package.description.origin.get("refit"):
            notes.append(
                "The model was refit on training and validation events: scores in events.npz check that the files are "
                "right, and say nothing of how well it does. Figures are of the confirmed trainings of its "
                "configuration; tables of scores, which are of a model, are left out."
            )
        else:
            run = of_model.runs[trials.index(package.description.origin["confirmed_trial"])]
            tables += tables_of_scores(run, scores)
        _draw(data, folder / "figures")
    if tables:
        write_tables(
            folder / "hepdata",
            tables,
            f"Performance of the classifier {package.description.event_schema.task} "
            f"({package.digest[:12]}), by hep_ray {hep_ray.__version__}.",
        )
    return notes


def _without_places(text: str, folders: Sequence[Path]) -> str:
    """Return a text in which folders are called by their names alone."""
    for folder in folders:
        for path in (folder.absolute(), folder.resolve(), folder):
            text = text.replace(str(path), path.name) if path.name else text
    return text


def _confirmed(package: Package, dataset: Dataset, search: Found | None) -> ReportData:
    """Return what a confirmation left, on which figures and tables rest.

    Raises:
        HepRayError: it is not there, or is not that of the model.
    """
    evidence = package.description.evidence
    if search is None or evidence is None:
        raise StorageError(
            "the search that the model came of is not in this storage (--storage)"
            if evidence is not None
            else "the model was never confirmed"
        )
    confirmation = load_confirmation(search.folder)
    if evidence.contender not in confirmation.contenders:
        raise StorageError(
            f"{search.folder} was confirmed again since, and its scores are no longer those of the model"
        )
    state = search.state()
    assert state.started is not None
    scores: Scores = confirmed_scores(confirmation, search.folder, dataset)
    stated = search.stated(state.started)
    return ReportData(
        stated, search.folder, state, state.started, dataset.manifest, confirmation, scores, None, ()
    )


def _draw(data: ReportData, folder: Path) -> None:
    folder.mkdir()
    with house_style():
        for entry in (*of_section("confirmation"), *of_section("classifier")):
            if entry.name in FIGURES and (drawn := entry.draw(data)) is not None:
                save(Shown(entry.name, entry.section, entry.title, drawn), folder)


def _first_event(
    folder: Path, kept: Mapping[str, npt.NDArray[Any]], columns: Sequence[Column]
) -> list[dict[str, Any]]:
    """Write the values of the first event, as they lie in memory, for the C++ program; return what it needs to know."""
    (folder / FIRST).mkdir()
    found = []
    for column in columns:
        values = kept[f"input_{column.name}"][:1]
        if column.lists:  # as a program would: no place but those of its items
            values = values[:, : max(1, int(mask_of(values).sum()))]
        (folder / FIRST / f"{column.name}.bin").write_bytes(np.ascontiguousarray(values).tobytes())
        dtype = values.dtype.name
        found.append(
            {
                "name": column.name,
                "shape": list(values.shape),
                "type": c_type(dtype),
                "elements": list(column.elements),
                "unit": column.unit,
            }
        )
    return found


def c_type(name: str) -> str:
    """Return the C++ type of numbers that ONNX or numpy names.

    >>> c_type("int64"), c_type("float16")
    ('std::int64_t', 'Ort::Float16_t')
    """
    return C_TYPES.get(name, f"std::{name}_t")


def _types(session: Any) -> dict[str, dict[str, str]]:
    """Return name → C++ type of what an ONNX file reads, and of what it gives."""
    both = {"read": session.get_inputs(), "given": session.get_outputs()}
    return {
        kind: {one.name: c_type(one.type.removeprefix("tensor(").removesuffix(")")) for one in found}
        for kind, found in both.items()
    }


def _filled(template: str, values: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - Markdown and C++, not HTML
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)
