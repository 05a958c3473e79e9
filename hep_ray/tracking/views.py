"""Name and arrange what MLflow's pages show (names of metrics and runs, views), and serve them: `hep-ray ui`.

A view (columns, order, groups and charts, under *Views*) is a tag of the experiment, in the form in which MLflow 3.17
stores the views that its users save (an envelope `{name, createdAt, updatedAt, state}`, whose state is JSON as well).
Another version of MLflow that reads it otherwise shows its own default; nothing else depends on them. Why we write an
undocumented format: docs/decisions/mlflow_views.md.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import quote

import typer

from hep_ray.errors import InvalidConfig, StorageError
from hep_ray.flags import STORAGE, Storage
from hep_ray.masking import mask
from hep_ray.tracking.records import RecordedParameter, SearchStarted

SPLITS = ("train", "val", "seen", "watched", "test", "confirmed")
FAMILIES = ("confusion", "background_rejection", "expected_limit")
"""Metrics of many members, which get a folder of their own."""
SHOWN = 4
"""Parameters in the name of a run; more do not fit its column."""
NOTE_TAG = "mlflow.note.content"
VIEW_TAG = "mlflow.sharedViewState."
LONGEST_TAG = 5000
"""Characters of an experiment's tag that every MLflow server takes."""
TRIALS, GROUPS, CONFIRMED, CONTENDERS = (
    f"hep_ray-{name}" for name in ("trials", "groups", "confirmed", "contenders")
)
"""Keys of the views."""
CONFIRMED_NAME, CONTENDERS_NAME = "confirmed trials, best first", "means over seeds"
GROUP_FIRST = ("root_index", "model", "loss")
"""What trials are grouped by, if it varied; else by the first choice of the space."""
SECTION = "comparison"
SERVER = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore",
}
"""Environment of the server, where it is not set: no queue of jobs of language models, which none of this needs."""


def metric_key(key: str) -> str:
    """Return a metric's name in MLflow: `val_auc` is `val/auc`, `val_confusion_a_b` is `val/confusion/a_b`."""
    split, _, name = key.partition("_")
    if split not in SPLITS or not name:
        return key
    for family in FAMILIES:
        if name.startswith(f"{family}_"):
            return f"{split}/{family}/{name.removeprefix(f'{family}_')}"
    return f"{split}/{name}"


def best_key(metric: str) -> str:
    """Return the name in MLflow of a metric's best value so far, which ranks trials: of `val_auc` it is `best/auc`."""
    return "best/" + metric_key(metric).removeprefix("val/")


def varied(space: Mapping[str, RecordedParameter]) -> tuple[str, ...]:
    """Return the parameters of which a space allows more than one value."""
    several = {*choices(space), *ranges(space)}
    return tuple(name for name in space if name in several)


def choices(space: Mapping[str, RecordedParameter]) -> tuple[str, ...]:
    """Return the parameters that are one of several values."""
    return tuple(name for name, one in space.items() if len(one.values) > 1)


def ranges(space: Mapping[str, RecordedParameter]) -> tuple[str, ...]:
    """Return the parameters between two bounds."""
    return tuple(name for name, one in space.items() if one.is_range)


def run_name(trial_id: str, params: Mapping[str, Any], space: Mapping[str, RecordedParameter]) -> str:
    """Name a run by its trial and what it tried: `t0003 root_index=3 learning_rate=0.0147`."""
    drawn = [
        f"{name}={params[name]:.3g}" if isinstance(params[name], float) else f"{name}={params[name]}"
        for name in varied(space)
        if name in params
    ]
    return " ".join([trial_id, *drawn[:SHOWN], *(["…"] if len(drawn) > SHOWN else [])])


def is_fold(started: SearchStarted) -> bool:
    """Return whether this is the training of one fold."""
    return started.tags.get("hep_ray.kind") == "fold"


def is_refit(started: SearchStarted) -> bool:
    """Return whether this is the training of a confirmed configuration on training and validation events."""
    return started.tags.get("hep_ray.kind") == "refit"


def experiment_tags(started: SearchStarted, experiment_id: str) -> dict[str, str]:
    """Return the tags of an experiment that make its page useful: a description with links, and views.

    Args:
        started: first record of a search, or of a confirmation, which adds views to those of its search; that of a
            fold or of a refit has none of its own.
        experiment_id: of its experiment.
    """
    if is_fold(started) or is_refit(started):
        return {}
    confirms = started.provenance.get("confirms")
    views = _of_confirmation(started, confirms) if confirms else _of_search(started)
    tags = {VIEW_TAG + key: _envelope(name, started.time, state) for key, (name, state) in views.items()}
    if not confirms:
        tags |= {NOTE_TAG: note(started, experiment_id), "mlflow.experimentKind": "custom_model_development"}
    return tags


def note(started: SearchStarted, experiment_id: str) -> str:
    """Describe a search, or its confirmation, in Markdown: what it is, where to look, what to type."""
    after = {CONFIRMED: CONFIRMED_NAME, CONTENDERS: CONTENDERS_NAME}
    confirmed = " · ".join(f"[{name}]({link(experiment_id, key)})" for key, name in after.items())
    next_step = f"Next: `hep-ray report {started.search}`, `hep-ray promote {started.search} --dry-run`"
    if is_fold(started):
        what = f"One of the trainings of {started.title}, tested once on the part of the events that it never saw."
        return "\n\n".join([what, f"Next: `hep-ray report {started.search}`"])
    if is_refit(started):
        what = (
            f"The confirmed configuration of *{started.search}*, trained once more on training and validation events "
            "and tested once. `seen/…` is of validation events, which it learns from."
        )
        return "\n\n".join([what, f"Next: `hep-ray promote {started.search} --refit --dry-run`"])
    if "confirms" in started.provenance:
        what = f"Finalists of *{started.search}* and its baseline, trained anew and tested once on the test split."
        return "\n\n".join([what, f"Look: {confirmed}", next_step])
    views = " · ".join(
        f"[{name}]({link(experiment_id, key)})" for key, (name, _) in _of_search(started).items()
    )
    what = (
        f"Trials on *{started.task}*, ranked by {metric_key(started.metric)} ({started.mode}), up to "
        f"{started.epochs} epochs each. The best of many noisy validation scores is a biased pick: confirm it."
    )
    curves = f"[learning curves]({link(experiment_id, TRIALS, charts=True)})"
    look = f"Look: {views} · {curves}; once confirmed: {confirmed}"
    return "\n\n".join(
        [what, look, f"Next: `hep-ray confirm {started.search}`, `hep-ray report {started.search}`"]
    )


def link(experiment_id: str, view: str, *, charts: bool = False) -> str:
    """Return the address of a view, below that of the server."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={quote(view)}{mode}"


def _of_search(started: SearchStarted) -> dict[str, tuple[str, dict[str, Any]]]:
    metric = metric_key(started.metric)
    params = varied(started.space)
    columns = [
        *_metrics(
            best_key(started.metric), metric, f"{metric}_error", "confirmed/" + metric.removeprefix("val/")
        ),
        *(f"params.`{name}`" for name in params),
        "tags.`hep_ray.status`",
    ]
    state = _state(started.search_id, best_key(started.metric), columns, ascending=started.mode == "min")
    views = {TRIALS: ("trials, best first", {**state, **_charts(started)})}
    can_group = [name for name in (*GROUP_FIRST, *params) if name in choices(started.space)]
    if can_group:
        views[GROUPS] = (f"means by {can_group[0]}", {**state, "groupBy": _group("param", can_group[0])})
    return views


def _of_confirmation(started: SearchStarted, search_id: str) -> dict[str, tuple[str, dict[str, Any]]]:
    name = metric_key(started.metric).removeprefix("val/")
    ascending = started.mode == "min"
    # An ensemble is the mean of what was trained.
    trained = [params for params in started.contenders.values() if "mean_of" not in params]
    differing = {
        key
        for params in trained
        for key, value in params.items()
        if any(key not in other or other[key] != value for other in trained)
    }
    columns = [f"params.`{key}`" for key in started.contenders["baseline"] if key in differing]
    confirmed = _state(
        search_id,
        f"confirmed/{name}",
        ["tags.`confirmed`", *_metrics(f"confirmed/{name}", f"confirmed/{name}_sd", f"val/{name}"), *columns],
        ascending=ascending,
        condition="tags.`confirmed` != ''",
    )
    contenders = _state(
        started.search_id,
        f"test/{name}",
        ["params.`seed`", *_metrics(f"test/{name}", f"test/{name}_error", f"val/{name}"), *columns],
        ascending=ascending,
    )
    return {
        CONFIRMED: (CONFIRMED_NAME, confirmed),
        CONTENDERS: (CONTENDERS_NAME, {**contenders, "groupBy": _group("tag", "contender")}),
    }


def _metrics(*names: str) -> list[str]:
    return [f"metrics.`{name}`" for name in names]


def _group(mode: str, name: str) -> dict[str, Any]:
    return {"aggregateFunction": "average", "groupByKeys": [{"mode": mode, "groupByData": name}]}


def _state(
    search_id: str, metric: str, columns: Sequence[str], *, ascending: bool, condition: str = ""
) -> dict[str, Any]:
    conditions = [f"tags.`hep_ray.search_id` = '{search_id}'", condition or "tags.`hep_ray.trial_id` != ''"]
    return {
        "searchFilter": " and ".join(conditions),
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(columns),
    }


def _charts(started: SearchStarted) -> dict[str, Any]:
    """Learning curves, the best value against every parameter with a range, and all parameters side by side."""
    metric, best, space = metric_key(started.metric), best_key(started.metric), started.space
    cards: list[dict[str, Any]] = [_line(key) for key in dict.fromkeys((metric, "val/loss", "train/loss"))]
    cards += [
        {
            "type": "SCATTER",
            "runsCountToCompare": 100,
            "xaxis": {"key": name, "type": "PARAM"},
            "yaxis": {"key": best, "type": "METRIC"},
        }
        for name in ranges(space)[:2]
    ]
    if len(varied(space)) > 1:
        parallel = {"selectedParams": list(varied(space)), "selectedMetrics": [best], "showAllRuns": True}
        cards.append({"type": "PARALLEL", "runsCountToCompare": 100, **parallel})
    every = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False}
    section = {"uuid": SECTION, "name": SECTION, "display": True, "isReordered": True}
    return {
        "compareRunCharts": [
            {"uuid": f"hep_ray-{number}", **every, **card} for number, card in enumerate(cards)
        ],
        "compareRunSections": [section],
        "isAccordionReordered": True,
    }


def _line(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "metricKey": metric,
        "runsCountToCompare": 10,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "xAxisKey": "step",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _envelope(name: str, begun: float, state: Mapping[str, Any]) -> str:
    """A view as MLflow stores it; without its charts where they make it too long for a tag."""
    stamp = int(1000 * begun)
    for left_out in (
        (),
        ("compareRunCharts", "compareRunSections", "isAccordionReordered"),
        ("selectedColumns",),
    ):
        state = {key: value for key, value in state.items() if key not in left_out}
        words = json.dumps(state, separators=(",", ":"))
        text = json.dumps({"name": name, "createdAt": stamp, "updatedAt": stamp, "state": words})
        if len(text) <= LONGEST_TAG:
            break
    return text


def ui(
    storage: Storage = STORAGE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="Another MLflow database [default: that of the storage].", show_default=False),
    ] = None,
) -> None:
    """Serve the MLflow UI of a storage folder on 127.0.0.1 until Ctrl-C.

    Every search has views, under *Views* and as the links that are printed: its trials, best first; their means by
    root index (or whatever else varied); after `hep-ray confirm` the confirmed ones and the means over seeds.

    Raises:
        StorageError: the folder holds no search yet.
        InvalidConfig: the port is taken.
    """
    from hep_ray.tracking.client import correct_addresses, database_file, default_uri

    uri = tracking_uri or default_uri(storage)
    file = database_file(uri)
    if file is not None and not file.is_file():
        raise StorageError(
            f"no search has been tracked in {file}: run a search first, or "
            "name the database that it was tracked in with --tracking-uri"
        )
    if uri.startswith(("http://", "https://")):
        raise InvalidConfig(f"{mask(uri)} is a server, which has pages of its own: open it in a browser")
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as exc:
        raise InvalidConfig(
            f"cannot listen on port {port} of 127.0.0.1: {exc.strerror}: name another --port"
        ) from None
    if file is not None:
        correct_addresses(file)
    words = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--uvicorn-opts", "--log-level warning"]
    server = subprocess.Popen(  # noqa: S603
        [sys.executable, *words], env={**SERVER, **os.environ}, start_new_session=True
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.2)
        if server.poll() is None:
            what = storage if tracking_uri is None else mask(uri)
            typer.echo(f"MLflow UI of {what} on http://127.0.0.1:{port} (Ctrl-C ends it)")
            for line in _links(uri, port):
                typer.echo(line)
        status = server.wait()
    except KeyboardInterrupt:
        status = 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    raise typer.Exit(status)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:  # of which URLError is one
        return False


def _links(uri: str, port: int) -> list[str]:
    """Each search with the address of its trials, the last one first."""
    from hep_ray.tracking.client import open_client

    found: list[Any] = [
        one for one in open_client(uri).search_experiments() if f"{VIEW_TAG}{TRIALS}" in one.tags
    ]
    return [f"  {one.name}: http://127.0.0.1:{port}/{link(one.experiment_id, TRIALS)}" for one in found]
