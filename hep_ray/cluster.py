"""Joining a Ray cluster, or starting one on this machine, without the noise."""

from __future__ import annotations

import logging
import os
import warnings

from hep_ray.errors import ClusterUnavailable
from hep_ray.masking import close_token, ray_token

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_free_objects_period_milliseconds": "100",  # in Ray's second, a stream leaves behind as much as its budget
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal and MLflow replace Tune's three log files per trial
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial's last result has no metric
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the journal tells of a lost process, in one line
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the journal is what a search resumes from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment of the driver, and of the nodes of a cluster that it starts; a value the user set stands."""


def connect() -> None:
    """Join the cluster that RAY_ADDRESS or a local `ray start` names, else start one on this machine.

    RAY_ADDRESS=local always starts one. A driver that is already connected stays as it is.

    Raises:
        ClusterUnavailable: the named cluster does not answer, or refuses this driver.
    """
    import ray

    close_token(ray_token())
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    for name in ("ray", "ray.tune", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune counts failed trials after we have told of them.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=ResourceWarning, module="ray")
    if ray.is_initialized():
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as fault:  # where a node takes too long to start, Ray raises no other class
        named = os.environ.get("RAY_ADDRESS")
        where = f"RAY_ADDRESS={named}" if named else "the one that was last started on this machine"
        raise ClusterUnavailable(
            f"a search joins the running Ray cluster, or starts one; {where} did not work "
            f"({str(fault).strip() or type(fault).__name__}): check with `ray status`; the Ray and Python versions and "
            "RAY_AUTH_MODE must be those of the cluster; RAY_ADDRESS=local starts one on this machine"
        ) from fault


def describe() -> str:
    """The cluster at hand in words, such as `3 nodes, head 10.0.0.5:6379`."""
    import ray

    count = len(nodes())
    return f"{count} node{'s' if count > 1 else ''}, head {ray.get_runtime_context().gcs_address}"


def nodes() -> list[dict[str, float]]:
    """Resources of every living node, such as `{"CPU": 16.0, "GPU": 1.0}`."""
    import ray

    return [
        dict(node["Resources"])
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
