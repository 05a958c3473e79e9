"""`hep-ray audit NAME`: is everything of a search there, once, and the same everywhere?"""

from __future__ import annotations

from hep_ray.console import result_console
from hep_ray.errors import AuditFailed
from hep_ray.flags import STORAGE, SearchName, Storage, TrackingUri
from hep_ray.masking import mask


def audit(
    name: SearchName,
    storage: Storage = STORAGE,
    tracking_uri: TrackingUri = None,
) -> None:
    """Compare a search's journal, MLflow runs, leaderboard, study and files with each other.

    Read-only. Exit code 1 where something is missing, there twice, different, or left over.

    Raises:
        AuditFailed: something is.
        UnknownSearch: there is no such search.
        TrackingUnavailable: MLflow does not answer.
    """
    from hep_ray.search.audit import audit as examine
    from hep_ray.search.find import find_search
    from hep_ray.search.state import SearchState, recorded_uri

    folder = find_search(name, storage).folder
    uri = tracking_uri or recorded_uri(folder, SearchState.read(folder).started)
    found = examine(folder, uri)
    console = result_console()
    console.print(
        f"{folder.name}: {found.trials} trials ({found.failed} failed), {found.epochs} epochs, "
        f"{found.losses} lost processes tried again; compared: journal, leaderboard, study, files and MLflow at "
        f"{mask(uri)}",
        highlight=False,
        soft_wrap=True,
    )
    for finding in found.findings:
        console.print(f"  {finding.kind}: {finding.text}", markup=False, highlight=False, soft_wrap=True)
    if found.findings:
        raise AuditFailed(
            f"everything of a search is there once and the same everywhere; {len(found.findings)} things are not: "
            f"run the search's script with --resume, which mends what the journal can, then audit again"
        )
    console.print("All is there, once, and the same everywhere.")
