"""Trials of two workers under Ray Train: the numbers of one worker, no worker missed, nothing left behind."""

import dataclasses
import os
import signal
import time

import pytest
from rich.console import Console

from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import CannotResume, Infeasible, InvalidSpace
from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import run_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import Choice
from hep_ray.search.plan import prepare
from hep_ray.search.space import Space
from hep_ray.search.trial import TrialJob, TrialRun
from hep_ray.search.worker_group import Coordinator, GroupResources, PlacementGroups, WorkerGroup
from hep_ray.tracking.journal import read_records
from tests.facts import raises

pytestmark = pytest.mark.ray

EPOCHS = 3
EVENTS = 118  # of which 72 train: two workers share them without one left over
PARAMS = {
    "model": "cnn",
    "dropout": 0.0,
    "loss": "cross_entropy",
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "batch_size": 2,
}
SEARCH = Search(
    name="shared",
    task="toy",
    title="A toy.",
    space=Space(**{**PARAMS, "learning_rate": Choice(1e-3, 1e-9, 1e-8)}),
    metric="val_loss",
    mode="min",
    presets={"smoke": Preset(epochs=EPOCHS, sampler="grid", grace_epochs=1, reduction_factor=2)},
)


def trial(trial_id, **changes):
    return {"trial_id": trial_id, "params": {**PARAMS, **changes}, "seed": 5}


@pytest.fixture
def job(ray_session, make_dataset, tmp_path):
    from hep_ray.loading.stream import load_resident

    dataset = Dataset.open(make_dataset(events=EVENTS, size=28))
    return TrialJob(
        trials_folder=str(tmp_path / "trials"),
        schema=dataset.schema,
        data=load_resident(dataset),
        epochs=EPOCHS,
        metric="val_accuracy",
        mode="max",
        cpus=1,
        gpu=False,
    )


@pytest.fixture
def start(job, tmp_path):
    import ray
    from ray import tune

    placements = PlacementGroups(str(tmp_path / "held"))
    group = GroupResources(workers=2, least=2, cpus=1, gpus=0, scratch=str(tmp_path / "train"))
    actors = []

    def make(first):
        build = tune.with_parameters(WorkerGroup, job=job, group=group, placements=placements)
        actors.append(ray.remote(num_cpus=0)(build).remote(config=first))
        return actors[-1]

    yield make
    for actor in actors:
        ray.kill(actor)
    placements.release_all()


def numbers(results):
    return [{k: v for k, v in result["metrics"] if k != "epoch_seconds"} for result in results]


def train(actor, epochs=EPOCHS):
    import ray

    return [ray.get(actor.train.remote()) for _ in range(epochs)]


def placement_groups():
    from ray.util import placement_group_table

    return [name for name, group in placement_group_table().items() if group["state"] != "REMOVED"]


def wait_until_nothing_is_held():
    deadline = time.monotonic() + 60
    while placement_groups():
        assert time.monotonic() < deadline, placement_groups()
        time.sleep(0.2)


def test_what_a_group_held_is_given_back_when_its_mailbox_is_gone_and_not_before(ray_session, tmp_path):
    import ray
    from ray.util import placement_group, remove_placement_group

    placements, other = (
        PlacementGroups(str(tmp_path)),
        PlacementGroups(str(tmp_path)),
    )  # of another process: both read the same files
    boxes = {name: ray.remote(num_cpus=0)(Coordinator).options(name=name).remote(3) for name in ("a", "b")}
    marks = {name: placements.register(name) for name in boxes}
    held, kept = (placement_group([{"CPU": 0.1, "memory": marks[name]}] * 2) for name in boxes)
    foreign = placement_group([{"CPU": 0.1}])
    living = [group.id.hex() for group in (held, kept, foreign)]
    assert ray.get([group.ready() for group in (held, kept, foreign)])
    other.release_orphans()
    assert sorted(placement_groups()) == sorted(living)

    ray.kill(boxes["a"])
    deadline = time.monotonic() + 30
    while sorted(placement_groups()) != sorted(living[1:]):
        other.release_orphans()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Of the same group, however much later: its controller may outlive the coordinator, and start the group anew.
    other.release_orphans()
    late = placement_group([{"CPU": 0.1, "memory": marks["a"]}])
    other.release_orphans()
    assert late.id.hex() not in placement_groups()
    ray.kill(boxes["b"])
    placements.release_all()
    assert placement_groups() == living[2:]
    assert not list(tmp_path.iterdir())
    remove_placement_group(foreign)
    wait_until_nothing_is_held()


@pytest.mark.slow
def test_two_workers_train_as_one_and_survive_the_loss_of_a_worker_and_of_their_actor(job, start):
    import ray

    run = TrialRun(job, trial("alone"), "cpu")
    alone = numbers([run.report() for _ in range(EPOCHS)])
    actor = start(trial("whole"))
    whole = numbers(train(actor))

    # A gradient taken as the mean of two differs in its last bit, 6e-8 of it; 108 steps carry that on.
    for two, one in zip(whole, alone, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5)

    before = ray.get(actor.pids.remote())
    ray.get(actor.reset.remote(trial("diverges", learning_rate=1e30), None))
    assert "NonFiniteLoss" in ray.get(actor.train.remote())["failure"]
    ray.get(actor.reset.remote(trial("loses_a_worker"), None))
    results = train(actor, epochs=1)
    assert ray.get(actor.pids.remote()) == before

    pending = actor.train.remote()
    time.sleep(0.1)
    os.kill(before[1], signal.SIGKILL)
    assert not ray.wait([pending], timeout=0)[0], "the epoch ended before the worker was killed"
    results += [ray.get(pending), *train(actor, epochs=1)]
    assert numbers(results) == whole
    assert ray.get(actor.pids.remote())[1] != before[1]

    # Only two cores: another actor's workers start once those of the lost actor have been given back.
    ray.kill(actor)
    another = start(trial("another"))
    assert numbers(train(another, epochs=1)) == whole[:1]
    # One that no longer answers does not keep the others' cores.
    os.kill(ray.get(another.pids.remote())[1], signal.SIGSTOP)
    ray.get(another.stop.remote())
    wait_until_nothing_is_held()


@pytest.fixture
def options(ray_session, make_dataset, tmp_path):
    return SearchOptions(
        data=make_dataset(events=EVENTS, size=28),
        storage=tmp_path / "runs",
        preset="smoke",
        workers_per_trial=2,
    )


@pytest.mark.slow
def test_a_search_whose_trials_asha_stops_holds_nothing_afterwards(options):
    import ray

    plan = prepare(SEARCH, options)
    assert "driver 0 CPU + 2 workers × 1 CPU" in str(plan.resources)
    result = run_search(plan, console=Console(quiet=True))

    trials = result.state.trials.values()
    assert [one.finished.status for one in trials] == ["completed", "stopped", "stopped"]
    wait_until_nothing_is_held()
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)
    assert read_records(plan.folder)[0].workers_per_trial == 2

    other = dataclasses.replace(options, workers_per_trial=1)
    with raises(CannotResume, "workers_per_trial", 2, 1):
        run_search(prepare(SEARCH, other), resume=True, console=Console(quiet=True))


@pytest.mark.parametrize(
    ("change", "error", "facts"),
    [
        ({"workers_per_trial": 2, "cpus_per_trial": 2}, Infeasible, ["4 CPU", "2 CPU"]),
        ({"workers_per_trial": 2, "gpus_per_trial": 0.5}, Infeasible, ["--gpus-per-trial 0.5"]),
        ({"workers_per_trial": 4, "min_workers_per_trial": 1}, InvalidSpace, ["batch_size 2", "3 workers"]),
    ],
)
def test_workers_that_cannot_train_a_trial_are_refused_before_it_starts(options, change, error, facts):
    with raises(error, *facts):
        prepare(SEARCH, dataclasses.replace(options, **change))
