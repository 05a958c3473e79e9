"""What a model looks at: known by construction, of vectors, images and lists."""

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
from hep_ray.training.config import TrialConfig
from hep_ray.training.importance import inputs_of, permutation_importance
from hep_ray.training.loop import start_trial
from tests.facts import raises

FEATURES = ("told", "noise")
SCHEMA = EventSchema(
    task="toy",
    columns=(
        Column(name="x", shape=(2,), elements=FEATURES),
        Column(name="image", shape=(4, 4, 1)),
        Column(name="parts", shape=(8, 2), lists=True),
        Column(name="mass"),
    ),
    classes=("b", "s"),
    signal="s",
)
CROSS_ENTROPY = build_loss("cross_entropy", {})


class Known(Model):
    """Reads x's first value, the sum of the image and the number of items; not the mass."""

    columns = ("x", "image", "parts")

    def forward(self, x: Tensor, image: Tensor, parts: Tensor) -> Tensor:
        odds = x[:, 0] + image.sum(dim=(1, 2, 3)) + 0.5 * (~torch.isnan(parts[..., 0])).sum(dim=1)
        return torch.stack([torch.zeros_like(odds), odds - 2], dim=1)


def events(seed: int, count: int = 4000) -> Events:
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    x = random.normal(0, 1, (count, 2))
    x[:, 0] += 2 * labels
    image = np.zeros((count, 4, 4, 1))
    image[:, 0, 0, 0] = random.normal(0, 1, count) + 0.5 * labels
    parts = np.full((count, 8, 2), np.nan)
    for row, items in enumerate(random.integers(1, 6, count)):
        parts[row, :items] = 1
    columns = {"x": x, "image": image, "mass": labels}
    return Events(
        {
            **{name: np.asarray(one, np.float32) for name, one in columns.items()},
            "parts": ListColumn.from_dense(parts.astype(np.float32), (8, 2)),
        },
        labels,
    )


def test_inputs_are_values_of_vectors_and_whole_images_and_lists() -> None:
    assert [one.name for one in inputs_of(SCHEMA.columns)] == ["x.told", "x.noise", "image", "parts", "mass"]
    bare = [Column(name="v", shape=(3,)), Column(name="long", shape=(65,))]
    assert [one.name for one in inputs_of(bare)] == ["v[0]", "v[1]", "v[2]", "long"]


def test_what_a_model_reads_counts_and_what_it_does_not_read_does_not() -> None:
    auc, found = permutation_importance(Known(), CROSS_ENTROPY, events(0), SCHEMA)
    by_name = {one.name: one for one in found}
    assert next(iter(by_name)) == "x.told"
    assert (by_name["x.noise"].loss, by_name["x.noise"].error) == pytest.approx((0, 0), abs=1e-12)
    assert set(by_name) == {"x.told", "x.noise", "image", "parts"}
    assert 0.7 < auc < 1
    assert by_name["image"].loss > 3 * by_name["image"].error > 0
    # The number of items says nothing of the class: another event's makes the score no noisier than its own.
    assert abs(by_name["parts"].loss) < 4 * by_name["parts"].error
    again = permutation_importance(Known(), CROSS_ENTROPY, events(0), SCHEMA)
    assert again == (auc, found)


def test_the_error_is_the_spread_over_samples() -> None:
    samples = [
        {
            one.name: one
            for one in permutation_importance(Known(), CROSS_ENTROPY, events(seed, 600), SCHEMA)[1]
        }
        for seed in range(40)
    ]
    for name in ("x.told", "image"):
        spread = np.std([one[name].loss for one in samples], ddof=1)
        assert np.mean([one[name].error for one in samples]) == pytest.approx(spread, rel=0.4)


def test_a_loss_grows_and_a_fitted_model_is_asked_too() -> None:
    schema = SCHEMA.model_copy(update={"columns": (SCHEMA.columns[0],)})
    given = {name: events(seed).select(("x",)) for seed, name in enumerate(("train", "val"))}
    trial = start_trial(
        TrialConfig.from_params({"model": "gradient_boosting", "trees": 20}),
        schema,
        given["train"],
        given["val"],
        epochs=1,
        seed=0,
    )
    trial.run_epoch()
    for metric in ("loss", "auc", "background_rejection_at_50"):
        _, found = permutation_importance(trial.kept, CROSS_ENTROPY, given["val"], schema, metric, repeats=2)
        assert [one.name for one in found] == ["x.told", "x.noise"]
        assert found[0].loss > 4 * found[0].error > 0
        assert abs(found[1].loss) < 0.2 * found[0].loss


def test_refusals() -> None:
    with raises(InvalidConfig, "background_distance_correlation", "auc"):
        permutation_importance(
            Known(), CROSS_ENTROPY, events(0, 100), SCHEMA, "background_distance_correlation"
        )
    with raises(InvalidConfig, "0"):
        permutation_importance(Known(), CROSS_ENTROPY, events(0, 100), SCHEMA, repeats=0)
