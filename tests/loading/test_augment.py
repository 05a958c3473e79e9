"""Augmentation: what it keeps, what it changes, and that a seed and an epoch decide it."""

from __future__ import annotations

import pytest
import torch

from hep_ray.dataset.dataset import fingerprint_of
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.errors import InvalidConfig
from hep_ray.loading.augment import Augmentation, AugmentConfig, check_augmentation, is_image
from hep_ray.loading.batches import Batch
from hep_ray.simulate import SIMULATIONS
from tests.facts import raises

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
    assert after.second_labels is not None
    assert 0 < after.mix_ratio < 1
    # Sums are linear: over the batch a permutation drops out, so the mean stays.
    torch.testing.assert_close(after.inputs["image"].mean(), before.inputs["image"].mean())
    torch.testing.assert_close(after.inputs["scalars"].mean(0), before.inputs["scalars"].mean(0))


def test_cutmix_shares_the_label_by_area() -> None:
    before, after = batch().inputs["image"], augmented(AugmentConfig(cutmix=1.0))
    changed = (after.inputs["image"] != before).any(-1)
    most = changed.float().mean((1, 2)).max().item()
    assert after.mix_ratio == pytest.approx(1 - most)


# One event is one object. Below an event has three images of the same deposits: axes φ, η and channel; η and φ without
# channels, as whole numbers; and η, φ, channel in pixels half as wide in φ, beside scalars.
PHI, ETA = 12, 5
COLUMNS = (
    Column(name="first", shape=(PHI, ETA, 2), axes=("phi", "eta")),
    Column(name="swapped", shape=(ETA, PHI), dtype="uint8", axes=("eta", "phi")),
    Column(name="fine", shape=(ETA, 2 * PHI, 1), axes=("eta", "phi")),
    Column(name="scalars", shape=(2,), elements=("ht", "n_objects")),
    Column(name="count", dtype="int64"),
)


def one_object(events: int = 64) -> Batch:
    """Every image shows the same deposits, so each can be told from the first."""
    deposits = torch.randint(1, 200, (events, PHI, ETA), generator=torch.Generator().manual_seed(3))
    first = torch.stack([deposits, 2 * deposits], dim=-1).float()
    numbers = torch.arange(events)
    inputs = {
        "first": first,
        "swapped": deposits.transpose(1, 2).to(torch.uint8),
        "fine": deposits.transpose(1, 2).repeat_interleave(2, dim=2)[..., None].float(),
        "scalars": torch.stack([deposits.sum((1, 2)), numbers], dim=1).float(),
        "count": numbers * 4,
    }
    return Batch(inputs, numbers % 2, weights=1 + numbers.float())


def check_weights(before: Batch, after: Batch, partner: torch.Tensor) -> None:
    """The partners' labels come with the partners' weights."""
    assert before.weights is not None
    assert after.second_weights is not None
    assert torch.equal(after.second_weights, before.weights[partner])


def check_one_object(given: dict[str, torch.Tensor]) -> None:
    """All images still show the same deposits."""
    deposits = given["first"][..., 0]
    torch.testing.assert_close(given["first"][..., 1], 2 * deposits)
    torch.testing.assert_close(given["swapped"].float(), deposits.transpose(1, 2))
    fine = deposits.transpose(1, 2).repeat_interleave(2, dim=2)
    torch.testing.assert_close(given["fine"][..., 0], fine)


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(phi_rotation=True),
        AugmentConfig(phi_flip=True),
        AugmentConfig(eta_flip=True),
        AugmentConfig(phi_rotation=True, phi_flip=True, eta_flip=True),
        AugmentConfig(mixup=0.5),
    ],
    ids=repr,
)
def test_all_images_of_an_event_change_together_along_the_axes_of_the_schema(config: AugmentConfig) -> None:
    before = one_object()
    after = Augmentation(config, 1, 0, columns=COLUMNS)(before)
    check_one_object(after.inputs)
    changed = (after.inputs["first"] != before.inputs["first"]).flatten(1).any(1)
    assert changed.float().mean() > 0.3
    if not config.mixup:
        for name in ("scalars", "count"):
            assert torch.equal(after.inputs[name], before.inputs[name])


@pytest.mark.parametrize("config", [AugmentConfig(phi_rotation=True), AugmentConfig(phi_flip=True)], ids=repr)
@pytest.mark.parametrize(("name", "eta_axis"), [("first", 2), ("swapped", 1), ("fine", 1)])
def test_what_happens_in_phi_leaves_every_distribution_in_eta_as_it_is(
    config: AugmentConfig, name: str, eta_axis: int
) -> None:
    before, after = one_object(), Augmentation(config, 1, 0, columns=COLUMNS)(one_object())
    assert not torch.equal(after.inputs[name], before.inputs[name])
    for old, new in zip(before.inputs[name], after.inputs[name], strict=True):
        others = [axis for axis in range(old.ndim) if axis != eta_axis - 1]
        assert torch.equal(old.double().sum(others), new.double().sum(others))
        # Not the sum alone: each ring of constant η holds the same pixels.
        assert torch.equal(
            old.movedim(eta_axis - 1, 0).flatten(1).sort(1).values,
            new.movedim(eta_axis - 1, 0).flatten(1).sort(1).values,
        )


def test_a_reflection_in_eta_reflects_the_distribution_in_eta() -> None:
    before, after = (
        one_object(),
        Augmentation(AugmentConfig(eta_flip=True), 1, 0, columns=COLUMNS)(one_object()),
    )
    old, new = (one.inputs["swapped"].double().sum(2) for one in (before, after))
    reflected = (new == old.flip(1)).all(1)
    assert ((new == old).all(1) != reflected).all()
    assert 20 < reflected.sum() < 44


def test_a_cutout_blanks_the_same_place_of_all_images() -> None:
    after = Augmentation(AugmentConfig(cutout=0.4), 1, 0, columns=COLUMNS)(one_object())
    blank = after.inputs["first"][..., 0] == 0
    # 0.4 of 12 and of 5 pixels are 5 and 2; 10 of 24 in the fine image, where the place may differ by a pixel.
    assert blank.sum((1, 2)).max() == 10
    assert torch.equal(after.inputs["swapped"] == 0, blank.transpose(1, 2))
    fine = (after.inputs["fine"][..., 0] == 0).float()
    assert fine.sum((1, 2)).max() == 20
    apart = (fine - blank.transpose(1, 2).repeat_interleave(2, dim=2).float()).abs().sum((1, 2))
    assert apart.max() <= 4


def test_cutmix_mixes_images_and_all_else_in_the_share_of_the_labels() -> None:
    before = one_object()
    after = Augmentation(AugmentConfig(cutmix=1.0), 5, 0, columns=COLUMNS)(before)
    assert after.second_labels is not None
    # Every count differs and was mixed linearly: it tells the partner.
    own, mixed = before.inputs["count"].float(), after.inputs["count"]
    partner = ((mixed - after.mix_ratio * own) / (1 - after.mix_ratio) / 4).round().long()
    assert sorted(partner.tolist()) == list(range(64))
    torch.testing.assert_close(mixed, after.mix_ratio * own + (1 - after.mix_ratio) * own[partner])
    assert torch.equal(after.second_labels, before.labels[partner])
    check_weights(before, after, partner)
    areas = []
    for name in ("first", "swapped", "fine"):
        new, old = after.inputs[name].float(), before.inputs[name].float()
        own_pixels, other_pixels = new == old, new == old[partner]
        assert (own_pixels | other_pixels).all(), "each pixel is one of the two events'"
        inside = ~own_pixels.flatten(0, 0).all(0)
        assert other_pixels[:, inside].all()
        areas.append(inside.float().mean().item())
    assert after.mix_ratio == pytest.approx(1 - sum(areas) / 3, abs=1e-6)


def test_mixup_of_whole_numbers_by_hand() -> None:
    before = one_object()
    after = Augmentation(AugmentConfig(mixup=0.5), 1, 0, columns=COLUMNS)(before)
    own = before.inputs["count"].float()
    partner = ((after.inputs["count"] - after.mix_ratio * own) / (1 - after.mix_ratio) / 4).round().long()
    assert after.second_labels is not None
    assert torch.equal(after.second_labels, before.labels[partner])
    check_weights(before, after, partner)
    for name, whole in before.inputs.items():
        values = whole.float()
        torch.testing.assert_close(
            after.inputs[name], after.mix_ratio * values + (1 - after.mix_ratio) * values[partner]
        )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.float16, torch.float32])
def test_noise_is_added_to_whole_numbers_too(dtype: torch.dtype) -> None:
    columns = (
        Column(name="image", shape=(20, 20), dtype=str(dtype).removeprefix("torch."), axes=("phi", "eta")),
    )
    values = torch.randint(0, 200, (64, 20, 20), generator=torch.Generator().manual_seed(0))
    given = Batch({"image": values.to(dtype)}, torch.arange(64) % 2)
    turned = AugmentConfig(noise=0.1, phi_rotation=True, eta_flip=True, cutmix=1.0)
    assert Augmentation(turned, 1, 0, columns=columns)(given).inputs["image"].isfinite().all()
    noise = Augmentation(AugmentConfig(noise=0.1), 1, 0, columns=columns)(given).inputs["image"] - values
    # A tenth of the standard deviation, 25,600 times: known to 1/√51,200 = 0.4 %, so 2 % is 4.5 of those.
    assert noise.std() == pytest.approx(0.1 * values.float().std().item(), rel=0.02)


def test_images_turn_by_the_steps_that_they_have_in_common() -> None:
    # 12 and 18 pixels turn by multiples of a sixth of the circle: by 2 and 3 pixels.
    columns = (
        Column(name="a", shape=(12, 2, 1), axes=("phi", "eta")),
        Column(name="b", shape=(2, 18, 1), axes=("eta", "phi")),
    )
    hit = {"a": torch.zeros(300, 12, 2, 1), "b": torch.zeros(300, 2, 18, 1)}
    hit["a"][:, 0], hit["b"][:, :, 0] = 1, 1
    given = Augmentation(AugmentConfig(phi_rotation=True), 1, 0, columns=columns)(
        Batch(hit, torch.zeros(300, dtype=torch.int64))
    )
    a, b = given.inputs["a"][:, :, 0, 0].argmax(1), given.inputs["b"][:, 0, :, 0].argmax(1)
    assert set(a.tolist()) == {0, 2, 4, 6, 8, 10}
    assert torch.equal(3 * a, 2 * b)
    with raises(InvalidConfig, "a 12", "b 17"):
        Augmentation(
            AugmentConfig(phi_rotation=True), 1, 0,
            columns=(columns[0], Column(name="b", shape=(2, 17, 1), axes=("eta", "phi"))),
        )  # fmt: skip


IMAGE = Column(name="image", shape=(12, 5, 1), axes=("phi", "eta"))


@pytest.mark.parametrize(
    ("wanted", "columns", "facts"),
    [
        ("phi_rotation", [Column(name="image", shape=(9, 9, 1))], ["'image'", "axes = ['phi', 'eta']"]),
        ("eta_flip", [Column(name="image", shape=(9, 9, 1))], ["'image'", "(9, 9, 1)"]),
        ("phi_flip", [IMAGE, Column(name="picture", shape=(9, 9))], ["'picture'", "(9, 9)"]),
        ("noise", [Column(name="picture", shape=(9, 9))], ["'picture'", "(9, 9)"]),
        ("phi_rotation", [Column(name="image", shape=(9, 9, 1), axes=("x", "y"))], ["'image'", "axis phi", "x, y"]),
        ("phi_rotation", [Column(name="jet", shape=(9, 9), axes=("delta_phi", "delta_eta"))], ["'jet'", "delta_phi"]),
        ("phi_rotation", [IMAGE, Column(name="met_phi")], ["'met_phi'"]),
        ("phi_flip", [IMAGE, Column(name="lep_azimuth")], ["'lep_azimuth'"]),
        ("phi_rotation", [IMAGE, Column(name="x", shape=(2,), elements=("pt", "py"))], ["'py'", "x"]),
        ("eta_flip", [IMAGE, Column(name="tracks", shape=(4, 2), elements=("pt", "delta_eta"))], ["'delta_eta'"]),
        ("phi_rotation", [IMAGE, Column(name="tracks", shape=(3,))], ["'tracks'", "(3,)"]),
        ("phi_rotation", [IMAGE, Column(name="cells", shape=(3, 4, 5, 2))], ["'cells'", "(3, 4, 5, 2)"]),
        ("cutout", [Column(name="ht")], ["ht"]),
        ("cutmix", [Column(name="ht")], ["ht"]),
        ("phi_flip", [Column(name="tracks", shape=(4, 2), elements=("pt", "z"))], ["images"]),
    ],
)  # fmt: skip
def test_what_would_break_an_event_is_refused(wanted: str, columns: list[Column], facts: list[str]) -> None:
    with raises(InvalidConfig, wanted, *facts):
        check_augmentation(
            AugmentConfig(**{wanted: 0.5 if wanted in {"noise", "cutout", "cutmix"} else True}).on_images,
            columns,
        )


def test_what_keeps_events_whole_is_taken() -> None:
    every = AugmentConfig(phi_rotation=True, phi_flip=True, eta_flip=True, cutout=0.2, noise=0.1, cutmix=1.0)
    check_augmentation(every.on_images, [*COLUMNS, IMAGE, Column(name="ht"), Column(name="abs_eta")])
    check_augmentation(
        AugmentConfig(mixup=1.0).on_images, [Column(name="met_phi"), Column(name="tracks", shape=(9, 4))]
    )
    differences = Column(name="x", shape=(3,), elements=("delta_phi", "r_phi", "w_eta2"))
    check_augmentation(AugmentConfig(phi_rotation=True).on_images, [IMAGE, differences])


# Axes as the code that fills the images has them: `event_image` and `jet_image` φ first, `two_channels`, the strips and
# the layers η first; the last three in windows.
@pytest.mark.parametrize(
    ("task", "axes"),
    [
        ("mbh_sph", {"image": ("phi", "eta")}),
        ("six_hypotheses", {"image": ("phi", "eta")}),
        ("jet_images", {"image": ("delta_phi", "delta_eta")}),
        ("atlas_objects", {"image": ("delta_eta", "delta_phi")}),
        ("electron_id", dict.fromkeys(("em1_image", "layer_images"), ("delta_eta", "delta_phi"))),
        ("susy", {}),
    ],
)
def test_every_simulation_states_the_axes_of_its_images(task: str, axes: dict[str, tuple[str, ...]]) -> None:
    schema = SIMULATIONS[task].schema
    assert {column.name: column.axes for column in schema.columns if is_image(column)} == axes


def test_stated_axes_leave_the_fingerprint_of_a_dataset_as_it_was() -> None:
    def fingerprint(axes: tuple[str, ...]) -> str:
        columns = (Column(name="image", shape=(4, 4, 1), axes=axes),)
        return fingerprint_of(EventSchema(task="t", columns=columns, classes=("a", "b")), SplitRule(), ())

    # As the code before axes were stated gave them.
    one, other = (
        "f8eefb03f40d9b8ed80a69337a6d039f69e157e1e6319ba74253f39abfed61c6",
        "c6f362d3a9f1e7636ca2ca4a1a199c9017e91c4a0087b79a92b76a645684ce33",
    )
    assert {fingerprint(axes) for axes in ((), ("phi", "eta"), ("delta_phi", "delta_eta"))} == {one}
    assert {fingerprint(axes) for axes in (("eta", "phi"), ("delta_eta", "delta_phi"))} == {other}
