"""Which trainings of a fixed list are stacked."""

import dataclasses

import pytest

from hep_ray.loading.stream import RESIDENT
from hep_ray.search.fused import MOST, stacks_of
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.state import SearchState
from hep_ray.tracking.records import TrialFinished, TrialStarted

MLP = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 16}
WIDE = {**MLP, "hidden_features": 300}
FITTED = {"model": "logistic_regression"}
TWO_CORES = ResourcePlan(trials=12, concurrent=2, cpus_per_trial=1, gpus_per_trial=0, cpus=2, gpus=0)


def runs(*configurations, seeds=3):
    planned = [(params, seed) for seed in range(seeds) for params in configurations]
    return [
        TrialStarted(time=0, trial_id=f"r{number}", number=number, params=params, seed=seed)
        for number, (params, seed) in enumerate(planned)
    ]


def names(stacks):
    return sorted(sorted(run.trial_id for run in stack) for stack in stacks)


def test_trainings_of_one_architecture_are_shared_out_to_the_workers():
    faster = {**MLP, "learning_rate": 1e-2, "dropout": 0.2, "loss": "root_softmax", "root_index": 3}
    found = stacks_of(runs(MLP, faster, WIDE, FITTED), SearchState(), TWO_CORES, {}, "auto")

    # Twelve trainings on two workers: six each; fitted ones have no stack.
    assert names(found) == [["r0", "r1", "r4", "r5", "r8", "r9"], ["r10", "r2", "r6"]]


def test_a_number_bounds_a_stack_and_what_is_left_over_is_trained_alone():
    assert names(stacks_of(runs(MLP), SearchState(), TWO_CORES, {}, "2")) == [["r0", "r2"]]
    assert [len(stack) for stack in stacks_of(runs(MLP, seeds=40), SearchState(), TWO_CORES, {}, "auto")] == [
        14,
        13,
        13,
    ]
    assert MOST == 16


def test_what_has_ended_is_left_out():
    planned = runs(MLP)
    state = SearchState.fold([*planned, TrialFinished(time=1, trial_id="r1", status="completed")])

    assert names(stacks_of(planned, state, TWO_CORES, {}, "auto")) == [["r0"]] * 0
    assert names(stacks_of(planned, state, TWO_CORES, {}, "5")) == [["r0", "r2"]]


@pytest.mark.parametrize(
    "change",
    [
        {"concurrent": 3},
        {"workers_per_trial": 2},
        {"gpus_per_trial": 0.5},
        {"ingest": dataclasses.replace(RESIDENT, cache="streaming")},
    ],
)
def test_nothing_is_stacked_where_each_has_a_core_or_other_resources(change):
    assert stacks_of(runs(MLP), SearchState(), dataclasses.replace(TWO_CORES, **change), {}, "auto") == []
    assert stacks_of(runs(MLP), SearchState(), TWO_CORES, {}, "off") == []
