"""clusters/kuberay*.yaml through Ray's own parser of RayClusters and a strict schema of the fields that they use.

That an operator and a Kubernetes accept them is not shown: none runs here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hep_ray.search.resources import to_come

CLUSTERS = Path(__file__).parents[2] / "clusters"
Manifest = dict[str, Any]


class Refused(Exception):
    """A manifest breaks a rule."""


def load(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((CLUSTERS / name).read_text(encoding="utf-8")))


def strict(required: list[str], **properties: Any) -> Manifest:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def several(items: Manifest, least: int = 1) -> Manifest:
    return {"type": "array", "items": items, "minItems": least}


TEXT = {"type": "string", "minLength": 1}
QUANTITY = {"type": "string", "pattern": r"^\d+(m|[KMGT]i?)?$"}
COUNT = {"type": "integer", "minimum": 0}
AMOUNTS = strict(["cpu", "memory"], cpu=QUANTITY, memory=QUANTITY, **{"nvidia.com/gpu": QUANTITY})
METADATA = strict(
    ["name", "namespace"],
    name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
    namespace=TEXT,
    annotations=strict([], **{"ray.io/overwrite-container-cmd": {"const": "true"}}),
)
CONTAINER = strict(
    ["name", "image", "command", "volumeMounts"],
    name=TEXT,
    image=TEXT,
    command=several(TEXT),
    args=several(TEXT),
    env=several(strict(["name", "value"], name=TEXT, value=TEXT)),
    ports=several(strict(["containerPort", "name"], containerPort=COUNT, name={**TEXT, "maxLength": 15})),
    resources=strict(["limits", "requests"], limits=AMOUNTS, requests=AMOUNTS),
    volumeMounts=several(
        strict(["name", "mountPath"], name=TEXT, mountPath={"type": "string", "pattern": "^/"})
    ),
)
POD = strict(
    ["containers", "volumes"],
    securityContext=strict([], fsGroup=COUNT, runAsUser=COUNT, runAsGroup=COUNT),
    tolerations=several(
        strict(
            ["key", "operator", "effect"],
            key=TEXT,
            operator={"enum": ["Exists", "Equal"]},
            effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        )
    ),
    containers=several(CONTAINER),
    volumes=several(
        {
            "oneOf": [
                strict(
                    ["name", "persistentVolumeClaim"],
                    name=TEXT,
                    persistentVolumeClaim=strict(["claimName"], claimName=TEXT),
                ),
                strict(
                    ["name", "emptyDir"],
                    name=TEXT,
                    emptyDir=strict(["medium", "sizeLimit"], medium={"const": "Memory"}, sizeLimit=QUANTITY),
                ),
            ]
        }
    ),
)
GROUP = {
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": strict(["spec"], spec=POD),
}
RAY_CLUSTER = strict(
    [
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    ],
    rayVersion=TEXT,
    authOptions=strict(["mode"], mode={"const": "token"}),
    enableInTreeAutoscaling={"const": True},
    autoscalerOptions=strict(
        ["version", "idleTimeoutSeconds"], version={"const": "v2"}, idleTimeoutSeconds=COUNT
    ),
    headGroupSpec=strict(["rayStartParams", "template"], **GROUP),
    workerGroupSpecs=several(
        strict(
            ["groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            **GROUP,
        )
    ),
)


def kind(api: str, name: str, spec: Manifest) -> Manifest:
    return strict(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api},
        kind={"const": name},
        metadata=METADATA,
        spec=spec,
    )


CLAIM = strict(
    ["accessModes", "storageClassName", "resources"],
    accessModes={"const": ["ReadWriteMany"]},
    storageClassName=TEXT,
    resources=strict(["requests"], requests=strict(["storage"], storage=QUANTITY)),
)
KINDS = {
    "PersistentVolumeClaim": kind("v1", "PersistentVolumeClaim", CLAIM),
    "Pod": kind("v1", "Pod", POD),
    "RayCluster": kind("ray.io/v1", "RayCluster", RAY_CLUSTER),
    "RayJob": kind(
        "ray.io/v1",
        "RayJob",
        strict(
            [
                "entrypoint",
                "backoffLimit",
                "shutdownAfterJobFinishes",
                "ttlSecondsAfterFinished",
                "rayClusterSpec",
            ],
            entrypoint={"type": "string", "pattern": "clusters/bin/search.sh .*searches/[a-z_]+\\.py"},
            backoffLimit=COUNT,
            shutdownAfterJobFinishes={"const": True},
            ttlSecondsAfterFinished=COUNT,
            rayClusterSpec=RAY_CLUSTER,
        ),
    ),
}


def validate(manifest: Manifest) -> None:
    try:
        jsonschema.validate(manifest, KINDS[manifest["kind"]])
    except (jsonschema.ValidationError, KeyError) as fault:
        raise Refused(str(fault)) from fault
    if manifest["kind"] in {"RayCluster", "RayJob"}:
        spec = manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]
        by_ray(manifest["metadata"], spec)
        by_house(spec)


def by_ray(metadata: Manifest, spec: Manifest) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    try:
        config = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": copy.deepcopy(spec)})
    except Exception as fault:
        raise Refused(f"Ray: {fault!r}") from fault
    workers = config["available_node_types"]["gpu"]
    if not workers["resources"].get("GPU"):
        raise Refused("the GPU pods have GPUs")
    stated = env(spec["headGroupSpec"])["HEP_RAY_AUTOSCALE"]
    coming = to_come([], stated)
    resources = {key: workers["resources"][key] for key in ("CPU", "GPU")}
    if coming != [resources] * workers["max_workers"]:
        raise Refused(f"HEP_RAY_AUTOSCALE says what may come: {workers}; got {stated}")


def env(group: Manifest) -> dict[str, str]:
    return {one["name"]: one["value"] for one in group["template"]["spec"]["containers"][0].get("env", [])}


def by_house(spec: Manifest) -> None:
    import ray

    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    if spec["rayVersion"] != ray.__version__:
        raise Refused(f"Ray is {ray.__version__}, as pinned; got {spec['rayVersion']}")
    for group in groups:
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        if f":{ray.__version__}-py3" not in container["image"]:
            raise Refused(f"the image is that of Ray {ray.__version__}; got {container['image']}")
        command = " ".join(container["args"])
        wanted = ["setup.sh HEP_RAY_SHARED=/shared", ". ~/.hep_ray_env", 'eval "$KUBERAY_GEN_RAY_START_CMD"']
        if group is groups[0]:
            wanted.insert(2, "mlflow.sh")
        places = [command.find(word) for word in wanted]
        if -1 in places or places != sorted(places):
            raise Refused(f"a pod runs {wanted}, in that order; got {command}")
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        if set(mounts) != volumes or mounts.get("shared") != "/shared":
            raise Refused(f"every volume is mounted, the shared one at /shared; got {mounts}")
        if container["resources"]["limits"] != container["resources"]["requests"]:
            raise Refused("a pod is given what it may use")


@pytest.mark.parametrize("name", ["kuberay.yaml", "kuberay-job.yaml"])
def test_files_are_valid(name: str) -> None:
    for manifest in load(name):
        validate(manifest)


def test_the_job_makes_the_same_cluster() -> None:
    claim, pod, cluster = load("kuberay.yaml")
    (job,) = load("kuberay-job.yaml")

    assert [claim["kind"], pod["kind"]] == ["PersistentVolumeClaim", "Pod"]
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert job["metadata"]["annotations"] == cluster["metadata"]["annotations"]


def put(value: Any, *path: Any) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        for part in path[:-1]:
            manifest = manifest[part]
        if value is None:
            del manifest[path[-1]]
        else:
            manifest[path[-1]] = value

    return change


def in_spec(value: Any, *path: Any) -> Callable[[Manifest], None]:
    """A change of the cluster's spec, wherever it stands."""

    def change(manifest: Manifest) -> None:
        spec = manifest["spec"]
        put(value, *path)(spec.get("rayClusterSpec", spec))

    return change


HEAD = ("headGroupSpec", "template", "spec", "containers", 0)
WORKER = ("workerGroupSpecs", 0, "template", "spec", "containers", 0)
BOTH = {
    "a typo in spec": in_spec(1, "rayVersions"),
    "no authentication": in_spec(None, "authOptions"),
    "authentication switched off": in_spec("disabled", "authOptions", "mode"),
    "no autoscaling": in_spec(False, "enableInTreeAutoscaling"),
    "no upper bound": in_spec(None, "workerGroupSpecs", 0, "maxReplicas"),
    "replicas in words": in_spec("eight", "workerGroupSpecs", 0, "maxReplicas"),
    "the search does not know what may come": in_spec(4, "workerGroupSpecs", 0, "maxReplicas"),
    "a typo in a container": in_spec("x", *HEAD, "imagePolicy"),
    "another Ray": in_spec("rayproject/ray:2.9.0-py312", *WORKER, "image"),
    "a GPU that is none": in_spec("one", *WORKER, "resources", "limits", "nvidia.com/gpu"),
    "no GPU": in_spec(
        {"limits": {"cpu": "8", "memory": "32Gi"}, "requests": {"cpu": "8", "memory": "32Gi"}},
        *WORKER,
        "resources",
    ),
    "no MLflow": in_spec(
        ['bash setup.sh HEP_RAY_SHARED=/shared && . ~/.hep_ray_env && eval "$KUBERAY_GEN_RAY_START_CMD"'],
        *HEAD,
        "args",
    ),
    "a volume that is not there": in_spec("scratch", *WORKER, "volumeMounts", 1, "name"),
    "a start parameter that is no text": in_spec(0, "headGroupSpec", "rayStartParams", "num-cpus"),
    "an old version of the interface": put("ray.io/v1alpha1", "apiVersion"),
}
JOB = {
    "an entrypoint that cannot resume": put(
        "python /shared/hep_ray/code/searches/resnet_loss.py", "spec", "entrypoint"
    ),
    "a cluster that stays and costs": put(False, "spec", "shutdownAfterJobFinishes"),
}
CLAIMS = {
    "a volume for one node": put(["ReadWriteOnce"], "spec", "accessModes"),
    "no size": put(None, "spec", "resources"),
}
PLANTED = [
    (name, number, error, change)
    for name, number, errors in (
        ("kuberay.yaml", 0, CLAIMS),
        ("kuberay.yaml", 1, {"no image": put(None, "spec", "containers", 0, "image")}),
        ("kuberay.yaml", 2, BOTH),
        ("kuberay-job.yaml", 0, {**BOTH, **JOB}),
    )
    for error, change in errors.items()
]


@pytest.mark.parametrize(
    ("name", "number", "error", "change"),
    PLANTED,
    ids=[f"{name} {number}: {error}" for name, number, error, _ in PLANTED],
)
def test_a_broken_copy_is_refused(
    name: str, number: int, error: str, change: Callable[[Manifest], None]
) -> None:
    manifest = load(name)[number]
    change(manifest)

    with pytest.raises(Refused):
        validate(manifest)
