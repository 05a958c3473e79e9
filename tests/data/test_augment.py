"""Augmentation: what it keeps, what it changes, and that a seed and an epoch decide it."""

from __future__ import annotations

import pytest
import torch

from hep_ray.data.augment import Augmentation, AugmentConfig
from hep_ray.data.batches import Batch

EVERY = [
    AugmentConfig(phi_rotation=True),
    AugmentConfig(phi_flip=True),
    AugmentConfig(eta_flip=True),
    AugmentConfig(cutout=0.4),
    AugmentConfig(noise=0.1),
    AugmentConfig(mixup=0.5),
    AugmentConfig(cutmix=1.0),
    AugmentConfig(phi_rotation=True, eta_flip=True, cutout=0.2, noise=0.1, mixup=0.3, cutmix=0.7),
]


def batch(events: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((events, 10, 8, 2), generator=generator) + 0.1
    scalars = torch.rand((events, 3), generator=generator)
    return Batch({"image": images, "scalars": scalars}, torch.arange(events) % 2)


def augmented(config: AugmentConfig, seed: int = 1, epoch: int = 0) -> Batch:
    return Augmentation(config, seed, epoch)(batch())


@pytest.mark.parametrize("config", EVERY, ids=repr)
def test_contract(config: AugmentConfig) -> None:
    assert config.active
    before = batch()
    given = batch()
    after = Augmentation(config, 1, 0)(given)
    assert torch.equal(given.inputs["image"], before.inputs["image"]), "the given batch is left alone"
    assert after.inputs["image"].shape == before.inputs["image"].shape
    assert after.inputs["image"].isfinite().all()
    assert not torch.equal(after.inputs["image"], before.inputs["image"])
    assert torch.equal(after.labels, before.labels)
    assert torch.equal(after.inputs["image"], augmented(config).inputs["image"])
    assert not torch.equal(after.inputs["image"], augmented(config, epoch=1).inputs["image"])
    assert not torch.equal(after.inputs["image"], augmented(config, seed=2).inputs["image"])


def test_nothing_is_the_default() -> None:
    assert not AugmentConfig().active


def test_rotation_keeps_every_pixel_and_its_eta() -> None:
    before, after = batch().inputs["image"], augmented(AugmentConfig(phi_rotation=True)).inputs["image"]
    shifts = set()
    for old, new in zip(before, after, strict=True):
        (shift,) = [shift for shift in range(10) if torch.equal(old.roll(shift, 0), new)]
        shifts.add(shift)
    assert len(shifts) > 3


@pytest.mark.parametrize(
    ("config", "axis"), [(AugmentConfig(phi_flip=True), 0), (AugmentConfig(eta_flip=True), 1)]
)
def test_flips_reflect_some_images(config: AugmentConfig, axis: int) -> None:
    before, after = batch().inputs["image"], augmented(config).inputs["image"]
    flipped = [torch.equal(old.flip(axis), new) for old, new in zip(before, after, strict=True)]
    kept = [torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert 5 < sum(flipped) < 27


def test_cutout_blanks_a_square_at_most() -> None:
    after = augmented(AugmentConfig(cutout=0.4)).inputs["image"]
    blank = (after == 0).all(-1).sum((1, 2))
    # 0.4 of 10 × 8 pixels: 4 × 3 pixels, fewer where the square leaves the image.
    assert blank.max() == 12
    assert blank.min() >= 1


def test_mixup_mixes_everything_in_the_share_of_the_labels() -> None:
    before, after = batch(), augmented(AugmentConfig(mixup=0.5))
    assert after.other_labels is not None
    assert 0 < after.share < 1
    # Sums are linear: over the batch a permutation drops out, so the mean stays.
    torch.testing.assert_close(after.inputs["image"].mean(), before.inputs["image"].mean())
    torch.testing.assert_close(after.inputs["scalars"].mean(0), before.inputs["scalars"].mean(0))


def test_cutmix_shares_the_label_by_area() -> None:
    before, after = batch().inputs["image"], augmented(AugmentConfig(cutmix=1.0))
    changed = (after.inputs["image"] != before).any(-1)
    most = changed.float().mean((1, 2)).max().item()
    assert after.share == pytest.approx(1 - most)
