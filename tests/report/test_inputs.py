"""What the captions of integrated gradients say, and when there are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hep_ray.confirm.confirmation import Contender
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.report import report_data
from hep_ray.report.figures import FIGURES, Drawn
from hep_ray.report.figures.inputs import input_importance
from hep_ray.report.page import Shown, save
from hep_ray.report.report_data import ReportData, gather
from hep_ray.training.attribution import Attributions, Contribution

Make = Callable[..., ReportData]
TWO = tuple(Contribution(name, 1.0, 0.1) for name in ("image", "met"))
UNSAID = ("empty images", "whatever they weigh", "bfloat16", "this model alone")


@pytest.fixture
def make(workplace: Callable[..., Any]) -> Make:
    """`make(classes, **params)`: a search, confirmed, whose best model was trained by these parameters."""

    def made(*classes: str, **params: Any) -> ReportData:
        place = workplace(classes)
        place.write_journal()
        place.write_confirmation()
        place.write_model(**params)
        return gather(place.search, place.storage)

    return made


def caption(data: ReportData, name: str = "integrated_gradients") -> str:
    found = FIGURES[name].draw(data)
    return found.caption if isinstance(found, Drawn) else str(found)


def test_a_caption_says_of_what_the_gradients_are(make: Make) -> None:
    of_two = caption(make("b", "s"))
    assert "log-odds of 's', against a baseline of the mean of each value (" in of_two
    assert not [words for words in UNSAID if words in of_two]


def test_of_three_classes_they_are_of_each_event_s_own(make: Make) -> None:
    of_three = caption(make("a", "b", "c", precision="bfloat16"))
    assert "log-odds of each event's own class, against" in of_three
    assert "which answers in bfloat16, is asked in float32" in of_three


@pytest.mark.parametrize("missed", [0.2, 0.21])
def test_what_does_not_add_up_is_not_to_be_trusted(make: Make, missed: float) -> None:
    data = make("b", "s")
    data.__dict__["attributions"] = Attributions(TWO, {}, 2.0, missed, 30)
    trusted = "add up to its log-odds less the baseline's, 2 on average without its sign, within 0.2"
    warned = "They do not add up: their sum misses 0.21 of the 2 that the log-odds move on average, and they are not"
    assert (trusted if missed == 0.2 else warned) in caption(data)
    assert (warned if missed == 0.2 else trusted) not in caption(data)


def test_images_weights_and_a_mean_of_finalists_are_named_where_they_are(make: Make) -> None:
    data = make("b", "s")
    trial, trained, dataset = data.kept_best
    confirmation = data.confirmation
    assert confirmation is not None
    mean = Contender(
        name="ensemble", role="finalist", params={}, runs=(), estimates={}, members={"t0001": {}, "t0002": {}}
    )
    schema = EventSchema(
        task="toy",
        columns=(Column(name="x", shape=(4, 4, 1)), Column(name="w")),
        classes=("b", "s"),
        weight="w",
    )
    other = Dataset(dataset.folder, dataset.manifest, schema)
    data = replace(
        data,
        confirmation=confirmation.model_copy(update={"contenders": (*confirmation.contenders, mean)}),
        dataset=other,
    )
    data.__dict__["kept_best"] = trial, trained, other
    one = (Contribution("x", 1.0, 0.1),)
    data.__dict__["attributions"] = Attributions(one, {"x": np.ones((2, 4, 4, 1))}, 2.0, 0.1, 30)
    found = caption(data, "image_attributions")
    assert "against a baseline of empty images (" in found
    assert "Events count alike, whatever they weigh." in found
    assert "Of the mean of t0001, t0002 it is this model alone." in found
    assert FIGURES["integrated_gradients"].draw(data) is None


def test_of_too_large_a_network_there_are_none_and_the_report_says_why(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point costs three passes: 8 points and both ends of ten events are 260."""
    data = make("b", "s")
    passes = data.affordable(1)
    monkeypatch.setattr(report_data, "MOST_FLOPS", report_data.MOST_FLOPS * 261 / passes)
    assert data.affordable(26) == 10
    assert data.attributions is not None
    assert data.attributions.events == 10
    data = replace(data)
    monkeypatch.setattr(report_data, "MOST_FLOPS", report_data.MOST_FLOPS * 259 / 261)
    assert "is left out: gradients are integrated of 10 events or more" in caption(data)
    assert caption(data).endswith("of this network that is 9.")


def test_numbers_of_gradients_are_written_beside_their_figure(make: Make, tmp_path: Path) -> None:
    data = make("b", "s")
    data.__dict__["attributions"] = Attributions(TWO, {}, 2.0, 0.21, 30)
    drawn = FIGURES["integrated_gradients"].draw(data)
    assert isinstance(drawn, Drawn)
    files = save(Shown("integrated_gradients", "classifier", "", drawn), tmp_path)
    assert [file.suffix for file in files] == [".png", ".pdf", ".json"]
    found = json.loads(files[-1].read_text())
    assert found["contributions"] == [{"name": name, "size": 1.0, "error": 0.1} for name in ("image", "met")]
    assert (found["moved"], found["missed"], found["adds_up"]) == (2.0, 0.21, False)
    assert (found["events"], found["log_odds_of"]) == (30, "s")


def test_bins_of_a_class_without_events_are_null_in_the_numbers(make: Make, tmp_path: Path) -> None:
    drawn = Drawn(Figure(), "", {"maps": {"x": [[float("nan"), 1.5]]}, "trial": "t0001"})
    *_, file = save(Shown("maps", "classifier", "", drawn), tmp_path)
    assert json.loads(file.read_text(), parse_constant=pytest.fail) == {
        "maps": {"x": [[None, 1.5]]},
        "trial": "t0001",
    }


def test_the_importance_of_inputs_of_a_large_model_is_left_to_who_asks_for_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make("b", "s")
    drawn = FIGURES["inputs"].draw(data)
    assert isinstance(drawn, Drawn)
    asked = input_importance(data)
    assert list(drawn.numbers["inputs"]) == [vars(one) for one in asked.inputs]
    rows = data.validation_events(10**6)
    passes = data.affordable(1)
    monkeypatch.setattr(report_data, "MOST_FLOPS", report_data.MOST_FLOPS / passes)  # one pass of one event
    assert f"{len(rows)} events or more" in caption(data, "inputs")
    assert f"hep-ray report {data.search.name} --importance" in caption(data, "inputs")
    assert input_importance(data) == asked
