"""The precision of products: chosen by the processor, refused where it lacks it, and close to float32 in its losses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hep_ray import Choice, Preset, Published, Search, Space
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.loading.batches import Events
from hep_ray.search.hardware import capabilities_in, compute_capabilities
from hep_ray.search.hardware import in_precision as with_precision
from hep_ray.search.options import SearchOptions
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop
from hep_ray.training.precision import capable, chosen_precision, multiplies_in_bfloat16, native_precision
from tests.facts import raises

SCHEMA = EventSchema(task="toy", columns=(Column(name="image", shape=(26, 26, 3)),), classes=("a", "b"))
WITH, WITHOUT = {"avx2": True, "avx512_bf16": True}, {"avx2": True, "avx512_bf16": False}


def images(seed: int, events: int = 64) -> Events:
    """Of two classes, the second with twice the energy in a tenth of the bins."""
    random = np.random.default_rng(seed)
    labels = np.arange(events) % 2
    filled = random.random((events, 26, 26, 1)) < 0.1
    energy = random.exponential(50.0, (events, 26, 26, 3)) * filled * (1 + labels[:, None, None, None])
    return Events.from_arrays({"image": energy.astype(np.float32)}, labels)


@pytest.mark.parametrize(
    ("model", "keys", "epochs", "events", "batch_size"),
    [
        ("cnn", ("train_loss", "val_loss"), 2, 64, 16),
        pytest.param("resnet34", ("train_loss",), 1, 256, 128, marks=[pytest.mark.slow, pytest.mark.ci]),
    ],
)
def test_losses_in_bfloat16_are_close_to_those_in_float32(
    model: str, keys: tuple[str, ...], epochs: int, events: int, batch_size: int
) -> None:
    # bfloat16 keeps 8 binary digits, so a product is right to 0.4 %. ResNet34's last maps have one bin here: normalised
    # over a batch of 16, that rounding grows to 8 % of the loss after one step, up or down from seed to seed; over 128
    # it stays below 1 % for eight seeds. Its validation loss waits for running means of more batches.
    params: dict[str, Any] = {
        "model": model, "loss": "cross_entropy", "optimizer": "sgd", "learning_rate": 1e-3, "batch_size": batch_size,
        "input_scale": 100.0, "input_transform": "log1p", **({"dropout": 0.0} if model == "cnn" else {}),
    }  # fmt: skip
    found = {}
    for precision in ("float32", "bfloat16"):
        config = TrialConfig.from_params({**params, "precision": precision})
        loop = TrialLoop(config, SCHEMA, images(0, events), images(1, 16), epochs=2, seed=3)
        found[precision] = [loop.run_epoch() for _ in range(epochs)]
        assert {weight.dtype for weight in loop.model.parameters()} == {torch.float32}
        assert loop.config.resolved()["precision"] == precision
    for whole, half in zip(found["float32"], found["bfloat16"], strict=True):
        for key in keys:
            assert half[key] == pytest.approx(whole[key], rel=0.02)
            assert half[key] != whole[key]


@pytest.mark.parametrize(
    ("capabilities", "models", "gpus", "expected"),
    [
        (WITH, ("cnn", "resnet34"), False, "bfloat16"),
        (WITH, ("cnn", "gradient_boosting"), False, "bfloat16"),
        (WITHOUT, ("cnn",), False, "float32"),
        (WITH, ("cnn", "mlp"), False, "float32"),
        (WITH, ("particle_transformer",), False, "float32"),
    ],
)
def test_auto_takes_what_pays_on_this_processor(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, bool],
    models: tuple[str, ...],
    gpus: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert chosen_precision("auto", models, gpus=gpus) == expected
    assert native_precision() == ("bfloat16" if capabilities["avx512_bf16"] else "float32")
    assert multiplies_in_bfloat16() is capabilities["avx512_bf16"]


@pytest.mark.parametrize(
    ("models", "capabilities", "expected"),
    [
        (("cnn", "resnet34"), [8.0, 9.0], "bfloat16"),
        (("particle_transformer", "gradient_boosting"), [9.0], "bfloat16"),
        (("cnn",), [9.0, 7.5], "float32"),  # one of Turing, which would imitate it
        (("cnn",), [], "float32"),  # no node with GPUs lives yet, or none tells
        (("cnn", "mlp"), [9.0], "float32"),
    ],
)
def test_auto_takes_what_pays_on_the_gpus_that_train(
    models: tuple[str, ...], capabilities: list[float], expected: str
) -> None:
    asked = []

    def gpus_capable() -> bool:
        asked.append(True)
        return capable(capabilities)

    assert chosen_precision("auto", models, gpus=True, gpus_capable=gpus_capable) == expected
    assert len(asked) == ("mlp" not in models)
    chosen_precision("auto", models, gpus=False, gpus_capable=gpus_capable)
    chosen_precision("bfloat16", models, gpus=True, gpus_capable=gpus_capable)
    assert len(asked) == ("mlp" not in models)


def test_capabilities_are_those_that_nvidias_tool_prints() -> None:
    assert capabilities_in("8.0\n9.0\n") == [8.0, 9.0]
    assert capabilities_in("No devices were found\n") == []  # one that fails tells of no GPU
    if shutil.which("nvidia-smi") is None:
        assert compute_capabilities() == []


def test_bfloat16_is_refused_where_the_processor_would_imitate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: WITHOUT)
    with raises(InvalidConfig, "does not multiply in bfloat16", "avx512_bf16", "--precision float32"):
        chosen_precision("bfloat16", ("cnn",), gpus=False)
    assert chosen_precision("bfloat16", ("cnn",), gpus=True) == "bfloat16"
    assert chosen_precision("float32", ("cnn",), gpus=False) == "float32"
    with raises(InvalidConfig, "float16", "auto"):
        chosen_precision("float16", ("cnn",), gpus=False)


@pytest.mark.parametrize(("capabilities", "expected"), [(WITH, "bfloat16"), (WITHOUT, "float32")])
def test_what_was_chosen_is_recorded_and_a_published_preset_says_so(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    space = Space(model="cnn", loss="cross_entropy", optimizer="adam", learning_rate=Choice(1e-3, 1e-2))
    preset = Preset(epochs=2, sampler="grid", published=Published("a thesis", ("Adam",)))
    search = Search(name="toy", task="toy", title="Toy.", space=space, presets={"published": preset})
    options = SearchOptions(data=Path("d"), precision="auto")
    _, made, kept = with_precision(search, preset, options)
    assert made.space is not None
    assert made.space.parameters["precision"].corners() == (expected,)
    assert kept.record()["precision"] == expected  # not `auto`: a resumed search keeps it
    assert made.published is not None
    stated = [words for words in made.published.ours if "bfloat16" in words]
    assert len(stated) == (expected == "bfloat16")


NETWORK: dict[str, Any] = {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}


def in_precision(
    asked: str, space: Space, *references: dict[str, Any]
) -> tuple[Search, Preset, SearchOptions]:
    preset = Preset(epochs=2, trials=2)
    search = Search(
        name="toy",
        task="toy",
        title="Toy.",
        space=space,
        presets={"p": preset},
        points_to_evaluate=references,
    )
    return with_precision(search, preset, SearchOptions(data=Path("d"), precision=asked))  # type: ignore[arg-type]


def test_references_have_the_precision_of_what_they_are_compared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: WITH)
    cnn, fitted = {"model": "cnn", **NETWORK, "precision": "float32"}, {"model": "gradient_boosting"}
    search, _, kept = in_precision("auto", Space(**NETWORK, model=Choice("cnn", "resnet18")), cnn, fitted)
    assert search.points_to_evaluate == ({**cnn, "precision": "bfloat16"}, fitted)
    assert kept.precision == "bfloat16"
    search, _, kept = in_precision("auto", Space(**NETWORK, model="cnn"), {"model": "mlp", **NETWORK})
    assert search.points_to_evaluate[0]["precision"] == kept.precision == "float32"  # not all are of images


def test_models_that_are_fitted_have_no_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: WITH)
    space = Space(model="gradient_boosting", trees=Choice(5, 10))
    _, preset, kept = in_precision("auto", space)
    assert kept.precision is None
    (preset.space or space).check()
    for asked in ("float32", "bfloat16"):
        with raises(InvalidConfig, f"--precision {asked}", "gradient_boosting", "leave it out"):
            in_precision(asked, space)
    search, preset, _ = in_precision("bfloat16", space, {"model": "cnn", **NETWORK})
    assert search.points_to_evaluate[0]["precision"] == "bfloat16"
    (preset.space or space).check()
