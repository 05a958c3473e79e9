"""Configurations of a `Space` as points that a Gaussian process can compare, and as genes that can be varied.

A gene is a number from 0 to 1 for every parameter that is drawn; a row of genes is a configuration, whatever the
conditions say: genes of parameters that do not exist in it are idle. The code of a configuration has one column for
every numeric parameter, and for a choice of words, or one on which others depend, one for each value. Choices of
numbers are placed by their order. A parameter that does not exist in a configuration is coded by the middle of its
range; the choice on which it depends tells the two apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hep_ray.models import is_fitted
from hep_ray.search.named_samplers import at_fraction
from hep_ray.search.parameters import Choice, Mapped, Value
from hep_ray.search.space import Space
from hep_ray.training.config import training_keys

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ON_BOUNDS, REDRAWN = 0.15, 0.5
"""Share of genes that are put on a bound of their range, and of those of choices that are drawn anew."""
IDLE = 0.5
"""Code of a parameter that does not exist."""


@dataclass(frozen=True)
class _Gene:
    """A parameter that is drawn.

    Attributes:
        name: of the parameter.
        distribution: Optuna's.
        values: of a choice, in the order of their genes; empty for a range.
        ordered: whether the code of a choice is one column.
        columns: of the code.
    """

    name: str
    distribution: Any
    values: tuple[Value, ...]
    ordered: bool
    columns: slice

    def code(self, genes: Array) -> Array:
        """Return the (n, columns) code of these genes."""
        if not self.values:
            return self.snapped(genes)[:, None]
        count = len(self.values)
        place = np.minimum((genes * count).astype(int), count - 1)
        if self.ordered:
            ordered: Array = place[:, None] / (count - 1)
            return ordered
        code: Array = np.eye(count)[place]
        return code

    def chosen(self, codes: Array) -> npt.NDArray[np.int_]:
        """Return (n,) which value of a choice (n, columns) codes of whole configurations stand for."""
        own = codes[:, self.columns]
        return np.round(own[:, 0] * (len(self.values) - 1)).astype(int) if self.ordered else own.argmax(1)

    def snapped(self, genes: Array) -> Array:
        """Return the position in the range, from 0 to 1, of the value that a gene stands for."""
        given = self.distribution
        if isinstance(given, FloatDistribution):
            if given.step is None:
                return genes
            last = round((given.high - given.low) / given.step)
            stepped: Array = np.minimum(np.floor(genes * (last + 1)), last) / last
            return stepped
        whole = self._whole(genes)
        if given.log:
            low, high = math.log(given.low), math.log(given.high)
            whole = np.log(whole)
        else:
            low, high = given.low, given.high
        snapped: Array = (whole - low) / (high - low)
        return snapped

    def _whole(self, genes: Array) -> Array:
        given = self.distribution
        if given.log:
            low, high = math.log(given.low - 0.5), math.log(given.high + 0.5)
            whole = np.round(np.exp(low + genes * (high - low)))
        else:
            steps = (given.high - given.low) // given.step + 1
            whole = given.low + given.step * np.floor(genes * steps)
        return np.clip(whole, given.low, given.high)

    def all_values(self) -> list[Value]:
        """Return every value of a choice or an integer."""
        given = self.distribution
        return list(self.values) or list(range(given.low, given.high + 1, given.step))

    def value(self, gene: float) -> Value:
        """Return the value that a gene stands for."""
        if self.values:
            return self.values[min(int(gene * len(self.values)), len(self.values) - 1)]
        given = self.distribution
        if isinstance(given, IntDistribution):
            return int(self._whole(np.array([gene]))[0])
        return float(at_fraction(given, gene))

    def gene(self, value: Any) -> float | None:
        """Return the gene of a value; None where the parameter never has it."""
        if self.values:
            return (self.values.index(value) + 0.5) / len(self.values) if value in self.values else None
        if isinstance(value, str | bool) or not math.isfinite(value):
            return None
        given = self.distribution
        if isinstance(given, FloatDistribution):
            low, high, at = given.low, given.high, value
        elif given.log:
            low, high, at = given.low - 0.5, given.high + 0.5, value
        else:
            steps = (given.high - given.low) // given.step + 1
            return float(np.clip(((value - given.low) / given.step + 0.5) / steps, 0, 1))
        if given.log:
            if at <= 0:
                return None
            low, high, at = math.log(low), math.log(high), math.log(at)
        return float(np.clip((at - low) / (high - low), 0, 1))


class Encoding:
    """Genes and codes of the configurations of a space.

    Args:
        space: of which the parameters are drawn.

    Attributes:
        genes: number of parameters that are drawn.
        columns: of the code.
        groups: (columns,) number of the parameter that each column belongs to.
        finite: number of configurations, at most; infinite where a parameter is real.
        choices: (genes,) whether a parameter has values without an order.
        ranges: (genes,) whether it is a number between two bounds.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._of_training = training_keys()
        models = space.parameters["model"].corners() if "model" in space.parameters else ()
        self._fitted = [model for model in models if is_fitted(model)]
        self._trained = [model for model in models if not is_fitted(model)]
        self._conditional = bool(self._fitted) or any(one.condition for one in space.parameters.values())
        parents = {key for one in space.parameters.values() for key in one.condition}
        self._genes: list[_Gene] = []
        at = 0
        for name in space.drawn():
            given = space.parameters[name].distribution()
            values: tuple[Value, ...] = ()
            ordered = False
            if isinstance(given, CategoricalDistribution):
                values = tuple(value for value in given.choices if value is not None)
                numeric = all(isinstance(value, int | float) for value in values)
                ordered = len(values) == 2 or (numeric and name not in parents)  # noqa: PLR2004 - no or yes
                values = tuple(sorted(values, key=float)) if numeric else values
            width = len(values) if values and not ordered else 1
            self._genes.append(_Gene(name, given, values, ordered, slice(at, at + width)))
            at += width
        self.genes, self.columns = len(self._genes), at
        self.groups = np.concatenate(
            [np.full(one.columns.stop - one.columns.start, place) for place, one in enumerate(self._genes)]
            or [np.zeros(0)]
        ).astype(int)
        self._places = {one.name: place for place, one in enumerate(self._genes)}
        self.choices = np.array([bool(one.values) and not one.ordered for one in self._genes], bool)
        self.ranges = np.array([not one.values for one in self._genes], bool)
        self.finite = math.prod(self._values(one) for one in self._genes)

    def place(self, name: str) -> int:
        """Return the gene of a parameter that is drawn."""
        return self._places[name]

    @staticmethod
    def _values(gene: _Gene) -> float:
        given = gene.distribution
        if gene.values:
            return len(gene.values)
        if isinstance(given, IntDistribution):
            return (given.high - given.low) // given.step + 1
        return math.inf

    def codes(self, genes: Array) -> Array:
        """Return (n, columns) codes of (n, genes)."""
        codes = np.empty((len(genes), self.columns))
        active = self.active(genes)
        for place, one in enumerate(self._genes):
            code = one.code(genes[:, place])
            codes[:, one.columns] = np.where(active[:, place, None], code, IDLE)
        return codes

    def active(self, genes: Array) -> Mask:
        """Return (n, genes) whether each parameter exists in each configuration."""
        if not self._conditional:
            return np.ones(genes.shape, bool)
        exists: dict[str, Mask] = {}
        chosen: dict[str, npt.NDArray[Any]] = {}
        everywhere = np.ones(len(genes), bool)
        for name, parameter in self._space.parameters.items():
            here = everywhere.copy()
            for key, values in parameter.condition.items():
                here &= exists[key] & np.isin(chosen[key], [_word(value) for value in values])
            if name in self._of_training and self._fitted:
                here &= ~np.isin(chosen["model"], [_word(one) for one in self._fitted])
            exists[name] = here
            if isinstance(parameter, Choice):
                if name in self._places:
                    words = np.array([_word(value) for value in self._genes[self._places[name]].values])
                    count = len(words)
                    place = np.minimum((genes[:, self._places[name]] * count).astype(int), count - 1)
                    chosen[name] = words[place]
                else:
                    chosen[name] = np.full(len(genes), _word(parameter.values[0]))
        return np.stack([exists[one.name] for one in self._genes], axis=1)

    def active_by(self, codes: Array) -> Mask:
        """Return (n, genes) whether each parameter exists, of (n, columns) codes: the choices in them tell."""
        genes = np.full((len(codes), self.genes), IDLE)
        for place, one in enumerate(self._genes):
            if one.values:
                genes[:, place] = (one.chosen(codes) + 0.5) / len(one.values)
        return self.active(genes)

    def fits(self, codes: Array) -> Mask:
        """Return (n,) whether the model is fitted in one go, of (n, columns) codes."""
        if not (self._fitted and self._trained) or "model" not in self._places:
            return np.full(len(codes), bool(self._fitted) and not self._trained)
        one = self._genes[self._places["model"]]
        return np.array([is_fitted(value) for value in one.values])[one.chosen(codes)]

    def code_of(self, place: int, gene: float) -> float:
        """Return the code of a gene of a range, whether or not the parameter exists."""
        return float(self._genes[place].code(np.array([gene]))[0, 0])

    def with_all(self, genes: Array, names: Iterable[str]) -> Array:
        """Return (genes,) with other choices where parameters would not exist, as far as they can exist together."""
        found, kept = genes.copy(), set[str]()
        for name in names:
            needs = dict(self._space.parameters[name].condition)
            if name in self._of_training and self._fitted:
                needs.setdefault("model", tuple(self._trained))
            for key, values in needs.items():
                place = self._places.get(key)
                if place is None or key in kept:
                    continue
                gene = self._genes[place]
                if gene.value(float(found[place])) not in values:
                    found[place] = next(one for one in map(gene.gene, values) if one is not None)
                kept.add(key)
        return found

    def params(self, genes: Array) -> dict[str, Value]:
        """Return the configuration that (genes,) stand for, constants and what follows included."""
        active = self.active(genes[None])[0]
        chosen: dict[str, Value] = {}
        for name, parameter in self._space.parameters.items():
            if name in self._places:
                place = self._places[name]
                if active[place]:
                    chosen[name] = self._genes[place].value(float(genes[place]))
            elif self._space.exists(name, chosen):
                chosen[name] = (
                    parameter.value(chosen) if isinstance(parameter, Mapped) else parameter.corners()[0]
                )
        return chosen

    def every(self) -> Array:
        """Return (n, genes) of every configuration of a finite space; some are the same, but for idle genes."""
        axes = [[one.gene(value) for value in one.all_values()] for one in self._genes]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.genes).astype(float)

    def scattered(self, rng: np.random.Generator, count: int) -> Array:
        """Return configurations at random, half of them with some genes on a bound, where optima often are."""
        genes = rng.random((count, self.genes))
        to_bounds = rng.random(genes.shape) < ON_BOUNDS
        to_bounds[count // 2 :] = False
        return np.where(to_bounds, np.round(genes), genes)

    def around(
        self, rng: np.random.Generator, centres: Array, count: int, scales: Any = (0.01, 0.03, 0.1, 0.25)
    ) -> Array:
        """Return configurations that differ from a centre in some genes; beyond its bounds a gene sits on them."""
        genes = self.genes
        centre = centres[rng.integers(len(centres), size=count)]
        by = rng.choice(np.asarray(scales), size=(count, 1))
        moved = rng.random((count, genes)) < rng.choice([1 / genes, 2 / genes, 0.5, 1.0], size=(count, 1))
        moved[np.arange(count), rng.integers(genes, size=count)] = True
        near = np.clip(centre + moved * by * rng.normal(size=(count, genes)), 0, 1)
        drawn = rng.random((count, genes))
        other = moved & self.choices & (rng.random((count, genes)) < REDRAWN)
        return np.where(other, drawn, near)

    def of(self, params: Mapping[str, Any]) -> Array:
        """Return (genes,) of a configuration; the middle for what it lacks or what the space does not have."""
        genes = np.full(self.genes, IDLE)
        for place, one in enumerate(self._genes):
            gene = one.gene(params[one.name]) if one.name in params else None
            genes[place] = IDLE if gene is None else gene
        return genes


def _word(value: Value) -> str:
    return f"{type(value).__name__}:{value}" if isinstance(value, bool | str) else f"number:{float(value)!r}"
