"""Contract of every search script, found by folder; nothing is trained."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hep_ray.dataset.schema import EventSchema
from hep_ray.errors import InvalidConfig
from hep_ray.metrics import classification_metrics
from hep_ray.search.definition import Search
from hep_ray.search.draws import total_trials
from hep_ray.search.find import load_search
from hep_ray.search.preflight import check_yardsticks
from hep_ray.search.space import Space
from hep_ray.simulate import SIMULATIONS
from hep_ray.training.config import TrialConfig

SCRIPTS = sorted((Path(__file__).parents[2] / "searches").glob("*.py"))
PUBLISHED = ("published", "thesis", "full")
MADE_FROM = {"electron_central": "electron_id", "electron_id_binary": "electron_id"}
"""Task of a dataset that is converted from a simulated one → the simulation."""


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def search(request: pytest.FixtureRequest) -> Search:
    made = load_search(str(request.param))
    assert made.name == request.param.stem
    return made


def spaces(search: Search) -> dict[str, Space]:
    return {name: preset.space or search.space for name, preset in search.presets.items()}


def schema_of(search: Search) -> EventSchema:
    simulation = MADE_FROM.get(search.task, search.task)
    if simulation not in SIMULATIONS:
        pytest.skip(f"events of the task {search.task} are not simulated")
    schema = SIMULATIONS[simulation].schema
    binary = {"classes": ("background", schema.signal), "class_meaning": {}}
    return schema if simulation == search.task else schema.model_copy(update=binary)


def test_the_study_has_ten_searches() -> None:
    assert {path.stem for path in SCRIPTS} >= {
        *("cnn_loss", "resnet_loss", "pretrained", "six_hypotheses", "electron_id", "electron_parts"),
        *("flat_minima", "jet_images", "susy", "atlas_objects"),
    }


def test_presets(search: Search) -> None:
    assert {"smoke", "laptop"} <= set(search.presets)
    published = [name for name in search.presets if name.startswith(PUBLISHED)]
    assert published
    for name in published:
        preset = search.presets[name]
        assert (preset.sampler, preset.scheduler) == ("grid", "none"), name
        assert preset.seeds > 1, name
    smoke = search.presets["smoke"]
    assert total_trials(search, smoke, spaces(search)["smoke"]) <= 8
    assert smoke.epochs <= 2


def test_every_space_is_one_that_the_trainer_reads(search: Search) -> None:
    for preset, space in zip(search.presets.values(), spaces(search).values(), strict=True):
        space.check()
        assert total_trials(search, preset, space) >= 1
    for params in search.points_to_evaluate:
        TrialConfig.from_params(params)
    known = {name for space in spaces(search).values() for name in space}
    known |= {name for params in search.points_to_evaluate for name in params}
    assert set(search.baseline) <= known


def test_models_take_the_events_of_the_task(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ImageNet's weights whoever asks for them is told where to put them."""
    monkeypatch.setitem(os.environ, "TORCH_HOME", str(tmp_path))
    schema = schema_of(search)
    for name, space in spaces(search).items():
        for params in [*space.samples(), *search.points_to_evaluate]:
            with torch.device("meta"):
                config = TrialConfig.from_params(params)
                if config.resolved().get("weights", "random") == "random":
                    config.build_model(schema)
                    continue
                assert name != "smoke"
                with pytest.raises(InvalidConfig, match=r"\S\.pth\b"):
                    config.build_model(schema)


def test_what_is_ranked_and_tabulated_is_reported(search: Search) -> None:
    schema = schema_of(search)
    labels = np.arange(len(schema.classes))
    spectator = labels.astype(np.float64) if "decorrelate" in search.space.parameters else None
    reported = classification_metrics(
        np.eye(len(labels)), labels, schema.classes, schema.signal, protected=spectator
    )
    known = {
        "val_loss",
        "epoch_seconds",
        "parameters",
        "flops",
        "train_loss",
        *(f"val_{name}" for name in reported),
        *(["val_decorrelated_loss"] if spectator is not None else []),
    }
    assert search.metric in known
    for space in spaces(search).values():
        check_yardsticks(search, space)
    assert search.second_objective is None or search.second_objective in known
    for table in search.tables:
        assert set(table.metrics) <= known


def test_tables_have_rows_that_a_published_preset_fills(search: Search) -> None:
    assert search.tables
    made = [
        params
        for name, space in spaces(search).items()
        if name.startswith(PUBLISHED)
        for params in [*space.grid(), *search.points_to_evaluate]
    ]
    varied = {name for space in spaces(search).values() for name in space.parameters}
    for table in search.tables:
        assert set(table.rows) <= varied.union(*search.points_to_evaluate)
        assert set(table.published) <= {table.row(params) for params in made}
