"""Everything that can be known to be wrong before a confirmation starts is found here, and the finalists chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hep_ray.cluster import connect, nodes
from hep_ray.confirm.finalists import choose_baseline, configurations, parse_baseline
from hep_ray.confirm.plan import ConfirmOptions, ConfirmPlan, of_test
from hep_ray.data.cache import plan_ingest
from hep_ray.data.dataset import Dataset
from hep_ray.errors import CannotConfirm, HepRayError, StorageError, UnknownName
from hep_ray.plugins import restore
from hep_ray.search.definition import Search
from hep_ray.search.resources import plan_resources
from hep_ray.search.script import load_search
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import FILE_NAME, Journal
from hep_ray.tracking.records import SearchStarted
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import metric_keys


def prepare_confirmation(options: ConfirmOptions) -> ConfirmPlan:
    """Check that a search can be confirmed, and choose whom.

    Raises:
        UnknownName: no script and no folder in the storage has the search's name.
        CannotConfirm: it was never run, still runs, has no completed trial, was of another dataset, or has no such
            baseline; or fewer than one finalist or seed, or no level, is asked for.
        ShardMismatch, UnreadableInput, InvalidEvents: the dataset is not whole.
        PluginFailed: a file that registers its components has gone or changed.
        Infeasible: a training fits on no node.
    """
    for name, value in (("--top", options.top), ("--seeds", options.seeds)):
        if value < 1:
            raise CannotConfirm(f"{name} is at least 1; got {value}")
    if not 0 < options.level < 1:
        raise CannotConfirm(f"--level is between 0 and 1, such as 0.95; got {options.level}")
    name, search, source = _find(options)
    state = _ended(options, name)
    assert state.started is not None
    plugins = restore(state.plugins)
    ranked = configurations(state)
    wanted = search.baseline if search is not None else {}
    if options.baseline is not None:
        wanted = parse_baseline(options.baseline)
    baseline = choose_baseline(ranked, wanted)
    finalists = tuple(one for one in ranked if one is not baseline.drawn)[: options.top]
    if not finalists:
        raise CannotConfirm(
            f"a finalist is another configuration than the baseline; {name} has only {ranked[0].name}, "
            f"{baseline.origin}"
        )
    dataset = _dataset(options, state.started)
    _check_models([baseline.params, *(one.params for one in finalists)], dataset)
    first = 1 + max(trial.started.seed for trial in state.trials.values())
    connect()
    of_search = state.started.options
    cpus, gpus = options.cpus_per_trial, options.gpus_per_trial
    cpus = of_search.get("cpus_per_trial", 1) if cpus is None else cpus
    gpus = of_search.get("gpus_per_trial", 0.0) if gpus is None else gpus
    return ConfirmPlan(
        started=state.started,
        finalists=finalists,
        ranked=len(ranked),
        baseline=baseline,
        seeds=tuple(range(first, first + options.seeds)),
        dataset=dataset,
        resources=plan_resources(
            nodes(),
            (len(finalists) + 1) * options.seeds,
            cpus,
            gpus,
            workers_per_trial=state.started.workers_per_trial,
            min_workers_per_trial=of_search.get("min_workers_per_trial"),
            ingest=plan_ingest(
                dataset.manifest, nodes(), of_search.get("cache", "auto"), of_search.get("memory_budget")
            ),
        ),
        given=options,
        source=source,
        plugins=plugins,
    )


def _find(options: ConfirmOptions) -> tuple[str, Search | None, Path]:
    """The search's name, and its `Search` and script where there is one."""
    in_storage = (options.storage / options.search / FILE_NAME).exists()
    script = options.search if options.search.endswith(".py") else f"{options.scripts / options.search}.py"
    if in_storage and not Path(script).is_file():
        return options.search, None, Path.cwd()
    try:
        search = load_search(options.search, options.scripts)
    except UnknownName as fault:
        known = ", ".join(sorted(path.parent.name for path in options.storage.glob(f"*/{FILE_NAME}")))
        raise UnknownName(f"{fault}; {options.storage} holds searches: {known or 'none'}") from None
    return search.name, search, Path(script).resolve()


def _ended(options: ConfirmOptions, name: str) -> SearchState:
    folder = options.storage / name
    if not (folder / FILE_NAME).exists():
        raise CannotConfirm(
            f"a search is run before it is confirmed; {folder} holds none: run the search, or name its --storage"
        )
    try:
        with Journal(folder) as journal:
            state = SearchState.fold(journal)
    except StorageError as fault:
        if "another one holds" in str(fault):
            raise CannotConfirm(
                f"a search is confirmed when it has ended; {name} still runs: {fault}"
            ) from None
        raise
    unfinished = [trial.trial_id for trial in state.unfinished()]
    if unfinished and not options.allow_unfinished:
        raise CannotConfirm(
            f"a search is confirmed when it has ended; {len(unfinished)} trials of {name} have not "
            f"({', '.join(unfinished)}): resume it, or leave them out with --allow-unfinished"
        )
    if state.started is None or not any(trial.status == "completed" for trial in state.trials.values()):
        raise CannotConfirm(
            f"a search with a completed trial can be confirmed; {name} has {len(state.trials)} trials and none "
            "completed"
        )
    return state


def _dataset(options: ConfirmOptions, started: SearchStarted) -> Dataset:
    folder = options.data or Path(started.options["data"])
    dataset = Dataset.open(folder)
    if dataset.fingerprint != started.dataset_fingerprint:
        raise CannotConfirm(
            f"a search is confirmed on the dataset that it searched; its fingerprint was {started.dataset_fingerprint} "
            f"and {folder} has {dataset.fingerprint}: name the right folder with --data, or run the search again"
        )
    counts = dataset.manifest.class_counts("test")
    if not all(counts.values()):
        raise CannotConfirm(f"the test split has events of every class; that of {folder} has {counts}")
    metric = of_test(started.metric)
    if metric not in metric_keys(dataset.schema):
        raise CannotConfirm(
            f"finalists are compared by a metric of every model; the test split has no '{metric}' of the search's "
            f"{started.metric}"
        )
    return dataset


def _check_models(contenders: Sequence[dict[str, Any]], dataset: Dataset) -> None:
    """Build each contender's model, without memory for its weights."""
    import torch

    for params in contenders:
        try:
            with torch.device("meta"):
                TrialConfig.from_params(params).build_model(dataset.schema)
        except HepRayError as fault:
            raise CannotConfirm(
                f"every contender can be trained on the dataset; {params} cannot: {fault}"
            ) from fault
