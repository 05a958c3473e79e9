"""Every optimizer and schedule resumes exactly; steps and rates have the values worked out by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from hep_ray.config import parse
from hep_ray.errors import InvalidConfig
from hep_ray.optim import OPTIMIZERS, SCHEDULES, norms_and_biases
from tests.facts import raises

EPOCHS = 6


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def build(optimizer: str, schedule: str, module: nn.Module, values: dict[str, object] | None = None):
    entry, schedule_entry = OPTIMIZERS[optimizer], SCHEDULES[schedule]
    config = parse(entry.config, values or {}, optimizer)
    rate = 10.0 if optimizer == "adadelta" else 0.05  # whose steps grow from the root of epsilon
    built = entry.build(config, module.parameters(), rate)
    return built, schedule_entry.build(schedule_entry.config(), built, EPOCHS)


def train_epoch(module: nn.Module, optimizer, schedule) -> float:
    inputs = torch.linspace(-1, 1, 40).reshape(10, 4)
    loss = (module(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    return loss.item()


def rates(schedule: str, values: dict[str, object], epochs: int, until: int) -> list[float]:
    """Learning rates of the epochs 0 … until - 1 for a rate of 1 at the start."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    entry = SCHEDULES[schedule]
    built = entry.build(parse(entry.config, values, schedule), optimizer, epochs)
    seen = []
    for _ in range(until):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        built.step()
    return seen


def weight_after(optimizer: str, values: dict[str, object], gradients: list[float]) -> float:
    """A weight that starts at 1, after one step of rate 0.1 per gradient."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    entry = OPTIMIZERS[optimizer]
    built = entry.build(parse(entry.config, values, optimizer), [weight], 0.1)
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        built.step()
    return weight.item()


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_resumed_run_continues_exactly(optimizer: str, schedule: str):
    values = {"momentum": 0.9} if optimizer in ("sgd", "rmsprop") else {}
    module = network()
    parts = build(optimizer, schedule, module, values)
    for _ in range(3):
        train_epoch(module, *parts)
    saved = copy.deepcopy([part.state_dict() for part in (module, *parts)])
    torch.manual_seed(1)  # Entropy-SGD draws noise
    expected = [train_epoch(module, *parts) for _ in range(3)]

    resumed = network()
    resumed_parts = build(optimizer, schedule, resumed, values)
    for part, state in zip((resumed, *resumed_parts), saved, strict=True):
        part.load_state_dict(state)
    assert resumed_parts[0].param_groups[0]["lr"] == saved[1]["param_groups"][0]["lr"]
    torch.manual_seed(1)
    assert [train_epoch(resumed, *resumed_parts) for _ in range(3)] == expected
    for ours, theirs in zip(resumed.parameters(), module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_optimizers_lower_a_loss(optimizer: str):
    module = network()
    parts = build(optimizer, "none", module)
    losses = [train_epoch(module, *parts) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("learning_rate", [0.0, -0.1, math.inf, math.nan])
def test_the_learning_rate_is_positive_and_finite(optimizer: str, learning_rate: float):
    entry = OPTIMIZERS[optimizer]
    with raises(InvalidConfig, "learning_rate", learning_rate):
        entry.build(entry.config(), network().parameters(), learning_rate)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_weight_decay_is_never_negative(optimizer: str):
    with raises(InvalidConfig, "weight_decay", -1):
        parse(OPTIMIZERS[optimizer].config, {"weight_decay": -1}, optimizer)


@pytest.mark.parametrize(
    ("optimizer", "values", "gradients", "expected"),
    [
        ("sgd", {"momentum": 0}, [2.0], 0.8),
        # velocities 2 and 0.5·2 + 1 = 2: 1 − 0.2 − 0.2
        ("sgd", {"momentum": 0.5}, [2.0, 1.0], 0.6),
        # Nesterov steps by gradient + 0.5·velocity: 2 + 1 = 3, then 1 + 1 = 2
        ("sgd", {"momentum": 0.5, "nesterov": True}, [2.0, 1.0], 0.5),
        ("sgd", {"weight_decay": 0.5}, [0.0], 0.95),  # 1 − 0.1·(0.5·1)
        ("adam", {}, [2.0], 0.9),  # the first step of Adam is the rate, whatever the gradient
        ("adam", {"weight_decay": 0.5}, [0.0], 0.9),  # so is that of the decay, which is a gradient here
        ("adamw", {"weight_decay": 0.5}, [0.0], 0.95),  # and here it is not: 1·(1 − 0.1·0.5)
        # mean square (1 − 0.75)·2² = 1: step 0.1·2/1
        ("rmsprop", {"alpha": 0.75}, [2.0], 0.8),
        # the same twice with equal scale: second mean square 0.75 + 0.25·1 = 1, gradient 1;
        # momentum buffers 2 and 0.5·2 + 1 = 2
        ("rmsprop", {"alpha": 0.75, "momentum": 0.5}, [2.0, 1.0], 0.6),
        ("rmsprop", {"alpha": 0.75, "weight_decay": 2.0}, [0.0], 0.8),
        ("rmsprop", {"alpha": 0.75, "epsilon": 1.0}, [2.0], 0.9),  # 0.1·2/(1 + 1)
        # sums of squares 5 + 2² = 9, 9 + 4² = 25: steps 0.1·2/3 and 0.1·4/5
        ("adagrad", {"initial_accumulator": 5.0}, [2.0, 4.0], 1 - 0.2 / 3 - 0.08),
        # mean square 0.25·2² = 1, of steps 0: 0.1·√0.21/√(1 + 0.21)·2
        ("adadelta", {"rho": 0.75, "epsilon": 0.21}, [2.0], 1 - 0.2 * math.sqrt(0.21 / 1.21)),
    ],
)
def test_golden_steps(optimizer: str, values: dict[str, object], gradients: list[float], expected: float):
    assert weight_after(optimizer, values, gradients) == pytest.approx(expected, abs=1e-7)


def decayed(optimizer: str, **values: object) -> dict[str, float]:
    """Largest parameters after a step of rate 0.1 without a gradient, each of them 1 before."""
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.PReLU(3), nn.LayerNorm([2, 3]))
    for parameter in module.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    entry = OPTIMIZERS[optimizer]
    exempt = norms_and_biases(module)
    entry.build(parse(entry.config, values, optimizer), module.parameters(), 0.1, exempt=exempt).step()
    return {name: value.max().item() for name, value in module.named_parameters()}


@pytest.mark.parametrize(
    ("optimizer", "values", "weight"),
    [
        ("sgd", {"weight_decay": 0.5}, 0.95),  # 1 − 0.1·(0.5·1)
        ("adamw", {"weight_decay": 0.5}, 0.95),  # 1·(1 − 0.1·0.5)
        ("sgd", {"l1_penalty": 0.5}, 0.95),  # 1 − 0.1·0.5·sgn(1)
        ("sgd", {"l1_penalty": 0.5, "weight_decay": 1.0}, 0.85),
        ("entropy_sgd", {"weight_decay": 0.5, "thermal_noise": 0, "momentum": 0}, 0.95),
        (
            "replicated_sgd",
            {"l1_penalty": 0.5, "momentum": 0, "replicas": 2},
            1.0,
        ),  # the other replica is handed out
    ],
)
def test_norms_and_biases_do_not_decay_unless_it_is_said(
    optimizer: str, values: dict[str, object], weight: float
):
    custom = decayed(optimizer, **values)
    assert custom.pop("0.weight") == pytest.approx(weight, abs=1e-6)
    assert sorted(custom) == ["0.bias", "1.bias", "1.weight", "2.weight", "3.bias", "3.weight"]
    assert set(custom.values()) == {1.0}
    plain = decayed(optimizer, **values, decay_norms_and_biases=True)
    assert list(plain.values()) == pytest.approx([weight] * 7, abs=1e-6)


def test_without_decay_and_penalty_all_parameters_are_one_group():
    entry, module = OPTIMIZERS["adam"], network()
    built = entry.build(entry.config(), module.parameters(), 0.1, exempt=norms_and_biases(module))
    assert [len(group["params"]) for group in built.param_groups] == [4]


def test_nesterov_needs_momentum():
    with raises(InvalidConfig, "nesterov", "momentum"):
        parse(OPTIMIZERS["sgd"].config, {"momentum": 0.0, "nesterov": True}, "sgd")


class TestSchedules:
    def test_none_keeps_the_rate(self):
        assert rates("none", {}, epochs=5, until=8) == [1.0] * 8

    def test_step_follows_the_thesis_by_default(self):
        seen = rates("step", {}, epochs=40, until=40)
        assert seen == pytest.approx([1.0] * 10 + [0.9] * 10 + [0.81] * 10 + [0.729] * 10)

    def test_step_reads_its_fields(self):
        assert rates("step", {"step_size": 2, "gamma": 0.5}, 5, 5) == pytest.approx([1, 1, 0.5, 0.5, 0.25])

    def test_cosine_goes_down_half_a_period_and_stays(self):
        quarter = math.sqrt(0.5) / 2  # (1 ± cos 45°)/2 = ½ ± √½/2
        expected = [1, 0.5 + quarter, 0.5, 0.5 - quarter, 0, 0, 0]
        assert rates("cosine", {}, epochs=4, until=7) == pytest.approx(expected, abs=1e-12)

    def test_cosine_ends_at_its_minimum(self):
        # Half-way: 0.2 + 0.8/2
        seen = rates("cosine", {"minimum_fraction": 0.2}, epochs=2, until=4)
        assert seen == pytest.approx([1, 0.6, 0.2, 0.2])

    def test_exponential_falls_every_epoch(self):
        assert rates("exponential", {"gamma": 0.5}, epochs=3, until=5) == [1, 0.5, 0.25, 0.125, 0.0625]

    def test_cyclic_goes_down_and_up_in_straight_lines(self):
        # Half-way down from 1 to 0.2: 0.6
        seen = rates("cyclic", {"cycle_epochs": 4, "lowest_fraction": 0.2}, epochs=3, until=9)
        assert seen == pytest.approx([1, 0.6, 0.2, 0.6, 1, 0.6, 0.2, 0.6, 1])

    @pytest.mark.parametrize("schedule", list(SCHEDULES))
    def test_starts_at_the_given_rate(self, schedule: str):
        assert rates(schedule, {}, epochs=3, until=1) == [1.0]

    @pytest.mark.parametrize("schedule", list(SCHEDULES))
    def test_needs_an_epoch(self, schedule: str):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        entry = SCHEDULES[schedule]
        with raises(InvalidConfig, "epochs", 0):
            entry.build(entry.config(), optimizer, 0)

    @pytest.mark.parametrize(
        ("schedule", "values"),
        [
            ("step", {"step_size": 0}),
            ("step", {"gamma": 0}),
            ("step", {"gamma": 1.1}),
            ("cosine", {"minimum_fraction": -0.1}),
            ("exponential", {"gamma": 0}),
            ("cyclic", {"cycle_epochs": 1}),
            ("cyclic", {"lowest_fraction": 1.5}),
        ],
    )
    def test_refuses_values_out_of_range(self, schedule: str, values: dict[str, object]):
        with raises(InvalidConfig, *values, *values.values()):
            parse(SCHEDULES[schedule].config, values, "schedule")
