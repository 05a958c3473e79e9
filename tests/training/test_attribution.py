"""What moves a network's answer: contributions that are known by hand, of vectors, images and lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import ListColumn
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Events
from hep_ray.losses import build_loss
from hep_ray.models import Model
from hep_ray.training.attribution import integrated_gradients, is_image
from hep_ray.training.config import TrialConfig
from tests.facts import raises

SCHEMA = EventSchema(
    task="toy",
    columns=(
        Column(name="x", shape=(2,), elements=("told", "noise")),
        Column(name="image", shape=(4, 4, 1)),
        Column(name="parts", shape=(8, 2), lists=True),
        Column(name="mass", missing=True),
    ),
    classes=("b", "s"),
    signal="s",
)
CROSS_ENTROPY = build_loss("cross_entropy", {})


class Linear(Model):
    """Log-odds 2·x.told + Σ image + Σ parts' first values − mass, which is 0 where it is missing."""

    columns = ("x", "image", "parts", "mass")

    def forward(self, x: Tensor, image: Tensor, parts: Tensor, mass: Tensor) -> Tensor:
        odds = 2 * x[:, 0] + image.sum(dim=(1, 2, 3)) + parts[..., 0].nansum(dim=1) - mass.nan_to_num()
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


class Product(Model):
    """Log-odds told·noise: what either contributes from (0, 0) is half of it, by symmetry."""

    columns = ("x",)

    def forward(self, x: Tensor) -> Tensor:
        odds = x[:, 0] * x[:, 1]
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


class Counting(Model):
    columns = ("x", "parts")

    def forward(self, x: Tensor, parts: Tensor) -> Tensor:
        odds = x[:, 0] + (~torch.isnan(parts[..., 0])).sum(dim=1)
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


def events(count: int = 200) -> Events:
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    image = np.zeros((count, 4, 4, 1))
    image[:, 1, 2, 0] = 3 * labels
    image[:, 0, 0, 0] = random.exponential(1, count)
    parts = np.full((count, 8, 2), np.nan)
    for row, items in enumerate(random.integers(1, 6, count)):
        parts[row, :items] = random.normal(2, 1, (items, 2))
    mass = np.where(np.arange(count) % 4 == 0, np.nan, random.normal(5, 1, count))
    columns = {"x": random.normal(1, 1, (count, 2)), "image": image, "mass": mass}
    return Events(
        {
            **{name: np.asarray(one, np.float32) for name, one in columns.items()},
            "parts": ListColumn.from_dense(parts.astype(np.float32), (8, 2)),
        },
        labels,
    )


def test_images_have_three_axes_or_two_without_names() -> None:
    assert [one.name for one in SCHEMA.columns if is_image(one)] == ["image"]
    assert is_image(Column(name="strips", shape=(56, 11)))
    assert not is_image(Column(name="tracks", shape=(2, 3), elements=("pt", "eta", "phi")))


def test_a_linear_network_has_the_contributions_of_its_terms() -> None:
    sample = events()
    found = integrated_gradients(Linear(), CROSS_ENTROPY, sample, SCHEMA)
    by_name = {one.name: one for one in found.contributions}
    x, image, mass = (np.asarray(sample.inputs[name], np.float64) for name in ("x", "image", "mass"))
    parts = np.nan_to_num(
        sample.inputs["parts"].take(np.arange(200))[..., 0]
        - np.nanmean(
            np.concatenate(
                [row[~np.isnan(row)] for row in sample.inputs["parts"].take(np.arange(200))[..., 0]]
            )
        )
    )
    by_hand = {
        "x.told": 2 * (x[:, 0] - x[:, 0].mean()),
        "x.noise": np.zeros(200),
        "image": image.sum(axis=(1, 2, 3)),
        "parts": parts.sum(axis=1),
        "mass": np.nan_to_num(np.nanmean(mass) - mass),
    }
    for name, values in by_hand.items():
        sizes = np.abs(values)
        assert by_name[name].size == pytest.approx(sizes.mean(), abs=1e-4), name
        assert by_name[name].error == pytest.approx(sizes.std(ddof=1) / np.sqrt(200), abs=1e-4), name
    assert [one.name for one in found.contributions] == sorted(
        by_hand, key=lambda name: -np.abs(by_hand[name]).mean()
    )
    assert found.moved == pytest.approx(np.abs(sum(by_hand.values())).mean(), abs=1e-4)
    assert found.missed < 1e-4
    assert found.events == 200
    # A bin that only the signal fills speaks for it, by what it holds.
    assert found.maps["image"].shape == (2, 4, 4, 1)
    np.testing.assert_allclose(found.maps["image"][:, 1, 2, 0], [0, 3], atol=1e-5)
    np.testing.assert_allclose(found.maps["image"][1], image[sample.labels == 1].mean(axis=0), atol=1e-5)


def test_of_two_values_that_are_multiplied_each_has_its_half() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(500, 2))
    x -= x.mean(axis=0)
    sample = Events({"x": x.astype(np.float32)}, np.arange(500) % 2)
    found = integrated_gradients(Product(), CROSS_ENTROPY, sample, SCHEMA)
    half = np.abs(x[:, 0] * x[:, 1] / 2).mean()
    assert [one.size for one in found.contributions] == pytest.approx([half, half], rel=1e-4)
    assert found.missed < 1e-5


def test_without_a_signal_the_odds_are_those_of_each_event_s_own_class() -> None:
    bare = SCHEMA.model_copy(update={"signal": None})
    found = integrated_gradients(Linear(), CROSS_ENTROPY, events(), bare)
    signal = integrated_gradients(Linear(), CROSS_ENTROPY, events(), SCHEMA)
    np.testing.assert_allclose(found.maps["image"][1], signal.maps["image"][1], atol=1e-5)
    np.testing.assert_allclose(found.maps["image"][0], -signal.maps["image"][0], atol=1e-5)


def test_what_has_no_gradient_is_named() -> None:
    with raises(InvalidConfig, "no gradient", "x, parts"):
        integrated_gradients(Counting(), CROSS_ENTROPY, events(), SCHEMA)


@pytest.mark.parametrize("scaling", ["standardize", "quantile_normal", "robust"])
def test_contributions_of_scaled_inputs_add_up(scaling: str) -> None:
    config = TrialConfig.from_params({
        "model": "mlp", "hidden_layers": 2, "hidden_features": 16, "loss": "cross_entropy",
        "optimizer": "adam", "learning_rate": 0.001, "scalar_scaling": scaling,
    })  # fmt: skip
    schema = EventSchema(task="toy", columns=SCHEMA.columns[:1], classes=("b", "s"), signal="s")
    torch.manual_seed(0)
    model = config.build_model(schema)
    sample = events().select(["x"])
    model.fit({"x": np.asarray(sample.inputs["x"])})
    found = integrated_gradients(model, CROSS_ENTROPY, sample, schema, steps=500)
    assert found.moved > 0
    assert found.missed < 0.06 * found.moved  # 200 events make 200 kinks of a quantile transform
    # A root has an infinite slope at zero logits: of a path through them some is missed, and told.
    rooted = integrated_gradients(model, build_loss("root_softmax", {"root_index": 3}), sample, schema)
    assert 0.03 * rooted.moved < rooted.missed < 0.5 * rooted.moved
