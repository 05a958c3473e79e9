"""Storing a judged model in the registry, and seeing that what is stored is what was judged."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import PromotionRefused
from hep_ray.promote.gate import TOLERANCE
from hep_ray.promote.package import Package
from hep_ray.tracking.registry import Candidate, ModelRegistry, Version

EXAMPLES = 2
"""Events in the input example."""
RUN_WITH = ("hep-ray", "torch", "numpy")
"""Packages that the requirements of a registered model name."""
LEFT_OUT = (
    "test_confusion",
    *(f"test_background_rejection_at_{percent}" for percent in (30, 70, 80, 88, 90, 93)),
)
"""Metrics that would crowd a version's tags; `model.json` has them all."""


def store(
    registry: ModelRegistry,
    name: str,
    package: Package,
    dataset: Dataset,
    card: str,
    storage: Path,
    scratch: Path,
    run_id: str | None,
) -> Version:
    """Register a package as a new version, without an alias.

    Args:
        registry: where.
        name: of the registered model.
        package: that passed the gate.
        dataset: of the input example.
        card: of the model.
        storage: of all searches.
        scratch: an empty folder.
        run_id: MLflow run that trained the model.

    Raises:
        StorageError: the registry did not take it.
        PromotionRefused: what is stored is not what was judged.
    """
    package.write(scratch / "package", card)
    classifier = package.build()
    arrays = dataset.schema.decode(next(pq.ParquetFile(dataset.paths("val")[0]).iter_batches(EXAMPLES)))
    example = {column.name: arrays[column.name] for column in classifier.columns}
    description = package.description
    candidate = Candidate(
        folder=scratch / "package",
        inputs={column.name: (column.dtype, (-1, *column.shape)) for column in classifier.columns},
        outputs={
            **dict.fromkeys(classifier.score_names, "float32"),
            **dict.fromkeys(classifier.rank_names, "float64"),
        },
        example=example,
        digest=package.digest,
        run_id=run_id,
        params={key: str(value) for key, value in description.params.items()},
        metrics=description.metrics,
        tags=_tags(package),
        card=card,
        requirements=tuple(f"{one}=={importlib.metadata.version(one).split('+')[0]}" for one in RUN_WITH),
    )
    experiment = description.origin["search"]
    version = registry.register(name, experiment, candidate, scratch, storage / "mlartifacts")
    (scratch / "stored").mkdir()
    stored = Package.read(registry.download(version, scratch / "stored"))
    same = stored.digest == package.digest and np.allclose(
        stored.build().predict(example), classifier.predict(example), rtol=0, atol=TOLERANCE
    )
    if not same:
        raise PromotionRefused(
            f"what is stored is what was judged; {version.uri} is not, and got no alias: its digest is "
            f"{stored.digest}, judged was {package.digest}"
        )
    return version


def _tags(package: Package) -> dict[str, str]:
    """Tags of a version: what it is of, where it comes from, and its confirmed metrics with errors."""
    description = package.description
    schema = description.event_schema
    estimates = description.evidence.contender.estimates if description.evidence else {}
    return {
        "task": schema.task,
        "classes": ",".join(schema.classes),
        "signal": schema.signal,
        "dataset_fingerprint": description.dataset_fingerprint,
        **{f"hep_ray.{key}": value for key, value in description.origin.items()},
        **{
            key: f"{one.mean:.5g} ± {one.sd:.2g} [{one.low:.5g}, {one.high:.5g}]"
            for key, one in estimates.items()
            if key.startswith("test_") and not (key.startswith(LEFT_OUT) or key.endswith("_error"))
        },
    }
