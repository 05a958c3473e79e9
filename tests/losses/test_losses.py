"""Every registered loss keeps the contract; root softmax and hinge have the values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from hep_ray.errors import InvalidConfig
from hep_ray.losses import LOSSES, Loss, build_loss
from tests.facts import raises

REQUIRED = {"root_softmax": {"root_index": 3.0}}
ROOTS = [1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 40.0]
EXTREMES = [0.0, -0.0, 1e-45, -1e-45, 1e-39, 1e-30, 1e-3, 1.0, -1.0, 1e30, -1e30, 3e38]

seeds = st.integers(0, 2**31 - 1)
class_counts = st.integers(2, 6)


@pytest.fixture(params=list(LOSSES))
def built(request: pytest.FixtureRequest) -> Loss:
    return build_loss(request.param, REQUIRED.get(request.param, {}))


def events(
    seed: int, classes: int, number: int = 5, scale: float = 10.0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(number, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (number,), generator=generator)


def root(index: float) -> Loss:
    return build_loss("root_softmax", {"root_index": index})


class TestContract:
    def test_one_loss_per_event(self, built: Loss):
        logits, target = events(0, classes=4, number=7)
        assert built(logits, target).shape == (7,)
        assert built(logits.float(), target).dtype == torch.float32

    def test_events_are_independent(self, built: Loss):
        logits, target = events(1, classes=3)
        alone = [
            built(row.unsqueeze(0), label.unsqueeze(0)) for row, label in zip(logits, target, strict=True)
        ]
        torch.testing.assert_close(built(logits, target), torch.cat(alone))

    def test_losses_are_never_negative(self, built: Loss):
        logits, target = events(2, classes=3, number=200)
        assert (built(logits, target) >= 0).all()

    def test_the_right_answer_costs_less(self, built: Loss):
        logits = torch.tensor([[4.0, -4.0]])
        assert built(logits, torch.tensor([0])) < built(logits, torch.tensor([1]))

    def test_probabilities_sum_to_one_and_rank_as_the_logits(self, built: Loss):
        logits, _ = events(3, classes=5, number=100)
        probabilities = built.probabilities(logits)
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(100, dtype=torch.float64))
        assert torch.equal(probabilities.argsort(dim=1), logits.argsort(dim=1))

    @pytest.mark.parametrize("classes", [2, 3, 6])
    def test_log_odds_are_those_of_the_probabilities(self, built: Loss, classes: int):
        logits, _ = events(5, classes, number=200, scale=3.0)
        p = built.probabilities(logits)
        torch.testing.assert_close(built.log_odds(logits), p.log() - (1 - p).log(), rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("classes", [2, 4])
    def test_log_odds_tell_events_apart_whose_probability_is_one(self, built: Loss, classes: int):
        """Single precision ends at odds of 2²⁴; the order of the logits is kept far beyond it."""
        logits = -torch.linspace(1e3, 1e6, 50).unsqueeze(1).repeat(1, classes)
        logits[:, 1] *= -1
        own = built.log_odds(logits.double())[:, 1]
        assert own.dtype == torch.float64
        assert torch.isfinite(own).all()
        assert (own.diff() > 0).all()
        assert len(built.probabilities(logits)[:, 1].unique()) == 1

    def test_renaming_the_classes_changes_nothing(self, built: Loss):
        logits, target = events(4, classes=4)
        order = torch.tensor([2, 0, 3, 1])
        renamed = built(logits[:, order], order.argsort()[target])
        torch.testing.assert_close(renamed, built(logits, target))
        torch.testing.assert_close(
            built.probabilities(logits)[:, order], built.probabilities(logits[:, order])
        )

    @pytest.mark.parametrize("value", EXTREMES)
    def test_value_and_gradient_are_finite(self, built: Loss, value: float):
        logits = torch.tensor(
            [[value, 0.0], [0.5, value], [value, value], [value, -value]], requires_grad=True
        )
        losses = built(logits, torch.tensor([0, 1, 1, 0]))
        losses.mean().backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        if abs(value) <= 1e30:
            assert torch.isfinite(losses).all()

    def test_gradient_descent_reaches_a_low_loss(self, built: Loss):
        logits = torch.zeros(4, 3, requires_grad=True)
        target = torch.tensor([0, 1, 2, 0])
        optimizer = torch.optim.Adam([logits], lr=0.5)
        start = built(logits, target).mean().item()
        for _ in range(60):
            optimizer.zero_grad()
            built(logits, target).mean().backward()
            optimizer.step()
        assert built(logits, target).mean().item() < 0.5 * start

    def test_refuses_unknown_fields(self, built: Loss):
        name = next(name for name in LOSSES if isinstance(built, LOSSES[name].build))
        with raises(InvalidConfig, "'rooot_index'"):
            build_loss(name, {**REQUIRED.get(name, {}), "rooot_index": 2})


class TestFurtherLosses:
    """Two classes, logits (ln 3, 0): softmax (3/4, 1/4), logistic function (3/4, 1/2)."""

    @pytest.mark.parametrize(
        ("name", "values", "target", "expected"),
        [
            # (1 − s/2)·ln(4/3) + (s/2)·ln 4 at s = 0.2: 0.9·0.287682 + 0.1·1.386294
            ("cross_entropy", {"label_smoothing": 0.2}, 0, 0.3975433),
            ("focal", {"focusing": 2.0}, 0, 0.0179801),  # (1/4)²·ln(4/3)
            ("focal", {"focusing": 2.0}, 1, 0.7797906),  # (3/4)²·ln 4
            ("focal", {"focusing": 0.5}, 0, 0.1438410),  # (1/4)^½·ln(4/3)
            ("mse", {}, 0, 0.0625),  # two deviations of 1/4: (1/16 + 1/16)/2
            ("mse", {}, 1, 0.5625),  # two of 3/4
            ("binary_cross_entropy", {}, 0, 0.4904146),  # (ln(4/3) + ln 2)/2
            ("binary_cross_entropy", {}, 1, 1.0397208),  # (ln 4 + ln 2)/2
        ],
    )
    def test_golden_values(self, name: str, values: dict[str, float], target: int, expected: float):
        logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
        value = build_loss(name, values)(logits, torch.tensor([target]))
        assert value.item() == pytest.approx(expected, abs=1e-7)

    def test_binary_probabilities_are_the_normalised_answers(self):
        # (3/4, 1/2) divided by 5/4
        logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
        seen = build_loss("binary_cross_entropy", {}).probabilities(logits)
        assert seen.tolist()[0] == pytest.approx([0.6, 0.4])

    @pytest.mark.parametrize("focusing", [0.0, 0.5, 1.0, 2.0, 5.0])
    @pytest.mark.parametrize("value", EXTREMES)
    def test_the_focal_gradient_is_finite_for_every_focusing(self, focusing: float, value: float):
        logits = torch.tensor([[value, 0.0], [value, -value]], requires_grad=True)
        build_loss("focal", {"focusing": focusing})(logits, torch.tensor([0, 1])).sum().backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()

    @given(seed=seeds, classes=class_counts)
    @settings(max_examples=30, deadline=None)
    def test_no_focusing_is_cross_entropy(self, seed: int, classes: int):
        logits, target = events(seed, classes)
        plain = build_loss("cross_entropy", {})(logits, target)
        torch.testing.assert_close(build_loss("focal", {"focusing": 0.0})(logits, target), plain)

    @pytest.mark.parametrize(
        ("name", "values"),
        [("cross_entropy", {"label_smoothing": 1.0}), ("focal", {"focusing": -0.1})],
    )
    def test_refuses_values_out_of_range(self, name: str, values: dict[str, float]):
        with raises(InvalidConfig, f"'{name}'", *values):
            build_loss(name, values)


class TestRootSoftmax:
    @pytest.mark.parametrize(
        ("index", "logits", "target", "expected"),
        [
            # z = (2, −3): ln(1 + e^−5)
            (2.0, [4.0, -9.0], 0, 0.006715348489118068),
            # the same, other class: 5 + ln(1 + e^−5)
            (2.0, [4.0, -9.0], 1, 5.006715348489118),
            # z = (2, −3, 0): ln(e² + e^−3 + 1) = ln 8.438843167
            (3.0, [8.0, -27.0, 0.0], 2, 2.1328452337275756),
            # z = (0.001, 0) although |x| is below the bound of the slope: ln(1 + e^−0.001)
            (2.0, [1e-6, 0.0], 0, 0.6926473055599401),
        ],
    )
    def test_golden_values(self, index: float, logits: list[float], target: int, expected: float):
        value = root(index)(torch.tensor([logits], dtype=torch.float64), torch.tensor([target]))
        assert value.item() == pytest.approx(expected, rel=1e-9)

    def test_golden_gradient(self):
        # r = 2 at x = (4, −9): p = (1, e^−5)/(1 + e^−5) and dz/dx = |x|^−½/2 = (1/4, 1/6); target 0.
        logits = torch.tensor([[4.0, -9.0]], dtype=torch.float64, requires_grad=True)
        root(2.0)(logits, torch.tensor([0])).sum().backward()
        minor = math.exp(-5) / (1 + math.exp(-5))
        assert logits.grad is not None
        assert logits.grad.tolist()[0] == pytest.approx([-minor / 4, minor / 6], rel=1e-12)

    def test_slope_at_zero_is_that_at_a_thousandth(self):
        # r = 3: (10^−3)^(−2/3)/3 = 100/3; two equal logits have p = ½, so the gradient is ∓50/3.
        logits = torch.zeros(1, 2, requires_grad=True)
        root(3.0)(logits, torch.tensor([0])).sum().backward()
        assert logits.grad is not None
        assert logits.grad.tolist()[0] == pytest.approx([-50 / 3, 50 / 3], rel=1e-6)

    @given(index=st.floats(1, 1000), value=st.floats(-1e30, 1e30))
    @settings(max_examples=100, deadline=None)
    def test_gradient_never_exceeds_the_stated_bound(self, index: float, value: float):
        logits = torch.tensor([[value, -value], [value, 0.0]], requires_grad=True)
        root(index)(logits, torch.tensor([0, 1])).sum().backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        assert logits.grad.abs().max() <= 53.3

    @given(seed=seeds, classes=class_counts, scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e30]))
    @settings(max_examples=40, deadline=None)
    def test_index_one_is_cross_entropy_bit_for_bit(self, seed: int, classes: int, scale: float):
        logits, target = events(seed, classes, scale=scale)
        logits = logits.float()
        one, cross_entropy = root(1.0), build_loss("cross_entropy", {})
        gradients = []
        for loss in (one, cross_entropy):
            leaf = logits.clone().requires_grad_()
            loss(leaf, target).sum().backward()
            gradients.append(leaf.grad)
        assert torch.equal(one(logits, target), functional.cross_entropy(logits, target, reduction="none"))
        assert torch.equal(gradients[0], gradients[1])
        assert torch.equal(one.probabilities(logits), cross_entropy.probabilities(logits))

    @given(seed=seeds, classes=class_counts, index=st.floats(1, 50))
    @settings(max_examples=50, deadline=None)
    def test_agrees_with_the_equation(self, seed: int, classes: int, index: float):
        logits, target = events(seed, classes)
        compressed = [[math.copysign(abs(x) ** (1 / index), x) for x in row] for row in logits.tolist()]
        expected = [
            math.log(math.fsum(map(math.exp, row))) - row[label]
            for row, label in zip(compressed, target.tolist(), strict=True)
        ]
        loss = root(index)
        assert loss(logits, target).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        of_target = loss.probabilities(logits).gather(1, target.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close((-loss(logits, target)).exp(), of_target)

    @given(seed=seeds, index=st.floats(1, 50))
    @settings(max_examples=30, deadline=None)
    def test_negating_two_logits_swaps_the_classes(self, seed: int, index: float):
        logits, target = events(seed, classes=2)
        loss = root(index)
        swapped = loss(torch.stack([-logits[:, 1], -logits[:, 0]], dim=1), target)
        # (x₀, x₁) → (−x₁, −x₀) keeps z₀ − z₁, on which alone a two-class loss depends.
        torch.testing.assert_close(swapped, loss(logits, target))

    @pytest.mark.parametrize("index", ROOTS)
    def test_gradcheck_away_from_zero(self, index: float):
        logits, target = events(5, classes=3, scale=3.0)
        assert logits.abs().min() > 0.01
        loss = root(index)
        leaf = logits.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: loss(x, target), (leaf,))
        assert torch.autograd.gradgradcheck(lambda x: loss(x, target), (leaf,))

    def test_can_be_mapped_over_trials(self):
        logits, target = events(6, classes=3)
        loss = root(4.0)
        stacked = torch.stack([logits, 2 * logits])
        mapped = torch.func.vmap(torch.func.grad(lambda x: loss(x, target).sum()))(stacked)
        leaf = (2 * logits).requires_grad_()
        loss(leaf, target).sum().backward()
        torch.testing.assert_close(mapped[1], leaf.grad)

    def test_an_index_below_one_is_a_power_of_the_logits(self):
        # r = 1/2: z = sgn(x)·x² = (9, −1), loss = ln(1 + e⁻¹⁰), slope of z = 2|x| = (6, 2).
        logits = torch.tensor([[3.0, -1.0]], dtype=torch.float64, requires_grad=True)
        loss = root(0.5)(logits, torch.tensor([0]))
        loss.sum().backward()
        wrong = math.exp(-10) / (1 + math.exp(-10))
        assert loss.item() == pytest.approx(math.log1p(math.exp(-10)), rel=1e-12)
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, torch.tensor([[-6 * wrong, 2 * wrong]], dtype=torch.float64))

    @pytest.mark.parametrize("index", [0, -3, math.inf, math.nan])
    def test_the_index_is_a_real_number_above_zero(self, index: float):
        with raises(InvalidConfig, "root_index", index):
            root(index)

    def test_the_index_has_no_default(self):
        with raises(InvalidConfig, "'root_index'"):
            build_loss("root_softmax", {})


class TestHinge:
    @pytest.mark.parametrize(
        ("scores", "target", "expected"),
        [
            ([2.0, 0.5], 0, 0.0),  # leads by 1.5, more than the margin
            ([2.0, 0.5], 1, 2.5),  # 1 + 2 − 0.5
            ([0.3, 0.0], 0, 0.7),  # leads, but by less than the margin
            ([1.0, 3.0, 2.0], 2, 2.0),  # only the best other class counts: 1 + 3 − 2
            ([0.0, 0.0, 0.0], 1, 1.0),
        ],
    )
    def test_golden_values(self, scores: list[float], target: int, expected: float):
        value = build_loss("hinge", {})(torch.tensor([scores]), torch.tensor([target]))
        assert value.item() == pytest.approx(expected)

    @given(seed=seeds)
    @settings(max_examples=30, deadline=None)
    def test_two_classes_agree_with_torch(self, seed: int):
        logits, target = events(seed, classes=2, scale=1.0)
        # torch divides the sum over the other classes by the number of classes.
        reference = 2 * functional.multi_margin_loss(logits, target, reduction="none")
        torch.testing.assert_close(build_loss("hinge", {})(logits, target), reference)

    def test_adding_a_constant_to_all_scores_changes_nothing(self):
        logits, target = events(8, classes=4)
        hinge = build_loss("hinge", {})
        torch.testing.assert_close(hinge(logits + 5, target), hinge(logits, target))


def test_a_loss_that_has_probabilities_alone_is_ranked_by_their_logarithms():
    class Plain(Loss):
        def forward(self, logits, target):
            return logits.sum(dim=1)

        def probabilities(self, logits):
            return logits.softmax(dim=1)

    logits, _ = events(6, classes=3)
    expected = build_loss("cross_entropy", {}).log_odds(logits)
    torch.testing.assert_close(Plain().log_odds(logits), expected)
    with raises(TypeError, "Neither", "log_weights"):
        type("Neither", (Loss,), {"forward": Plain.forward})
