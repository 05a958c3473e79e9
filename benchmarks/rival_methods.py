"""Searchers of other libraries, as the simulation of `lcbench.py` asks them.

Each is given the settings that its documentation recommends. Its library is imported where it is used: each is run in
an environment of its own.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lcbench import EPOCHS, RANGES


class Optuna:
    """Optuna's samplers and pruners.

    Args:
        seed: of the draws.
        sampler: name of its class.
        pruner: name of its class; empty trains in full.
    """

    def __init__(self, seed: int, sampler: str, pruner: str = "") -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore")
        given = {"HyperbandPruner": {"min_resource": 1, "max_resource": EPOCHS}}.get(pruner, {})
        self._optuna = optuna
        self._study = optuna.create_study(
            direction="maximize",
            sampler=getattr(optuna.samplers, sampler)(seed=seed),
            pruner=getattr(optuna.pruners, pruner or "NopPruner")(**given),
        )
        self._running: dict[str, Any] = {}
        self._best: dict[str, float] = {}

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of the next trial."""
        trial = self._study.ask()
        params = {
            name: trial.suggest_int(name, int(low), int(high))
            if kind == "whole"
            else trial.suggest_float(name, low, high, log=kind == "log")
            for name, (low, high, kind) in RANGES.items()
        }
        self._running[str(trial.number)] = trial
        return str(trial.number), params, 0

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial ends."""
        trial = self._running[name]
        self._best[name] = max(value, self._best.get(name, -np.inf))
        trial.report(value, epoch)
        if epoch == EPOCHS:
            self._study.tell(trial, self._best[name])
        elif trial.should_prune():
            self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
        else:
            return False
        return True


def config_space(seed: int) -> Any:
    """Return the space as DEHB and SMAC take it."""
    kinds: Any = importlib.import_module("ConfigSpace")
    space = kinds.ConfigurationSpace(seed=seed)
    for name, (low, high, kind) in RANGES.items():
        one: Any = (
            kinds.UniformIntegerHyperparameter(name, int(low), int(high))
            if kind == "whole"
            else kinds.UniformFloatHyperparameter(name, low, high, log=kind == "log")
        )
        space.add(one)
    return space


class Legs:
    """A searcher that asks for a configuration up to some epoch; one that was trained before goes on where it was.

    What it asks for and knows already is told to it at no cost.
    """

    def __init__(self) -> None:
        self._asked: dict[str, tuple[Any, str, int]] = {}
        self._best: dict[str, list[float]] = {}

    def ask(self) -> tuple[Any, dict[str, Any], int] | None:
        """What was asked for, its configuration and the epoch until which it is wanted; None: nothing for now."""
        raise NotImplementedError

    def tell(self, asked: Any, value: float) -> None:
        """Pass on the best value up to that epoch."""
        raise NotImplementedError

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of what a free worker trains next."""
        for _ in range(1000):
            work = self.ask()
            if work is None:
                return None
            asked, params, until = work
            config = json.dumps(params, sort_keys=True, default=float)
            best = self._best.setdefault(config, [])
            if len(best) < until:
                name = f"{len(self._asked)} {config}"
                self._asked[name] = asked, config, until
                return name, params, len(best)
            self.tell(asked, best[until - 1])
        return None

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the leg ends."""
        asked, config, until = self._asked[name]
        best = self._best[config]
        if len(best) < epoch:
            best.append(max(value, *best[-1:]) if best else value)
        if epoch < until:
            return False
        self.tell(asked, best[until - 1])
        return True


class DEHB(Legs):
    """DEHB (Awad, Mallik and Hutter, arXiv:2105.09821): factor 3, from one epoch.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        Search: Any = importlib.import_module("dehb").DEHB  # noqa: N806 - a class
        self._folder = tempfile.TemporaryDirectory()
        self._search = Search(
            f=None, cs=config_space(seed), dimensions=len(RANGES), min_fidelity=1, max_fidelity=EPOCHS, eta=3,
            n_workers=1, seed=seed, log_level="ERROR", output_path=self._folder.name,
        )  # fmt: skip

    def ask(self) -> tuple[Any, dict[str, Any], int] | None:
        """Pass on what it asks for."""
        asked = self._search.ask()
        return asked, dict(asked["config"]), max(1, round(asked["fidelity"]))

    def tell(self, asked: Any, value: float) -> None:
        """Pass on a value."""
        self._search.tell(asked, {"fitness": 100 - value, "cost": 1.0})


def nothing(config: Any, seed: int = 0, budget: float = 0.0) -> float:  # noqa: ARG001 - SMAC looks at the names
    """Stand where SMAC wants a function, which it never calls when it is asked and told."""
    return 0.0


class SMAC(Legs):
    """SMAC3 (Lindauer et al., arXiv:2109.09831), with Hyperband of factor 3 from one epoch, or in full.

    Args:
        seed: of the draws.
        facade: name of its class.
    """

    def __init__(self, seed: int, facade: str = "MultiFidelityFacade") -> None:
        super().__init__()
        smac: Any = importlib.import_module("smac")
        self._value: Any = importlib.import_module("smac.runhistory").TrialValue
        self._folder = tempfile.TemporaryDirectory()
        budgets = {"min_budget": 1, "max_budget": EPOCHS} if facade == "MultiFidelityFacade" else {}
        scenario = smac.Scenario(
            config_space(seed), n_trials=100_000, deterministic=True, seed=seed, **budgets,
            output_directory=Path(self._folder.name),
        )  # fmt: skip
        self._search = getattr(smac, facade)(scenario, nothing, overwrite=True, logging_level=False)

    def ask(self) -> tuple[Any, dict[str, Any], int] | None:
        """Pass on what it asks for."""
        asked = self._search.ask()
        return asked, dict(asked.config), max(1, round(asked.budget or EPOCHS))

    def tell(self, asked: Any, value: float) -> None:
        """Pass on a value."""
        self._search._optimizer.tell(asked, self._value(cost=100 - value), save=False)  # noqa: SLF001


class NePS(Legs):
    """NePS: PriorBand (arXiv:2306.12370) without priors, ASHA, ifBO (arXiv:2404.16795) if its weights are there.

    Args:
        seed: of the draws.
        algorithm: name of its function.
        given: its arguments.
    """

    def __init__(self, seed: int, algorithm: str, **given: Any) -> None:
        super().__init__()
        torch: Any = importlib.import_module("torch")
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - NePS draws from the state of the process
        torch.manual_seed(seed)
        neps: Any = importlib.import_module("neps")
        algorithms: Any = importlib.import_module("neps.optimizers.algorithms")
        asking: Any = importlib.import_module("neps.optimizers.ask_and_tell")
        parts: Any = importlib.import_module("neps.space.parameters")
        space = {
            name: parts.HPOInteger(int(low), int(high))
            if kind == "whole"
            else parts.HPOFloat(low, high, log=kind == "log")
            for name, (low, high, kind) in RANGES.items()
        }
        space["epoch"] = parts.HPOInteger(1, EPOCHS, is_fidelity=True)
        del neps
        found: Any = importlib.import_module("neps.space.search_space").SearchSpace(space)
        self._search = asking.AskAndTell(getattr(algorithms, algorithm)(found, **given))

    def ask(self) -> tuple[Any, dict[str, Any], int] | None:
        """Pass on what it asks for."""
        asked = self._search.ask()
        params = dict(asked.config)
        return asked, params, int(params.pop("epoch"))

    def tell(self, asked: Any, value: float) -> None:
        """Pass on a value."""
        self._search.tell(asked, {"objective_to_minimize": 100 - value, "cost": 1.0})


class Ax(Legs):
    """Ax: its client's default, BoTorch's logarithmic noisy expected improvement after a few of Sobol, in full.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch: Any = importlib.import_module("torch")
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        Client: Any = importlib.import_module("ax.api.client").Client  # noqa: N806 - a class
        parts: Any = importlib.import_module("ax.api.configs")
        self._search = Client(random_seed=seed)
        self._search.configure_experiment(
            parameters=[
                parts.RangeParameterConfig(
                    name=name, bounds=(int(low), int(high)) if kind == "whole" else (low, high),
                    parameter_type="int" if kind == "whole" else "float",
                    scaling="log" if kind == "log" else "linear",
                )
                for name, (low, high, kind) in RANGES.items()
            ]
        )  # fmt: skip
        self._search.configure_optimization(objective="value")
        # more of Sobol, where others are running, rather than idle workers
        self._search.configure_generation_strategy(
            method="fast", initialization_random_seed=seed, allow_exceeding_initialization_budget=True
        )

    def ask(self) -> tuple[Any, dict[str, Any], int] | None:
        """Pass on what it asks for."""
        for index, params in self._search.get_next_trials(max_trials=1).items():
            return index, dict(params), EPOCHS
        return None

    def tell(self, asked: Any, value: float) -> None:
        """Pass on a value."""
        self._search.complete_trial(asked, raw_data={"value": value})


class HEBO(Legs):
    """HEBO (Cowen-Rivers et al., arXiv:2012.03826), in full.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        warnings.simplefilter("ignore")
        torch: Any = importlib.import_module("torch")
        np.random.seed(seed)  # noqa: NPY002 - HEBO draws from the state of the process
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        kinds = {"whole": "int", "log": "pow", "real": "num"}
        space: Any = importlib.import_module("hebo.design_space.design_space").DesignSpace()
        space.parse(
            [
                {"name": name, "type": kinds[kind], "lb": low, "ub": high}
                for name, (low, high, kind) in RANGES.items()
            ]
        )
        self._search: Any = importlib.import_module("hebo.optimizers.hebo").HEBO(space, scramble_seed=seed)

    def ask(self) -> tuple[Any, dict[str, Any], int] | None:
        """Pass on what it asks for."""
        asked = self._search.suggest(n_suggestions=1)
        return asked, asked.iloc[0].to_dict(), EPOCHS

    def tell(self, asked: Any, value: float) -> None:
        """Pass on a value."""
        self._search.observe(asked, np.array([[-value]]))


class RayTune:
    """Ray Tune's OptunaSearch and ASHAScheduler, its own objects without its cluster.

    Unlike Optuna's pruner, it tells Optuna's TPE that a trial which ASHA stopped is complete, with its last value.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int) -> None:
        warnings.simplefilter("ignore")
        optuna: Any = importlib.import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        schedulers: Any = importlib.import_module("ray.tune.schedulers")
        searches: Any = importlib.import_module("ray.tune.search.optuna")
        kinds = optuna.distributions
        self._search = searches.OptunaSearch(
            space={
                name: kinds.IntDistribution(int(low), int(high))
                if kind == "whole"
                else kinds.FloatDistribution(low, high, log=kind == "log")
                for name, (low, high, kind) in RANGES.items()
            },
            metric="value",
            mode="max",
            seed=seed,
        )
        self._scheduler = schedulers.ASHAScheduler(
            metric="value", mode="max", max_t=EPOCHS, grace_period=1, reduction_factor=3
        )
        np.random.seed(seed)  # noqa: NPY002 - the scheduler draws brackets from the state of the process
        self._trials: dict[str, Any] = {}

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of the next trial."""
        name = str(len(self._trials))
        params = self._search.suggest(name)
        self._trials[name] = SimpleNamespace(trial_id=name)
        self._scheduler.on_trial_add(None, self._trials[name])
        return name, params, 0

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial ends."""
        result = {"value": value, "training_iteration": epoch}
        self._search.on_trial_result(name, result)
        if self._scheduler.on_trial_result(None, self._trials[name], result) != "STOP" and epoch < EPOCHS:
            return False
        self._scheduler.on_trial_complete(None, self._trials[name], result)
        self._search.on_trial_complete(name, result)
        return True


class SyneTune:
    """Syne Tune's schedulers, called as its tuner calls them.

    Args:
        seed: of the draws.
        scheduler: name of its class in `syne_tune.optimizer.baselines`.
        epochs: it decides after each epoch; else trainings are in full.
        pausing: it takes trials up again (up to version 0.13, whose arguments have other names).
        given: other arguments.
    """

    def __init__(
        self, seed: int, scheduler: str, *, epochs: bool = True, pausing: bool = False, **given: Any
    ) -> None:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        baselines: Any = importlib.import_module("syne_tune.optimizer.baselines")
        kinds: Any = importlib.import_module("syne_tune.config_space")
        self._trial: Any = importlib.import_module("syne_tune.backend.trial_status").Trial
        drawn = {"whole": kinds.randint, "log": kinds.loguniform, "real": kinds.uniform}
        space = {
            name: drawn[kind](int(low), int(high)) if kind == "whole" else drawn[kind](low, high)
            for name, (low, high, kind) in RANGES.items()
        }
        np.random.seed(seed)  # noqa: NPY002 - brackets are drawn from the state of the process
        self._pausing, self._epochs = pausing, epochs
        self._running: dict[str, Any] = {}
        self._epoch: dict[str, int] = {}
        if pausing:
            given |= {"mode": "max", "resource_attr": "epoch", "max_t": EPOCHS}
        else:
            given |= {"do_minimize": False}
            given |= {"time_attr": "epoch", "max_t": EPOCHS} if epochs else {}
        self._scheduler = getattr(baselines, scheduler)(space, metric="value", random_seed=seed, **given)

    def start(self) -> tuple[str, dict[str, Any], int] | None:
        """Name, parameters and epoch so far of the next decision."""
        number = len(self._running)
        asked = self._scheduler.suggest(*([number] if self._pausing else []))
        if asked is None:
            return None
        if self._pausing and not asked.spawn_new_trial_id:
            name = str(asked.checkpoint_trial_id)
        else:
            name = str(number)
            self._running[name] = self._trial(number, asked.config, datetime.now(tz=UTC))
            self._scheduler.on_trial_add(self._running[name])
        params = {one: self._running[name].config[one] for one in RANGES}
        return name, params, self._epoch.get(name, 0)

    def report(self, name: str, epoch: int, value: float) -> bool:
        """Take in a result; whether the trial pauses or ends."""
        trial, self._epoch[name] = self._running[name], epoch
        result = {"value": value, "epoch": epoch}
        decision = self._scheduler.on_trial_result(trial, result) if self._epochs else "CONTINUE"
        if decision != "CONTINUE":
            self._scheduler.on_trial_remove(trial)
            return True
        if epoch == EPOCHS:
            self._scheduler.on_trial_complete(trial, result)
            return True
        return False
