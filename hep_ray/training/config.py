"""From a trial's flat parameters to the components they name, and which keys each component reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hep_ray.config import Config, parse
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import ListColumn, Values, mask_of
from hep_ray.errors import InvalidConfig, InvalidEvents, did_you_mean
from hep_ray.loading.augment import AugmentConfig
from hep_ray.loading.augmentations import AUGMENTATIONS, turned_on
from hep_ray.loading.batches import EventSource, LastBatch, NegativeWeights
from hep_ray.loading.scalers import FIT_EVENTS, SCALERS, Scaler
from hep_ray.loading.scalers.missing import Imputation, Imputer
from hep_ray.losses import LOSSES
from hep_ray.losses.distance_correlation import Decorrelation
from hep_ray.models import MODELS, Model, SchemaLike, as_promised, members_of
from hep_ray.optim import OPTIMIZERS, SCHEDULES
from hep_ray.own_code import blaming
from hep_ray.registry import Registry

NONE = "none"
MOST_FLAT = 2
"""Columns in which classes are made flat: `flat_bins` to that power are filled by each class."""
PLANE = -2
"""In place of the rank of an image without an axis of channels."""


class FitConfig(Config):
    """Configuration of every trial, whatever its model.

    Attributes:
        model: name in the model registry.
        class_weights: `balanced` gives every class the same sum of weights in the training loss.
        negative_weights: what stands for a sample weight below 0 in the training loss, of which metrics know nothing:
            `signed` itself, which is unbiased, and lets the loss fall without end where negative weights outweigh the
            others; `absolute` its size; `zero` nothing; the class is then scaled to the sum that it had. `auto` is
            `signed` for what is trained and `absolute` for what is fitted, as trees take no negative sums.
        flat_in: scalar columns, joined by `+`, in which each class is made flat in the training loss, so that it is not
            told by them alone: `pt`, or `pt+eta`; spectators too. Metrics know nothing of it.
        flat_bins: of equal width for each of them, between its quantiles of 1 % and 99 %; what lies outside is in the
            outer ones.
        decorrelate: scalar column, a spectator too, that the score is to know nothing of on background, such as a mass:
            `background_distance_correlation` and `background_jsd` are reported of it after each epoch and on the test
            split; `decorrelation` puts it into the loss.
    """

    model: str
    class_weights: Literal["none", "balanced"] = "none"
    negative_weights: Literal["auto", "signed", "absolute", "zero"] = "auto"
    flat_in: str = ""
    flat_bins: int = Field(default=20, ge=2)
    decorrelate: str = ""

    @property
    def flat_columns(self) -> tuple[str, ...]:
        """Columns in which each class is made flat."""
        return tuple(self.flat_in.split("+")) if self.flat_in else ()

    def beside(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the columns of a model with the one that the trial is decorrelated from."""
        return tuple(dict.fromkeys((*columns, *([self.decorrelate] if self.decorrelate else []))))

    def check_columns(self, schema: EventSchema) -> None:
        """Check that the events have the columns that this names.

        Raises:
            InvalidConfig: they lack one, it is no scalar without missing values, or there are more than two; or
                background is to be decorrelated, and no class is the signal.
        """
        scalars = [
            one.name
            for one in schema.columns
            if not one.shape and not one.missing and one.name != schema.weight
        ]
        if len(set(self.flat_columns)) < len(self.flat_columns) or len(self.flat_columns) > MOST_FLAT:
            raise InvalidConfig(f"flat_in '{self.flat_in}' names more than {MOST_FLAT} columns, or one twice")
        named = [("flat_in", self.flat_in, name) for name in self.flat_columns]
        named += [("decorrelate", self.decorrelate, self.decorrelate)] if self.decorrelate else []
        for key, value, name in named:
            if name not in scalars:
                raise InvalidConfig(
                    f"{key} '{value}' names '{name}', which is no scalar column of the events without missing values: "
                    f"{', '.join(scalars) or 'there is none'}"
                )
        if self.decorrelate and schema.signal is None:
            raise InvalidConfig(
                f"decorrelate '{self.decorrelate}' is of the background, and no class of {', '.join(schema.classes)} "
                "is the signal: name it when the data are converted, --signal"
            )

    @property
    def of_negative_weights(self) -> NegativeWeights:
        """Treatment of negative weights in a fit."""
        return "absolute" if self.negative_weights == "auto" else self.negative_weights


class TrainerConfig(FitConfig):
    """Configuration that every trial of a trained model has beside.

    Attributes:
        loss: name in the loss registry.
        optimizer: name in the optimizer registry.
        schedule: name in the learning-rate schedule registry.
        augmentation: name in the registry of augmentations: one of the user's own, or one of hep_ray's, whose own keys
            combine several.
        decorrelation: λ of the term λ·dCor² beside the mean loss of a batch, the squared distance correlation of the
            signal's probability with the column of `decorrelate`, on the batch's background with its weights
            (Kasieczka and Shih, arXiv:2001.05310). It needs batches with hundreds of background events; each of
            several workers takes it of its own share. `train_loss` is without it.
        decorrelation_warmup: fraction of the epochs over which λ rises in equal steps, from 0 in the first one: dCor²
            does not depend on how far scores spread, so that its gradient is largest where nothing was learnt yet. They
            are rounded up, and the last epoch always has the whole λ. A search then needs metric
            `val_decorrelated_loss`.
        learning_rate: step size that the schedule starts from.
        batch_size: events per optimizer step.
        train_events: learn from so many events of the training split, the first ones, which stand in random order; 0
            takes all. Scalers are fitted to them alone.
        train_auc: report the AUC of the training events too (`train_auc`), by one more pass over them per epoch.
        last_batch: what becomes of the r events of an epoch that do not fill a batch. `share`: fewer than half a batch
            take events over from the batch before, so that no step, and no batch normalisation, sees fewer than half a
            batch; `keep`: they make a step of their own, however few; `drop`: they are left out of the epoch.
        length_pool: so many batches share their events, drawn at random, out by the lengths of their lists, each class
            in proportion, so that less is filled up; 1 leaves them at random, and 0 takes 16 where the network does not
            normalise by the batch, nor the loss decorrelate. Without lists nothing changes.
        imputation: what stands for values that are missing, of columns that may lack some: `median` or `mean` of the
            training events that have one, before any scaling, or `zero`.
        scalar_scaling: scaler of scalar and vector columns, fitted on the training split; `none` leaves them.
        sequence_scaling: the same for columns of rank 2, such as tracks, and of lists, whose items count each.
        plane_scaling: the same for images without an axis of channels: columns of rank 2 whose axes the schema names;
            unless given that of the sequences.
        image_scaling: the same for columns of rank 3.
        patience: end the trial after this many epochs without a better value of `patience_metric`; 0 never does.
        patience_metric: `goal`, the metric (and mode) that the search ranks by, or `val_loss`.
        clip_norm: largest length of a step's gradient, which is scaled down to it; 0 leaves it.
        swa_start: after this fraction of the epochs validate and keep the mean of the weights; 1 never does.
        precision: `bfloat16` runs the model's products in 16 bits (autocast); weights and loss stay in 32.
        sync_batch_norm: with several workers, take the statistics of batch normalisation from the whole batch.
        learning_rate_scaling: with several workers, `none` shares each batch among them; `linear` and `sqrt` give
            each a whole batch and multiply the learning rate by the number of workers, or by its root.
    """

    loss: str
    optimizer: str
    schedule: str = NONE
    augmentation: str = NONE
    decorrelation: NonNegativeFloat = 0.0
    decorrelation_warmup: float = Field(default=0.0, ge=0, lt=1)
    learning_rate: PositiveFloat
    batch_size: PositiveInt = 100
    train_events: NonNegativeInt = 0
    train_auc: bool = False
    last_batch: LastBatch = "share"
    length_pool: NonNegativeInt = 0
    imputation: Imputation = "median"
    scalar_scaling: str = NONE
    sequence_scaling: str = NONE
    plane_scaling: str = ""
    image_scaling: str = NONE
    patience: NonNegativeInt = 0
    patience_metric: Literal["goal", "val_loss"] = "goal"
    clip_norm: NonNegativeFloat = 0.0
    swa_start: float = Field(default=1.0, ge=0, le=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    sync_batch_norm: bool = False
    learning_rate_scaling: Literal["none", "linear", "sqrt"] = "none"

    @property
    def of_negative_weights(self) -> NegativeWeights:
        """Treatment of negative weights in the loss."""
        return "signed" if self.negative_weights == "auto" else self.negative_weights

    @property
    def scaling_by_rank(self) -> dict[int, str]:
        """Rank of a column's shape → name of its scaler; -2 stands for images without an axis of channels."""
        scalar, sequence, image = self.scalar_scaling, self.sequence_scaling, self.image_scaling
        return {0: scalar, 1: scalar, 2: sequence, 3: image, PLANE: self.plane_scaling or sequence}


REGISTRIES: dict[str, Registry[Any]] = {
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
}
"""Kind of component → the registry its name is looked up in."""


@dataclass(frozen=True)
class TrialConfig:
    """A trial's parameters, resolved and checked: the trainer's own and one config per component."""

    trainer: FitConfig
    components: Mapping[str, Config]
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def fitted(self) -> bool:
        """Whether the model is fitted in one go, without loss and optimizer."""
        return MODELS[self.trainer.model].fitted

    @property
    def seedless(self) -> bool:
        """Whether no seed changes the model: it is fitted, and draws nothing."""
        return self.fitted and getattr(self.components["model"], "seedless", True)

    @property
    def training(self) -> TrainerConfig:
        """How the model is trained.

        Raises:
            InvalidConfig: it is fitted.
        """
        if not isinstance(self.trainer, TrainerConfig):
            raise InvalidConfig(f"a loop trains models that are trained; '{self.trainer.model}' is fitted")
        return self.trainer

    @classmethod
    def completed(cls, params: Mapping[str, Any], unstated: Mapping[str, Any]) -> TrialConfig:
        """The same as `from_params`, with other defaults than today's.

        Args:
            params: flat.
            unstated: values of keys that they may leave out; those that nothing reads in this trial do nothing.
        """
        found = cls.from_params(params)
        older = {key: value for key, value in unstated.items() if key in found.resolved()}
        return cls.from_params({**older, **params})

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> TrialConfig:
        """Resolve flat parameters such as `{"model": "cnn", "loss": "root_softmax", "root_index": 3, …}`.

        Raises:
            UnknownName: a component's name is not registered.
            InvalidConfig: a key that nothing reads, a missing key, or a value its component refuses.
        """
        kind_of_trial = _trainer_of(params.get("model"))
        own = {key: value for key, value in params.items() if key in kind_of_trial.field_names()}
        trainer = parse(kind_of_trial, own, "trainer")
        chosen = {kind: getattr(trainer, kind) for kind in REGISTRIES if hasattr(trainer, kind)}
        readers = keys_read(chosen)
        for key in params:
            if key not in readers:
                raise InvalidConfig(
                    f"unknown key '{key}'{did_you_mean(key, readers)}; {describe(chosen)} reads: "
                    f"{', '.join(sorted(readers))}"
                )
        components = {}
        for kind, name in chosen.items():
            config = REGISTRIES[kind][name].config
            values = {key: params[key] for key in config.field_names() if key in params}
            components[kind] = parse(config, values, f"{kind} '{name}'")
        if isinstance(trainer, TrainerConfig):
            for name in set(trainer.scaling_by_rank.values()) - {NONE}:
                SCALERS[name]  # an unknown one is refused here
        stated = {key: params[key] for key in AugmentConfig.field_names() if key in params}
        augmentation = parse(AugmentConfig, stated, "augmentation")
        if isinstance(trainer, TrainerConfig):
            augmentation = turned_on(trainer.augmentation, components["augmentation"], augmentation)
            _check_decorrelation(trainer, augmentation)
            _check_members(trainer, components["loss"])
        return cls(trainer, components, augmentation)

    def own_augmentation(
        self, columns: Sequence[Column]
    ) -> Callable[[dict[str, Tensor], int], dict[str, Tensor]] | None:
        """Return what an augmentation of the user's own does to inputs, given a seed; None where there is none.

        Args:
            columns: that the model reads.

        Raises:
            InvalidConfig: it changes none of them.
        """
        entry = AUGMENTATIONS[self.training.augmentation]
        return entry.on(self.components["augmentation"], columns)

    def build_model(self, schema: EventSchema) -> Model:
        """A new model for events of this schema.

        Raises:
            InvalidConfig: the model cannot take the dataset's columns, or others that are named are not there.
        """
        self.trainer.check_columns(schema)
        name = self.trainer.model
        model = as_promised(name, MODELS[name].build(self.components["model"], schema), schema)
        if self.fitted:
            return model
        return with_scalers(model, schema, self.training.scaling_by_rank, self.training.imputation)

    def decorrelation_of(self, schema: EventSchema, train: EventSource) -> Decorrelation | None:
        """Return the term of the loss that decorrelates background from a column; None where there is none.

        Raises:
            InvalidEvents: see `check_background`.
        """
        self.check_background(schema, train)
        training = self.training
        if not training.decorrelation:
            return None
        warmup = training.decorrelation_warmup
        return Decorrelation(training.decorrelate, training.decorrelation, schema.signal_index, warmup)

    def check_background(self, schema: EventSchema, train: EventSource) -> None:
        """Check that the column that trials are decorrelated from says something of the training background.

        Raises:
            InvalidEvents: the first training events have no background, or no signal, or the column is constant.
        """
        column = self.trainer.decorrelate
        if not column:
            return
        first = train.select((column,)).head(FIT_EVENTS)
        background = first.labels != schema.signal_index
        if background.all() or not background.any():
            raise InvalidEvents(
                f"decorrelate '{column}' needs signal and background; all of the first {len(first)} training events "
                f"are {'background' if background.all() else 'signal'}"
            )
        values = np.asarray(first.inputs[column])[background]
        if not np.isfinite(values).all() or values.min() == values.max():
            raise InvalidEvents(
                f"decorrelate '{column}' needs a column of finite values that differ; of the first {len(values)} "
                f"background events it is {values[0]:g} in all, or not finite in some: name another column"
            )

    def resolved(self) -> dict[str, Any]:
        """Every value that the trial uses, defaults included, as one flat dict."""
        values = self.trainer.model_dump() | ({} if self.fitted else self.augmentation.model_dump())
        for component in self.components.values():
            values.update(component.model_dump())
        return values


def _check_members(trainer: TrainerConfig, of_loss: Config) -> None:
    if not MODELS[trainer.model].members:
        return
    with blaming(f"building loss '{trainer.loss}'"):
        loss = LOSSES[trainer.loss].build(of_loss)
    if not loss.is_softmax:
        raise InvalidConfig(
            f"model '{trainer.model}' answers by the mean of its members' probabilities, the softmax of their logits; "
            f"those of loss '{trainer.loss}' are no softmax: take another loss, such as 'cross_entropy', or a model "
            "without members"
        )


def _check_decorrelation(trainer: TrainerConfig, augmentation: AugmentConfig) -> None:
    if trainer.decorrelation_warmup and not trainer.decorrelate:
        raise InvalidConfig(
            f"decorrelation_warmup {trainer.decorrelation_warmup:g} is of no column: name one, decorrelate='jet_mass'"
        )
    if trainer.decorrelation_warmup and not trainer.decorrelation:
        raise InvalidConfig(
            f"decorrelation_warmup {trainer.decorrelation_warmup:g} is of no term: λ is 0, nothing rises: state one, "
            "decorrelation=5.0, or leave the warm-up out"
        )
    if not trainer.decorrelation:
        return
    if not trainer.decorrelate:
        raise InvalidConfig(
            f"decorrelation {trainer.decorrelation:g} is of no column: name one, decorrelate='jet_mass'"
        )
    if mixing := [name for name in ("mixup", "cutmix", "manifold_mixup") if getattr(augmentation, name)]:
        raise InvalidConfig(
            f"decorrelation is on background alone, and {mixing[0]} mixes it with signal: leave one of them out"
        )


def keys_read(chosen: Mapping[str, str]) -> dict[str, str]:
    """Which component reads each parameter, for one choice of components.

    Args:
        chosen: kind → name, such as `{"model": "cnn", "loss": "hinge", …}`; a kind may be left out.

    Returns:
        key → a label such as `loss 'root_softmax'`.

    Raises:
        UnknownName: a name is not registered.
    """
    trainer = _trainer_of(chosen.get("model"))
    augmentation = AugmentConfig.field_names() if trainer is TrainerConfig else ()
    always = (*trainer.field_names(), *augmentation)
    return dict.fromkeys(always, "the trainer") | {
        key: f"{kind} '{name}'"
        for kind, name in chosen.items()
        for key in REGISTRIES[kind][name].config.field_names()
    }


def _trainer_of(model: str | None) -> type[FitConfig]:
    return FitConfig if model is not None and MODELS[model].fitted else TrainerConfig


def training_keys() -> set[str]:
    """Parameters that exist only where a model is trained: not where it is fitted in one go."""
    components = {
        key
        for kind, registry in REGISTRIES.items()
        if kind != "model"
        for name in registry
        for key in registry[name].config.field_names()
    }
    own = set(TrainerConfig.field_names()) - set(FitConfig.field_names())
    return own | set(AugmentConfig.field_names()) | components


def readers_of(key: str) -> Iterator[tuple[str, str]]:
    """Every registered component, as (kind, name), that reads a parameter of this name."""
    for kind, registry in REGISTRIES.items():
        for name in registry:
            if key in registry[name].config.field_names():
                yield kind, name


def unknown_key(key: str, read: Iterable[str]) -> str:
    """Say that nothing reads a parameter of a space, and what would.

    Args:
        key: its name.
        read: all that is read.
    """
    read = sorted(read)
    owners = ", ".join(f"{kind} '{name}'" for kind, name in readers_of(key))
    hint = (
        f" ({owners} would read it, and the space does not offer that)" if owners else did_you_mean(key, read)
    )
    return f"unknown key '{key}' in space{hint}; this trainer reads: {', '.join(read)}"


def unread_key(key: str, chosen: Mapping[str, str], offered: Mapping[str, Collection[object]]) -> str:
    """Say that a parameter of a space is read in some of its trials alone.

    Args:
        key: its name.
        chosen: components beside which it is not read.
        offered: kind → names that the space allows.
    """
    owners = [(kind, name) for kind, name in readers_of(key) if name in offered[kind]]
    kind = owners[0][0]
    names = ", ".join(repr(name) for _, name in owners)
    condition = names if len(owners) == 1 else f"({names})"
    return (
        f"'{key}' would go unread in some trials: it is read by {kind} {names} only, and the space "
        f"also allows {describe(chosen)}: add .when({kind}={condition})"
    )


def describe(chosen: Mapping[str, str]) -> str:
    """Such as `the trainer with model 'cnn', loss 'hinge'`."""
    return "the trainer with " + ", ".join(f"{kind} '{name}'" for kind, name in chosen.items())


class ScaledModel(Model):
    """Fills and scales its inputs, then asks the model within.

    Args:
        model: takes scaled inputs.
        scalers: column → scaler, for some of the model's columns.
        lists: columns of lists, whose scalers are of one item.
        imputers: column → what fills its missing values, for those that may lack some.
    """

    def __init__(
        self,
        model: Model,
        scalers: Mapping[str, Scaler],
        lists: Collection[str] = (),
        imputers: Mapping[str, Imputer] | None = None,
    ) -> None:
        super().__init__()
        self.lists = frozenset(lists)
        self.columns = model.columns
        self.members = members_of(model)
        self.model = model
        self.scalers = nn.ModuleDict(dict(scalers))
        self.imputers = nn.ModuleDict(dict(imputers or {}))

    def fit(self, inputs: Mapping[str, Values]) -> None:
        """Fit every imputer and scaler to the training split's columns.

        Raises:
            InvalidEvents: a value is infinite, or NaN where none may be missing.
        """
        for name in self._fitted_columns:
            self._fit(name, inputs[name])

    @property
    def _fitted_columns(self) -> list[str]:
        return [name for name in self.columns if name in self.scalers or name in self.imputers]

    def _fit(self, name: str, values: Values) -> None:
        if name in self.imputers:
            imputer = self.imputers[name]
            assert isinstance(imputer, Imputer)
            values = imputer.fit(values)
        if name in self.scalers:
            scaler = self.scalers[name]
            assert isinstance(scaler, Scaler)
            scaler.fit(items_of(values) if name in self.lists else values)

    def fit_to(self, train: EventSource) -> None:
        """Fit every imputer and scaler to the first events of the training split, as many as these take.

        Raises:
            InvalidEvents: a value is infinite, or NaN where none may be missing.
        """
        scalers = dict(self.scalers.items())
        for name in self._fitted_columns:
            scaler = scalers.get(name)
            most = scaler.sample if isinstance(scaler, Scaler) else FIT_EVENTS
            self._fit(name, train.select((name,)).head(most).inputs[name])

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits, as the model within returns them, of inputs as they are stored, in the order of `columns`."""
        logits: Tensor = self.model(*self.scaled(*inputs))
        return logits

    def scaled(self, *inputs: Tensor) -> list[Tensor]:
        """Inputs as the model within takes them: none missing, scaled."""
        given = [
            self.imputers[name](values) if name in self.imputers else values
            for name, values in zip(self.columns, inputs, strict=True)
        ]
        return [
            self._scaled(name, values) if name in self.scalers else values
            for name, values in zip(self.columns, given, strict=True)
        ]

    def _scaled(self, name: str, values: Tensor) -> Tensor:
        if name not in self.lists:
            return cast("Tensor", self.scalers[name](values))
        items: Tensor = self.scalers[name](values.flatten(0, 1)).view(values.shape)
        return torch.where(torch.isnan(values), torch.nan, items)


def items_of(values: Values) -> npt.NDArray[Any]:
    """Return all items (M, F) of a column of lists."""
    if isinstance(values, ListColumn):
        return values.items
    whole = np.asarray(values)
    return whole[mask_of(whole)]


def with_scalers(
    model: Model, schema: SchemaLike, by_rank: Mapping[int, str], imputation: Imputation = "median"
) -> Model:
    """The model, with scalers within where any is asked for, and imputers where a column may lack values.

    Args:
        model: as built.
        schema: of the events.
        by_rank: rank of a column's shape (0 and 1 scalars, 2 sequences, 3 images; `PLANE` images of rank 2) → name of
            a scaler or `none`.
        imputation: what fills missing values.

    Raises:
        UnknownName: there is no such scaler.
        InvalidConfig: the model works with the units of a column that is to be scaled.
    """
    columns = [column for column in schema.columns if column.name in model.columns]
    shapes = {column.name: column.shape for column in columns}
    planes = {
        column.name for column in columns if len(column.shape) == -PLANE and getattr(column, "axes", None)
    }
    names = {
        column: by_rank.get(PLANE if column in planes and PLANE in by_rank else len(shape), NONE)
        for column, shape in shapes.items()
    }
    lists = {column.name for column in columns if getattr(column, "lists", False)}
    scaled = {column: name for column, name in names.items() if name != NONE}
    if wrong := [column for column in scaled if column in getattr(model, "unscaled", ())]:
        raise InvalidConfig(
            f"sequence_scaling '{scaled[wrong[0]]}' would change the momenta of '{wrong[0]}', which the model works "
            "with: leave it out, or let it exist where a model reads elements as they are, particle_features = 'stored'"
        )
    scalers = {
        column: SCALERS[name](shapes[column][1:] if column in lists else shapes[column])
        for column, name in scaled.items()
    }
    imputers = {
        column.name: Imputer(column.shape, imputation)
        for column in columns
        if getattr(column, "missing", False)
    }
    return ScaledModel(model, scalers, lists, imputers) if scalers or imputers else model
