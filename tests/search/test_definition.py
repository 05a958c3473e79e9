"""Names that `Search` had before are still taken, with a warning."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from hep_ray.search.definition import Preset, Search
from hep_ray.search.space import Space

BOOSTED = ({"model": "gradient_boosting"},)
PRESETS = {"smoke": Preset(epochs=1, trials=1, scheduler="none")}
SEARCH = Search("toy", "toy", "Toy.", Space(model="cnn"), PRESETS, "val_auc")


def test_former_names_are_taken() -> None:
    with pytest.warns(DeprecationWarning, match="second_objective"):
        costly = Search("toy", "toy", "Toy.", SEARCH.space, PRESETS, "val_auc", cost="flops")  # type: ignore[call-arg]
    assert costly == dataclasses.replace(SEARCH, second_objective="flops")
    with pytest.warns(DeprecationWarning, match="points_to_evaluate"):
        boosted = dataclasses.replace(costly, references=BOOSTED)  # type: ignore[call-arg]
    assert (boosted.points_to_evaluate, boosted.second_objective) == (BOOSTED, "flops")
    with pytest.warns(DeprecationWarning, match="second_objective"):
        assert boosted.cost == "flops"
    with pytest.warns(DeprecationWarning, match="points_to_evaluate"):
        assert boosted.references == BOOSTED


def test_a_search_is_still_a_frozen_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SEARCH.name = "other"  # type: ignore[misc]
    copied = pickle.loads(pickle.dumps(dataclasses.replace(SEARCH, points_to_evaluate=BOOSTED)))
    assert (copied.name, copied.points_to_evaluate) == ("toy", BOOSTED)
    with pytest.raises(TypeError, match="unstated"):
        Search("toy", "toy", "Toy.", SEARCH.space, PRESETS, unstated=1)  # type: ignore[call-arg]
