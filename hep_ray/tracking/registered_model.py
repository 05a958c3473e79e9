"""What is registered: an MLflow model folder around a portable model, without a pickle."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LOADER = "hep_ray.promote.pyfunc"
"""Module whose `_load_pyfunc` MLflow calls."""


@dataclass(frozen=True)
class Candidate:
    """What is to be registered.

    Attributes:
        folder: the portable model, which is stored as it is.
        inputs: column → dtype and shape (N, …) with -1 for N.
        outputs: scores with their dtypes.
        example: column → values of a few events.
        digest: names the model.
        run_id: MLflow run that trained it; None where it has none.
        params: of the model.
        metrics: of the model.
        tags: of the version.
        card: in Markdown.
        requirements: packages with which it was made, as pip writes them.
    """

    folder: Path
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: Mapping[str, str]
    example: Mapping[str, npt.NDArray[Any]]
    digest: str
    run_id: str | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    card: str
    requirements: tuple[str, ...]


def save_mlflow_model(folder: Path, candidate: Candidate, *, run_id: str, model_id: str) -> None:
    """Write an MLflow model folder: an MLmodel file and, under `data/`, the portable model; no pickle.

    Args:
        folder: absent.
        candidate: the model.
        run_id: MLflow run that the model belongs to.
        model_id: of MLflow's logged model.
    """
    os.environ.setdefault(
        "MLFLOW_UV_AUTO_DETECT", "false"
    )  # never copies the user's own project into the model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of MLflow's own type hints
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema(
            [TensorSpec(np.dtype(kind), shape, column) for column, (kind, shape) in candidate.inputs.items()]
        ),
        outputs=Schema(
            [
                ColSpec(DataType.from_numpy_type(np.dtype(kind)), score)
                for score, kind in candidate.outputs.items()
            ]
        ),
    )
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module=LOADER,
        data_path=str(candidate.folder),
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        signature=signature,
        input_example=dict(candidate.example),
        pip_requirements=list(candidate.requirements),
    )
