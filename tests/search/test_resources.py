import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.errors import Infeasible
from hep_ray.search.resources import plan_resources


@pytest.mark.parametrize(
    ("nodes", "trials", "cpus", "gpus", "concurrent"),
    [
        ([{"CPU": 2}], 12, 1, 0, 2),
        ([{"CPU": 2}], 1, 1, 0, 1),
        ([{"CPU": 3}, {"CPU": 3}], 12, 2, 0, 2),  # a trial does not span nodes: one on each
        ([{"CPU": 16, "GPU": 2}], 64, 1, 0.5, 4),
        ([{"CPU": 16, "GPU": 4}], 64, 2, 2, 2),
        ([{"CPU": 2, "GPU": 8}], 64, 1, 0.25, 2),  # cores are what is short
        ([{"CPU": 16, "GPU": 1}], 64, 1, 1 / 3, 3),
    ],
)
def test_as_many_trials_run_side_by_side_as_fit(nodes, trials, cpus, gpus, concurrent):
    assert plan_resources(nodes, trials, cpus, gpus).concurrent == concurrent


@pytest.mark.parametrize(
    ("cpus", "gpus", "words"),
    [
        (4, 0, ["4 CPU", "2 CPU + 0 GPU"]),
        (1, 1, ["1 GPU", "2 CPU + 0 GPU"]),
        (0, 0, ["at least 1 CPU"]),
        (1, -1, ["-1"]),
        (1, 1.5, ["1.5"]),
    ],
)
def test_what_can_never_run_is_refused_with_the_sums(cpus, gpus, words):
    with pytest.raises(Infeasible) as error:
        plan_resources([{"CPU": 2}], 4, cpus, gpus)

    for word in words:
        assert word in str(error.value)


@given(
    st.lists(
        st.fixed_dictionaries({"CPU": st.integers(1, 64), "GPU": st.integers(0, 8)}), min_size=1, max_size=5
    ),
    st.integers(1, 1000),
    st.integers(1, 8),
    st.sampled_from([0, 0.1, 0.25, 0.5, 1, 2]),
)
def test_a_plan_never_exceeds_the_cluster(nodes, trials, cpus, gpus):
    try:
        plan = plan_resources(nodes, trials, cpus, gpus)
    except Infeasible:
        assert all(node["CPU"] < cpus or node["GPU"] < gpus for node in nodes)
    else:
        assert 1 <= plan.concurrent <= trials
        assert plan.concurrent * cpus <= plan.cpus
        assert plan.concurrent * gpus <= plan.gpus + 1e-6
