"""Register models with MLflow: versions of a model by name, number or alias, without a pickle.

What is registered becomes visible in an order that a crash cannot spoil: files first, then the version, then the
check of what was stored, and the aliases last. A version without an alias is one that was never accepted.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hep_ray.errors import InvalidConfig, StorageError, TrackingUnavailable, UnknownName
from hep_ray.masking import mask
from hep_ray.tracking.client import all_pages, artifact_location, cause, open_client

LOADER = "hep_ray.promote.pyfunc"
"""Module whose `_load_pyfunc` MLflow calls."""
CHAMPION = "champion"
PREVIOUS = "previous"
DIGEST_TAG = "hep_ray.model_digest"
DESCRIPTION_LENGTH = 5000
"""Characters of a version's description that MLflow's database takes."""

_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Candidate:
    """A model that is to be registered.

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


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        name: of the model.
        number: of the version, from 1.
        tags: of the version.
        run_id: MLflow run that it belongs to.
    """

    name: str
    number: int
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None

    @property
    def uri(self) -> str:
        """Such as `models:/mbh_sph/3`, which never means another version."""
        return f"models:/{self.name}/{self.number}"


class ModelRegistry:
    """The registry behind a tracking URI.

    Args:
        uri: of an MLflow server or database.

    Raises:
        TrackingUnavailable: nothing answers there.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._client = open_client(uri)
            self._client.search_registered_models(max_results=1)
        except Exception as exc:
            raise TrackingUnavailable(
                f"MLflow's model registry at {mask(uri)} does not answer: {cause(exc)}"
            ) from exc

    def names(self) -> list[str]:
        """Return the names of all registered models."""
        return sorted(model.name for model in all_pages(self._client.search_registered_models))

    def aliases(self, name: str) -> dict[str, int]:
        """Return alias → number of the version, of one model; empty where there is no such model."""
        if name not in self.names():
            return {}
        return {
            alias: int(number) for alias, number in self._client.get_registered_model(name).aliases.items()
        }

    def find(self, uri: str) -> Version:
        """Return the version that a URI means.

        Args:
            uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

        Raises:
            InvalidConfig: it is neither.
            UnknownName: there is no such model, alias or version; those that exist are listed.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            raise InvalidConfig(
                f"a registered model is models:/NAME@ALIAS or models:/NAME/VERSION; got '{uri}'"
            )
        name, alias, number = match["name"], match["alias"], match["version"]
        names = self.names()
        if name not in names:
            raise UnknownName(
                f"unknown model '{name}'; at {mask(self.uri)}: {', '.join(names) or 'none, promote one first'}"
            )
        if alias is not None:
            aliases = self.aliases(name)
            if alias not in aliases:
                raise UnknownName(
                    f"no version of '{name}' has the alias '{alias}'; its aliases: {', '.join(aliases) or 'none'}"
                )
            number = str(aliases[alias])
        versions = {int(one.version): one for one in self._versions(name)}
        if int(number) not in versions:
            raise UnknownName(
                f"'{name}' has no version {number}; it has {', '.join(map(str, sorted(versions))) or 'none'}"
            )
        found = versions[int(number)]
        return Version(name, int(number), dict(found.tags), found.run_id)

    def by_alias(self, name: str, alias: str) -> Version | None:
        """Return the version of an alias, if there is one."""
        number = self.aliases(name).get(alias)
        return None if number is None else self.find(f"models:/{name}/{number}")

    def download(self, version: Version, into: Path) -> Path:
        """Fetch a version's files.

        Returns:
            The folder that holds them.

        Raises:
            StorageError: they cannot be fetched.
        """
        from mlflow.artifacts import download_artifacts

        try:
            source = self._client.get_model_version_download_uri(version.name, str(version.number))
            return Path(download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=self.uri))
        except Exception as exc:
            raise StorageError(f"cannot fetch the files of {version.uri}: {cause(exc)}") from exc

    def register(
        self, name: str, experiment: str, candidate: Candidate, scratch: Path, artifacts: Path | None = None
    ) -> Version:
        """Store a model as a new version, without any alias; the one that a crash left is used again.

        Args:
            name: of the registered model; made when absent.
            experiment: MLflow experiment that the model belongs to.
            candidate: the model.
            scratch: empty folder for the files before they are sent.
            artifacts: folder for artifacts of a new experiment, when the URI is a database.

        Raises:
            StorageError: the server did not take it; nothing carries an alias.
        """
        try:
            return self._register(name, experiment, candidate, scratch, artifacts)
        except Exception as exc:
            raise StorageError(
                f"the registry at {mask(self.uri)} did not take the model ({cause(exc)}): no alias was changed, "
                "promote again to go on"
            ) from exc

    def crown(self, version: Version) -> int | None:
        """Make a version the champion, and the present one, if it is another, the previous.

        Returns:
            The number of the previous champion.
        """
        former = self.aliases(version.name).get(CHAMPION)
        if former is not None and former != version.number:
            self._client.set_registered_model_alias(version.name, PREVIOUS, str(former))
        self._client.set_registered_model_alias(version.name, CHAMPION, str(version.number))
        return None if former == version.number else former

    def _versions(self, name: str) -> list[Any]:
        return all_pages(partial(self._client.search_model_versions, f"name='{name}'"))

    def _register(
        self, name: str, experiment: str, candidate: Candidate, scratch: Path, artifacts: Path | None
    ) -> Version:
        known = name in self.names()
        for one in self._versions(name) if known else ():
            if one.tags.get(DIGEST_TAG) == candidate.digest and one.status == "READY":
                return Version(name, int(one.version), dict(one.tags), one.run_id)
        model = self._log(experiment, candidate, scratch, artifacts)
        if not known:
            self._client.create_registered_model(name)
        made = self._client.create_model_version(
            name,
            # Not `models:/ID`: MLflow looks that up at its global tracking URI, whatever the client's is.
            source=model.artifact_location,
            run_id=model.source_run_id,
            tags={**candidate.tags, DIGEST_TAG: candidate.digest},
            description=candidate.card[:DESCRIPTION_LENGTH],
            model_id=model.model_id,
        )
        return Version(name, int(made.version), dict(made.tags), made.run_id)

    def _log(self, experiment: str, candidate: Candidate, scratch: Path, artifacts: Path | None) -> Any:
        """An MLflow logged model with the files, complete."""
        found = self._client.get_experiment_by_name(experiment)
        location = artifact_location(self.uri, artifacts, experiment)
        experiment_id = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(experiment, artifact_location=location)
        )
        run_id = self._run(experiment_id, candidate)
        model = self._client.create_logged_model(
            experiment_id,
            name="classifier",
            source_run_id=run_id,
            tags=dict(candidate.tags),
            params=dict(candidate.params),
            model_type="classifier",
        )
        save_mlflow_model(scratch / "model", candidate, run_id=run_id, model_id=model.model_id)
        self._client.log_model_artifacts(model.model_id, str(scratch / "model"))
        return self._client.finalize_logged_model(model.model_id, "READY")

    def _run(self, experiment_id: str, candidate: Candidate) -> str:
        """The run that trained the model, or one made for it where this server does not know that run."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if candidate.run_id is not None:
            try:
                return str(self._client.get_run(candidate.run_id).info.run_id)
            except MlflowException as exc:
                if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        run = self._client.create_run(experiment_id, run_name="promoted", tags=dict(candidate.tags))
        stamp = int(1000 * time.time())
        metrics = [Metric(key, value, stamp, 0) for key, value in candidate.metrics.items()]
        self._client.log_batch(run.info.run_id, metrics=metrics)
        self._client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)
