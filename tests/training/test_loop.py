import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import CorruptCheckpoint, InvalidConfig, NonFiniteLoss, UnknownName
from hep_ray.loading.batches import Events
from hep_ray.optim import OPTIMIZERS, SCHEDULES
from hep_ray.training.checkpoint import load_checkpoint, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import TrialLoop, start_trial
from tests.facts import raises

SIZE = 28
SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="image", shape=(SIZE, SIZE, 3), unit="GeV"),),
    classes=("background", "signal"),
)
PARAMS = {
    "model": "cnn",
    "loss": "root_softmax",
    "root_index": 3,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "batch_size": 16,
}


def toy(events, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(events) % 2
    images = random.random((events, SIZE, SIZE, 3), dtype=np.float32)
    images[labels == 1, : SIZE // 2] += 1
    return Events.from_arrays({"image": images}, labels)


TRAIN, VAL = toy(64), toy(32, seed=1)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def loop(seed=0, epochs=4, train=TRAIN, **params):
    return TrialLoop(
        TrialConfig.from_params({**PARAMS, **params}), SCHEMA, train, VAL, epochs=epochs, seed=seed
    )


def numbers(metrics):
    return {key: value for key, value in metrics.items() if key != "epoch_seconds"}


def test_it_learns_and_reports_every_metric():
    trial = loop()
    history = [trial.run_epoch() for _ in range(4)]

    assert [metrics["epoch"] for metrics in history] == [1, 2, 3, 4]
    assert history[-1]["val_accuracy"] > 0.95
    expected = {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc", "learning_rate"}
    expected |= {f"val_background_rejection_at_{efficiency}" for efficiency in (30, 50, 70, 90)}
    assert expected <= history[-1].keys()
    assert all(np.isfinite(value) for metrics in history for value in metrics.values())


def test_the_same_seed_gives_the_same_numbers_whatever_ran_before():
    first = numbers(loop().run_epoch())
    loop(seed=9, optimizer="sgd").run_epoch()
    torch.rand(7)

    assert numbers(loop().run_epoch()) == first
    assert numbers(loop(seed=1).run_epoch()) != first


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_resumed_trial_goes_on_bit_for_bit(tmp_path, optimizer, schedule):
    choice = {"optimizer": optimizer, "schedule": schedule} | ({"step_size": 1} if schedule == "step" else {})
    whole = loop(**choice)
    for _ in range(2):
        whole.run_epoch()
    save_checkpoint(tmp_path / "last.pt", whole.state_dict())
    rest = [numbers(whole.run_epoch()) for _ in range(2)]

    torch.rand(3)
    resumed = loop(**choice)
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))

    assert [numbers(resumed.run_epoch()) for _ in range(2)] == rest
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name])


def test_a_loss_that_leaves_the_finite_numbers_names_epoch_step_and_learning_rate():
    images = TRAIN.inputs["image"].copy()
    images[5] = np.inf
    broken = dataclasses.replace(TRAIN, inputs={"image": images})

    with raises(NonFiniteLoss, "nan", "step 4", "epoch 1", "learning_rate 0.001"):
        loop(train=broken).run_epoch()


def test_logits_too_large_to_rank_by_are_a_diverged_training():
    # A bounded loss stays finite: mse of logits ±3e38 is 0 or 1, but their difference, 6e38, is beyond float32.
    params = {key: value for key, value in PARAMS.items() if key != "root_index"} | {"loss": "mse"}
    one = TrialLoop(TrialConfig.from_params(params), SCHEMA, TRAIN, VAL, epochs=1, seed=0)
    last = [module for module in one.model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.copy_(torch.tensor([3e38, -3e38]))

    with raises(NonFiniteLoss, "log-odds", "epoch 1", "learning_rate 0.001"):
        one.run_epoch()


def test_a_checkpoint_of_other_parameters_is_refused():
    state = loop().state_dict()

    with raises(CorruptCheckpoint, "learning_rate"):
        loop(learning_rate=0.5).load_state_dict(state)


def test_a_checkpoint_older_than_a_parameter_has_its_default():
    state = loop().state_dict()
    older = {
        key: value for key, value in state["params"].items() if key not in ("train_events", "plane_scaling")
    }
    loop().load_state_dict({**state, "params": older})
    with raises(CorruptCheckpoint, "train_events"):
        loop(train_events=16).load_state_dict({**state, "params": older})


def test_it_learns_from_the_first_events_alone_where_it_is_told_to():
    few = loop(train_events=20).run_epoch()
    same = loop(train=TRAIN.head(20)).run_epoch()
    assert numbers(few) == numbers(same)
    assert numbers(loop(train_events=10**6).run_epoch()) == numbers(loop().run_epoch()) != numbers(few)


def test_the_training_auc_is_that_of_the_training_events():
    seen = loop().run_epoch()
    trial = loop(train_auc=True)
    metrics = trial.run_epoch()
    assert "train_auc" not in seen
    with torch.inference_mode():
        logits = trial.model.eval()(torch.from_numpy(np.asarray(TRAIN.inputs["image"])))
    expected = roc_auc_score(TRAIN.labels, (logits[:, 1] - logits[:, 0]).numpy())
    assert metrics["train_auc"] == pytest.approx(expected)
    assert numbers({key: value for key, value in metrics.items() if key != "train_auc"}) == numbers(seen)


def test_a_torn_checkpoint_is_refused_by_name(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})
    whole = path.read_bytes()
    assert load_checkpoint(path) == {"epoch": 1}

    for size in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:size])
        with raises(CorruptCheckpoint, tmp_path / "last.pt"):
            load_checkpoint(path)


def test_a_checkpoint_never_executes_what_it_holds(tmp_path):
    import pickle

    class Payload:
        def __reduce__(self):
            return (pytest.fail, ("code in a checkpoint was executed",))

    torch.save({"epoch": Payload()}, tmp_path / "last.pt", pickle_module=pickle)

    with pytest.raises(CorruptCheckpoint):
        load_checkpoint(tmp_path / "last.pt")


def test_a_failed_write_leaves_the_former_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})

    with raises(Exception, "local object"):  # which cannot be pickled, in the words of each Python
        save_checkpoint(path, {"epoch": lambda: None})

    assert load_checkpoint(path) == {"epoch": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("change", "error", "facts"),
    [
        ({"lr": 1}, InvalidConfig, ["'lr'", "learning_rate"]),
        ({"model": "cnnn"}, UnknownName, ["'cnnn'", "'cnn'"]),
        ({"learning_rate": -1}, InvalidConfig, ["learning_rate", -1]),
        ({"momentum": 0.9}, InvalidConfig, ["'momentum'"]),
        ({"root_index": 0}, InvalidConfig, ["root_index", 0]),
    ],
)
def test_parameters_that_nothing_reads_or_takes_are_refused(change, error, facts):
    with raises(error, *facts):
        TrialConfig.from_params({**PARAMS, **change})


def test_resolved_parameters_hold_every_default_and_resolve_to_themselves():
    resolved = TrialConfig.from_params(PARAMS).resolved()

    assert resolved["dropout"] == 0.5
    assert TrialConfig.from_params(resolved).resolved() == resolved


def test_a_single_event_that_batch_normalisation_cannot_take_is_named():
    # ResNet34 leaves one number per channel of an image of 28×28.
    with raises(InvalidConfig, 1, "batch_size", "last_batch", "'share'"):
        loop(train=toy(10), model="resnet34", batch_size=9, last_batch="keep").run_epoch()


@pytest.mark.parametrize("swa_start", [1.0, 0.5])
def test_watched_events_are_judged_by_the_kept_model_and_change_nothing(swa_start):
    config, other = TrialConfig.from_params({**PARAMS, "swa_start": swa_start}), toy(48, seed=7)

    def history(val, **more):
        trial = TrialLoop(config, SCHEMA, TRAIN, val, epochs=4, seed=0, **more)
        return [numbers(trial.run_epoch()) for _ in range(4)]

    three = zip(history(VAL, watched=other), history(other), history(VAL), strict=True)
    for watched, validated, plain in three:
        for name in ("loss", "accuracy", "auc"):
            assert watched.pop(f"watched_{name}") == validated[f"val_{name}"]
        assert watched == plain


def test_a_fitted_model_is_judged_by_watched_events_too():
    images = Column(name="x", shape=(3,))
    schema = EventSchema(task="toy", columns=(images,), classes=("background", "signal"))
    train, val, other = (
        Events.from_arrays(
            {"x": np.random.default_rng(seed).normal(size=(60, 3)).astype("f4")}, np.arange(60) % 2
        )
        for seed in range(3)
    )
    config = TrialConfig.from_params({"model": "logistic_regression"})
    found = start_trial(config, schema, train, val, epochs=1, seed=0, watched=other).run_epoch()
    there = start_trial(config, schema, train, other, epochs=1, seed=0).run_epoch()
    assert [found[f"watched_{name}"] for name in ("loss", "accuracy", "auc")] == [
        there[f"val_{name}"] for name in ("loss", "accuracy", "auc")
    ]
