"""What the doctor concludes, from facts that no cluster here would give."""

import dataclasses

import pytest

from hep_ray.doctor import checks
from hep_ray.masking import close_token, open_token
from hep_ray.search.node_checks import Clock, Node, NodeFacts

HEAD = Node("a", "10.0.0.1", cpus=8, gpus=0)
WORKER = Node("b", "10.0.0.2", cpus=8, gpus=1)
NODES = [HEAD, WORKER]
FACTS = NodeFacts(
    "host", {"python": "3.12.1", "ray": "2.60.0"}, "c0de", torch_gpus=0, auth_mode="token", cores=8
)
GPU_FACTS = dataclasses.replace(FACTS, torch_gpus=1)
SOUND = {"a": FACTS, "b": GPU_FACTS}


def changed(**changes):
    return {"a": FACTS, "b": dataclasses.replace(GPU_FACTS, **changes)}


SOUND_CHECKS = {
    "nodes": lambda: checks.answered(NODES, {}),
    "versions": lambda: checks.versions(NODES, SOUND),
    "code": lambda: checks.code(NODES, SOUND, "c0de", "c0de"),
    "cores": lambda: checks.cores(NODES, SOUND),
    "gpus": lambda: checks.gpus(NODES, SOUND),
    "authentication": lambda: checks.authentication(NODES, SOUND),
    "token file": lambda: checks.token(NODES, SOUND),
    "clocks": lambda: checks.clock(NODES, {"a": Clock(0, 0.001), "b": Clock(-0.2, 0.002)}),
    "storage": lambda: checks.shared("storage", "/shared", NODES, {}),
}


@pytest.mark.parametrize("name", SOUND_CHECKS)
def test_a_sound_cluster_passes(name):
    check = SOUND_CHECKS[name]()

    assert check.name == name
    assert check.ok
    assert check.found
    assert not check.advice


BROKEN = {
    "a node is silent": (
        lambda: checks.answered(NODES, {"b": "no answer within 90 s"}),
        "10.0.0.2: no answer",
    ),
    "another Ray": (
        lambda: checks.versions(NODES, changed(versions={"python": "3.12.1", "ray": "2.59.0"})),
        "ray: 2.60.0 on 10.0.0.1, 2.59.0 on 10.0.0.2",
    ),
    "a package is missing everywhere": (
        lambda: checks.versions([HEAD], {"a": dataclasses.replace(FACTS, versions={"ray": "absent"})}),
        "ray: absent on 10.0.0.1",
    ),
    "a node's processes are bound to fewer cores than Ray hands out": (
        lambda: checks.cores(NODES, changed(cores=4)),
        "10.0.0.2: Ray hands out 8 CPU, its processes may use 4",
    ),
    "a node runs old code": (
        lambda: checks.code(NODES, changed(code="01d"), "c0de", None),
        "01d on 10.0.0.2",
    ),
    "the cluster runs other code than the laptop": (
        lambda: checks.code(NODES, SOUND, "c0de", "1ap"),
        "expected is 1ap",
    ),
    "a driver too old for torch": (
        lambda: checks.gpus(NODES, changed(torch_gpus=0)),
        "10.0.0.2: Ray hands out 1, torch",
    ),
    "no token on one node": (
        lambda: checks.authentication(NODES, changed(auth_mode="")),
        "not stated on 10.0.0.2",
    ),
    "a clock that is off": (lambda: checks.clock(NODES, {"b": Clock(-3.5, 0.1)}), "10.0.0.2: -3.5 s"),
    "a folder of one node": (
        lambda: checks.shared("storage", "/x", NODES, {"b": "not there"}),
        "/x: 10.0.0.2: not there",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_named_with_its_node_and_with_what_to_do(fault):
    make, words = BROKEN[fault]
    check = make()

    assert not check.ok
    assert words in check.found
    assert check.advice


def test_an_uncertain_clock_is_not_blamed():
    """A node 1.4 s off, asked in 1 s: it may be 0.9 s off, which is within the second allowed."""
    assert checks.clock(NODES, {"b": Clock(1.4, 0.5)}).ok


def test_one_machine_needs_no_token():
    assert checks.authentication([HEAD], {"a": dataclasses.replace(FACTS, auth_mode="")}).ok


def test_gpus_that_ray_leaves_idle_are_told():
    check = checks.gpus(NODES, changed(torch_gpus=4))

    assert check.ok
    assert "10.0.0.2: torch sees 4" in check.found


@pytest.mark.parametrize(
    ("mode", "told"), [(0o600, ""), (0o400, ""), (0o640, "0640"), (0o644, "0644"), (0o602, "0602")]
)
def test_a_token_that_others_can_read_is_told(tmp_path, mode, told):
    path = tmp_path / "auth_token"
    path.write_text("secret")
    path.chmod(mode)
    found = open_token(path)
    assert found == (f"{path} ({told})" if told else "")
    check = checks.token(NODES, changed(open_token=found))
    assert check.ok is not bool(told)
    assert ("chmod 600" in check.advice) is bool(told)
    assert "secret" not in str(check)
    close_token(path)
    assert open_token(path) == ""
    assert path.read_text() == "secret"
    assert open_token(tmp_path / "absent") == ""
