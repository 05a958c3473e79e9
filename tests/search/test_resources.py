import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.errors import Infeasible
from hep_ray.loading.stream import Ingest
from hep_ray.search.resources import plan_resources
from tests.facts import raises, tells


def streaming(readers, budget=10**9):
    return Ingest("streaming", "auto", 10**10, 10**11, budget, 0, row_group=10**6, readers=readers)


def test_streaming_trials_leave_cores_to_ray_data_and_share_the_budget():
    plan = plan_resources([{"CPU": 4}, {"CPU": 4}], 12, 1, 0, workers_per_trial=2, ingest=streaming(2))

    assert str(plan) == (
        "3 trials side by side × (driver 0 CPU + 2 workers × 1 CPU) + Ray Data 2 CPU = 8 CPU of a cluster with 8 CPU, "
        "0 GPU: 12 trials in about 4 waves"
    )
    # Ray Data takes a core of each node, which leaves three places on a node.
    assert plan.ingest.streams == 3
    assert plan.ingest.memory_per_stream == 10**9 // 3


@pytest.mark.parametrize(
    ("cpus", "gpus", "trials", "readers"),
    [
        (16, 2, 12, 14),  # two trials, a GPU and a core each; the rest reads
        (16, 2, 1, 15),
        (16, 0, 12, 4),  # twelve trials leave four cores
        (8, 0, 12, 1),  # a core of the node at least
    ],
)
def test_cores_that_no_trial_takes_read(cpus, gpus, trials, readers):
    ingest = dataclasses.replace(streaming(1), spare=True)
    node = {"CPU": cpus, "GPU": gpus}
    plan = plan_resources([node], trials, 1, 1.0 if gpus else 0.0, ingest=ingest)
    assert plan.data_cpus == plan.ingest.readers == readers
    given = plan_resources([node], trials, 1, 1.0 if gpus else 0.0, ingest=streaming(3))
    assert given.data_cpus == given.ingest.readers == 3


@pytest.mark.parametrize(
    ("budget", "workers", "concurrent", "streams"),
    [
        (24, 1, 6, 3),  # three streams on a node, which has three places
        (23, 1, 2, 2),  # two: Ray could put both on one node
        (8, 1, 1, 1),
        (16, 2, 1, 2),
        (31, 2, 3, 3),
    ],
)
def test_no_more_trials_run_side_by_side_than_the_memory_of_a_node_holds_streams(
    budget, workers, concurrent, streams
):
    # A stream holds eight row groups of a megabyte.
    ingest = streaming(2, budget=budget * 10**6)
    plan = plan_resources([{"CPU": 4}] * 2, 12, 1, 0, workers_per_trial=workers, ingest=ingest)

    assert plan.concurrent == concurrent
    assert plan.ingest.streams == streams
    assert plan.ingest.memory_per_stream >= 8 * 10**6


@pytest.mark.parametrize(
    ("budget", "workers", "facts"),
    [
        (7, 1, ["1 streams", "0.008 GB", "0.007 GB"]),
        (15, 2, ["2 streams", "0.016 GB"]),
        (16, 5, ["3 streams", "0.024 GB"]),
    ],
)
def test_a_trial_whose_streams_the_memory_of_a_node_does_not_hold_is_refused(budget, workers, facts):
    ingest = streaming(2, budget=budget * 10**6)
    with raises(Infeasible, *facts):
        plan_resources([{"CPU": 4}] * 2, 12, 1, 0, workers_per_trial=workers, ingest=ingest)


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
        (0, 0, ["--cpus-per-trial", "0"]),
        (1, -1, ["-1"]),
        (1, 1.5, ["1.5"]),
    ],
)
def test_what_can_never_run_is_refused_with_the_sums(cpus, gpus, words):
    with pytest.raises(Infeasible) as error:
        plan_resources([{"CPU": 2}], 4, cpus, gpus)

    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "workers", "concurrent"),
    [
        ([{"CPU": 2}], 1, 0, 2, 1),
        ([{"CPU": 4}], 1, 0, 2, 2),
        ([{"CPU": 3}, {"CPU": 3}], 2, 0, 2, 1),  # the two workers of a trial are on two nodes
        ([{"CPU": 16, "GPU": 4}, {"CPU": 16, "GPU": 4}], 2, 1, 4, 2),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 16, "GPU": 2}], 2, 1, 3, 2),  # one of them spans both nodes
    ],
)
def test_as_many_groups_of_workers_run_as_there_are_places(nodes, cpus, gpus, workers, concurrent):
    plan = plan_resources(nodes, 64, cpus, gpus, workers_per_trial=workers)

    assert plan.concurrent == concurrent
    assert f"driver 0 CPU + {workers} workers" in str(plan)


def test_four_trials_of_two_workers_on_two_cores_run_one_after_another():
    plan = plan_resources([{"CPU": 2}], 4, 1, 0, workers_per_trial=2)

    assert str(plan) == (
        "1 trials side by side × (driver 0 CPU + 2 workers × 1 CPU) = 2 CPU of a cluster with 2 CPU, 0 GPU: "
        "4 trials in about 4 waves"
    )


@pytest.mark.parametrize(
    ("cpus", "gpus", "options", "words"),
    [
        (1, 0, {"workers_per_trial": 3}, ["3 × (1 CPU + 0 GPU) = 3 CPU", "room for 2", "2 CPU + 1 GPU"]),
        (1, 1, {"workers_per_trial": 2}, ["2 × (1 CPU + 1 GPU) = 2 CPU + 2 GPU", "room for 1"]),
        (1, 0.5, {"workers_per_trial": 2}, ["whole GPUs", "0.5"]),
        (1, 0, {"workers_per_trial": 0}, ["--workers-per-trial 0"]),
        (1, 0, {"workers_per_trial": 2, "min_workers_per_trial": 3}, ["--min-workers-per-trial 3"]),
        (1, 0, {"workers_per_trial": 2, "ingest": streaming(1)}, ["Ray Data takes 1 CPU", "room for 1"]),
        (1, 0, {"ingest": streaming(2)}, ["Ray Data takes 2 CPU"]),
    ],
)
def test_workers_that_could_never_run_at_once_are_refused_with_the_sums(cpus, gpus, options, words):
    with pytest.raises(Infeasible) as error:
        plan_resources([{"CPU": 2, "GPU": 1}], 4, cpus, gpus, **options)

    for word in words:
        assert word in str(error.value)


def test_fewer_workers_will_do_where_that_was_said():
    plan = plan_resources([{"CPU": 2}], 4, 1, 0, workers_per_trial=4, min_workers_per_trial=2)

    assert plan.concurrent == 1
    assert tells(str(plan), "2 to 4 workers", "1 CPU", "4 CPU", "2 CPU")


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
