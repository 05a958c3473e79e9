"""Trials that share a warm actor must not know of each other."""

import pytest

from hep_ray.dataset.dataset import Dataset
from hep_ray.search.trial import TrialJob
from hep_ray.search.worker_group import TrialActor

pytestmark = pytest.mark.ray

EPOCHS = 2


def config(trial_id, **changes):
    params = {
        "model": "cnn",
        "loss": "root_softmax",
        "root_index": 3,
        "optimizer": "adam",
        "learning_rate": 1e-3,
    }
    return {"trial_id": trial_id, "params": {**params, "batch_size": 16, **changes}, "seed": 5}


@pytest.fixture
def job(ray_session, make_dataset, tmp_path):
    from hep_ray.loading.stream import load_resident

    dataset = Dataset.open(make_dataset(events=96, size=28))
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
def start(job):
    import ray
    from ray import tune

    actors = []

    def make(trial):
        actors.append(ray.remote(num_cpus=0)(tune.with_parameters(TrialActor, job=job)).remote(config=trial))
        return actors[-1]

    yield make
    for actor in actors:
        ray.kill(actor)


def train(actor, epochs=EPOCHS):
    import ray

    results = [ray.get(actor.train.remote()) for _ in range(epochs)]
    return [{k: v for k, v in result["metrics"] if k != "epoch_seconds"} for result in results]


def reset(actor, trial):
    import ray

    assert ray.get(actor.reset.remote(trial, None))


@pytest.mark.slow
@pytest.mark.ci
def test_a_trial_gives_the_same_numbers_in_a_fresh_and_in_a_reused_actor(start):
    fresh = train(start(config("fresh")))

    warm = start(config("other-1", optimizer="sgd", momentum=0.95, root_index=7))
    train(warm)
    reset(warm, config("other-2", loss="hinge") | {"params": config("")["params"] | {"dropout": 0.1}})
    train(warm, epochs=1)
    reset(warm, config("diverges", learning_rate=1e30))
    import ray

    assert "NonFiniteLoss" in ray.get(warm.train.remote())["failure"]
    reset(warm, config("reused"))

    assert train(warm) == fresh


@pytest.mark.slow
@pytest.mark.ci
def test_a_trial_whose_actor_died_goes_on_from_its_checkpoint_with_the_same_numbers(start):
    whole = train(start(config("whole")))

    first = start(config("broken"))
    assert train(first, epochs=1) == whole[:1]
    second = start(config("broken"))

    # The checkpointed epoch is told again, since the driver may not have heard of it; then the next one.
    assert train(second) == whole


@pytest.mark.slow
@pytest.mark.ci
def test_a_failure_carries_its_cause(start):
    import ray

    actor = start(config("bad", root_index=-0.5))

    result = ray.get(actor.train.remote())
    assert result["done"]
    assert "root_index" in result["failure"]
