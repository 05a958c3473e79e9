"""Limits that the best model has to keep, such as `parameters<=1e5`: known before a trial, so that none breaks them.

A limit is of what a model is, not of how it was trained: its parameters, the FLOPs of one event, or the time that one
event takes it. Such a figure is known as soon as the model can be built, so a configuration that breaks a limit is
never trained: what draws is asked again. A model that is fitted in one go has its figures after the fit alone; it is
trained, and ranks behind all that keep the limits, as do references, which are trained whatever they break.
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hep_ray.errors import CannotResume, HepRayError, InvalidConfig, InvalidSpace, PluginFailed
from hep_ray.own_code import blaming
from hep_ray.tracking.records import ModelTimed, Record, SearchStarted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hep_ray.dataset.schema import EventSchema
    from hep_ray.models import Model
    from hep_ray.search.space import Space
    from hep_ray.training.config import TrialConfig

LATENCY = "latency_ms"
FIGURES = {
    "parameters": "numbers that training decides",
    "flops": "of one event, forward",
    LATENCY: "milliseconds for one event, on one core of the machine that draws",
}
"""What may be limited, in words."""
TIMED, WARMING = 21, 3
"""Events of which the median time counts, and those before them."""
PATIENCE = 0.2
"""Seconds after which fewer events suffice."""
EXAMPLES = 100
"""Configurations that are drawn at random to see how many keep the limits."""
_LIMIT = re.compile(r"\s*([a-z_]+)\s*<=\s*(\S+)\s*")


def limits_of(constraints: Iterable[str]) -> dict[str, float]:
    """Return figure → largest value, of constraints as they are typed.

    >>> limits_of(["flops <= 2e6", "parameters<=1e5"])
    {'flops': 2000000.0, 'parameters': 100000.0}

    Raises:
        InvalidConfig: one is none, or two limit the same figure differently.
    """
    found: dict[str, float] = {}
    for text in constraints:
        parts = _LIMIT.fullmatch(text)
        name, most = parts.groups() if parts else ("", "")
        try:
            limit = float(most)
        except ValueError:
            limit = math.nan
        if name not in FIGURES or not 0 < limit < math.inf:
            known = "; ".join(f"{figure} ({words})" for figure, words in FIGURES.items())
            raise InvalidConfig(
                f"no constraint: '{text}'; it must be a figure of the model, <=, and a number above 0, such as "
                f"parameters<=1e5. Figures are {known}"
            )
        if found.setdefault(name, limit) != limit:
            raise InvalidConfig(
                f"two limits of {name}, {found[name]:g} and {limit:g}: leave one out, of --constraint or of the search"
            )
    return dict(sorted(found.items()))


def resumed_limits(typed: Iterable[str], started: SearchStarted) -> list[str]:
    """Return the constraints of a search that is resumed, as they are typed: those that it began with.

    Raises:
        CannotResume: a flag has another.
    """
    for name, limit in limits_of(typed).items():
        if (known := started.constraints.get(name)) != limit:
            had = "without a limit of it" if known is None else f"with {words_of({name: known})}"
            raise CannotResume(
                f"cannot resume another search: it began {had}, and {words_of({name: limit})} is stated now; leave "
                "--constraint out, or choose another --storage"
            )
    return [words_of({name: limit}) for name, limit in started.constraints.items()]


def words_of(limits: Mapping[str, float]) -> str:
    """Return limits as they are typed."""
    return ", ".join(
        f"{name}<={int(limit) if limit.is_integer() else limit!r}" for name, limit in limits.items()
    )


class ModelLimits:
    """The limits of a search, and how far each configuration's model is from them.

    Args:
        limits: figure → largest value.
        schema: of the events.
        journal: records of the search so far; times among them are not measured again, so that a resumed search
            decides as it would have.
        write: records what is timed.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        schema: EventSchema,
        journal: Iterable[Record] = (),
        write: Callable[[ModelTimed], None] | None = None,
    ) -> None:
        self.limits, self._schema = dict(limits), schema
        self._known: dict[str, dict[str, float]] = {}
        self._times = {one.model: one.milliseconds for one in journal if isinstance(one, ModelTimed)}
        self._write = write

    def figures(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Return the limited figures of a configuration's model; none of one that has them after its fit alone.

        A configuration whose model cannot be built has none either: its trial fails, and says of what.
        """
        from hep_ray.models import is_fitted

        if is_fitted(params.get("model")):
            return {}
        try:
            return self.measure(params)
        except HepRayError:
            return {}

    def measure(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Return the limited figures of a configuration's network.

        Raises:
            InvalidConfig: there is no such network.
            PluginFailed: it is of the user's own, and fails when it is built or called.
        """
        from hep_ray.training.config import TrialConfig

        config = TrialConfig.from_params(params)
        training = config.training
        built = f"{training.model} {config.components['model']!r} {training.scaling_by_rank} {training.imputation}"
        if built not in self._known:
            self._known[built] = self._measured(config, built)
        return self._known[built]

    def margin(self, params: Mapping[str, Any]) -> float:
        """Return the logarithm of the figure that is farthest beyond its limit over that; 0 or less keeps them all."""
        return self.beyond(self.figures(params))

    def beyond(self, figures: Mapping[str, float]) -> float:
        """Return the same of figures; minus infinity where there are none."""
        return max(
            (math.log(max(figures[name], 1e-9) / limit) for name, limit in self.limits.items() if figures),
            default=-math.inf,
        )

    def _measured(self, config: TrialConfig, built: str) -> dict[str, float]:
        counted = [name for name in self.limits if name != LATENCY]
        figures = _counted(config, self._schema, forward="flops" in counted) if counted else {}
        found = {name: figures[name] for name in counted}
        if LATENCY in self.limits:
            if built not in self._times:
                with blaming(f"timing model '{config.training.model}' for one event"):
                    self._times[built] = latency(config.build_model(self._schema), self._schema)
                if self._write is not None:
                    self._write(ModelTimed(time=time.time(), model=built, milliseconds=self._times[built]))
            found[LATENCY] = self._times[built]
        return found


class Share(NamedTuple):
    """How many of some configurations at random keep the limits.

    Attributes:
        keeping: networks that do.
        drawn: of so many configurations.
        fitted: those whose model is fitted in one go, of which it is not known yet.
        failing: those whose model cannot be built.
    """

    keeping: int
    drawn: int
    fitted: int = 0
    failing: int = 0

    def __str__(self) -> str:
        fitted = f", {self.fitted} have a model that is fitted, and figures then" * (self.fitted > 0)
        failing = f", {self.failing} a model that cannot be built" * (self.failing > 0)
        return f"{self.keeping} of {self.drawn} configurations at random keep it{fitted}{failing}"


def check_limits(
    stated: Mapping[str, float],
    schema: EventSchema,
    space: Space,
    sampler: str,
    references: Iterable[Any] = (),
    begun: Sequence[Record] = (),
) -> Share:
    """Return how many configurations at random keep limits.

    Args:
        stated: figure → largest value.
        schema: of the events.
        space: of the search.
        sampler: its name.
        references: models of configurations beside it.
        begun: records of the search where it goes on. It kept the limits when it began, and is not refused on a machine
            that is slower today.

    Raises:
        InvalidSpace: no network does.
        PluginFailed: every network is of the user's own and fails.
        InvalidConfig: the sampler trains every configuration, and limits leave some out; or the time is limited of a
            model that is fitted in one go, of which it is not measured.
    """
    import numpy as np

    from hep_ray.models import is_fitted
    from hep_ray.search.curves_space import Encoding

    if sampler == "grid":
        raise InvalidConfig(
            f"sampler 'grid' trains every configuration, and {words_of(stated)} may leave some out: leave the "
            "constraint out and state a space of models that keep it, or take sampler 'random'"
        )
    models = {*(space.parameters["model"].corners() if "model" in space.parameters else ()), *references}
    if LATENCY in stated and (fitted := sorted(str(model) for model in models if is_fitted(model))):
        raise InvalidConfig(
            f"{LATENCY} is measured of networks before they are trained, and '{fitted[0]}' is fitted in one go: limit "
            "flops, or leave the model out"
        )
    limits, encoding = ModelLimits(stated, schema, begun), Encoding(space)
    drawn = [encoding.params(genes) for genes in np.random.default_rng(0).random((EXAMPLES, encoding.genes))]
    networks = [params for params in drawn if not is_fitted(params.get("model"))]
    measured, faults = [], []
    for params in networks:
        try:
            measured.append(limits.measure(params))
        except PluginFailed as exc:
            faults.append(exc)
        except HepRayError:  # of the configuration: the checks of the space, or its trial, say of what
            continue
    if faults and not measured:
        raise faults[0]
    keeping = [figures for figures in measured if limits.beyond(figures) <= 0]
    if measured and not keeping and not begun:
        best = min(measured, key=limits.beyond)
        figures = ", ".join(f"{name} {value:g}" for name, value in best.items())
        apart = ", or leave the networks out" if len(networks) < EXAMPLES else ""
        raise InvalidSpace(
            f"no network of {len(measured)} drawn at random keeps {words_of(stated)}; the nearest has {figures}: "
            f"allow more, or state smaller models{apart}"
        )
    return Share(len(keeping), EXAMPLES, EXAMPLES - len(networks), len(networks) - len(measured))


def weightless(config: TrialConfig, schema: EventSchema) -> Model:
    """Return a model without memory for its weights; one that looks at numbers while it is built is built with them."""
    import torch

    try:
        with torch.device("meta"):
            return config.build_model(schema)
    except (NotImplementedError, RuntimeError, PluginFailed):
        return config.build_model(schema)


def _counted(config: TrialConfig, schema: EventSchema, *, forward: bool) -> dict[str, float]:
    """Return the parameters of a network and, after a forward pass, the FLOPs of one event; without memory for weights.

    One that looks at numbers, or that knows its weights after an event alone, is built with them and given an event.
    """
    import torch

    from hep_ray.training.cost import model_cost, parameters

    try:
        model = weightless(config, schema)
        if not forward:
            return {"parameters": float(parameters(model))}
        device = next((one.device for one in model.parameters()), torch.device("cpu"))
        return model_cost(model, schema, device)
    except HepRayError:
        raise
    except Exception:  # noqa: BLE001 - whatever there is no number for; with numbers it is raised again, and told
        with blaming(f"counting what model '{config.training.model}' does of one event"):
            return model_cost(config.build_model(schema), schema)


def latency(model: Model, schema: EventSchema) -> float:
    """Return the median time that one event takes a model on one core of this machine, in milliseconds."""
    import torch

    columns = [schema.column(name) for name in model.columns]
    event = [torch.zeros((1, *one.shape), dtype=getattr(torch, one.dtype)) for one in columns]
    threads = torch.get_num_threads()
    model.eval()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            seconds: list[float] = []
            while len(seconds) < WARMING + TIMED and (len(seconds) <= WARMING or sum(seconds) < PATIENCE):
                seconds.append(_seconds(model, event))
    finally:
        torch.set_num_threads(threads)
    return 1000 * statistics.median(seconds[WARMING:])


def _seconds(model: nn.Module, event: Sequence[torch.Tensor]) -> float:
    start = time.perf_counter()
    model(*event)
    return time.perf_counter() - start
