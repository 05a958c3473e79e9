"""A model with its scalers inside, so that they are saved, resumed and handed on with it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hep_ray.dataset.sparse import Values
from hep_ray.loading.batches import EventSource
from hep_ray.loading.scalers import SCALERS, Scaler
from hep_ray.models import Model, SchemaLike

NONE = "none"


class ScaledModel(Model):
    """Scales its inputs, then asks the model within.

    Args:
        model: takes scaled inputs.
        scalers: column → scaler, for some of the model's columns.
    """

    def __init__(self, model: Model, scalers: Mapping[str, Scaler]) -> None:
        super().__init__()
        self.columns = model.columns
        self.model = model
        self.scalers = nn.ModuleDict(dict(scalers))

    def fit(self, inputs: Mapping[str, Values]) -> None:
        """Fit every scaler to the training split's columns.

        Raises:
            InvalidEvents: a value is NaN or infinite.
        """
        for name, one in self.scalers.items():
            assert isinstance(one, Scaler)
            one.fit(inputs[name])

    def fit_to(self, train: EventSource) -> None:
        """Fit every scaler to the first events of the training split, as many as it takes.

        Raises:
            InvalidEvents: a value is NaN or infinite.
        """
        for name, one in self.scalers.items():
            assert isinstance(one, Scaler)
            one.fit(train.select((name,)).head(one.sample).inputs[name])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (N, n_classes) of inputs as they are stored, in the order of `columns`."""
        scaled = [
            self.scalers[name](values) if name in self.scalers else values
            for name, values in zip(self.columns, inputs, strict=True)
        ]
        logits: Tensor = self.model(*scaled)
        return logits


def with_scalers(model: Model, schema: SchemaLike, by_rank: Mapping[int, str]) -> Model:
    """The model, with scalers within where any is asked for.

    Args:
        model: as built.
        schema: of the events.
        by_rank: rank of a column's shape (0 and 1 scalars, 2 sequences, 3 images) → name of a scaler or `none`.

    Raises:
        UnknownName: there is no such scaler.
    """
    shapes = {column.name: column.shape for column in schema.columns if column.name in model.columns}
    names = {column: by_rank.get(len(shape), NONE) for column, shape in shapes.items()}
    scalers = {column: SCALERS[name](shapes[column]) for column, name in names.items() if name != NONE}
    return ScaledModel(model, scalers) if scalers else model
