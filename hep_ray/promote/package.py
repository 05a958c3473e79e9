"""The portable form of a trained classifier: a folder of `model.json` and `model.safetensors`, never a pickle.

That of the models of several folds has, in place of weights, a folder `folds/` with one such folder each, and
`membership.safetensors`, which tells by hashes of ids what event each never saw. That of an ensemble has a folder
`members/` with one such folder for each of the models whose mean it is.

Weights are safetensors: numbers and names, nothing that could be executed. The model is built from its parameters
by the code of hep_ray. Scalers are part of the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from hep_ray.config import Config, parse
from hep_ray.confirm.confirmation import Comparison, Contender, UnderVariation
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import CorruptModel, InvalidConfig, ModelMismatch, UnreadableInput
from hep_ray.files import replacing, storing
from hep_ray.plugins import Plugin, trust
from hep_ray.promote.reference import FILE as REFERENCE
from hep_ray.promote.reference import Reference
from hep_ray.search.naming import estimated
from hep_ray.training.calibration import Calibration

if TYPE_CHECKING:
    import torch

    from hep_ray.promote.classifier import Classifier, Membership

DESCRIPTION = "model.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
CARD_TEMPLATE = Path(__file__).with_name("card.md.jinja")
FORMAT = 1
FOLDS_FORMAT = 2
"""Format of the models of several folds, which a version that knows one model alone must not take for one."""
ENSEMBLE_FORMAT = 3
"""Format of an ensemble, which knows no event, so that versions before it do not take it for one of folds."""
FORMATS = (FORMAT, FOLDS_FORMAT, ENSEMBLE_FORMAT)
FOLDS = "folds"
"""Folder in that of a model: those of the folds, `1`, `2` and so on."""
MEMBERS = "members"
"""The same of an ensemble."""
MEMBERSHIP = "membership.safetensors"


LATER = (
    "plugins",
    "reference_sha256",
    "calibration",
    "folds",
    "membership_sha256",
    "mean_of",
    "files",
    "ids",
)
"""Fields of a description that older ones lack, and that are left out where there is nothing to tell."""


class Evidence(Config):
    """Evidence by which a promotion was judged.

    Attributes:
        metric: of the test split.
        mode: whether more or less of it is better.
        level: of the intervals.
        epochs: full length of the training.
        contender: the promoted configuration with every run.
        baseline: what it was compared with.
        comparison: of the two.
        verdict: the lines of the gate.
        variations: the promoted configuration and the baseline under the dataset's systematic variations.
    """

    metric: str
    mode: str
    level: float
    epochs: int
    contender: Contender
    baseline: Contender
    comparison: Comparison
    verdict: tuple[str, ...] = ()
    variations: tuple[UnderVariation, ...] = ()

    @property
    def values(self) -> list[float]:
        """The metric of every run of the promoted configuration."""
        return [run.metrics[self.metric] for run in self.contender.runs]


class Description(Config):
    """`model.json`: all that a model is, beside its weights.

    Attributes:
        format: version of this layout.
        event_schema: columns, units and classes of the events it was trained on.
        params: of the trial; empty of an ensemble, whose members have their own.
        dataset_fingerprint: of the dataset it was trained on.
        metrics: of the run whose model this is.
        origin: search, search_id, trial, seed, epoch.
        provenance: code, versions, machine and command.
        evidence: what it was promoted by; None for a model that was never judged.
        weights_sha256: of the weights' file.
        reference_sha256: of the reference inputs' file; empty where there is none.
        plugins: files with the code of its components, where they are not hep_ray's own.
        calibration: map from its scores to probabilities, fitted on validation events; None where there is none.
        folds: of the models of several folds, the digest of each in their order; empty of a single model.
        membership_sha256: of the file that tells which event each of them never saw; empty of a single model.
        mean_of: of the models of an ensemble, the digest of each in their order; empty of any other.
        files: of the models of several folds, SHA-256 of the files that their dataset was made of.
        ids: of those of these files of which it is known, what may stand before the numbers of their events in ids.
    """

    format: int = FORMAT
    event_schema: EventSchema
    params: dict[str, Any]
    dataset_fingerprint: str
    metrics: dict[str, float] = Field(default_factory=dict)
    origin: dict[str, str] = Field(default_factory=dict)
    provenance: dict[str, str] = Field(default_factory=dict)
    evidence: Evidence | None = None
    weights_sha256: str = ""
    reference_sha256: str = ""
    plugins: tuple[Plugin, ...] = ()
    calibration: Calibration | None = None
    folds: tuple[str, ...] = ()
    membership_sha256: str = ""
    mean_of: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    ids: dict[str, tuple[str, ...]] = Field(default_factory=dict)

    def dumps(self) -> str:
        """Return the text of `model.json`."""
        later: dict[str, Any] = {name: True for name in LATER if not getattr(self, name)}
        unset: dict[str, Any] = {}
        if not self.event_schema.variations:
            unset["variations"] = True
        if all(column.padding is None for column in self.event_schema.columns):
            unset["columns"] = {"__all__": {"padding"}}
        if unset:
            later["event_schema"] = unset
        if self.evidence is not None and not self.evidence.variations:
            later["evidence"] = {"variations"}
        return self.model_dump_json(indent=1, exclude=later) + "\n"


@dataclass(frozen=True)
class Package:
    """A portable model in memory, small enough to be sent to every worker.

    Attributes:
        description: what `model.json` says.
        weights: bytes of `model.safetensors`.
        trust_code: run code that came with it.
        calibrated: build a classifier whose probabilities are calibrated.
        reference: bytes of `reference.safetensors`, the inputs that new ones are compared with; empty of models that
            were promoted before there were any.
        members: of the models of several folds, or of an ensemble, each; then there are no weights.
        membership: which event each of the folds' models never saw; None of an ensemble.
    """

    description: Description
    weights: bytes
    trust_code: bool = False
    reference: bytes = b""
    calibrated: bool = False
    members: tuple[Package, ...] = ()
    membership: Membership | None = None

    @classmethod
    def create(
        cls, description: Description, state: Mapping[str, torch.Tensor], reference: Reference | None = None
    ) -> Package:
        """Make a package of a model's state, and of what its inputs look like."""
        from safetensors.torch import save

        # Tied weights share memory, which the format refuses: each name gets a copy of its own.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        weights = save(tensors)
        inputs = b"" if reference is None else reference.dumps()
        digests = {"weights_sha256": hashlib.sha256(weights).hexdigest()}
        if inputs:
            digests["reference_sha256"] = hashlib.sha256(inputs).hexdigest()
        return cls(description.model_copy(update=digests), weights, reference=inputs)

    @classmethod
    def of_several(
        cls,
        description: Description,
        members: Sequence[Package],
        membership: Membership | None = None,
        reference: Reference | None = None,
    ) -> Package:
        """Make one package of the models of several folds, or of an ensemble.

        Args:
            description: of their configuration, or of the ensemble, with the code of its own that any of them needs.
            members: of the folds, in their order, or of the ensemble; that code is left out of each.
            membership: which event each fold's model never saw; None makes an ensemble.
            reference: what their inputs look like.
        """
        inputs = b"" if reference is None else reference.dumps()
        members = [
            dataclasses.replace(one, description=one.description.model_copy(update={"plugins": ()}))
            for one in members
        ]
        digests = tuple(one.digest for one in members)
        facts: dict[str, Any] = {"format": ENSEMBLE_FORMAT, "mean_of": digests}
        if membership is not None:
            known = hashlib.sha256(membership.dumps()).hexdigest()
            facts = {"format": FOLDS_FORMAT, "folds": digests, "membership_sha256": known}
        facts |= {
            "weights_sha256": "",
            "reference_sha256": hashlib.sha256(inputs).hexdigest() if inputs else "",
            "calibration": None,
        }
        described = description.model_copy(update=facts)
        return cls(described, b"", reference=inputs, members=tuple(members), membership=membership)

    def check_members(self, folder: Path) -> None:
        """Check that several models are what their description, and the file of memberships, say.

        Raises:
            CorruptModel: they are not.
        """
        if not self.members:
            raise CorruptModel(f"several models are one or more; {folder} has none")
        known = np.array([]) if self.membership is None else self.membership.folds
        if len(known) and not (known.min() >= 0 and known.max() < len(self.members)):
            raise CorruptModel(
                f"every event that {folder / MEMBERSHIP} knows is of one of the folds; there are {len(self.members)}"
            )
        what = "fold" if self.of_folds else "member"
        told = self.description.folds if self.of_folds else self.description.mean_of
        for number, (one, digest) in enumerate(zip(self.members, told, strict=True), 1):
            if one.digest != digest:
                raise CorruptModel(
                    f"the model of {what} {number} in {folder} is not the one that {DESCRIPTION} was written with"
                )
            if one.members or one.description.plugins:
                raise CorruptModel(
                    f"code of their own is carried by all models together; that of {what} {number} in {folder} has "
                    "some, or is several models"
                )

    @property
    def of_folds(self) -> bool:
        """Return whether it is the models of several folds."""
        return self.membership is not None

    @property
    def words(self) -> str:
        """Return what several models are in words; empty of a single one."""
        if self.of_folds:
            return f"those of {len(self.members)} folds"
        return f"the mean of {len(self.members)} models" if self.members else ""

    @property
    def digest(self) -> str:
        """SHA-256 of description and weights: names the model, wherever it lies."""
        return hashlib.sha256(self.description.dumps().encode()).hexdigest()

    def write(self, folder: Path, card: str = "") -> None:
        """Write the folder, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        with replacing(folder) as filling, storing(folder):
            (filling / DESCRIPTION).write_text(self.description.dumps(), encoding="utf-8")
            if self.membership is not None:
                (filling / MEMBERSHIP).write_bytes(self.membership.dumps())
            elif not self.members:
                (filling / WEIGHTS).write_bytes(self.weights)
            for number, one in enumerate(self.members, 1):
                one.write(filling / (FOLDS if self.of_folds else MEMBERS) / str(number))
            if self.reference:
                (filling / REFERENCE).write_bytes(self.reference)
            if card:
                (filling / CARD).write_text(card, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path | str) -> Package:
        """Read a package from its folder, or from one that holds it under `data`, as MLflow's do.

        Raises:
            UnreadableInput: it is not the folder of a model.
            CorruptModel: its weights or reference inputs are not those that it was written with.
        """
        folder = Path(folder)
        if not (folder / DESCRIPTION).is_file():
            # Several models have theirs deeper.
            found = sorted(folder.glob(f"data/**/{DESCRIPTION}"), key=lambda path: (len(path.parts), path))
            folder = next((path.parent for path in found), folder)
        try:
            values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            known = values.get("format") if isinstance(values, dict) else None
            numbers = MEMBERSHIP if known == FOLDS_FORMAT else "" if known == ENSEMBLE_FORMAT else WEIGHTS
            weights = (folder / numbers).read_bytes() if numbers and known in FORMATS else b""
            reference = (folder / REFERENCE).read_bytes() if (folder / REFERENCE).is_file() else b""
        except (OSError, ValueError, RecursionError) as exc:
            raise UnreadableInput(
                f"a model is a folder of {DESCRIPTION} and {WEIGHTS}; {folder} is not: {exc}"
            ) from None
        if known not in FORMATS:
            known_here = f"{', '.join(map(str, FORMATS[:-1]))} and {FORMATS[-1]}"
            raise UnreadableInput(
                f"this hep_ray reads models of the formats {known_here}; {folder} has another"
            )
        description = parse(Description, values, str(folder / DESCRIPTION), UnreadableInput)
        digest, written = hashlib.sha256(weights).hexdigest(), description.weights_sha256
        if known == FOLDS_FORMAT:
            written = description.membership_sha256
        if numbers and digest != written:
            raise CorruptModel(
                f"weights are those that {DESCRIPTION} was written with, SHA-256 {written}; {folder / numbers} has "
                f"{digest}"
            )
        digest = hashlib.sha256(reference).hexdigest() if reference else ""
        if digest != description.reference_sha256:
            raise CorruptModel(
                f"{folder / REFERENCE} has the SHA-256 {digest or 'of no file, since it is not there'}; {DESCRIPTION} "
                f"was written with {description.reference_sha256 or 'none'}"
            )
        if known == FORMAT:
            return cls(description, weights, reference=reference)
        from hep_ray.promote.classifier import Membership

        membership = Membership.loads(weights) if known == FOLDS_FORMAT else None
        inside, told = (
            (FOLDS, description.folds) if membership is not None else (MEMBERS, description.mean_of)
        )
        members = [cls.read(folder / inside / str(number)) for number in range(1, len(told) + 1)]
        made = cls(description, b"", reference=reference, members=tuple(members), membership=membership)
        made.check_members(folder)
        return made

    def build(self, device: torch.device | str = "cpu") -> Classifier:
        """Build the classifier.

        Raises:
            UntrustedCode: it needs code that came with it, and the package is not trusted.
            ModelMismatch: it is to be calibrated, and has no calibration.
            InvalidConfig: the same of the models of folds, which never have one.
            CorruptModel: weights and parameters do not belong together.
        """
        from hep_ray.promote.classifier import Classifier, FoldClassifier, MeanClassifier

        if self.membership is not None:
            if self.calibrated:
                raise InvalidConfig(
                    "--calibrated needs the calibration of one model, and those of folds have none: leave it out"
                )
            trust(self.description.plugins, trust_code=self.trust_code)
            members = [one.build(device) for one in self.members]
            return FoldClassifier(members, self.description.event_schema, self.membership)
        calibration = self._calibration()
        trust(self.description.plugins, trust_code=self.trust_code)
        if self.members:
            members = [one.build(device) for one in self.members]
            return MeanClassifier(members, self.description.event_schema, calibration)
        from safetensors import SafetensorError
        from safetensors.torch import load

        description = self.description
        try:
            state = load(self.weights)
            return Classifier(description.params, description.event_schema, state, device, calibration)
        except (RuntimeError, SafetensorError) as exc:
            raise CorruptModel(
                f"weights and parameters of a model belong together; these do not: {exc}"
            ) from None

    def _calibration(self) -> Calibration | None:
        calibration = self.description.calibration if self.calibrated else None
        if self.calibrated and calibration is None:
            raise ModelMismatch(
                f"the model of {self.description.event_schema.task} has no calibration: promote it again, or leave out "
                "--calibrated"
            )
        return calibration


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    trust_code: bool = False,
    calibrated: bool = False,
) -> Classifier:
    """Load a promoted model from its folder; nothing is unpickled.

    Args:
        folder: of `model.json` and `model.safetensors`, such as MLflow downloads.
        device: where it computes.
        trust_code: run the code that a model with components of its own carries.
        calibrated: give probabilities by the calibration that was stored with it.

    Raises:
        ModelMismatch: it has none.
        UntrustedCode: it carries such code, and that is not trusted.
        UnreadableInput: it is not the folder of a model.
        CorruptModel: the weights are not those that it was written with.
    """
    return dataclasses.replace(Package.read(folder), trust_code=trust_code, calibrated=calibrated).build(
        device
    )


SHOWN = ("accuracy", "auc", "background_rejection_at_50", "calibration_error", "loss")


def model_card(name: str, description: Description) -> str:
    """Return the card in Markdown of a model with evidence: what a colleague reads before trusting it.

    Args:
        name: under which the model is registered.
        description: of the model.
    """
    from jinja2 import Environment, StrictUndefined

    evidence = description.evidence
    assert evidence is not None
    both = (evidence.contender.estimates, evidence.baseline.estimates)
    shown = dict.fromkeys([evidence.metric, *(f"test_{metric}" for metric in SHOWN)])
    environment = Environment(  # noqa: S701 - Markdown, not HTML
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    environment.filters["estimate"] = lambda one: estimated(one.mean, one.sd, one.low, one.high)
    return environment.from_string(CARD_TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        description=description,
        schema=description.event_schema,
        origin=description.origin,
        evidence=evidence,
        metrics=[metric for metric in shown if all(metric in estimates for estimates in both)],
    )
