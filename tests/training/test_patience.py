"""Patience waits for what the search ranks by, and goes on after a restart; states older than its metric are read."""

from __future__ import annotations

from hep_ray.config import FORMERLY
from hep_ray.errors import CorruptCheckpoint
from hep_ray.training.checkpoint import check_own
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import VAL_LOSS, Goal, Patience
from tests.facts import raises

EPOCHS = [
    {"val_loss": 0.9, "val_auc": 0.6},
    {"val_loss": 0.8, "val_auc": 0.7},
    {"val_loss": 0.7, "val_auc": 0.7},  # equal is no better
    {"val_loss": 0.6, "val_auc": 0.65},
    {"val_loss": 0.6, "val_auc": 0.8},
]
PARAMS = {"model": "mlp", "loss": "cross_entropy", "optimizer": "sgd", "learning_rate": 0.1}


def ends(patience: Patience) -> list[bool]:
    seen = []
    for metrics in EPOCHS:
        patience.see(metrics)
        seen.append(patience.ended)
    return seen


def test_the_goal_decides_which_epoch_is_better() -> None:
    assert ends(Patience(2, Goal("val_auc", "max"))) == [False, False, False, True, False]
    assert ends(Patience(1, VAL_LOSS)) == [False, False, False, False, True]
    assert ends(Patience(1, Goal("val_auc", "min"))) == [False, True, True, True, True]
    assert ends(Patience(0, VAL_LOSS)) == [False] * 5


def test_a_restart_changes_nothing() -> None:
    whole, first, second = (Patience(2, Goal("val_auc", "max")) for _ in range(3))
    for metrics in EPOCHS[:3]:
        whole.see(metrics)
        first.see(metrics)
    second.load_state_dict(first.state_dict())
    for metrics in EPOCHS[3:]:
        whole.see(metrics)
        second.see(metrics)
        assert second.ended == whole.ended
    assert second.state_dict() == whole.state_dict() == {"best": 0.8, "stale_epochs": 0}


def test_a_state_of_the_validation_loss_alone_is_read() -> None:
    patience = Patience(2, VAL_LOSS)
    patience.load_state_dict({"lowest_loss": 0.5, "stale_epochs": 1})
    patience.see({"val_loss": 0.6})
    assert patience.ended


def test_a_checkpoint_older_than_a_parameter_is_of_what_was_done_before_it() -> None:
    old = {
        key: value for key, value in TrialConfig.from_params(PARAMS).resolved().items() if key not in FORMERLY
    }
    now = TrialConfig.completed(PARAMS, FORMERLY).resolved()
    assert {key: now[key] for key in FORMERLY} == FORMERLY
    check_own({"params": old}, now)
    with raises(CorruptCheckpoint, *FORMERLY):
        check_own({"params": old}, TrialConfig.from_params(PARAMS).resolved())
    stated = TrialConfig.completed({**PARAMS, "last_batch": "drop"}, FORMERLY)
    assert stated.training.last_batch == "drop"
    assert "last_batch" not in TrialConfig.completed({"model": "logistic_regression"}, FORMERLY).resolved()
