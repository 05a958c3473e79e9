"""Which networks may train on batches whose events have lists of similar length."""

from __future__ import annotations

from torch import nn

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.models import Model
from hep_ray.training.config import TrialConfig

UNLESS_STATED = 16
"""Batches whose events are shared out by length."""
BY_THE_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def length_pool(config: TrialConfig, model: Model, schema: EventSchema) -> int:
    """Return how many batches of a training share their events out by the lengths of their lists; 1 is none.

    Each such batch holds of every class events of the same quantile of its lengths. Where those of one class are
    longer, they are the longer ones in each batch, and what a network or a loss takes from the whole batch tells the
    classes apart: `particlenet` fell from an AUC of 0.884 to 0.808 after one epoch, on events that it had not seen.

    Raises:
        InvalidConfig: more than 1 is stated for a network that normalises by the batch, or beside a decorrelation.
    """
    stated = config.training.length_pool
    if not any(schema.column(name).lists for name in model.columns):
        return 1
    normalises = any(isinstance(module, BY_THE_BATCH) for module in model.modules())
    if not normalises and not config.training.decorrelation:
        return stated or UNLESS_STATED
    if stated > 1:
        why = (
            "the network normalises by its batch" if normalises else "the loss decorrelates within its batch"
        )
        raise InvalidConfig(
            f"length_pool={stated} would put events of similar length into a batch, and {why}, of which their lengths "
            "then tell the classes: leave length_pool out, which leaves them at random, or let it exist for other "
            "models, with .when(model=…)"
        )
    return 1
