"""Scalers: the numbers of scikit-learn, fitted on training values, part of a state, refused unfitted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from hep_ray.errors import InvalidEvents, NotFitted, UnknownName
from hep_ray.loading.scalers import SCALERS
from tests.facts import raises

SHAPES = [(), (3,), (4, 2), (5, 5, 2)]


def values(shape: tuple[int, ...], events: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(20, (events, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SCALERS)
def test_contract(name: str, shape: tuple[int, ...]) -> None:
    scaler = SCALERS[name](shape)
    if name == "per_channel" and not shape:
        shape = ()
    with pytest.raises(NotFitted):
        scaler(torch.zeros((2, *shape)))
    scaler.fit(values(shape))
    fresh = torch.from_numpy(values(shape, seed=1))
    scaled = scaler(fresh)
    assert scaled.shape == fresh.shape
    assert scaled.dtype == fresh.dtype
    assert scaled.isfinite().all()
    again = SCALERS[name](shape)
    again.load_state_dict(scaler.state_dict())
    assert torch.equal(again(fresh), scaled)
    # Order is kept: a scaler never turns two events around.
    flat, flat_scaled = fresh.reshape(1000, -1)[:, 0], scaled.reshape(1000, -1)[:, 0]
    assert (flat_scaled[flat.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("name", SCALERS)
def test_a_constant_feature_becomes_a_number(name: str) -> None:
    scaler = SCALERS[name]((2,))
    constant = np.stack([np.full(300, 7.0), np.arange(300.0)], axis=1).astype(np.float32)
    scaler.fit(constant)
    assert scaler(torch.from_numpy(constant)).isfinite().all()


@pytest.mark.parametrize("name", SCALERS)
def test_nan_is_refused(name: str) -> None:
    broken = values((2,))
    broken[5, 1] = np.nan
    with pytest.raises(InvalidEvents):
        SCALERS[name]((2,)).fit(broken)


def test_standardize_is_that_of_scikit_learn() -> None:
    train, other = values((3,)), values((3,), seed=1)
    scaler = SCALERS["standardize"]((3,))
    scaler.fit(train)
    expected = StandardScaler().fit(train.astype(np.float64)).transform(other.astype(np.float64))
    np.testing.assert_allclose(scaler(torch.from_numpy(other)), expected, atol=2e-6)


def test_robust_clips_what_is_too_far_to_be_squared() -> None:
    scaler = SCALERS["robust"](())
    scaler._fit(np.arange(101.0))
    far = torch.tensor([-3e38, -1e25, 1e25, 3e38])
    assert scaler._scale(far).tolist() == pytest.approx([-3, -3, 3, 3])


def test_robust_takes_quartiles_and_clips_softly() -> None:
    scaler = SCALERS["robust"]((3,))
    # Quartiles 2, 4, 6 of nine numbers; both 0 in the second column, which goes from 0 to 10; the third is constant.
    train = np.array([[i, 10.0 * (i == 8), 7.0] for i in range(9)])
    scaler.fit(train)
    scaled = scaler(torch.tensor([[8.0, 10.0, 7.0], [4.0, 0.0, 9.0], [-1e6, 5.0, 7.0]], dtype=torch.float64))
    # z = 1, 0, −250,001 and 2, 0, 1: z/√(1 + z²/9).
    by_hand = [[0.9486833, 1.6641006, 0.0], [0.0, 0.0, 0.0], [-3.0, 0.9486833, 0.0]]
    torch.testing.assert_close(scaled, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_quantile_normal_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    # Half of the second feature is 0, as of a detector that often measures nothing.
    train, other = (
        np.stack(
            [random.normal(size=2000), random.exponential(size=2000) * (random.random(2000) < 0.5)], axis=1
        )
        for _ in range(2)
    )
    scaler = SCALERS["quantile_normal"]((2,)).double()
    scaler.fit(train)
    peer = QuantileTransformer(n_quantiles=256, output_distribution="normal", subsample=None).fit(train)
    np.testing.assert_allclose(scaler(torch.from_numpy(other)), peer.transform(other), atol=1e-6)


def test_per_channel_shares_its_numbers_over_the_pixels() -> None:
    images = values((6, 6, 2))
    images[..., 1] *= 100
    scaler = SCALERS["per_channel"]((6, 6, 2))
    scaler.fit(images)
    scaled = scaler(torch.from_numpy(images))
    np.testing.assert_allclose(scaled.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std((0, 1, 2)), 1, atol=1e-3)


def test_mean_one_by_hand() -> None:
    scaler = SCALERS["mean_one"]((3,))
    scaler.fit(np.array([[2.0, -1.0, 0.0], [4.0, 3.0, 0.0]], dtype=np.float32))  # mean magnitudes 3, 2, 0
    found = scaler(torch.tensor([[6.0, -4.0, 5.0], [0.0, 1.0, 0.0]]))
    assert found.tolist() == [[2.0, -2.0, 5.0], [0.0, 0.5, 0.0]]


def test_log1p_by_hand() -> None:
    scaler = SCALERS["log1p"](())
    scaler.fit(values(()))
    # ln(1 + 0) = 0; ln(1 + (e − 1)) = 1, and odd in x.
    expected = [0.0, 1.0, -1.0]
    torch.testing.assert_close(scaler(torch.tensor([0.0, np.e - 1, 1 - np.e])), torch.tensor(expected))


def test_an_unknown_scaler_is_named() -> None:
    with raises(UnknownName, "'standardise'", "'standardize'"):
        SCALERS["standardise"]
