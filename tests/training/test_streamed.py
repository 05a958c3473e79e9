"""A trial on events that are streamed: as good as on events in memory, resumable, with the same sums of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import Split, SplitRule
from hep_ray.loading.batches import BatchRequest, Events, EventSource
from hep_ray.loading.on_device import DeviceEvents
from hep_ray.loading.shards import RowGroups, ShardStream
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop, start_trial

SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="x", shape=(4,)), Column(name="w")),
    classes=("background", "signal"),
    weight="w",
)
PARAMS: dict[str, Any] = {
    "model": "mlp",
    "inputs": "x",
    "hidden_features": 8,
    "loss": "cross_entropy",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "batch_size": 100,
    "scalar_scaling": "quantile_normal",
    "class_weights": "balanced",
}
EPOCHS = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks so small train fastest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Events, ShardStream]]:
    """Split → the events in memory and as a stream of pieces of two row groups; each column tells a little."""
    random = np.random.default_rng(0)
    labels = (random.random(8000) < 0.3).astype(np.int64)
    folder = tmp_path_factory.mktemp("data") / "d"
    with ShardWriter(folder, SCHEMA, SplitRule(train=0.6, val=0.35, test=0.05)) as writer:
        writer.write(
            {
                "event_id": [f"e{row}" for row in range(8000)],
                "label": labels,
                "x": (random.normal(size=(8000, 4)) + 0.5 * labels[:, None]).astype(np.float32),
                "w": random.random(8000).astype(np.float32),
            }
        )
    dataset = Dataset.open(folder)
    found = {}
    names: tuple[Split, ...] = ("train", "val")
    for split in names:
        counts = np.array([*dataset.manifest.class_counts(split).values()], float)
        stream = ShardStream(
            SCHEMA, RowGroups.of(dataset, split), ("x", "w"), {None: counts}, groups_per_block=2
        )
        events = stream.head(8000)
        sums = {None: counts, "w": events.class_sums(2, "w"), "|w|": events.class_sums(2, "w", sizes=True)}
        found[str(split)] = (events, dataclasses.replace(stream, sums=sums))
    return found


def loop(train: EventSource, val: EventSource, seed: int = 0, **params: Any) -> TrialLoop:
    return TrialLoop(TrialConfig.from_params(PARAMS | params), SCHEMA, train, val, epochs=EPOCHS, seed=seed)


def curve(trial: TrialLoop) -> list[dict[str, float]]:
    metrics = [trial.run_epoch() for _ in range(EPOCHS - trial.epoch)]
    return [{key: value for key, value in one.items() if key != "epoch_seconds"} for one in metrics]


@pytest.mark.slow
@pytest.mark.ci
def test_loss_curves_are_those_of_events_in_memory_within_the_noise_of_seeds(
    splits: dict[str, tuple[Events, ShardStream]],
) -> None:
    """Six seeds each way: Welch's test sees no difference of the mean validation loss of any epoch at 1 %.

    Nor could one hide in the noise: by the last epoch the means agree within a twentieth of what was learnt.
    """
    params = {"optimizer": "adam", "learning_rate": 0.01, "class_weights": "none"}
    losses = np.array(
        [
            [
                [
                    epoch["val_loss"]
                    for epoch in curve(loop(splits["train"][way], splits["val"][way], seed, **params))
                ]
                for seed in range(6)
            ]
            for way in (0, 1)
        ]
    )
    for epoch in range(EPOCHS):
        assert stats.ttest_ind(losses[0, :, epoch], losses[1, :, epoch], equal_var=False).pvalue > 0.01
    resident, streamed = losses.mean(axis=1)
    labels = splits["val"][0].labels
    untrained = stats.entropy(np.bincount(labels) / len(labels))  # of the classes' frequencies alone
    learnt = untrained - resident[-1]
    assert learnt > 0.05
    assert abs(resident[-1] - streamed[-1]) < learnt / 20


def test_a_trial_resumed_in_the_middle_gives_the_same_batches(
    splits: dict[str, tuple[Events, ShardStream]],
) -> None:
    streams = splits["train"][1], splits["val"][1]
    whole = curve(loop(*streams))
    first = loop(*streams)
    first.run_epoch()
    second = loop(*streams)
    second.load_state_dict(first.state_dict())
    assert curve(second) == whole[1:]


def test_validation_weights_and_scalers_do_not_depend_on_where_events_are(
    splits: dict[str, tuple[Events, ShardStream]],
) -> None:
    held, streamed = (loop(splits["train"][way], splits["val"][way]) for way in (0, 1))
    for left, right in zip(
        held.model.state_dict().values(), streamed.model.state_dict().values(), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    weights = [next(trial.train.batches(BatchRequest(200))).weights for trial in (held, streamed)]
    np.testing.assert_array_equal(*weights)
    streamed.model.load_state_dict(held.model.state_dict())
    metrics = curve(loop(splits["train"][0], splits["val"][0]))
    mixed = curve(loop(splits["train"][0], splits["val"][1]))
    assert metrics == mixed


def test_events_on_a_device_give_the_curve_of_the_host(splits: dict[str, tuple[Events, ShardStream]]) -> None:
    train, val = splits["train"][0], splits["val"][0]
    assert curve(loop(DeviceEvents.of(train, "cpu"), DeviceEvents.of(val, "cpu"))) == curve(loop(train, val))


def test_a_baseline_is_fitted_to_what_the_memory_holds_and_says_so(
    splits: dict[str, tuple[Events, ShardStream]],
) -> None:
    config = TrialConfig.from_params({"model": "logistic_regression", "inputs": "x"})
    train, val = splits["train"][1], splits["val"][1]
    # x takes 4 · 4 bytes as it is stored and 4 · 8 as features: 48,000 bytes hold a thousand events.
    small = dataclasses.replace(train, memory=48_000)
    few = start_trial(config, SCHEMA, small, val, epochs=1, seed=0).run_epoch()
    assert few["train_events"] == 1000
    whole = start_trial(config, SCHEMA, train, val, epochs=1, seed=0).run_epoch()
    held = start_trial(config, SCHEMA, *(splits[name][0] for name in ("train", "val")), epochs=1, seed=0)
    del whole["epoch_seconds"]
    assert whole == {key: value for key, value in held.run_epoch().items() if key != "epoch_seconds"}
    assert few["val_loss"] != whole["val_loss"]
