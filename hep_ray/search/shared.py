"""Before a search: every node of a cluster sees what its trials will read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hep_ray.dataset.events import EventSchema
from hep_ray.errors import PluginFailed, StorageError
from hep_ray.losses import LOSSES
from hep_ray.plugins import Plugin, load
from hep_ray.search.probe import Node, ask, living_nodes, one_line, unreadable, unshared
from hep_ray.training.config import TrialConfig


def check_every_node(storage: Path, manifest: Path) -> None:
    """Trials read the data and write their models wherever they run; nothing is asked of a single node.

    Args:
        storage: folder of all searches, which the driver can write.
        manifest: of the dataset, which the driver can read.

    Raises:
        StorageError: a node does not share the storage, or cannot read the data.
    """
    nodes = living_nodes()
    if len(nodes) == 1:
        return
    if faults := unshared(storage, nodes):
        raise StorageError(
            f"every node writes to the storage; {storage.resolve()} is not shared by all: {_listing(nodes, faults)}: "
            "give a folder of a shared file system with --storage or HEP_RAY_STORAGE; `hep-ray doctor` checks the rest"
        )
    if faults := unreadable(manifest, nodes):
        raise StorageError(
            f"every node reads the data; {manifest.resolve()} is not there for all: {_listing(nodes, faults)}: put "
            "the dataset on a shared file system and name it with --data or HEP_RAY_DATA"
        )


def check_plugins(
    plugins: Sequence[Plugin], samples: Sequence[Mapping[str, Any]], schema: EventSchema
) -> None:
    """Import the user's own components on every node and build there what trials may state.

    Args:
        plugins: files that register them; nothing is asked where there is none.
        samples: parameters of trials that name every component once.
        schema: of the events.

    Raises:
        PluginFailed: a node cannot import one or cannot build with it, or what is built is not the same each time.
    """
    if not plugins:
        return
    nodes = living_nodes()
    answers = ask(nodes, _built, tuple(plugins), list(samples), schema)
    faults = {
        node_id: one_line(answer) for node_id, answer in answers.items() if isinstance(answer, Exception)
    }
    if faults:
        raise PluginFailed(f"trials cannot use {_files(plugins)}: {_listing(nodes, faults)}")
    if len({str(answer) for answer in answers.values()}) > 1:
        raise PluginFailed(f"{_files(plugins)} builds other networks on other nodes; a trial may run on any")


def _built(plugins: Sequence[Plugin], samples: Sequence[Mapping[str, Any]], schema: EventSchema) -> list[Any]:
    """Shapes of the weights of every sample's model, built twice."""
    load(plugins)
    return [_shapes(params, schema) for params in samples]


def _shapes(params: Mapping[str, Any], schema: EventSchema) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a model's state; its loss is built, too."""
    config = TrialConfig.from_params(params)
    if not config.fitted:
        LOSSES[config.training.loss].build(config.components["loss"])
    with torch.device("meta"):
        states = [config.build_model(schema).state_dict() for _ in range(2)]
    first, second = (
        [(name, tuple(getattr(one, "shape", ()))) for name, one in state.items()] for state in states
    )
    if first != second:
        raise PluginFailed(
            f"model '{config.trainer.model}' is another network each time it is built from {dict(params)}"
        )
    return first


def _files(plugins: Sequence[Plugin]) -> str:
    return ", ".join(plugin.path for plugin in plugins)


def _listing(nodes: Sequence[Node], faults: Mapping[str, str]) -> str:
    return "; ".join(f"{node.address}: {faults[node.node_id]}" for node in nodes if node.node_id in faults)
