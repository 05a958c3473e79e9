"""Two processes that train one trial over gloo, held against one process that trains it alone. No Ray."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import BatchRequest, EventSource, metric_weights
from hep_ray.metrics import METRICS
from hep_ray.models import MODELS
from hep_ray.registry import OWN_CODE
from hep_ray.training.averaging import take_anew
from hep_ray.training.config import TrainerConfig
from hep_ray.training.distributed import ALONE, backend, local_step
from hep_ray.training.evaluation import validate
from tests.facts import raises

SCRIPT = Path(__file__).with_name("rank.py")
WORLD = 2


@pytest.fixture(scope="module")
def rank() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("rank", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    MODELS._entries.pop("normalised")
    OWN_CODE.pop("rank", None)
    MODELS._entries.pop("dropped")
    METRICS._entries.pop("own_gap")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks saw of every case."""
    folder = tmp_path_factory.mktemp("ranks")
    words = [[sys.executable, str(SCRIPT), str(number), str(WORLD), str(folder)] for number in range(WORLD)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in words]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(errors)
    return [torch.load(folder / f"{number}.pt") for number in range(WORLD)]


@pytest.fixture(autouse=True)
def _as_it_was() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)


def numbers(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in one.items() if key != "epoch_seconds"} for one in metrics]


def alone(rank: ModuleType, case: str, **changes: Any) -> list[dict[str, float]]:
    trial = rank.loop(case, **changes)
    return [trial.run_epoch() for _ in range(rank.EPOCHS)]


def judged(rank: ModuleType, trial: Any, schema: EventSchema) -> EventSource:
    """The events of validation as a trial judges them: the columns of its model, and their weights."""
    events = rank.events(schema, 1100, 1)
    return events.select(trial.model.columns, metric_weights(events, schema))


# In float32 a sum of 16 gradients taken as 8 + 8 differs in the last bit, 6e-8 of it; 15 steps of 0.1 carry that on.
@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        *(("weighted", 1e-6), ("clipped", 1e-6), ("adam", 1e-6), ("last_shared", 1e-6)),
        *(("synchronised", 1e-12), ("averaged", 1e-12)),
    ],
)
def test_two_workers_give_the_loss_curve_of_one(
    rank: ModuleType, seen: list[dict[str, Any]], case: str, tolerance: float
) -> None:
    for two, one in zip(numbers(seen[0][case]["metrics"]), numbers(alone(rank, case)), strict=True):
        assert two == pytest.approx(one, rel=tolerance, abs=tolerance)


def test_own_statistics_of_batch_normalisation_give_another_curve(
    rank: ModuleType, seen: list[dict[str, Any]]
) -> None:
    two, one = seen[0]["own_statistics"]["metrics"], alone(rank, "own_statistics")

    assert abs(two[1]["train_loss"] - one[1]["train_loss"]) > 1e-3


def test_linear_scaling_is_a_batch_and_a_rate_as_many_times_as_large(
    rank: ModuleType, seen: list[dict[str, Any]]
) -> None:
    whole = {"batch_size": 16, "learning_rate": 0.1, "learning_rate_scaling": "none"}
    one = numbers(alone(rank, "linear", **whole))

    for two, expected in zip(numbers(seen[0]["linear"]["metrics"]), one, strict=True):
        assert two == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert two["learning_rate"] == 0.1


def test_the_ranks_agree_on_weights_and_metrics_whatever_is_drawn(
    rank: ModuleType, seen: list[dict[str, Any]]
) -> None:
    for case in rank.CASES:
        first, second = (one[case] for one in seen)
        assert numbers(first["metrics"]) == numbers(second["metrics"]), case
        for name, values in first["kept"].items():
            assert torch.equal(values, second["kept"][name]), (case, name)


def test_the_metrics_are_those_of_one_process_that_evaluates_what_rank_0_saved(
    rank: ModuleType, seen: list[dict[str, Any]]
) -> None:
    for case, (schema, _) in rank.CASES.items():
        trial = rank.loop(case)
        trial.kept.load_state_dict(seen[0][case]["kept"])
        single = validate(trial.kept, trial.loss, judged(rank, trial, schema), schema, str)
        over_ranks = {key: seen[0][case]["metrics"][-1][key] for key in single}
        assert over_ranks == pytest.approx(single, rel=1e-6, abs=1e-6), case


def test_a_metric_of_ones_own_is_of_all_events_together_however_many_workers_share_them(
    rank: ModuleType, seen: list[dict[str, Any]]
) -> None:
    trial = rank.loop("weighted")
    trial.kept.load_state_dict(seen[0]["weighted"]["kept"])
    events = judged(rank, trial, rank.FEATURES)
    single = validate(trial.kept, trial.loss, events, rank.FEATURES, str)
    weights = rank.events(rank.FEATURES, 1100, 1).class_sums(2, "w").sum()
    for one in seen:
        last = one["weighted"]["metrics"][-1]
        assert last["val_own_gap"] == single["val_own_gap"] > 0.02
        assert (
            last["val_own_gap_weights"] == single["val_own_gap_weights"] == pytest.approx(weights, rel=1e-6)
        )


def test_statistics_of_an_average_are_those_that_one_process_finds_for_its_weights(
    rank: ModuleType, seen: list[dict[str, Any]]
) -> None:
    # 72 events in batches of 20 leave 12: the first rank has the first and the third batch, the second the others.
    kept = seen[0]["own_averaged"]["kept"]
    network = rank.loop("own_averaged").kept
    network.load_state_dict(kept)
    take_anew(network, lambda: rank.events(rank.IMAGES, 72, 0).batches(BatchRequest(20)))
    again = network.state_dict()
    moved = [name for name in kept if "running" in name]
    assert len(moved) == 4
    for name in moved:
        torch.testing.assert_close(kept[name], again[name], rtol=1e-12, atol=1e-14)
    assert {int(kept[name]) for name in kept if "tracked" in name} == {4}


def test_a_resumed_trial_goes_on_bit_for_bit_on_every_rank(seen: list[dict[str, Any]]) -> None:
    for one in seen:
        assert numbers(one["resumed"]["metrics"]) == numbers(one["dropout"]["metrics"][1:])


def test_a_state_of_two_workers_goes_on_with_one(rank: ModuleType, seen: list[dict[str, Any]]) -> None:
    trial = rank.loop("weighted")
    trial.load_state_dict(seen[0]["weighted"]["states"][0])

    rest = [trial.run_epoch() for _ in range(rank.EPOCHS - 1)]

    for two, one in zip(numbers(seen[0]["weighted"]["metrics"][1:]), numbers(rest), strict=True):
        assert two == pytest.approx(one, rel=1e-6, abs=1e-6)


def test_a_loss_that_leaves_the_finite_numbers_ends_every_rank_alike(seen: list[dict[str, Any]]) -> None:
    assert seen[0]["diverged"] == seen[1]["diverged"]
    assert "at step 2 of epoch 1" in seen[0]["diverged"]


def trainer(**values: Any) -> TrainerConfig:
    common = {"model": "cnn", "loss": "mse", "optimizer": "adam", "learning_rate": 0.01, "batch_size": 60}
    return TrainerConfig(**{**common, **values})


@pytest.mark.parametrize(
    ("scaling", "workers", "batch_size", "learning_rate"),
    [("none", 4, 15, 0.01), ("linear", 4, 60, 0.04), ("sqrt", 4, 60, 0.02), ("sqrt", 1, 60, 0.01)],
)
def test_shares_of_a_step(scaling: str, workers: int, batch_size: int, learning_rate: float) -> None:
    mine = local_step(trainer(learning_rate_scaling=scaling), workers)

    assert (mine.batch_size, mine.learning_rate) == (batch_size, pytest.approx(learning_rate))


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with raises(InvalidConfig, "batch_size 60", "7 workers", 4):
        local_step(trainer(), 7)


def test_gpus_talk_through_nccl_and_cpus_through_gloo() -> None:
    assert (backend(0), backend(1), backend(2)) == ("gloo", "nccl", "nccl")


def test_a_process_alone_sends_nothing() -> None:
    values = torch.arange(3.0)

    assert ALONE.all_reduce(values) is values
    assert ALONE.all_gather("one") == ["one"]
