"""A typed search space whose keys are checked against what the trainer really reads.

    space = Space(
        model="cnn",
        loss=Choice("cross_entropy", "root_softmax"),
        root_index=Choice(3, 4, 5).when(loss="root_softmax"),
        optimizer=Choice("adam", "sgd"),
        momentum=Uniform(0.8, 0.99).when(optimizer="sgd"),
        learning_rate=LogUniform(1e-4, 1e-2),
    )

A plain value is fixed. A conditional parameter exists only in trials where its condition holds; a `Mapped` value
follows from that of another parameter. What belongs to training (loss, optimizer, learning rate, augmentation …)
exists only in trials whose model is trained, not in those of a model that is fitted in one go, such as gradient
boosting; that condition need not be written.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Never

from hep_ray.errors import InvalidConfig, InvalidSpace, UnknownName
from hep_ray.search.parameters import Choice, Integer, Mapped, Parameter, Value, parameter_from
from hep_ray.tracking.records import RecordedParameter

if TYPE_CHECKING:
    import optuna

COMPONENTS = ("model", "loss", "optimizer", "schedule", "augmentation")
"""Kinds of component that a space names: those of `training.config.REGISTRIES`, whose import takes torch along."""


class Space:
    """Parameters by name; conditions may refer to parameters stated before.

    Raises:
        InvalidSpace: what is stated has no name, or is neither a parameter nor a value; a condition names a parameter
            that is not stated before it, or a value it never has; or a component follows from another parameter.
    """

    def __init__(self, *unnamed: Never, **parameters: Parameter | Value) -> None:
        if unnamed:
            raise InvalidSpace(
                f"no name for {unnamed[0]!r}: a Space takes parameters by name, as in Space(model='mlp', "
                "hidden_features=Choice(32, 64)); one of some model alone is stated with .when(model='mlp')"
            )
        self.parameters: dict[str, Parameter] = {}
        for name, parameter in sorted(parameters.items(), key=lambda item: item[0] != "model"):
            if not isinstance(parameter, Parameter | Value):
                raise InvalidSpace(
                    f"'{name}' cannot be {parameter!r}: state one value, Choice(8, 16) for several, or a range such as "
                    "LogUniform(1e-4, 1e-2)"
                )
            given = parameter if isinstance(parameter, Parameter) else Choice(parameter)
            self._check_condition(name, given)
            if isinstance(given, Mapped) and name in COMPONENTS:
                raise InvalidSpace(f"'{name}' must be a Choice, and not follow from '{given.other}'")
            self.parameters[name] = given

    @functools.cached_property
    def _of_training(self) -> set[str]:
        """Parameters of training, of plug-ins too, which may be imported after the space is stated."""
        from hep_ray.training.config import training_keys

        return training_keys()

    def _check_condition(self, name: str, parameter: Parameter) -> None:
        for key, values in parameter.condition.items():
            earlier = self.parameters.get(key)
            if not isinstance(earlier, Choice):
                raise InvalidSpace(
                    f"'{name}' exists when '{key}' is {values}, and '{key}' is no Choice stated before it; stated "
                    f"before it: {', '.join(self.parameters) or 'nothing'}"
                )
            for value in values:
                if value not in earlier.values:
                    raise InvalidSpace(f"'{name}' never exists: it needs {key}={value}; {key} is {earlier}")

    def _repr_html_(self) -> str:
        from hep_ray.drawing.html_table import html_table

        words = [(name, str(one.recorded()).partition(" when ")) for name, one in self.parameters.items()]
        return html_table(("parameter", "values", "when"), [(name, told[0], told[2]) for name, told in words])

    def replace(self, *unnamed: Never, **parameters: Parameter | Value) -> Space:
        """Return the same space with some parameters stated anew (or added at the end)."""
        return Space(*unnamed, **{**self.parameters, **parameters})

    def drawn(self) -> list[str]:
        """Return the parameters that a sampler draws: of more than one value, and not following from another."""
        return [
            name
            for name, one in self.parameters.items()
            if not isinstance(one, Mapped) and len(one.corners()) > 1
        ]

    @property
    def finite(self) -> bool:
        """Whether every parameter is a Choice, or follows from one."""
        return all(isinstance(one, Choice | Mapped) for one in self.parameters.values())

    def priors(self) -> dict[str, float]:
        """Return the value where the best is expected, of each drawn range that states one."""
        stated = ((name, getattr(self.parameters[name], "prior", None)) for name in self.drawn())
        return {name: prior for name, prior in stated if prior is not None}

    def conditional(self) -> list[str]:
        """Return the drawn parameters that only some configurations have."""
        return [name for name in self.drawn() if not self._is_everywhere(name)]

    def _is_everywhere(self, name: str) -> bool:
        models = self.parameters["model"].corners() if "model" in self.parameters else ()
        if any(self._goes_without(name, one) for one in models):
            return False
        return all(
            set(self.parameters[key].corners()) <= set(values) and self._is_everywhere(key)
            for key, values in self.parameters[name].condition.items()
        )

    def suggest(self, trial: optuna.Trial) -> dict[str, Value]:
        """Draw one configuration, define-by-run: a parameter whose condition fails is not drawn."""
        chosen: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if self.exists(name, chosen):
                if isinstance(parameter, Mapped):
                    chosen[name] = parameter.value(chosen)
                else:
                    chosen[name] = parameter.suggest(trial, name)
        return chosen

    def exists(self, name: str, chosen: Mapping[str, Value]) -> bool:
        """Return whether a configuration has a parameter, given those that are stated before it."""
        return self.parameters[name].holds(chosen) and not self._goes_without(name, chosen.get("model"))

    def _goes_without(self, name: str, model: object) -> bool:
        """Whether a parameter is of training, and a model is fitted in one go."""
        from hep_ray.models import is_fitted

        return name in self._of_training and is_fitted(model)

    def grid(self) -> list[dict[str, Value]]:
        """Return every configuration.

        Raises:
            InvalidSpace: a parameter is a range; a grid needs values.
        """
        points: list[dict[str, Value]] = [{}]
        for name, parameter in self.parameters.items():
            if not isinstance(parameter, Choice | Mapped):
                raise InvalidSpace(f"'{name}' is {parameter}; a grid needs a Choice for every parameter")
            points = [
                extended
                for point in points
                for extended in (
                    [{**point, name: value} for value in _values(parameter, point)]
                    if self.exists(name, point)
                    else [point]
                )
            ]
        return points

    def check(self) -> None:
        """Prove before anything starts that the trainer reads every key and takes every value.

        Raises:
            InvalidSpace: an unknown key, a key that some trial would not read, or a refused value.
        """
        from hep_ray.training.config import keys_read, unknown_key

        combinations = list(self._combinations())
        everything = {key for chosen in combinations for key in keys_read(chosen)}
        for key in self.parameters:
            if key not in everything:
                raise InvalidSpace(unknown_key(key, everything))
        for chosen in combinations:
            self._check_combination(chosen)

    def samples(self) -> list[dict[str, Value]]:
        """Return one configuration for each way in which components can be combined."""
        return [self._sample(chosen) for chosen in self._combinations()]

    def varied(self, names: Sequence[str]) -> Iterator[dict[str, Value]]:
        """Yield configurations with every combination of some parameters' values, beside each choice of components."""
        for sample in self.samples():
            keys = [name for name in names if name in sample]
            values = [self._every_value(name, sample) for name in keys]
            for combination in itertools.product(*values):
                yield {**sample, **dict(zip(keys, combination, strict=True))}

    def _every_value(self, name: str, sample: Mapping[str, Value]) -> Sequence[Value]:
        parameter = self.parameters[name]
        if isinstance(parameter, Integer):
            return range(parameter.low, parameter.high + 1, parameter.step)
        return _values(parameter, sample)

    def augmented(self) -> Iterator[dict[str, Value]]:
        """Yield configurations that augment: every model with each value of each augmentation and of each word.

        Which columns a model reads is said by words (never by numbers), so this meets each augmentation with each
        choice of columns.
        """
        from hep_ray.loading.augment import AugmentConfig
        from hep_ray.training.config import NONE

        words = [
            {name: value}
            for name, parameter in self.parameters.items()
            if isinstance(parameter, Choice) and name not in COMPONENTS
            for value in parameter.corners()
            if isinstance(value, str)
        ]
        happens = [
            (name, value)
            for name in (*AugmentConfig.field_names(), "augmentation")
            if name in self.parameters
            for value in self.parameters[name].corners()
            if value and value != NONE
        ]
        for model in self._component_choices("model") if happens else ():
            for (name, value), other in itertools.product(happens, [{}, *words]):
                where = {key: values[0] for key, values in self.parameters[name].condition.items()}
                sample = self._sample(dict([model]), {**where, name: value, **other})
                if sample.get(name) == value:
                    yield sample

    def each_value(self, components: Collection[str], most: int) -> Iterator[dict[str, Value]]:
        """Yield configurations that between them state each value of each key that some components read.

        Args:
            components: such as `model 'mine'`, or `scaler 'mine'`.
            most: configurations that are yielded at most.
        """
        from hep_ray.training.config import keys_read

        seen: set[tuple[str, str, Value]] = set()
        for chosen in self._combinations() if components else ():
            readers = keys_read(chosen)
            for name, parameter in self.parameters.items():
                for value in parameter.corners() if name not in COMPONENTS else ():
                    label = readers.get(name, "")
                    if label not in components and f"scaler '{value}'" not in components:
                        continue
                    sample = self._sample(chosen, {**self._needed(name), name: value})
                    if sample.get(name) == value and (label, name, value) not in seen and len(seen) < most:
                        seen.add((label, name, value))
                        yield sample

    def _needed(self, name: str) -> dict[str, Value]:
        """Return values beside which a parameter exists."""
        condition = self.parameters[name].condition
        needed = {key: value for other in condition for key, value in self._needed(other).items()}
        return needed | {key: values[0] for key, values in condition.items()}

    def _combinations(self) -> Iterator[dict[str, str]]:
        """Every choice of components; a model that is fitted goes without the others."""
        from hep_ray.models import MODELS

        for model in self._component_choices("model"):
            kinds = () if MODELS[model[1]].fitted else COMPONENTS[1:]
            for others in itertools.product(*(self._component_choices(kind) for kind in kinds)):
                yield dict([model, *others])

    def _component_choices(self, kind: str) -> list[tuple[str, str]]:
        from hep_ray.training.config import REGISTRIES, TrainerConfig

        parameter = self.parameters.get(kind)
        if parameter is None:
            default = TrainerConfig.model_fields[kind].default
            if not isinstance(default, str):
                raise InvalidSpace(f"no {kind} in the space; state one. Known: {', '.join(REGISTRIES[kind])}")
            return [(kind, default)]
        try:
            for name in parameter.corners():
                REGISTRIES[kind][str(name)]
        except UnknownName as exc:
            raise InvalidSpace(f"in the space, {exc}") from None
        return [(kind, str(name)) for name in parameter.corners()]

    def _check_combination(self, chosen: dict[str, str]) -> None:
        from hep_ray.training.config import TrialConfig, keys_read, unread_key

        readable = keys_read(chosen)
        base = self._sample(chosen)
        for name in base:
            if name not in readable:
                offered = {kind: one.corners() for kind, one in self.parameters.items() if kind in COMPONENTS}
                raise InvalidSpace(unread_key(name, chosen, offered))
        for name, parameter in self.parameters.items():
            for value in _values(parameter, base) if name in base and name not in COMPONENTS else ():
                try:
                    TrialConfig.from_params(self._followed({**base, name: value}))
                except InvalidConfig as exc:
                    raise InvalidSpace(f"the trainer refuses this space: {exc}") from None

    def _sample(self, chosen: dict[str, str], wanted: Mapping[str, Value] | None = None) -> dict[str, Value]:
        """A configuration of these components, with the wanted values of what exists beside them, else the first."""
        sample: dict[str, Value] = {kind: name for kind, name in chosen.items() if kind in self.parameters}
        for name, parameter in self.parameters.items():
            if name not in sample and self.exists(name, sample):
                free = wanted is not None and name in wanted and not isinstance(parameter, Mapped)
                sample[name] = wanted[name] if wanted and free else _values(parameter, sample)[0]
        return sample

    def _followed(self, params: dict[str, Value]) -> dict[str, Value]:
        """With every value that follows from another's put right."""
        for name, parameter in self.parameters.items():
            if isinstance(parameter, Mapped) and name in params and parameter.holds(params):
                params[name] = parameter.value(params)
        return params

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON: each parameter with Optuna's distribution, or what it follows from."""
        return {
            name: parameter.recorded().model_dump(mode="json", exclude_defaults=True)
            for name, parameter in self.parameters.items()
        }

    @classmethod
    def from_json(cls, space: Mapping[str, Any]) -> Space:
        """Return the space that `to_json` made this of, or that a journal holds."""
        return cls(
            **{name: parameter_from(RecordedParameter.model_validate(one)) for name, one in space.items()}
        )

    def changes_since(self, recorded: Mapping[str, RecordedParameter]) -> list[str]:
        """Return in words what differs from a recorded space; of an old journal, which has words, by the words."""
        now = {name: parameter.recorded() for name, parameter in self.parameters.items()}
        return [
            f"{name} was {recorded.get(name, 'absent')} and is now {now.get(name, 'absent')}"
            for name in {**recorded, **now}
            if name not in now or name not in recorded or not _same(recorded[name], self.parameters[name])
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)


def _values(parameter: Parameter, chosen: Mapping[str, Value]) -> tuple[Value, ...]:
    """Values to try beside these: one where it follows from them."""
    return (parameter.value(chosen),) if isinstance(parameter, Mapped) else parameter.corners()


def _same(recorded: RecordedParameter, now: Parameter) -> bool:
    return recorded.words == str(now) if recorded.words is not None else parameter_from(recorded) == now
