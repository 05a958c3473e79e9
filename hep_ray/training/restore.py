"""A trained model back from the checkpoint of its best epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from hep_ray.config import FORMERLY
from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import CorruptCheckpoint
from hep_ray.losses import LOSSES, Loss, build_loss
from hep_ray.models import Model
from hep_ray.training.checkpoint import load_checkpoint
from hep_ray.training.config import TrialConfig


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that turns events into class probabilities.

    Attributes:
        model: in evaluation mode, with its weights and the statistics of its scalers.
        loss: gives the probabilities.
        config: the parameters it was trained with.
        metrics: of the epoch that it is of.
    """

    model: Model
    loss: Loss
    config: TrialConfig
    metrics: dict[str, float]

    @property
    def half(self) -> bool:
        """Whether it was validated in bfloat16."""
        return not self.config.fitted and self.config.training.precision == "bfloat16"


def restore_model(path: Path, schema: EventSchema, device: torch.device | str = "cpu") -> TrainedModel:
    """Build the model that a `best.pt` describes, and give it its weights.

    Args:
        path: of the checkpoint.
        schema: of the dataset that it was trained on.
        device: where the model is to live.

    Raises:
        CorruptCheckpoint: the file is not a whole checkpoint, or its weights do not fit the schema.
        InvalidConfig: its parameters are not those of this version's components.
    """
    state = load_checkpoint(path, device)
    try:
        params, weights, metrics = state["params"], state["model"], state["metrics"]
    except KeyError as fault:
        raise CorruptCheckpoint(
            f"a best checkpoint holds params, model and metrics; {path} lacks {fault}"
        ) from fault
    if not (isinstance(params, dict) and isinstance(weights, dict) and isinstance(metrics, dict)):
        raise CorruptCheckpoint(
            f"params, model and metrics of a checkpoint are dicts; those of {path} are not"
        )
    config = TrialConfig.completed(params, FORMERLY)
    model = config.build_model(schema)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as fault:
        raise CorruptCheckpoint(
            f"weights fit the model of their parameters; those of {path} do not: {fault}"
        ) from fault
    return TrainedModel(model.to(device).eval(), _loss(config).to(device), config, metrics)


def _loss(config: TrialConfig) -> Loss:
    """The trial's own; a fitted model, which has none, is judged by its cross-entropy."""
    if config.fitted:
        return build_loss("cross_entropy", {})
    loss: Loss = LOSSES[config.training.loss].build(config.components["loss"])
    return loss
