"""Before a search: every node of a cluster sees what its trials will read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hep_ray.errors import StorageError
from hep_ray.search.probe import Node, living_nodes, unreadable, unshared


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


def _listing(nodes: Sequence[Node], faults: Mapping[str, str]) -> str:
    return "; ".join(f"{node.address}: {faults[node.node_id]}" for node in nodes if node.node_id in faults)
