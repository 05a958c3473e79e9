"""TabM and RealMLP: their sizes by hand, the networks that a TabM stands for, and how its members are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Batch
from hep_ray.losses import Loss, SoftmaxLoss, build_loss
from hep_ray.losses.distance_correlation import Decorrelation
from hep_ray.models import Model, build_model, members_of
from hep_ray.models.members import mean_of_members
from hep_ray.models.real_mlp import FeatureScaling, LearntSelu, RealMlp, TangentLinear
from hep_ray.models.tabm import MemberLinear, Tabm
from hep_ray.optim import norms_and_biases
from hep_ray.predict.onnx_export import export_onnx
from hep_ray.promote.classifier import Classifier
from hep_ray.training import flatness
from hep_ray.training.config import ScaledModel, TrialConfig
from hep_ray.training.evaluation import evaluate
from hep_ray.training.fused import why_alone
from hep_ray.training.step import mixing_points, train_step
from tests.facts import raises

COLUMNS = (Column(name="features", shape=(5,)), Column(name="mass"))
TRAINED: dict[str, Any] = {"loss": "cross_entropy", "optimizer": "sgd", "momentum": 0, "learning_rate": 0.1}


def schema_of(classes: int = 3) -> EventSchema:
    return EventSchema(task="toy", columns=COLUMNS, classes=tuple("abcdef"[:classes]), signal="b")


def built(name: str, values: Mapping[str, Any], classes: int = 3, seed: int = 0) -> Model:
    """A model with weights away from where they begin, so that no factor is 1 and no two members are alike."""
    torch.manual_seed(seed)
    model = build_model(name, values, schema_of(classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch_of(count: int = 40, classes: int = 3, seed: int = 1, **more: Any) -> Batch:
    random = torch.Generator().manual_seed(seed)
    inputs = {one.name: torch.randn((count, *one.shape), generator=random) for one in COLUMNS}
    return Batch(inputs, torch.randint(0, classes, (count,), generator=random), **more)


def inputs_of(batch: Batch) -> tuple[Tensor, ...]:
    return tuple(batch.inputs[one.name] for one in COLUMNS)


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize(
    ("name", "values", "by_hand"),
    [
        # 6 features, k = 4, H = 8, 3 classes. R 4·6 = 24; a layer has W, s and b, all but the first also r:
        # 6·8 + 4·8 + 4·8 = 112 and 8·8 + 3·4·8 = 160; heads 4·(8·3 + 3) = 108.
        ("tabm", {"hidden_layers": 2, "factors": "all"}, 24 + 112 + 160 + 108),
        # R, then 6·8 + 8 = 56 and 8·8 + 8 = 72 as of an mlp.
        ("tabm", {"hidden_layers": 2, "factors": "first"}, 24 + 56 + 72 + 108),
        # R 24; heads 4·(6·3 + 3) = 84.
        ("tabm", {"hidden_layers": 0}, 24 + 84),
        # The embedding of a feature: 16 frequencies, 16 phases, 16·3 weights, 3 biases = 83, 6 of them 498, to 24
        # numbers: R 4·24 = 96, layer 24·8 + 64 = 256.
        ("tabm", {"hidden_layers": 1, "embedding": "periodic"}, 498 + 96 + 256 + 108),
        # 498, scaling 24, then 24·8 + 8 + 8 (α) = 208, 8·8 + 16 = 80, 8·3 + 3 = 27.
        ("real_mlp", {"hidden_layers": 2}, 498 + 24 + 208 + 80 + 27),
        # Without: scaling 6, 6·8 + 16 = 64, 27.
        ("real_mlp", {"hidden_layers": 1, "embedding": "none"}, 6 + 64 + 27),
    ],
)
def test_parameters(name: str, values: dict[str, Any], by_hand: int) -> None:
    more = {"members": 4} if name == "tabm" else {}
    assert parameters(build_model(name, {"hidden_features": 8, **more, **values}, schema_of())) == by_hand


def alone(model: Tabm, member: int) -> nn.Sequential:
    """The member as an ordinary network: its weights are those that are shared, times the outer product s rᵀ."""
    layers: list[nn.Module] = []
    first = model.first.factor[member].detach()
    for module in model.layers:
        if not isinstance(module, MemberLinear | nn.Linear):
            layers.append(module)
            continue
        weight, bias = module.weight.detach(), module.bias.detach()
        if isinstance(module, MemberLinear):
            own = torch.ones(weight.shape[1]) if module.inner is None else module.inner[member].detach()
            weight, bias = weight * torch.outer(module.outer[member].detach(), own), bias[member]
        linear = nn.Linear(weight.shape[1], len(weight))
        linear.load_state_dict({"weight": weight * first, "bias": bias})
        layers.append(linear)
        first = torch.ones(len(weight))
    last = nn.Linear(len(first), model.heads.weight.shape[1])
    weight = model.heads.weight[member].detach() * first
    last.load_state_dict({"weight": weight, "bias": model.heads.bias[member].detach()})
    return nn.Sequential(*layers, last)


@pytest.mark.parametrize("factors", ["all", "first"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_it_is_as_many_networks_as_it_has_members(factors: str, layers: int) -> None:
    values = {"members": 4, "hidden_layers": layers, "hidden_features": 8, "factors": factors}
    model = built("tabm", values)
    assert isinstance(model, Tabm)
    inputs = inputs_of(batch_of())
    features = torch.cat([inputs[0], inputs[1][:, None]], dim=1)
    with torch.no_grad():
        each = torch.stack([alone(model, member)(features) for member in range(4)], dim=1)
        torch.testing.assert_close(model.train()(*inputs), each, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(each[:, 0], each[:, 1], atol=0.1)
        together = model.eval()(*inputs).softmax(dim=1)
        torch.testing.assert_close(together, each.softmax(dim=2).mean(dim=1), rtol=1e-5, atol=1e-6)


def test_members_begin_as_one_network_of_reflected_features() -> None:
    torch.manual_seed(0)
    model = build_model("tabm", {}, schema_of())
    assert isinstance(model, Tabm)
    assert model.first.factor.shape == (16, 6)
    assert set(model.first.factor.flatten().tolist()) == {-1.0, 1.0}
    first, second = model.layers[0], model.layers[3]
    assert isinstance(first, MemberLinear)
    assert isinstance(second, MemberLinear)
    assert first.inner is None
    assert second.inner is not None
    for factor in (first.outer, second.inner, second.outer):
        assert (factor == 1).all()
    assert (first.bias == first.bias[0]).all()
    assert first.weight.abs().max() <= 1 / math.sqrt(6)
    assert (model.heads.weight[0] != model.heads.weight[1]).all()


class TestTraining:
    """A step on a batch, beside one that is written out."""

    @pytest.mark.parametrize("loss", ["cross_entropy", "focal", "hinge", "mse"])
    def test_a_step_descends_the_mean_of_the_members_losses(self, loss: str) -> None:
        model, criterion, batch = (
            built("tabm", {"members": 4, "hidden_features": 8}),
            build_loss(loss, {}),
            batch_of(),
        )
        before = {name: one.detach().clone() for name, one in model.named_parameters()}
        logits = model.train()(*inputs_of(batch))
        each = torch.stack([criterion(logits[:, member], batch.labels).mean() for member in range(4)])
        of_mean = criterion(mean_of_members(logits), batch.labels).mean()
        assert of_mean < each.mean() - 0.02  # of these convex losses: what must not be descended
        gradients = torch.autograd.grad(each.mean(), list(model.parameters()))

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = train_step(model, criterion, optimizer, batch)

        assert found.loss_sum / 40 == pytest.approx(each.mean().item(), rel=1e-5)
        right = (mean_of_members(logits).argmax(dim=1) == batch.labels).sum()
        assert found.correct == right
        for (name, after), gradient in zip(model.named_parameters(), gradients, strict=True):
            torch.testing.assert_close(after.detach(), before[name] - 0.1 * gradient, rtol=1e-4, atol=1e-6)

    def test_weights_and_mixed_labels_count_as_of_one_network(self) -> None:
        """Of one member the step is that of the network that it is."""
        weights = torch.linspace(-0.5, 2, 40)
        more = {"weights": weights, "second_labels": torch.arange(40) % 3, "mix_ratio": torch.tensor(0.3)}
        model, batch = built("tabm", {"members": 1, "hidden_features": 8}), batch_of(**more)
        assert isinstance(model, Tabm)
        single = nn.Sequential(*alone(model, 0))
        with torch.no_grad():
            logits = single(torch.cat([inputs_of(batch)[0], inputs_of(batch)[1][:, None]], dim=1))
        criterion = build_loss("cross_entropy", {})
        expected = 0.3 * weights * criterion(logits, batch.labels)
        assert batch.second_labels is not None
        expected = expected + 0.7 * weights * criterion(logits, batch.second_labels)
        found = train_step(model.train(), criterion, torch.optim.SGD(model.parameters(), lr=0.1), batch)
        assert found.loss_sum.item() == pytest.approx(expected.sum().item(), rel=1e-4)

    def test_it_is_the_mean_probability_that_is_decorrelated(self) -> None:
        term = Decorrelation("mass", 5.0, signal=1)
        model, batch = built("tabm", {"members": 4, "hidden_features": 8}, classes=2), batch_of(classes=2)
        criterion = build_loss("cross_entropy", {})
        before = model.heads.bias.detach().clone()
        logits = model.train()(*inputs_of(batch))
        losses = torch.stack([criterion(one, batch.labels) for one in logits.unbind(1)]).mean()
        total = losses + term(logits.softmax(dim=2).mean(dim=1), batch.labels, batch.inputs["mass"])
        (gradient,) = torch.autograd.grad(total, model.heads.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train_step(model, criterion, optimizer, batch, decorrelation=term)
        torch.testing.assert_close(model.heads.bias.detach(), before - 0.1 * gradient, rtol=1e-4, atol=1e-6)

    def test_manifold_mixup_finds_layers_that_all_members_pass(self) -> None:
        """Features, those of each member, and what the hidden layer, and its ReLU, make of them."""
        points = mixing_points(built("tabm", {"members": 3, "hidden_layers": 1}), batch_of())
        assert points == ("embedding", "layers", "layers.1", "layers.2")

    def test_evaluation_gives_the_mean_probabilities_and_their_log_odds(self) -> None:
        model, batch = built("tabm", {"members": 4, "hidden_features": 8}).double(), batch_of()
        batch = Batch({name: values.double() for name, values in batch.inputs.items()}, batch.labels)
        with torch.no_grad():
            mean = model.train()(*(values.float().double() for values in inputs_of(batch))).softmax(2).mean(1)
        found = evaluate(model, build_loss("cross_entropy", {}), [batch])
        np.testing.assert_allclose(found.probabilities, mean.numpy(), rtol=1e-5)
        np.testing.assert_allclose(
            found.log_odds, (mean.log() - (1 - mean).log()).numpy(), rtol=1e-4, atol=1e-5
        )
        own = -mean[torch.arange(40), batch.labels].log()
        assert found.loss == pytest.approx(own.mean().item(), rel=1e-5)

    def test_log_odds_tell_apart_what_probabilities_do_not(self) -> None:
        """Both members are sure beyond single precision: odds of e¹⁰⁰ and e¹¹⁰, of mean 2/(e⁻¹⁰⁰ + e⁻¹¹⁰)."""
        logits = torch.tensor([[[0.0, 100.0], [0.0, 110.0]], [[0.0, 101.0], [0.0, 111.0]]])
        odds = build_loss("cross_entropy", {}).log_odds(mean_of_members(logits))[:, 1]
        expected = [math.log(2) + size - math.log1p(math.exp(-10)) for size in (100, 101)]
        torch.testing.assert_close(odds, torch.tensor(expected), rtol=1e-6, atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("loss", "more"), [("root_softmax", {"root_index": 3}), ("binary_cross_entropy", {})]
    )
    def test_a_loss_whose_probabilities_are_no_softmax(self, loss: str, more: dict[str, Any]) -> None:
        with raises(InvalidConfig, "'tabm'", f"'{loss}'", "'cross_entropy'"):
            TrialConfig.from_params({**TRAINED, "model": "tabm", "loss": loss, **more})
        TrialConfig.from_params({**TRAINED, "model": "mlp", "loss": loss, **more})

    def test_a_loss_of_ones_own_says_so_by_what_it_overrides(self) -> None:
        class Tempered(SoftmaxLoss):
            def forward(self, logits: Tensor, target: Tensor) -> Tensor:
                return logits[:, 0] + target

            def log_weights(self, logits: Tensor) -> Tensor:
                return logits / 2

        class Plain(SoftmaxLoss):
            forward = Tempered.forward

        class Given(Loss):
            forward = Tempered.forward

            def probabilities(self, logits: Tensor) -> Tensor:
                return logits.softmax(dim=1)

        assert Plain().is_softmax
        assert not Tempered().is_softmax
        assert not Given().is_softmax

    def test_it_is_trained_alone(self) -> None:
        assert "'tabm'" in why_alone(TrialConfig.from_params({**TRAINED, "model": "tabm"}))


def test_biases_of_members_are_exempt_from_decay_and_factors_are_not() -> None:
    model = build_model("tabm", {"hidden_layers": 2}, schema_of())
    exempt = {id(one) for one in norms_and_biases(model)}
    names = {name for name, one in model.named_parameters() if id(one) in exempt}
    assert names == {"layers.0.bias", "layers.3.bias", "heads.bias"}


class TestRealMlp:
    def test_it_is_the_network_of_the_paper(self) -> None:
        values = {"hidden_layers": 1, "hidden_features": 8, "embedding": "none"}
        model = built("real_mlp", values).eval()
        assert isinstance(model, RealMlp)
        scaling, first, activation, _, last = model.layers
        assert isinstance(scaling, FeatureScaling)
        assert isinstance(first, TangentLinear)
        assert isinstance(activation, LearntSelu)
        assert isinstance(last, TangentLinear)
        inputs = inputs_of(batch_of())
        x = torch.cat([inputs[0], inputs[1][:, None]], dim=1).double()
        with torch.no_grad():
            hidden = (x * 6 * scaling.factor) @ first.weight.double().T / math.sqrt(6) + 0.1 * first.bias
            share = 0.1 * activation.share
            selu = 1.0507009873554805 * torch.where(hidden > 0, hidden, 1.6732632423543772 * hidden.expm1())
            hidden = (1 - share) * hidden + share * selu
            expected = hidden @ last.weight.double().T / math.sqrt(8) + 0.1 * last.bias
            torch.testing.assert_close(model(*inputs), expected.float(), rtol=1e-4, atol=1e-5)

    def test_it_begins_with_factors_of_one(self) -> None:
        assert torch.allclose(FeatureScaling(3)(torch.ones(1, 3)), torch.ones(1, 3))
        values = torch.linspace(-2, 2, 5)
        assert torch.allclose(LearntSelu(5)(values), nn.functional.selu(values))

    def test_a_step_of_adam_moves_factors_by_those_of_the_paper(self) -> None:
        """A first step of Adam moves every number by the learning rate: what it means moves by 6 and 0.1 of it."""
        scaling, linear = FeatureScaling(2), TangentLinear(2, 3)
        for module, effective, factor in (
            (scaling, lambda: scaling(torch.ones(1, 2)).detach(), 6.0),
            (linear, lambda: linear(torch.zeros(1, 2)).detach(), 0.1),
        ):
            before = effective().clone()
            optimizer = torch.optim.Adam(module.parameters(), lr=0.01, eps=0)
            torch.autograd.backward(module(torch.ones(1, 2)).sum())
            optimizer.step()
            torch.testing.assert_close(
                before - effective(), torch.full_like(before, 0.01 * factor), rtol=1e-3, atol=0
            )

    def test_the_embedding_keeps_the_feature_and_adds_waves_of_it(self) -> None:
        model = built("real_mlp", {"hidden_layers": 0})
        embedding = model.get_submodule("layers.0")
        frequency, phase, weight, bias = (one.detach().double() for one in embedding.parameters())
        x = torch.randn(4, 6)
        found = embedding(x).detach().view(4, 6, 4)
        assert torch.equal(found[..., 0], x)
        waves = torch.cos(0.1 * (2 * math.pi * x.double()[2, 5] * frequency[5] + phase[5]))
        torch.testing.assert_close(
            found[2, 5, 1:].double(), waves @ weight[5] + bias[5], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(
            {"model": "tabm", "members": 3, "hidden_layers": 2, "embedding": "periodic"},
            marks=[pytest.mark.slow, pytest.mark.ci],
        ),
        {"model": "real_mlp", "hidden_layers": 1, "embedding": "none"},
    ],
    ids=["tabm", "real_mlp"],
)
def test_onnx_gives_the_probabilities_of_torch(tmp_path: Path, params: dict[str, Any]) -> None:
    values = {**TRAINED, **params, "hidden_features": 8, "scalar_scaling": "robust"}
    config, schema, random = TrialConfig.from_params(values), schema_of(2), np.random.default_rng(0)
    torch.manual_seed(0)
    model = config.build_model(schema)
    assert isinstance(model, ScaledModel)
    assert model.members == params.get("members", 0)
    model.fit({one.name: random.normal(size=(50, *one.shape)) for one in COLUMNS})
    classifier = Classifier(config.resolved(), schema, model.state_dict())
    assert export_onnx(classifier, tmp_path / "model.onnx") <= 1e-5


@pytest.mark.parametrize("name", ["tabm", "real_mlp"])
def test_a_step_in_bfloat16_is_close_to_one_in_float32(name: str) -> None:
    found = []
    for half in (False, True):
        model = built(name, {"hidden_features": 16}).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        done = train_step(model, build_loss("cross_entropy", {}), optimizer, batch_of(), half=half)
        found.append(float(done.loss_sum))
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[1] != found[0]


def test_members_of_ones_own_that_are_no_number_mean_nothing() -> None:
    class Own(Model):
        members: Any = nn.ModuleList()

    assert members_of(Own) == 0
    assert members_of(built("tabm", {"members": 3})) == 3
    assert members_of(Tabm) > 0
    assert members_of(nn.Linear(1, 1)) == 0


def test_a_walk_along_random_directions_leaves_biases_of_members(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("tabm", {"hidden_features": 8}).eval()
    biases = {name: one.detach().clone() for name, one in model.named_parameters() if name.endswith("bias")}
    assert any(one.ndim > 1 for one in biases.values())
    moved = set()

    def seen(changed: Model, *_: object) -> float:
        now = dict(changed.named_parameters())
        moved.update(name for name in biases if not torch.equal(now[name], biases[name]))
        return 0.0

    monkeypatch.setattr(flatness, "_loss", seen)
    flatness.along_random_directions(
        model, build_loss("cross_entropy", {}), [batch_of()], distances=np.array([0.5]), directions=1
    )
    assert not moved
