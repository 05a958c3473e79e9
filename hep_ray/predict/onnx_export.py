"""A promoted model as one ONNX file, for programs without Python or torch; checked against torch before it is kept.

The file computes in float32, whatever the precision of the training, from the trained weights, which are float32. So
it is torch in float32 that it must agree with: bfloat16 rounds to 3 digits, and a model that was trained so scores a
little otherwise there.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hep_ray.errors import ExportFailed, HepRayError, InvalidConfig, MissingPackage, StorageError
from hep_ray.files import storing, whole
from hep_ray.promote.classifier import Classifier, MeanClassifier

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-5
"""Largest difference of a probability between ONNX Runtime and torch, both in float32."""
OUTPUT = "probabilities"
RANKS = "log_odds"
"""Second output: ln p − ln(1 − p) of each class, to cut on where probabilities have all become 1."""
CHECKED = 64
"""Events that are compared, in batches of different sizes."""
ABSENT = 0.2
"""Share of the values that are missing in these events, of columns that may miss some."""


class _Probabilities(nn.Module):
    """The model with its scalers, the probabilities and the log-odds of its loss, as one function of its columns."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model, self.loss = classifier.model, classifier.loss

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(*inputs)
        return self.loss.probabilities(logits), self.loss.log_odds(logits)


def export_onnx(classifier: Classifier, path: Path) -> float:
    """Write a model as ONNX: one input per column, named as it is, of any number of events.

    An input of lists is (N, L, F) of any L up to the schema's, with NaN behind the items of an event.

    The outputs are `probabilities` and `log_odds`, both (N, C) of the classes.

    Args:
        classifier: on the CPU.
        path: of the file; absent.

    Returns:
        Largest difference of a probability between ONNX Runtime and torch in float32, on random events.

    Raises:
        InvalidConfig: it is several models.
        MissingPackage: the extra `onnx` is not installed.
        StorageError: the file exists or cannot be written.
        ExportFailed: the model has a part that ONNX or ONNX Runtime lacks, a column has the name of an output, or the
            two differ by more than 1e-5; nothing is left.
    """
    if isinstance(classifier, MeanClassifier):
        raise InvalidConfig(f"an ONNX file holds one model, and this is {classifier.words}")
    taken = [column.name for column in classifier.columns if column.name in (OUTPUT, RANKS)]
    if taken:
        raise ExportFailed(
            f"the column '{taken[0]}' has the name of an output of the ONNX file, where {OUTPUT} and {RANKS} are the "
            "scores: convert the dataset with another name for it"
        )
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise MissingPackage(
            f"an export to ONNX needs {', '.join(PACKAGES)}; {', '.join(absent)} is not installed: "
            "pip install 'hep-ray[onnx]'"
        )
    if path.exists():
        raise StorageError(f"an export makes a new file; {path} exists")
    with storing(path), whole(path) as filling:
        _write(classifier, filling)
        difference = _difference(classifier, filling)
        if not difference <= TOLERANCE:
            raise ExportFailed(
                f"ONNX Runtime gives the probabilities of torch to {TOLERANCE:.0e}, both in float32; they differ by "
                f"{difference:.1e}"
            )
    return difference


def _write(classifier: Classifier, path: Path) -> None:
    names = [column.name for column in classifier.columns]
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple({0: dynamic, 1: dynamic} if one.lists else {0: dynamic} for one in classifier.columns)
    example = tuple(torch.from_numpy(values) for values in _random_events(classifier, 3).values())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Probabilities(classifier).eval(),
                example,
                str(path),
                input_names=names,
                output_names=[OUTPUT, RANKS],
                dynamic_shapes=(shapes,),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as exc:
        raise ExportFailed(f"every part of a model has its like in ONNX; here: {exc}") from exc
    _leave_out_traces(path)


def _leave_out_traces(path: Path) -> None:
    """Leave out torch's notes of where each operation comes from, which have paths of this machine in them."""
    import onnx

    def clear(message: Any) -> None:
        for field, value in message.ListFields():
            if field.name in ("metadata_props", "doc_string"):
                message.ClearField(field.name)
            elif field.message_type is not None:
                for one in [value] if hasattr(value, "ListFields") else value:
                    clear(one)

    model = onnx.load(str(path))
    clear(model)
    onnx.save(model, str(path))


def _difference(classifier: Classifier, path: Path) -> float:
    try:
        return _largest_difference(classifier, path)
    except HepRayError:
        raise
    except Exception as exc:
        raise ExportFailed(f"ONNX Runtime has every part of a model; here: {exc}") from exc


def _largest_difference(classifier: Classifier, path: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for number in (1, CHECKED):
        events = _random_events(classifier, number)
        read = {one.name for one in session.get_inputs()}
        found, ranks = session.run(
            [OUTPUT, RANKS], {name: values for name, values in events.items() if name in read}
        )
        wanted = classifier.predict(events, half=False)
        ranked = (1 + np.tanh(np.asarray(ranks, dtype=np.float64) / 2)) / 2  # the logistic function
        largest = max(largest, *(float(np.abs(one - wanted).max()) for one in (found, ranked)))
    return largest


def add_metadata(path: Path, texts: Mapping[str, str]) -> None:
    """Write what a model is into its ONNX file, as properties that every runtime shows.

    Args:
        path: of the file.
        texts: name of a property → its text.
    """
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(texts))
    onnx.save(model, str(path))


def rounding(classifier: Classifier) -> float:
    """Largest difference of a probability between float32, as in the file, and the precision of the training."""
    events = _random_events(classifier, CHECKED)
    return float(np.abs(classifier.predict(events, half=False) - classifier.predict(events)).max())


def _random_events(classifier: Classifier, number: int) -> Mapping[str, npt.NDArray[Any]]:
    """Return events of both signs where a quantity has one: no image, and of lists only angles; NaN where it may be."""
    random = np.random.default_rng(0)
    events = {
        column.name: (
            random.exponential(1, (number, *column.shape))
            if np.dtype(column.dtype).kind == "f"
            else random.integers(0, 5, (number, *column.shape))
        ).astype(column.dtype)
        for column in classifier.columns
    }
    for column in classifier.columns:
        if column.lists:
            most = min(column.shape[0], 3 + number // 2)
            lengths = random.integers(0, most + 1, number)
            lengths[0] = most
            values = events[column.name][:, :most]
            for place, element in enumerate(column.elements):
                if "eta" in element or "phi" in element:
                    values[..., place] *= random.choice((-1, 1), values.shape[:2])
            values[np.arange(most) >= lengths[:, None]] = np.nan
            events[column.name] = values
        elif len(column.shape) <= 1 and np.dtype(column.dtype).kind == "f":
            values = events[column.name]
            values *= random.choice((-1, 1), values.shape).astype(values.dtype)
            if column.missing:
                values[random.random(values.shape) < ABSENT] = np.nan
    return events
