"""What becomes of a task of Ray that fails: a named error in its own words, raised or its process lost."""

import os

import pytest

from hep_ray.cluster import result
from hep_ray.errors import InvalidConfig, WorkersLost
from tests.facts import tells

pytestmark = pytest.mark.ray


def test_a_task_gives_its_result_or_a_named_error_in_one_paragraph(ray_session):
    import ray

    def work(how):
        if how == "refuses":
            raise InvalidConfig("an epsilon is above 0; got -1")
        if how == "fails":
            raise KeyError("w")
        if how == "dies":
            os._exit(7)
        return how

    task = ray.remote(num_cpus=0, max_retries=0)(work)
    assert result(task.remote("well")) == "well"
    with pytest.raises(InvalidConfig) as refused:
        result(task.remote("refuses"))
    assert tells(str(refused.value), "epsilon", -1)
    with pytest.raises(KeyError):
        result(task.remote("fails"))
    with pytest.raises(WorkersLost) as lost:
        result(task.remote("dies"))
    assert "\n" not in str(lost.value)
