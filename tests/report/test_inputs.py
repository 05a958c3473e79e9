"""What the captions of integrated gradients say, and when there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hep_ray.confirm.confirmation import Contender
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.report import report_data
from hep_ray.report.figures import FIGURES, Drawn
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
