"""Presets with a published name: what they account for, and the sizes of their networks by arithmetic of our own."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from hep_ray.errors import InvalidConfig
from hep_ray.search.definition import Search
from hep_ray.search.find import load_search
from hep_ray.search.published import Published
from hep_ray.simulate import SIMULATIONS
from hep_ray.training.config import TrialConfig
from tests.facts import raises, tells

SCRIPTS = sorted((Path(__file__).parents[2] / "searches").glob("*.py"))
OURS = {"particle_id"}
"""Searches that no publication precedes."""

ELECTRONS = SIMULATIONS["electron_id"].schema
SCHEMAS = {name: SIMULATIONS[name].schema for name in ("susy", "jet_images", "atlas_objects")} | {
    task: ELECTRONS.model_copy(update={"classes": ("background", "electron"), "class_meaning": {}})
    for task in ("electron_id_binary", "electron_central")
}


def search_of(name: str) -> Search:
    return load_search(str(SCRIPTS[0].with_name(f"{name}.py")))


def conv(channels_in: int, channels_out: int, kernel: int) -> int:
    return channels_out * (channels_in * kernel**2 + 1)


def linear(features_in: int, features_out: int) -> int:
    return features_out * (features_in + 1)


def inception_3a(channels_in: int) -> int:
    """Parameters of the module with GoogLeNet's widths 64, 96-128, 16-32, 32."""
    reduced = conv(channels_in, 96, 1) + conv(96, 128, 3) + conv(channels_in, 16, 1) + conv(16, 32, 5)
    return conv(channels_in, 64, 1) + reduced + conv(channels_in, 32, 1)


# 3,200 + 4,160 + 36,928 of the stem; 137,072 + 2 · 177,008 of the modules; 514.
CVN_UCSD = conv(1, 64, 7) + conv(64, 64, 1) + conv(64, 64, 3)
CVN_UCSD += inception_3a(64) + 2 * inception_3a(256) + linear(256, 2)


FINE = conv(1, 32, 3) + 2 * conv(32, 32, 3)
LAYERS = conv(6, 32, 3) + 2 * conv(32, 32, 3)
TRACKS = conv(1, 32, 1) + 2 * conv(32, 32, 1)


def head(features: int) -> int:
    """Three layers of 100 neurons, and two classes."""
    return linear(features, 100) + 2 * linear(100, 100) + linear(100, 2)


def object_cnn(second: int, fourth: int) -> int:
    """At 16x16x2: 16, 14, pool 7, 7, 5, pool 2."""
    convolutions = conv(2, 32, 3) + conv(32, second, 3) + conv(second, 64, 3) + conv(64, fourth, 3)
    return convolutions + linear(2 * 2 * fourth, 512) + linear(512, 4)


@pytest.mark.parametrize(
    ("name", "preset", "chosen", "by_formula", "by_hand"),
    [
        # 8·16 + 16 = 144, 16·16 + 16 = 272, 17.
        ("susy", "published_baseline", {"inputs": "low_level"}, 144 + 272 + 17, 433),
        ("susy", "published_final", {}, linear(8, 128) + 2 * linear(128, 128) + linear(128, 1), 34_305),
        (
            *("susy", "published_baldi", {"inputs": "low_level+high_level"}),
            linear(18, 300) + 4 * linear(300, 300) + linear(300, 1),
            367_201,
        ),
        ("jet_images", "published_cvn", {"model": "cvn_ucsd"}, CVN_UCSD, 535_890),
        ("jet_images", "published", {"pooling": "streams"}, 14_723_136 + linear(512**2, 2), 15_247_426),
        # By hand in tests/models/test_electron_id.py; scalars alone: their stack, the joined one, the last layer.
        ("electron_id", "published", {}, 18_816 + 20_256 + 2_176 + 21_800 + 561_500 + 202, 624_750),
        (
            "electron_parts",
            "published",
            {"parts": "scalars"},
            21_800 + linear(100, 100) + 2 * 10_100 + 202,
            52_302,
        ),
        # Pooled three times by two, odd ends kept: 56, 28, 14, 7 times 11, 6, 3, 2, of 32 features.
        ("flat_minima", "published_60k", {"optimizer": "entropy_sgd"}, FINE + head(7 * 2 * 32), 84_118),
        ("electron_parts", "published", {"parts": "fine_image"}, FINE + head(7 * 2 * 32), 84_118),
        ("electron_parts", "published", {"parts": "layer_images"}, LAYERS + head(7 * 11 * 32), 287_158),
        ("electron_id", "architectures", {"model": "electron_id"}, LAYERS + head(7 * 11 * 32), 287_158),
        # 15 × 5 under 1 × 1 kernels keeps its 75 places.
        ("electron_parts", "published", {"parts": "tracks"}, TRACKS + head(75 * 32), 262_678),
        ("atlas_objects", "published", {"second_features": 64}, object_cnn(64, 64), 226_596),
        ("atlas_objects", "published", {"second_features": 32}, object_cnn(32, 128), 366_916),
    ],
)
def test_parameters_of_published_networks(
    name: str, preset: str, chosen: dict[str, object], by_formula: int, by_hand: int
) -> None:
    search = search_of(name)
    space = search.presets[preset].space
    assert space is not None
    found = [params for params in space.grid() if chosen.items() <= params.items()]
    assert found
    for params in found[:2]:
        with torch.device("meta"):
            built = TrialConfig.from_params(params).build_model(SCHEMAS[search.task])
        assert sum(one.numel() for one in built.parameters()) == by_formula == by_hand


@pytest.mark.parametrize("script", [one for one in SCRIPTS if one.stem not in OURS], ids=lambda one: one.stem)
def test_presets_with_a_published_name_account_for_themselves(script: Path) -> None:
    search = load_search(str(script))
    for name, preset in search.presets.items():
        if name.startswith(("published", "thesis")):
            assert preset.published is not None, f"{script.stem} {name}"
            assert preset.published.ours, (
                f"{script.stem} {name} states no deviation, and its events are not theirs"
            )
            assert preset.published.silent, f"{script.stem} {name}"


def test_rows_hold_every_statement_under_its_heading() -> None:
    protocol = Published("a thesis", ("40 epochs",), ("our events",), ("batch size: 32",)).with_ours(
        "two seeds"
    )
    assert list(protocol.rows()) == [
        ("document", "a thesis"),
        ("follows", "40 epochs"),
        ("ours", "our events"),
        ("ours", "two seeds"),
        ("silent", "batch size: 32"),
    ]
    with raises(InvalidConfig, "document"):
        Published("", ("40 epochs",))


def test_a_row_is_called_as_the_study_calls_it() -> None:
    table = search_of("susy").tables[0]
    params = {"model": "mlp", "inputs": "low_level", "hidden_layers": 2, "hidden_features": 16}
    assert table.name_of(table.row(params)) == "baseline 16-16"
    assert table.name_of(table.row({**params, "hidden_features": 32})) == "2 × 32"
    other = table.row({**params, "hidden_features": 24})
    assert tells(table.name_of(other), "hidden_features=24")


def test_the_page_of_protocols_is_what_the_searches_say() -> None:
    script = SCRIPTS[0].parents[1] / "docs/scripts/protocols.py"
    spec = importlib.util.spec_from_file_location("protocols_page", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), f"run: python {script}"


NUMBERS = {"one": 1, "two": 2, "three": 3, "five": 5}


def seeds_in(statements: Iterable[str]) -> set[int]:
    """Return every number of seeds that statements name."""
    found = (re.findall(r"\b(\w+) seeds?\b", text) for text in statements)
    return {NUMBERS[word] for words in found for word in words if word in NUMBERS}


def test_a_protocol_names_the_seeds_that_its_preset_runs() -> None:
    named = 0
    for script in SCRIPTS:
        for name, preset in search_of(script.stem).presets.items():
            if preset.published is not None:
                seeds = seeds_in(preset.published.ours)
                assert seeds <= {preset.seeds}, (script.stem, name, seeds)
                named += bool(seeds)
    assert named > 20


def test_the_results_name_the_seeds_that_were_run() -> None:
    for text in (SCRIPTS[0].parents[1] / "docs/studies.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        assert seeds_in(line["deviations"]) <= {line["seeds"]}, text


def test_minutes_of_a_study_do_not_claim_the_rows_that_only_its_full_length_has() -> None:
    jets, parts = search_of("jet_images").presets, search_of("electron_parts").presets
    for preset, full, words in (
        (jets["table"], jets["published"], "Lin et al."),
        (parts["table"], parts["published"], "without one part"),
    ):
        assert preset.published is not None
        assert full.published is not None
        assert not any(words in text for text in preset.published.ours)
        assert any(words in text for text in full.published.ours)
