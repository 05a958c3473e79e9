"""A typed search space whose keys are checked against what the trainer really reads.

    space = Space(
        model="cnn",
        loss=Choice("cross_entropy", "root_softmax"),
        root_index=Choice(3, 4, 5).when(loss="root_softmax"),
        optimizer=Choice("adam", "sgd"),
        momentum=Uniform(0.8, 0.99).when(optimizer="sgd"),
        learning_rate=LogUniform(1e-4, 1e-2),
    )

A plain value is fixed. A conditional parameter exists only in trials where its condition holds; `By` makes a value
follow from another parameter's. What belongs to
training (loss, optimizer, learning rate, augmentation …) exists only in trials whose model is trained, not in those of
a model that is fitted in one go, such as gradient boosting; that condition need not be written.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hep_ray.errors import InvalidConfig, InvalidSpace, UnknownName
from hep_ray.loading.augment import AugmentConfig
from hep_ray.models import MODELS
from hep_ray.search.parameters import By, Choice, Parameter, Value
from hep_ray.training.config import (
    REGISTRIES,
    TrainerConfig,
    TrialConfig,
    describe,
    keys_read,
    readers_of,
    training_keys,
)

if TYPE_CHECKING:
    import optuna


class Space:
    """Parameters by name; conditions may refer to parameters stated before.

    Raises:
        InvalidSpace: a condition names a parameter that is not stated before it, or a value it
            never has; or a component follows from another parameter.
    """

    def __init__(self, **parameters: Parameter | Value) -> None:
        self.parameters: dict[str, Parameter] = {}
        self._of_training = training_keys()
        for name, parameter in sorted(parameters.items(), key=lambda item: item[0] != "model"):
            given = parameter if isinstance(parameter, Parameter) else Choice(parameter)
            self._check_condition(name, given)
            if isinstance(given, By) and name in REGISTRIES:
                raise InvalidSpace(f"a {name} is a Choice, which others may follow; got one by {given.other}")
            self.parameters[name] = given

    def _check_condition(self, name: str, parameter: Parameter) -> None:
        for key, values in parameter.condition.items():
            earlier = self.parameters.get(key)
            if not isinstance(earlier, Choice):
                raise InvalidSpace(
                    f"a condition names a Choice stated before it; '{name}' exists when '{key}' is {values}, "
                    f"stated before it: {', '.join(self.parameters) or 'nothing'}"
                )
            for value in values:
                if value not in earlier.values:
                    raise InvalidSpace(
                        f"a condition can be met; '{name}' exists when {key}={value}, but {key} is {earlier}"
                    )

    def replace(self, **parameters: Parameter | Value) -> Space:
        """The same space with some parameters stated anew (or added at the end)."""
        return Space(**{**self.parameters, **parameters})

    def drawn(self) -> list[str]:
        """Parameters that a sampler draws: those that have more than one value, and do not follow from another."""
        return [
            name
            for name, one in self.parameters.items()
            if not isinstance(one, By) and len(one.corners()) > 1
        ]

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Draw one configuration, define-by-run: a parameter whose condition fails is not drawn."""
        chosen: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if self._exists(name, chosen):
                if isinstance(parameter, By):
                    chosen[name] = parameter.value(chosen)
                else:
                    chosen[name] = parameter.suggest(trial, name)
        return chosen

    def _exists(self, name: str, chosen: Mapping[str, Value]) -> bool:
        model = chosen.get("model")
        fitted = model in MODELS and MODELS[str(model)].fitted
        return self.parameters[name].holds(chosen) and not (fitted and name in self._of_training)

    def grid(self) -> list[dict[str, Value]]:
        """Every configuration.

        Raises:
            InvalidSpace: a parameter is a range; a grid needs values.
        """
        points: list[dict[str, Value]] = [{}]
        for name, parameter in self.parameters.items():
            if not isinstance(parameter, Choice | By):
                raise InvalidSpace(f"a grid has a Choice for every parameter; '{name}' is {parameter}")
            points = [
                extended
                for point in points
                for extended in (
                    [{**point, name: value} for value in _values(parameter, point)]
                    if self._exists(name, point)
                    else [point]
                )
            ]
        return points

    def check(self) -> None:
        """Prove before anything starts that the trainer reads every key and takes every value.

        Raises:
            InvalidSpace: an unknown key, a key that some trial would not read, or a refused value.
        """
        combinations = list(self._combinations())
        everything = {key for chosen in combinations for key in keys_read(chosen)}
        for key in self.parameters:
            if key not in everything:
                raise InvalidSpace(self._unknown_key(key, everything))
        for chosen in combinations:
            self._check_combination(chosen)

    def samples(self) -> list[dict[str, Value]]:
        """One configuration for each way in which components can be combined."""
        return [self._sample(chosen) for chosen in self._combinations()]

    def augmented(self) -> Iterator[dict[str, Value]]:
        """Configurations that augment: every model with each value of each augmentation and of each word.

        Which columns a model reads is said by words (never by numbers), so this meets each augmentation with each
        choice of columns.
        """
        words = [
            {name: value}
            for name, parameter in self.parameters.items()
            if isinstance(parameter, Choice) and name not in REGISTRIES
            for value in parameter.corners()
            if isinstance(value, str)
        ]
        happens = [
            (name, value)
            for name in AugmentConfig.field_names()
            if name in self.parameters
            for value in self.parameters[name].corners()
            if value
        ]
        for model in self._component_choices("model") if happens else ():
            for (name, value), other in itertools.product(happens, [{}, *words]):
                where = {key: values[0] for key, values in self.parameters[name].condition.items()}
                sample = self._sample(dict([model]), {**where, name: value, **other})
                if sample.get(name) == value:
                    yield sample

    def _combinations(self) -> Iterator[dict[str, str]]:
        """Every choice of components; a model that is fitted goes without the others."""
        for model in self._component_choices("model"):
            kinds = () if MODELS[model[1]].fitted else tuple(kind for kind in REGISTRIES if kind != "model")
            for others in itertools.product(*(self._component_choices(kind) for kind in kinds)):
                yield dict([model, *others])

    def _component_choices(self, kind: str) -> list[tuple[str, str]]:
        parameter = self.parameters.get(kind)
        if parameter is None:
            default = TrainerConfig.model_fields[kind].default
            if not isinstance(default, str):
                raise InvalidSpace(
                    f"a space states its {kind}; absent here. Known: {', '.join(REGISTRIES[kind])}"
                )
            return [(kind, default)]
        try:
            for name in parameter.corners():
                REGISTRIES[kind][str(name)]
        except UnknownName as fault:
            raise InvalidSpace(f"in the space, {fault}") from None
        return [(kind, str(name)) for name in parameter.corners()]

    def _check_combination(self, chosen: dict[str, str]) -> None:
        readable = keys_read(chosen)
        base = self._sample(chosen)
        for name in base:
            if name not in readable:
                raise InvalidSpace(self._unread_key(name, chosen))
        for name, parameter in self.parameters.items():
            for value in _values(parameter, base) if name in base and name not in REGISTRIES else ():
                try:
                    TrialConfig.from_params(self._followed({**base, name: value}))
                except InvalidConfig as fault:
                    raise InvalidSpace(f"the trainer refuses this space: {fault}") from None

    def _sample(self, chosen: dict[str, str], wanted: Mapping[str, Value] | None = None) -> dict[str, Value]:
        """A configuration of these components, with the wanted values of what exists beside them, else the first."""
        sample: dict[str, Value] = {kind: name for kind, name in chosen.items() if kind in self.parameters}
        for name, parameter in self.parameters.items():
            if name not in sample and self._exists(name, sample):
                free = wanted is not None and name in wanted and not isinstance(parameter, By)
                sample[name] = wanted[name] if wanted and free else _values(parameter, sample)[0]
        return sample

    def _followed(self, params: dict[str, Value]) -> dict[str, Value]:
        """With every value that follows from another's put right."""
        for name, parameter in self.parameters.items():
            if isinstance(parameter, By) and name in params and parameter.holds(params):
                params[name] = parameter.value(params)
        return params

    def _unknown_key(self, key: str, everything: set[str]) -> str:
        owners = ", ".join(f"{kind} '{name}'" for kind, name in readers_of(key))
        hint = f" ({owners} would read it, and the space does not offer that)" if owners else ""
        return f"unknown key '{key}' in space{hint}; this trainer reads: {', '.join(sorted(everything))}"

    def _unread_key(self, key: str, chosen: dict[str, str]) -> str:
        owners = [(kind, name) for kind, name in readers_of(key) if name in self.parameters[kind].corners()]
        kind = owners[0][0]
        names = ", ".join(repr(name) for _, name in owners)
        condition = names if len(owners) == 1 else f"({names})"
        return (
            f"every key is read in every trial that has it; '{key}' is read by {kind} {names} only, and the space "
            f"also allows {describe(chosen)}: add .when({kind}={condition})"
        )

    def describe(self) -> dict[str, str]:
        """Each parameter in words."""
        return {name: str(parameter) for name, parameter in self.parameters.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)


def _values(parameter: Parameter, chosen: Mapping[str, Value]) -> tuple[Value, ...]:
    """Values to try beside these: one where it follows from them."""
    return (parameter.value(chosen),) if isinstance(parameter, By) else parameter.corners()
