"""What the recorder makes of the losses that Tune tells of."""

from types import SimpleNamespace

import pytest

from hep_ray.search.definition import Preset, Search
from hep_ray.search.recorder import TRIES_AGAIN, Recorder
from hep_ray.search.space import Space
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import TrialStarted


@pytest.fixture
def recorder(tmp_path):
    search = Search(
        name="toy",
        task="toy",
        title="",
        space=Space(model="cnn"),
        presets={"smoke": Preset(epochs=3, trials=1)},
    )
    with Journal(tmp_path) as journal:
        recorder = Recorder(journal, search, 3, tmp_path / "trials")
        recorder.write(TrialStarted(time=0, trial_id="t0000", number=0, params={}, seed=0))
        yield recorder


def tune_trial(tmp_path, failures):
    """The trial that Tune hands to its callbacks, as far as the recorder looks at it."""
    told = tmp_path / "error.txt"
    told.write_text("Failure # 1 (occurred at 2026)\nThe actor died because its node has died. Node Id: ab")
    return SimpleNamespace(
        config={"trial_id": "t0000"},
        run_metadata=SimpleNamespace(num_failures=failures),
        error_file=str(told),
    )


def result(epoch):
    return {"metrics": {"epoch": epoch, "val_accuracy": 0.5, "epoch_seconds": 1}}


def test_a_trial_that_tune_gave_up_before_its_time_is_given_back_a_few_times_with_one_loss_each(
    recorder, tmp_path
):
    state = recorder.state.trials["t0000"]
    for times in range(1, TRIES_AGAIN + 1):
        trial = tune_trial(tmp_path, failures=1)
        recorder.on_trial_recover(1, [], trial)
        recorder.on_trial_error(1, [], tune_trial(tmp_path, failures=2))
        assert (state.finished, len(state.losses)) == (None, times)
        assert recorder.given_back()
        assert not recorder.given_back()
    recorder.on_trial_recover(1, [], trial)
    recorder.on_trial_error(1, [], tune_trial(tmp_path, failures=2))

    assert state.status == "failed"
    assert state.finished.cause.startswith("NodeLost: its node has died. Node Id: ab")
    assert not recorder.given_back()


def test_an_epoch_between_two_losses_makes_them_two_and_starts_the_count_anew(recorder, tmp_path):
    trial = tune_trial(tmp_path, failures=3)
    recorder.on_trial_recover(1, [], trial)
    recorder.on_trial_result(1, [], trial, result(1))
    assert trial.run_metadata.num_failures == 0

    recorder.on_trial_result(1, [], trial, result(1))  # told again after a resume
    recorder.on_trial_error(1, [], trial)
    state = recorder.state.trials["t0000"]
    assert [loss.epoch for loss in state.losses] == [0, 1]
    assert len(state.history) == 1


def test_the_loss_that_exhausts_the_tries_ends_the_trial(recorder, tmp_path):
    recorder.on_trial_error(1, [], tune_trial(tmp_path, failures=TRIES_AGAIN + 1))

    assert recorder.state.trials["t0000"].status == "failed"
