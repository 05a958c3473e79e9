"""Particle clouds: sizes worked out by hand, features, neighbours, pairs, masks in scaling, what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.values import ListColumn
from hep_ray.errors import InvalidConfig
from hep_ray.loading.augment import Augmentation, AugmentConfig
from hep_ray.loading.batches import Batch
from hep_ray.models import Model, build_model
from hep_ray.models.cloud import CloudConfig, CloudInput, normalised
from hep_ray.models.particle_transformer import pairs
from hep_ray.models.particlenet import nearest
from hep_ray.training.config import TrialConfig, with_scalers
from hep_ray.training.cost import model_cost
from hep_ray.training.step import mixing_points
from tests.facts import raises

MODELS = ("pfn", "particlenet", "particle_transformer")
NAMES = ("pt", "energy", "delta_eta", "delta_phi")


def schema_of(*more: str, elements: tuple[str, ...] = NAMES, classes: int = 2) -> EventSchema:
    named = (*elements, *more)
    lists = Column(name="particles", shape=(40, len(named)), elements=named, lists=True)
    columns = (lists, Column(name="mass"))
    return EventSchema(task="toy", columns=columns, classes=tuple(f"c{one}" for one in range(classes)))


def numbers(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def particles(*lengths: int, values: int = 4, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    found = torch.rand((len(lengths), max(lengths), values), generator=random)
    found[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = torch.nan
    return found


def test_sizes_of_the_papers() -> None:
    """Sizes by hand; the papers state 82k, 26k, 366k and 2.14 M."""
    four = {"particle_features": "stored"}
    # Φ: 4·100 + 100, 100·100 + 100, 100·256 + 256; F: 256·100 + 100, twice 100·100 + 100, 100·2 + 2.
    assert (
        numbers(build_model("pfn", four, schema_of()))
        == 500 + 10_100 + 25_856 + 25_700 + 20_200 + 202
        == 82_558
    )
    seven = schema_of()  # Δη, Δφ, ΔR, ln p_T, ln p_T/Σp_T, ln E, ln E/ΣE
    norm = 2 * 7
    # A block of D to W: (2D + 2W)·W linear, 4·2W normalisations, D·W of the shortcut.
    lite = sum((2 * d + 2 * w + d) * w + 8 * w for d, w in ((7, 32), (32, 64)))
    lite += 64 * 128 + 128 + 128 * 2 + 2
    assert numbers(build_model("particlenet", {}, seven)) - norm == lite == 26_402
    large = sum((2 * d + 2 * w + d) * w + 8 * w for d, w in ((7, 64), (64, 128), (128, 256)))
    large += 256 * 256 + 256 + 256 * 2 + 2
    config: dict[str, Any] = {"edge_features": "64+128+256", "neighbours": 16, "graph_features": 256}
    assert numbers(build_model("particlenet", config, seven)) - norm == large == 366_146
    config = {"embed_features": 128, "heads": 8, "particle_blocks": 8, "class_blocks": 2, "pair_features": 64}
    # Particles: norms 2·17 twice, then 17 to 128, 512 and 128 with norms of 128 and 512 between.
    embed = 2 * 34 + 17 * 128 + 128 + 256 + 128 * 512 + 512 + 1024 + 512 * 128 + 128
    pair = 8 + (4 * 64 + 64) + 2 * (64 * 64 + 64) + 3 * 128 + 64 * 8 + 8
    block = 4 * (128 * 128 + 128) + 8 + 128 + 3 * 256 + (128 * 512 + 512) + 1024 + (512 * 128 + 128)
    whole = embed + pair + 10 * block + 128 + 256 + 128 * 10 + 10
    seventeen = schema_of(*(f"id_{one}" for one in range(10)), classes=10)
    assert numbers(build_model("particle_transformer", config, seventeen)) == whole == 2_143_470


def test_features_of_particles_by_hand() -> None:
    schema = schema_of("charge")
    known = CloudInput(CloudConfig(), schema, needs_momenta=True)
    lists = torch.tensor([[[30.0, 40.0, 0.3, -0.4, 1.0], [10.0, 10.0, 0.0, 0.0, -1.0], [torch.nan] * 5]])
    found = known(lists)
    assert known.size == 8
    assert found.mask.tolist() == [[True, True, False]]
    expected = [0.3, -0.4, 0.5, math.log(30), math.log(0.75), math.log(40), math.log(0.8), 1.0]
    torch.testing.assert_close(found.features[0, 0], torch.tensor(expected))
    assert found.features[0, 2].tolist() == [0.0] * 8
    assert found.pt.tolist() == [[30.0, 10.0, 0.0]]


def test_neighbours_are_there_and_not_the_particle_itself() -> None:
    points = torch.tensor([[[0.0], [1.0], [3.0], [0.1]]])
    mask = torch.tensor([[True, True, True, False]])
    found = nearest(points, mask, 2)[0].tolist()
    assert [set(one) for one in found[:3]] == [{1, 2}, {0, 2}, {0, 1}]
    # One of two particles has a single neighbour that is there; the other is one that is not, never itself.
    few = nearest(points, torch.tensor([[True, True, False, False]]), 2)[0].tolist()
    assert few[0][0] == 1
    assert 0 not in few[0]


def test_pairs_of_massless_particles_by_hand() -> None:
    """Of p_T 30 and 10 at Δη 0.3, Δφ 0.4 across ±π."""
    pt, eta = torch.tensor([[30.0, 10.0]]), torch.tensor([[0.2, -0.1]])
    phi = torch.tensor([[math.pi - 0.1, -math.pi + 0.3]])
    found = pairs(pt, eta, phi)[0, 0, 1].tolist()
    mass = 2 * 30 * 10 * (math.cosh(0.3) - math.cos(0.4))
    expected = [math.log(0.5), math.log(10 * 0.5), math.log(10 / 40), math.log(mass)]
    assert found == pytest.approx(expected, rel=1e-4)


def test_absent_particles_do_not_count_in_batch_normalisation() -> None:
    norm = torch.nn.BatchNorm1d(1, momentum=1.0)
    values = torch.tensor([[[1.0], [99.0]], [[3.0], [5.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    found = normalised(norm, values, mask)
    # Of 1, 3, 5: mean 3, variance 8/3, unbiased 4.
    assert found[~mask].tolist() == [[0.0]]
    torch.testing.assert_close(found[mask][:, 0], torch.tensor([-2.0, 0.0, 2.0]) / (8 / 3 + 1e-5) ** 0.5)
    assert norm.running_mean.tolist() == [3.0]
    assert norm.running_var.tolist() == [4.0]
    torch.testing.assert_close(
        normalised(norm.eval(), values, mask)[1, 1], torch.tensor([2.0 / (4 + 1e-5) ** 0.5])
    )


def test_scalers_are_fitted_to_the_items_that_are_there() -> None:
    schema = schema_of()
    model = with_scalers(
        build_model("pfn", {"particle_features": "stored"}, schema), schema, {2: "standardize"}
    )
    lists = particles(3, 1, 0, 5)
    column = ListColumn.from_dense(lists.numpy(), (40, 4))
    model.fit({"particles": column})  # type: ignore[operator]
    there = lists[~torch.isnan(lists[..., 0])]
    scaler = model.scalers["particles"]  # type: ignore[union-attr,index]
    torch.testing.assert_close(scaler.mean, there.mean(0))
    torch.testing.assert_close(scaler.deviation, there.std(0, correction=0))
    given: list[torch.Tensor] = []
    model.model.register_forward_pre_hook(lambda _, args: given.append(args[0]))  # type: ignore[union-attr]
    model(lists)
    assert torch.equal(torch.isnan(given[0]), torch.isnan(lists))
    torch.testing.assert_close(
        given[0][~torch.isnan(given[0][..., 0])].mean(0), torch.zeros(4), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", MODELS)
def test_large_batches_are_evaluated_by_length(name: str) -> None:
    model = build_model(name, {}, schema_of()).eval()
    lengths = np.random.default_rng(0).integers(0, 20, 150).tolist()
    lists = particles(*lengths)
    with torch.no_grad():
        torch.testing.assert_close(model(lists), model.logits(lists), rtol=1e-4, atol=1e-5)  # type: ignore[operator]


@pytest.mark.parametrize("name", MODELS)
def test_its_cost_is_known_and_events_are_mixed_behind_the_lists(name: str) -> None:
    model, schema = build_model(name, {}, schema_of()), schema_of()
    cost = model_cost(model, schema)
    assert cost["parameters"] == numbers(model)
    assert cost["flops"] > cost["parameters"]
    lists = particles(5, 5, 5, 5)
    points = mixing_points(model, Batch({"particles": lists}, torch.zeros(4, dtype=torch.int64)))
    assert points
    assert "particles" not in points


def trial(model: str, **params: Any) -> Model:
    config = {"model": model, "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.01, **params}
    return TrialConfig.from_params(config).build_model(schema_of())


def test_what_does_not_suit_is_refused() -> None:
    with raises(InvalidConfig, "'mlp'", "'particles'", "takes_lists"):
        trial("mlp", inputs="particles")
    with raises(InvalidConfig, "'standardize'", "'particles'", "particle_features"):
        trial("particlenet", sequence_scaling="standardize")
    assert trial("pfn", particle_features="stored", sequence_scaling="quantile_normal").columns == (
        "particles",
    )
    for name in MODELS:
        with raises(InvalidConfig, "delta_eta", "eta_element"):
            build_model(name, {}, schema_of(elements=("pt", "eta", "delta_phi")))
        assert build_model(name, {"eta_element": "eta"}, schema_of(elements=("pt", "eta", "delta_phi")))
        with raises(InvalidConfig, "'tracks'", "particles (40, 4)"):
            build_model(name, {"cloud": "tracks"}, schema_of())
    with raises(InvalidConfig, "heads", "64 and 3"):
        build_model("particle_transformer", {"heads": 3}, schema_of())
    with raises(InvalidConfig, "mixup", "'particles'"):
        Augmentation(AugmentConfig(mixup=0.2), 0, 0, columns=schema_of().columns)
