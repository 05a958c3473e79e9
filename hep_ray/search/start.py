"""Plan a search from options, however they were given: the one way of its command line and of `hep_ray.run`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hep_ray.cluster import describe
from hep_ray.dataset.dataset import Hashes
from hep_ray.errors import CannotResume, InvalidConfig
from hep_ray.flags import STORAGE
from hep_ray.masking import mask
from hep_ray.plugins import summary
from hep_ray.search.definition import Search
from hep_ray.search.estimate import check_time, estimate
from hep_ray.search.options import SearchOptions, recorded_options
from hep_ray.search.plan import SearchPlan, prepare
from hep_ray.search.state import SearchState
from hep_ray.tracking.client import default_uri
from hep_ray.tracking.provenance import doubts


def planned(
    search: Search, given: Mapping[str, Any], *, resume: bool = False, hashes: Hashes = "once"
) -> SearchPlan:
    """Check a search with its options, and return its plan.

    Args:
        search: as a script states it.
        given: options by field of `SearchOptions`; None where the recorded one, or the default, is meant.
        resume: go on with the search in the storage, with the options that it had.
        hashes: which of the dataset's shards are hashed, see `verify_shards`.

    Raises:
        InvalidConfig: it is no search.
        CannotResume: there is no search to resume, or one is not resumed and its changed code is accepted.
        HepRayError: see `prepare`.
    """
    if not isinstance(search, Search):
        raise InvalidConfig(
            f"what is run must be a Search, as a script states it in `search = Search(…)`; got {search!r}: import it "
            "from there"
        )
    if not isinstance(resume, bool):
        raise InvalidConfig(f"resume must be True or False; got {resume!r}")
    folder = Path(given.get("storage") or STORAGE) / search.name
    started = SearchState.read(folder).started if resume else None
    if resume and started is None:
        raise CannotResume(f"there is no search to resume in {folder}: start it without --resume")
    if given.get("accept_changed_code") and not resume:
        raise CannotResume("--accept-changed-code needs --resume: type that too, or leave it out")
    recorded = recorded_options(folder, started) if started else {}
    options = SearchOptions.resolve({**given, "source": script()}, recorded, search.task)
    return prepare(search, options, hashes=hashes)


def refuse_too_short(plan: SearchPlan) -> None:
    """Time a few batches where the search has a time budget, and refuse one that no epoch fits into.

    Raises:
        InvalidConfig: it is too short.
    """
    if plan.given.time_budget is not None:
        check_time(plan.given.time_budget, estimate(plan))


def script() -> Path:
    """Return the script that runs; in a notebook, or where Python is typed, the working folder."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path.cwd() if path is None or "ipykernel" in sys.modules else Path(sys.argv[0]).resolve()


def plan_rows(plan: SearchPlan) -> Iterator[tuple[str, str]]:
    """Return the plan in words: name and text of each row; a name that goes on is repeated."""
    schema = plan.dataset.schema
    splits = ", ".join(f"{plan.dataset.rows(split)} {split}" for split in ("train", "val"))
    yield "search", f"{plan.search.name}, preset {plan.given.preset}"
    yield "data", f"{plan.given.data}: {schema.task}, {' / '.join(schema.classes)}, {splits} events"
    if plan.preset.published:
        yield from plan.preset.published.rows()
    for name, parameter in plan.space.parameters.items():
        yield "space", f"{name}: {parameter}"
    for told in summary(plan.plugins):
        yield "own code", told
    for params in plan.search.points_to_evaluate:
        yield "evaluated first", ", ".join(f"{name}={value}" for name, value in params.items())
    yield "budget", plan.budget
    yield "goal", f"{plan.search.mode} {plan.search.metric}"
    yield "cluster", describe()
    yield "resources", str(plan.resources)
    yield "patience", f"an epoch may take {plan.given.epoch_timeout:g} s"
    yield "events", str(plan.resources.ingest)
    yield "storage", str(plan.folder)
    yield "tracking", mask(plan.given.tracking_uri or default_uri(plan.storage))
    for doubt in doubts(plan.provenance):
        yield "promotion", f"will be refused as things are: {doubt}"
