"""Settings by which a search follows the hardware that trains: the precision of products, deterministic operations."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator

from hep_ray.cluster import connect
from hep_ray.errors import InvalidConfig
from hep_ray.models import is_fitted
from hep_ray.search.definition import Preset, Search
from hep_ray.search.node_checks import PATIENCE, ask, living_nodes
from hep_ray.search.options import SearchOptions
from hep_ray.search.resources import ResourcePlan
from hep_ray.training.compiled import STEPS, Compile
from hep_ray.training.determinism import IN_WORDS
from hep_ray.training.precision import capable, chosen_precision


def hardware_rows(
    deterministic: bool, compiling: Compile, resources: ResourcePlan
) -> Iterator[tuple[str, str]]:
    """Yield the rows of a plan that say of deterministic operations and of compiled steps, where there are some.

    Args:
        deterministic: whether operations without a deterministic form are refused.
        compiling: whether steps are compiled where they can be.
        resources: of the trials.
    """
    of_one_shape = "the steps of networks whose batches have one shape"
    if deterministic:
        yield "deterministic", IN_WORDS
    elif compiling == "on":
        yield "compile", of_one_shape
    elif compiling == "auto" and resources.gpus_per_trial and resources.workers_per_trial == 1:
        yield "compile", f"{of_one_shape}, in trials of {STEPS} steps or more"


def gpus_capable() -> bool:
    """Ask every node that hands out GPUs, and return whether all of these multiply in bfloat16.

    False where no such node lives yet, or one does not tell, so that none has to imitate it.

    Raises:
        ClusterUnavailable: the cluster does not take this driver.
    """
    connect()
    nodes = [node for node in living_nodes() if node.gpus]
    answers = ask(nodes, compute_capabilities)
    return bool(nodes) and all(isinstance(one, list) and capable(one) for one in answers.values())


def compute_capabilities() -> list[float]:
    """Return the compute capability of each GPU of this machine, by NVIDIA's own tool; none where it is not there.

    It asks the driver, so that neither a GPU that others use nor one that Ray hides is in its way.
    """
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return capabilities_in(done.stdout)


def capabilities_in(printed: str) -> list[float]:
    """Return the numbers of a print, one a line; none where it is of something else."""
    try:
        return [float(line) for line in printed.splitlines()]
    except ValueError:
        return []


def in_precision(
    search: Search, preset: Preset, options: SearchOptions
) -> tuple[Search, Preset, SearchOptions]:
    """Return a search with the precision that was asked for in all its networks, references too, and options with it.

    So a resumed search keeps it, or is refused. Where all models are fitted `auto` has nothing to choose.

    Raises:
        InvalidConfig: a precision is named, and no model is a network; or the processor lacks it.
        ClusterUnavailable: GPUs are to be asked, and the cluster does not take this driver.
    """
    space, asked = preset.space or search.space, options.precision
    if asked is None or "model" not in space.parameters:
        return search, preset, options
    references = search.points_to_evaluate
    models = {str(one["model"]) for one in references if "model" in one}
    models.update(str(name) for name in space.parameters["model"].corners())
    if all(is_fitted(name) for name in models):
        if asked != "auto":
            raise InvalidConfig(
                f"--precision {asked} is that of networks, and all models of {search.name} are fitted "
                f"({', '.join(sorted(models))}): leave it out"
            )
        return search, preset, dataclasses.replace(options, precision=None)
    precision = chosen_precision(
        asked, sorted(models), gpus=options.gpus_per_trial > 0, gpus_capable=gpus_capable
    )
    published = preset.published
    if published is not None and precision != "float32":
        published = published.with_ours(f"products in {precision}, sums and weights in float32 (--precision)")
    if any(not is_fitted(str(name)) for name in space.parameters["model"].corners()):
        space = space.replace(precision=precision)
    references = tuple(
        one if is_fitted(one.get("model")) else {**one, "precision": precision} for one in references
    )
    return (
        dataclasses.replace(search, points_to_evaluate=references),
        dataclasses.replace(preset, space=space, published=published),
        dataclasses.replace(options, precision=precision),
    )
