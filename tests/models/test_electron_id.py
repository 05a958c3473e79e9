"""The network of the UdeM thesis: its size by hand, its tracks, its dropout, and what is left of an image."""

from __future__ import annotations

import pytest
import torch

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.scalers import SCALERS
from hep_ray.models import build_model
from hep_ray.training.config import PLANE, ScaledModel, TrialConfig, with_scalers
from tests.facts import raises

THESIS = {"track_form": "image", "conv_dropout": True}
COLUMNS = (
    Column(name="em1_image", shape=(56, 11), axes=("delta_eta", "delta_phi")),
    Column(name="layer_images", shape=(7, 11, 6), axes=("delta_eta", "delta_phi")),
    Column(name="tracks", shape=(15, 5)),
    Column(name="scalars", shape=(15,)),
)
SCHEMA = EventSchema(task="electrons", columns=COLUMNS, classes=("background", "electron"))


def parameters(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def test_parameters_of_the_thesis_by_hand() -> None:
    """32 channels, 100 neurons; 9,248 = 32·(32·9 + 1), 1,056 = 32·33, 10,100 = 100·101.

    Features: 32·7·2 = 448 of the strips (56, 28, 14, 7 and 11, 6, 3, 2), 32·77 = 2,464, 32·75 = 2,400, 100.
    """
    built = build_model("electron_id", THESIS, SCHEMA)
    strips, layers = 32 * 10 + 2 * 9_248, 32 * 55 + 2 * 9_248
    tracks, scalars = 32 * 2 + 2 * 1_056, 100 * 16 + 2 * 10_100
    joined = 100 * (448 + 2_464 + 2_400 + 100 + 1) + 2 * 10_100
    by_part = [parameters(stream) for stream in built.streams]
    assert by_part == [strips, layers, tracks, scalars]
    assert parameters(built) == strips + layers + tracks + scalars + joined + 202 == 624_750


def test_dropout_follows_every_relu_where_it_is_asked_for() -> None:
    """Three in each of the five stacks, or in the scalars' and the joined one alone; weights keep their names."""
    thesis, before = (
        build_model("electron_id", values, SCHEMA) for values in (THESIS, {"track_form": "image"})
    )
    counts = [sum(isinstance(one, torch.nn.Dropout) for one in built.modules()) for built in (thesis, before)]
    assert counts == [15, 6]
    thesis.load_state_dict(before.state_dict())


def test_a_track_is_a_row_of_an_image_or_a_place_of_a_sequence() -> None:
    for form, features in (("image", 2_400), ("sequence", 480)):
        built = build_model("electron_id", {"parts": "tracks", "track_form": form}, SCHEMA).eval()
        tracks = torch.rand(2, 15, 5)
        assert built.streams[0](tracks).shape == (2, features)
        assert built.head[0][0].in_features == features
        swapped = tracks.clone()
        swapped[:, [0, 3]] = tracks[:, [3, 0]]
        maps, others = (built.streams[0][:-1](one) for one in (tracks, swapped))
        torch.testing.assert_close(
            maps[:, :, [3]], others[:, :, [0]]
        )  # a 1x1 kernel sees one track at a time


def test_kernel_padding_and_stride_size_the_streams() -> None:
    values = {"parts": "layer_images", "kernel_size": 3, "padding": 0, "stride": 1, "conv_layers": 3}
    built = build_model("electron_id", values, SCHEMA)
    assert built.head[0][0].in_features == 32 * 1 * 5  # 7, 5, 3, 1 and 11, 9, 7, 5
    assert (
        build_model("electron_id", {**values, "padding": 1, "stride": 2}, SCHEMA).head[0][0].in_features
        == 32 * 2
    )
    with raises(InvalidConfig, "layer_images", "kernel_size", 5):
        build_model("electron_id", {**values, "kernel_size": 5}, SCHEMA)


@pytest.mark.parametrize(("plane", "expected"), [("log1p", "log1p"), ("", "per_channel"), ("none", None)])
def test_the_fine_image_is_scaled_apart_from_the_tracks(plane: str, expected: str | None) -> None:
    common = {"model": "electron_id", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.001}
    config = TrialConfig.from_params({**common, "sequence_scaling": "per_channel", "plane_scaling": plane})
    built = config.build_model(SCHEMA)
    assert isinstance(built, ScaledModel)
    assert isinstance(built.scalers["tracks"], SCALERS["per_channel"])
    if expected is None:
        assert "em1_image" not in built.scalers
    else:
        assert isinstance(built.scalers["em1_image"], SCALERS[expected])


def test_without_named_axes_an_image_of_rank_two_is_a_sequence() -> None:
    columns = (COLUMNS[0].model_copy(update={"axes": ()}), *COLUMNS[1:])
    schema = SCHEMA.model_copy(update={"columns": columns})
    model = build_model("electron_id", {}, schema)
    built = with_scalers(model, schema, {2: "per_channel", PLANE: "log1p"})
    assert isinstance(built, ScaledModel)
    assert isinstance(built.scalers["em1_image"], SCALERS["per_channel"])
