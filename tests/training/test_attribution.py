"""What moves a network's answer: contributions that are known by hand, of vectors, images and lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import ListColumn
from hep_ray.errors import InvalidConfig
from hep_ray.loading.augment import is_image
from hep_ray.loading.batches import Events
from hep_ray.losses import build_loss
from hep_ray.models import Model
from hep_ray.models.image import ImageConfig, ImageModel
from hep_ray.training import attribution
from hep_ray.training.attribution import integrated_gradients, parts_of
from hep_ray.training.config import ScaledModel, TrialConfig
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


def test_inputs_are_values_of_vectors_and_of_items_and_whole_images() -> None:
    named = ("pt", "eta", "phi")
    columns = [
        *SCHEMA.columns,
        Column(name="tracks", shape=(2, 3), elements=named),
        Column(name="matrix", shape=(2, 3)),
        Column(name="window", shape=(5, 3), elements=named, axes=("delta_phi", "delta_eta")),
    ]
    assert [one.name for one in parts_of(columns)] == [
        "x.told", "x.noise", "image", "parts[:, 0]", "parts[:, 1]", "mass",
        "tracks.pt", "tracks.eta", "tracks.phi", "matrix", "window",
    ]  # fmt: skip
    assert [one.name for one in columns if is_image(one)] == ["image", "window"]


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
        "parts[:, 0]": parts.sum(axis=1),
        "parts[:, 1]": np.zeros(200),
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


class OfThree(Model):
    """Logits 0, x² and x·y: log-odds that no class has alone."""

    columns = ("x",)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0] ** 2, x[:, 0] * x[:, 1]], dim=1)


def test_of_three_classes_the_odds_are_those_of_each_event_s_own() -> None:
    schema = EventSchema(task="toy", columns=SCHEMA.columns[:1], classes=("a", "b", "c"))
    x = np.random.default_rng(3).normal(1, 1, (60, 2)).astype(np.float32)
    found = integrated_gradients(OfThree(), CROSS_ENTROPY, Events({"x": x}, np.arange(60) % 3), schema)
    by_hand = midpoints(lambda values: own_odds(OfThree()(values), np.arange(60) % 3), torch.from_numpy(x))
    assert {one.name: one.size for one in found.contributions} == pytest.approx(
        dict(zip(("x.told", "x.noise"), np.abs(by_hand).mean(axis=0), strict=True)), rel=1e-3
    )
    assert found.adds_up


def own_odds(logits: Tensor, labels: np.ndarray) -> Tensor:
    """ln p/(1 - p) of each event's class."""
    own = logits.softmax(dim=1).double()[torch.arange(len(labels)), torch.from_numpy(labels)]
    return (own / (1 - own)).log()


def midpoints(odds: Callable[[Tensor], Tensor], x: Tensor, steps: int = 500) -> np.ndarray:
    """Integrate gradients from the mean of (N, F) by the midpoint rule, without captum."""
    total, base = torch.zeros_like(x).double(), x.mean(dim=0)
    for step in range(steps):
        point = (base + (step + 0.5) / steps * (x - base)).requires_grad_()
        total += torch.autograd.grad(odds(point).sum(), point)[0]
    return np.asarray(total / steps * (x - base))


class Weighted(Model):
    """Log-odds 3·Σ pt of tracks − Σ w, with a bias that each absent item moves too."""

    columns = ("tracks", "w")

    def forward(self, tracks: Tensor, w: Tensor) -> Tensor:
        odds = (3 * tracks[..., 0] + 7).sum(dim=1) - w.sum(dim=1)
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


def test_an_item_that_is_not_there_contributes_nothing_and_is_in_no_mean() -> None:
    schema = EventSchema(
        task="toy",
        columns=(
            Column(name="tracks", shape=(3, 2), elements=("pt", "eta"), padding=-9.0),
            Column(name="w", shape=(3,), padding=0.0, dtype="int32"),
        ),
        classes=("b", "s"),
    )
    none = [-9, -9]
    tracks = np.array([[[4, 0], [-9, 1], none], [[8, 0], none, none]], np.float32)
    w = np.array([[0, 5, 0], [2, 0, 0]], np.int32)
    found = integrated_gradients(
        Weighted(), CROSS_ENTROPY, Events({"tracks": tracks, "w": w}, np.arange(2)), schema
    )
    # Means of the first track 6 and of the second -9, which is a value of the one track that is there; of w 1 and 5.
    assert {one.name: one.size for one in found.contributions} == pytest.approx(
        {"tracks.pt": 6, "tracks.eta": 0, "w[0]": 1, "w[1]": 0, "w[2]": 0}, abs=1e-5
    )
    assert found.moved == pytest.approx((abs(3 * -2 + 1) + abs(3 * 2 - 1)) / 2, abs=1e-5)


class Linearly(ImageModel):
    """Log-odds 10 times the first bin that it is given, less the third."""

    def forward(self, images: Tensor) -> Tensor:
        bins = self.image(images).flatten(1)
        odds = 10 * bins[:, 0] - bins[:, 2]
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


@pytest.mark.parametrize("transform", ["fraction", "log1p"])
def test_images_are_asked_as_the_network_transforms_them(transform: Literal["fraction", "log1p"]) -> None:
    """Of its share of the sum a network sees no change on the way from an empty image, of log1p nearly all at once."""
    schema = EventSchema(task="toy", columns=(Column(name="image", shape=(2, 2, 1)),), classes=("b", "s"))
    model = Linearly(ImageConfig(input_scale=2, input_transform=transform), schema)
    image = np.array([[3e6, 0, 1e6, 0], [0, 2, 2, 0]], np.float32).reshape(2, 2, 2, 1)
    found = integrated_gradients(model, CROSS_ENTROPY, Events({"image": image}, np.arange(2)), schema)
    seen = {"fraction": [[0.75, 0, 0.25, 0], [0, 0.5, 0.5, 0]], "log1p": np.log1p(image.reshape(2, 4) / 2)}
    by_hand = np.array(seen[transform]) * [10, 0, -1, 0]
    np.testing.assert_allclose(found.maps["image"].reshape(2, 4), by_hand, rtol=1e-4, atol=1e-6)
    assert found.adds_up
    # The model is as it was.
    assert (model.image.scale, model.image.transform) == (2, transform)


class Squared(Model):
    columns = ("image",)

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append(len(image))
        odds = image.square().mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(odds), odds], dim=1)


def test_of_large_images_few_points_pass_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image of 64 × 64 float32 squares keep 16 KiB for the gradient."""
    schema = EventSchema(task="toy", columns=(Column(name="image", shape=(64, 64, 1)),), classes=("b", "s"))
    sample = Events(
        {"image": np.random.default_rng(0).normal(size=(9, 64, 64, 1)).astype("f4")}, np.arange(9) % 2
    )
    model = Squared()
    whole = integrated_gradients(model, CROSS_ENTROPY, sample, schema, steps=4)
    assert max(model.sizes) == 36
    monkeypatch.setattr(attribution, "MOST_BYTES", 4 * 64 * 64 * 4)
    model = Squared()
    few = integrated_gradients(model, CROSS_ENTROPY, sample, schema, steps=4)
    assert max(model.sizes) == 4
    np.testing.assert_allclose(few.maps["image"], whole.maps["image"], rtol=1e-5)


def test_what_has_no_gradient_is_named() -> None:
    with raises(InvalidConfig, "no gradient", "x, parts"):
        integrated_gradients(Counting(), CROSS_ENTROPY, events(), SCHEMA)


@pytest.mark.parametrize("scaling", ["standardize", "quantile_normal", "robust", "log1p"])
def test_the_line_is_straight_behind_the_scaling(scaling: str) -> None:
    """Of an integer a quantile transform is a staircase: before it, x.told would contribute nothing."""
    config = TrialConfig.from_params({
        "model": "mlp", "hidden_layers": 2, "hidden_features": 16, "loss": "cross_entropy",
        "optimizer": "adam", "learning_rate": 0.001, "scalar_scaling": scaling,
    })  # fmt: skip
    schema = EventSchema(task="toy", columns=SCHEMA.columns[:1], classes=("b", "s"), signal="s")
    torch.manual_seed(0)
    model = config.build_model(schema)
    assert isinstance(model, ScaledModel)
    x = np.random.default_rng(0).normal(1, 1, (200, 2)).astype(np.float32)
    x[:, 0] = np.random.default_rng(1).integers(0, 5, 200)
    sample = Events({"x": x}, np.arange(200) % 2)
    model.fit({"x": x})
    found = integrated_gradients(model, CROSS_ENTROPY, sample, schema)
    by_hand = midpoints(
        lambda values: model.model(values) @ torch.tensor([-1.0, 1.0]), *model.scaled(torch.from_numpy(x))
    )
    assert {one.name: one.size for one in found.contributions} == pytest.approx(
        dict(zip(("x.told", "x.noise"), np.abs(by_hand).mean(axis=0), strict=True)), rel=0.01
    )
    assert found.moved > 0
    assert found.missed < 0.02 * found.moved
    # A root has an infinite slope at zero logits: of a path through them some is missed, and told.
    rooted = integrated_gradients(model, build_loss("root_softmax", {"root_index": 3}), sample, schema)
    assert 0.02 * rooted.moved < rooted.missed < 0.5 * rooted.moved
    assert rooted.adds_up == (rooted.missed <= 0.1 * rooted.moved)
