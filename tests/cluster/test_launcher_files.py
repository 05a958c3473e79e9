"""clusters/*.yaml for `ray up`: as they are they pass, and every planted error is caught.

They go through Ray's own preparation and schema (private functions of Ray, pinned by this test), and what Ray hands
on unseen through the request schemas that Amazon's and Google's client libraries carry. That a cloud accepts them is
not shown: none is reached from here.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
CLUSTERS = REPOSITORY / "clusters"
FILES = ("gpu.yaml", "gpu-gcp.yaml", "onprem.yaml", "local.yaml")
PROVIDER_KEYS = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes"},
    "gcp": {"type", "region", "availability_zone", "cache_stopped_nodes", "project_id"},
    "local": {"type", "head_ip", "worker_ips"},
}
MOUNTS = {
    **{
        f"~/hep_ray/{name}": name
        for name in (
            "hep_ray",
            "searches",
            "clusters",
            "requirements",
            "pyproject.toml",
            "README.md",
            "LICENSE",
        )
    },
    "~/.ray/auth_token": "~/.ray/auth_token",
}
SETUP_KEYS = {"HEP_RAY_SHARED", "HEP_RAY_AUTOSCALE", "HEP_RAY_MLFLOW_ARTIFACTS"}
Config = dict[str, Any]


class Refused(Exception):
    """A cluster file breaks a rule."""


def load(name: str) -> Config:
    return yaml.safe_load((CLUSTERS / name).read_text(encoding="utf-8"))


def validate(config: Config) -> None:
    by_ray(config)
    kind = config["provider"]["type"]
    if unknown := set(config["provider"]) - PROVIDER_KEYS[kind]:
        raise Refused(f"provider has {unknown}")
    for node_type in config.get("available_node_types", {}).values():
        {"aws": by_amazon, "gcp": by_google}[kind](node_type["node_config"])
    by_house(config)


def by_ray(config: Config) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as fault:
        raise Refused(f"Ray: {fault!r}") from fault


@cache
def amazon_model() -> Any:
    loaders = pytest.importorskip("botocore.loaders", reason="needs the extra 'cloud'")
    model = pytest.importorskip("botocore.model")
    service = model.ServiceModel(loaders.Loader().load_service_model("ec2", "service-2"))
    return service.operation_model("RunInstances").input_shape


def by_amazon(node_config: Config) -> None:
    from botocore.validate import ParamValidator

    request = {"MinCount": 1, "MaxCount": 1, **node_config}
    report = ParamValidator().validate(request, amazon_model())
    if report.has_errors():
        raise Refused(report.generate_report())
    check_words(request, amazon_model())


def check_words(value: Any, shape: Any) -> None:
    """The validator leaves out whether a word is one of those that are known."""
    if shape.type_name == "structure":
        for key, member in value.items():
            check_words(member, shape.members[key])
    elif shape.type_name == "list":
        for member in value:
            check_words(member, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        raise Refused(f"{shape.name} has no {value}")


@cache
def google_schemas() -> Config:
    package = pytest.importorskip("googleapiclient", reason="needs the extra 'cloud'")
    path = Path(package.__file__).parent / "discovery_cache/documents/compute.v1.json"
    return json.loads(path.read_text(encoding="utf-8"))["schemas"]


def by_google(node_config: Config) -> None:
    check_google(node_config, {"$ref": "Instance"}, "node_config")


def check_google(value: Any, schema: Config, where: str) -> None:
    types = {
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "object": dict,
        "array": list,
    }
    schema = google_schemas()[schema["$ref"]] if "$ref" in schema else schema
    wanted = types[schema["type"]]
    number = schema.get("format") in {"int64", "uint64"} and type(value) is int
    if not number and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
        raise Refused(f"{where} is {schema['type']}; got {value!r}")
    if "enum" in schema and value not in schema["enum"]:
        raise Refused(f"{where} is one of {schema['enum']}; got {value}")
    if isinstance(value, list):
        for member in value:
            check_google(member, schema["items"], where)
    elif isinstance(value, dict):
        for key, member in value.items():
            if key not in schema["properties"]:
                raise Refused(f"{where} has no {key}")
            check_google(member, schema["properties"][key], f"{where}.{key}")


def by_house(config: Config) -> None:
    """The same pinned installation, MLflow and authentication on every road."""
    check_mounts(config["file_mounts"])
    scales = "available_node_types" in config
    check_setup(config["setup_commands"][-1].split(), scales=scales)
    check_start(config, scales=scales)
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config[key]:
            done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
            refuse_unless(done.returncode == 0, done.stderr)


def refuse_unless(holds: bool, rule: str) -> None:
    if not holds:
        raise Refused(rule)


def check_mounts(mounts: dict[str, str]) -> None:
    for remote, local in MOUNTS.items():
        refuse_unless(
            mounts.get(remote) == local, f"{remote} is mounted from {local}; got {mounts.get(remote)}"
        )
    for local in mounts.values():
        here = local.startswith("~") or local == ".git" or (REPOSITORY / local).exists()
        refuse_unless(here, f"what is mounted exists; {local} does not")


def check_setup(words: list[str], *, scales: bool) -> None:
    refuse_unless(
        words[:2] == ["bash", "~/hep_ray/clusters/bin/setup.sh"], f"hep_ray is installed; got {words}"
    )
    settings = dict(word.split("=", 1) for word in words[2:])
    shared = settings.get("HEP_RAY_SHARED", "")
    refuse_unless(
        settings.keys() <= SETUP_KEYS and shared[:1] in {"/", "~"}, f"storage is shared; got {settings}"
    )
    told = settings.get("HEP_RAY_AUTOSCALE") == "~/ray_bootstrap_config.yaml"
    refuse_unless(scales == told, "a search on an autoscaling cluster, and only there, is told what may come")


def check_start(config: Config, *, scales: bool) -> None:
    stop, mlflow, head = config["head_start_ray_commands"]
    refuse_unless(stop == "ray stop", f"an earlier Ray is stopped first; got {stop}")
    refuse_unless(
        mlflow == "bash ~/hep_ray/clusters/bin/mlflow.sh", f"MLflow starts beside the head; got {mlflow}"
    )
    for flag in ("ray start --head", "--port=6379", "--dashboard-host=127.0.0.1", "--autoscaling-config="):
        refuse_unless(flag in head, f"the head starts with {flag}; got {head}")
    refuse_unless(
        scales or "RAY_enable_autoscaler_v2=0" in head, "a local provider scales by the old autoscaler"
    )
    workers = config["worker_start_ray_commands"]
    joins = not config["max_workers"] or workers[-1].endswith("ray start --address=$RAY_HEAD_IP:6379")
    refuse_unless(joins, f"workers join the head; got {workers}")


@pytest.mark.parametrize("name", FILES)
def test_files_are_valid(name: str) -> None:
    validate(load(name))


def put(value: Any, *path: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for part in path[:-1]:
            config = config[part]
        config[path[-1]] = value

    return change


def drop(*path: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for part in path[:-1]:
            config = config[part]
        del config[path[-1]]

    return change


EVERYWHERE = {
    "a typo at the top": put(5, "idle_timeout_minute"),
    "a typo in auth": put("ubuntu", "auth", "ssh_usr"),
    "a typo in provider": put("somewhere", "provider", "regio"),
    "no provider": drop("provider"),
    "a word for a number": put("ten", "idle_timeout_minutes"),
    "a mount that does not exist": put("no_such_folder", "file_mounts", "~/hep_ray/searches"),
    "the lock is not mounted": drop("file_mounts", "~/hep_ray/requirements"),
    "no token": drop("file_mounts", "~/.ray/auth_token"),
    "another installation": put(["pip install hep-ray"], "setup_commands"),
    "no authentication": put(
        ["bash ~/hep_ray/clusters/bin/setup.sh HEP_RAY_SHARED=/shared RAY_AUTH_MODE=disabled"],
        "setup_commands",
    ),
    "a relative storage": put(["bash ~/hep_ray/clusters/bin/setup.sh HEP_RAY_SHARED=runs"], "setup_commands"),
    "no MLflow": put("true", "head_start_ray_commands", 1),
    "a command that bash cannot read": put("ulimit -n 65536; (ray stop", "setup_commands", 0),
}
CLOUDS = {
    "no head type": put("nobody", "head_node_type"),
    "more workers at least than at most": put(9, "available_node_types", "gpu", "min_workers"),
    "a typo in a node type": put(1, "available_node_types", "gpu", "max_worker"),
    "nobody knows what may come": put(
        ["bash ~/hep_ray/clusters/bin/setup.sh HEP_RAY_SHARED=/shared"], "setup_commands"
    ),
}
AMAZON = {
    "a typo in node_config": put("g6.xlarge", "available_node_types", "gpu", "node_config", "InstanceTyp"),
    "an unknown machine": put("g6.tiny", "available_node_types", "gpu", "node_config", "InstanceType"),
    "an unknown market": put(
        "spott", "available_node_types", "gpu", "node_config", "InstanceMarketOptions", "MarketType"
    ),
    "a disk of words": put(
        "big", "available_node_types", "head", "node_config", "BlockDeviceMappings", 0, "Ebs", "VolumeSize"
    ),
}
GOOGLE = {
    "a typo in node_config": put("g2-standard-8", "available_node_types", "gpu", "node_config", "machinTyp"),
    "an unknown model": put(
        "SPOTT", "available_node_types", "gpu", "node_config", "scheduling", "provisioningModel"
    ),
    "a count of words": put(
        "one", "available_node_types", "gpu", "node_config", "guestAccelerators", 0, "acceleratorCount"
    ),
}
LOCAL = {
    "no head": drop("provider", "head_ip"),
    "node types, which this provider refuses": put({"gpu": {"node_config": {}}}, "available_node_types"),
    "the autoscaler that never starts workers": put(
        "ray start --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
        "head_start_ray_commands",
        2,
    ),
}
PLANTED = [
    (name, error, change)
    for name, special in (
        ("gpu.yaml", AMAZON),
        ("gpu-gcp.yaml", GOOGLE),
        ("onprem.yaml", LOCAL),
        ("local.yaml", LOCAL),
    )
    for error, change in {**EVERYWHERE, **(LOCAL if special is LOCAL else {**CLOUDS, **special})}.items()
]


@pytest.mark.parametrize(
    ("name", "error", "change"), PLANTED, ids=[f"{name}: {error}" for name, error, _ in PLANTED]
)
def test_a_broken_copy_is_refused(name: str, error: str, change: Callable[[Config], None]) -> None:
    config = load(name)
    change(config)

    with pytest.raises(Refused):
        validate(config)
