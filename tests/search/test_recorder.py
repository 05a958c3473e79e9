"""What the recorder makes of the losses that Tune tells of."""

from types import SimpleNamespace

import pytest
import ray
import torch

from hep_ray.errors import CorruptCheckpoint, InvalidConfig, NonFiniteLoss, StorageError
from hep_ray.search.definition import Preset, Search
from hep_ray.search.recorder import TRIES_AGAIN, Recorder, TimeBudget
from hep_ray.search.space import Space
from hep_ray.search.state import LOG
from hep_ray.search.trial import ENDED, FAILURE, FAILURE_KIND, failure_of
from hep_ray.tracking.journal import Journal, read_records
from hep_ray.tracking.records import OF_PARAMETERS, TrialFinished, TrialStarted, decode


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
        recorder = Recorder(journal, search.metric, search.mode, 3, tmp_path / "trials")
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
    assert state.finished.failure == "lost"
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


@pytest.mark.parametrize(
    ("last", "status", "stopped"),
    [
        ({"epoch": 1}, "running", {"t0000"}),
        ({"epoch": 3}, "completed", set()),
        ({"epoch": 1, ENDED: True}, "completed", set()),
        ({"epoch": 0, FAILURE: "boom"}, "failed", set()),
    ],
)
def test_after_the_time_budget_a_trial_with_epochs_left_has_not_ended(
    recorder, tmp_path, last, status, stopped
):
    recorder.budget = TimeBudget(1e-9)
    trial = tune_trial(tmp_path, failures=0)
    for epoch in range(1, last["epoch"] + 1):
        recorder.on_trial_result(1, [], trial, result(epoch))
    trial.last_result = last
    recorder.on_trial_complete(1, [], trial)
    assert recorder.state.trials["t0000"].status == status
    assert recorder.budget.stopped == stopped


@pytest.mark.parametrize(
    ("told", "log", "kind"),
    [
        ("Task was killed due to the node running low on memory.", "", "out_of_memory"),
        ("The actor died because its node has died.", "", "lost"),
        ("Worker exit detail: End of file.", "", "lost"),
        ("", "Timeout (0:00:05)!\n", "timeout"),
    ],
)
def test_the_record_of_a_trial_that_lost_its_process_too_often_says_of_what_kind(
    recorder, tmp_path, told, log, kind
):
    trial = tune_trial(tmp_path, failures=TRIES_AGAIN + 1)
    (tmp_path / "error.txt").write_text(f"Failure # 1 (occurred at 2026)\n{told}")
    folder = tmp_path / "trials" / "t0000"
    folder.mkdir(parents=True)
    (folder / LOG).write_text(f"[hep_ray] begins\n{log}")
    recorder.on_trial_error(1, [], trial)

    assert recorder.state.trials["t0000"].finished.failure == kind
    (kept,) = (record for record in read_records(tmp_path) if isinstance(record, TrialFinished))
    assert kept.failure == kind


def test_the_record_of_a_trial_that_failed_says_of_what_kind(recorder, tmp_path):
    trial = tune_trial(tmp_path, failures=0)
    trial.last_result = failure_of(NonFiniteLoss("loss is nan"))
    recorder.on_trial_complete(1, [], trial)

    finished = recorder.state.trials["t0000"].finished
    assert (finished.status, finished.failure) == ("failed", "diverged")


def test_a_journal_of_old_has_no_kinds_of_failures():
    line = (
        '{"kind":"trial_finished","time":1.0,"trial_id":"t0000","status":"failed","cause":"NonFiniteLoss: x"}'
    )
    assert decode(line).failure is None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (NonFiniteLoss("loss is nan"), "diverged"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (ValueError("mat1 and mat2 cannot be multiplied"), "error"),
        (InvalidConfig("kernel 9 is larger than the image"), "error"),
        (OSError(116, "Stale file handle"), "lost"),
        (StorageError("full"), "lost"),
        (CorruptCheckpoint("cut short"), "lost"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:5"), "lost"),
        (torch.distributed.DistBackendError("NCCL error"), "lost"),
        (ray.exceptions.ObjectLostError("ab", None, ""), "lost"),
    ],
)
def test_what_a_trial_raises_is_its_parameters_doing_or_not(fault, kind):
    result = failure_of(fault)
    assert result[FAILURE_KIND] == kind
    assert (kind in OF_PARAMETERS) == (kind != "lost")


def test_memory_that_torch_cannot_have_is_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert failure_of(raised.value)[FAILURE_KIND] == "out_of_memory"
