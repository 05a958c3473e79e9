"""Components of a user's own, tried on a few events: what is wrong with them is told with their own line first."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import HepRayError, NonFiniteLoss
from hep_ray.loading.augmentations import AUGMENTATIONS
from hep_ray.loading.batches import Events
from hep_ray.loading.scalers import SCALERS
from hep_ray.losses import LOSSES
from hep_ray.metrics import METRICS, classification_metrics, larger_is_better
from hep_ray.models import MODELS
from hep_ray.optim import OPTIMIZERS, SCHEDULES
from hep_ray.plugins import Plugin, import_source
from hep_ray.registry import OWN_CODE
from hep_ray.search.own_checks import tried
from hep_ray.search.trial import _check_finite, cause_of
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import start_trial
from tests.facts import raises, tells

SCHEMA = EventSchema(
    task="toy",
    columns=(Column(name="features", shape=(3,)), Column(name="ht")),
    classes=("background", "signal"),
    signal="signal",
)
EVENTS = Events.from_arrays(
    {
        "features": np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32),
        "ht": np.arange(8, dtype=np.float32),
    },
    np.arange(8) % 2,
)
HEAD = """
import numpy as np
import torch
from torch import nn
from hep_ray.loading.augmentations import augmentation
from hep_ray.loading.scalers import Scaler, scaler
from hep_ray.losses import loss
from hep_ray.metrics import metric
from hep_ray.models import model
from hep_ray.optim import optimizer, schedule
"""
NETWORK = """
@model("own")
class Own(nn.Module):
    def __init__(self, schema, hidden: int = 4):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, len(schema.classes)))
    def forward(self, features):
        return self.layers(features)
"""
SMEAR = """
@augmentation("own", columns=("features",))
def smear(values, generator, width: float = 0.5):
    noise = torch.randn(values.shape, generator=generator, device=values.device)
    return values + width * noise
"""
PARAMS = {"model": "own", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.01}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What a test registered is gone after it."""
    registries = (MODELS, LOSSES, METRICS, OPTIMIZERS, SCHEDULES, SCALERS, AUGMENTATIONS)
    assert all(len(one) for one in registries)
    before = [dict(one._entries) for one in registries]
    yield
    for one, entries in zip(registries, before, strict=True):
        one._entries = entries


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Any]:
    """Write a file of components, import it as a trial's process does, and try it with these parameters."""

    def checked(source: str, **params: object) -> Any:
        path = tmp_path / "own_nets.py"
        path.write_text(HEAD + source)
        import_source("own_nets", path, HEAD + source)
        plugin = Plugin(module="own_nets", path=str(path), sha256="", registers=tuple(OWN_CODE["own_nets"]))
        plugin = plugin.model_copy(update={"sha256": _digest(path)})
        return tried([plugin], [{**PARAMS, **params}], SCHEMA, EVENTS)

    return checked


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def line_of(path: Path, text: str) -> str:
    lines = path.read_text().splitlines()
    return f"{path}, line {1 + next(number for number, line in enumerate(lines) if text in line)}"


def test_a_plain_module_a_function_for_a_loss_and_one_for_a_metric_are_enough(check) -> None:
    source = NETWORK + (
        '@loss("own")\n'
        "def own_loss(logits, labels, power: float = 2.0):\n"
        "    truth = nn.functional.one_hot(labels, logits.shape[1])\n"
        "    return (logits.softmax(dim=1) - truth).abs().pow(power).sum(dim=1)\n"
        '@metric("own", larger_is_better=False)\n'
        "def own_metric(scores, labels, weights) -> float:\n"
        "    return float(np.average((scores[:, 1] - labels) ** 2, weights=weights))\n"
    )
    (shapes,) = check(source, loss="own", power=1.5, hidden=5)
    assert ("layers.0.weight", (5, 3)) in shapes

    config = TrialConfig.from_params({**PARAMS, "loss": "own", "power": 1.5})
    loop = start_trial(config, SCHEMA, EVENTS, EVENTS, epochs=1, seed=0)
    metrics = loop.run_epoch()
    assert loop.model.columns == ("features",)
    assert 0 < metrics["val_own"] < 1
    assert larger_is_better("val_own") is False
    assert config.resolved()["hidden"] == 4


ENSEMBLE = """
class Own(nn.Module):
    def __init__(self, schema, members: int = 3):
        super().__init__()
        self.members, self.columns = members, ("features",)
        self.layers = nn.ModuleList([nn.Linear(3, len(schema.classes)) for _ in range(members)])
    def forward(self, features):
        logits = torch.stack([one(features) for one in self.layers], dim=1)
        return logits if self.training else mean_of_members(logits)
"""


def test_an_ensemble_of_ones_own_is_trained_member_by_member(check) -> None:
    stated = ENSEMBLE.replace("nn.Module):\n", "nn.Module):\n    members = 3\n", 1)
    head = "from hep_ray.models.members import mean_of_members\n"
    loss = '@loss("own")\ndef own(logits, labels):\n    return (logits[:, 0] - labels).abs()\n'
    check(head + '@model("own")' + stated + loss, loss="own", members=2)
    with raises(HepRayError, "'own'", "(8, 2, 2)", "(8, 3, 2)"):
        check(head + '@model("own")' + stated.replace("range(members)", "range(3)"), members=2)
    with raises(HepRayError, "'own'", "2 members", "members = 16"):
        check(head + '@model("own")' + ENSEMBLE, members=2)


def test_the_loss_of_a_function_is_what_the_function_says(check) -> None:
    import torch

    check(
        NETWORK
        + '@loss("own")\ndef own(logits, labels, scale: float = 3.0):\n    return scale * logits[:, 0]\n'
    )
    entry = LOSSES["own"]
    assert entry.build(entry.config(scale=2.0))(torch.tensor([[1.0, 5.0]]), torch.tensor([0])).tolist() == [
        2.0
    ]
    made = entry.build(entry.config())
    assert made.probabilities(torch.tensor([[0.0, 0.0]])).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("forward", "columns"),
    [
        ("def forward(self, ht): return self.layers(ht[:, None].expand(-1, 3))", ("ht",)),
        ("def forward(self, x, y): return self.layers(x)", ("features", "ht")),
        ("def forward(self, *x): return self.layers(x[0])", ("features", "ht")),
        ("def forward(self, ht, features): return self.layers(features)", ("ht", "features")),
    ],
)
def test_forward_says_which_columns_it_takes(check, forward: str, columns: tuple[str, ...]) -> None:
    check(NETWORK.replace("def forward(self, features):\n        return self.layers(features)", forward))
    assert MODELS["own"].build(MODELS["own"].config(), SCHEMA).columns == columns


FAULTS = {
    "a tensor of the wrong shape": (
        NETWORK.replace("return self.layers(features)", "return self.layers(features[:, :2])"),
        {},
        "self.layers(features[:, :2])",
        (
            "in forward: return self.layers(features[:, :2])",
            "RuntimeError",
            "model 'own' with features (8, 3)",
        ),
    ),
    "logits that are none": (
        NETWORK.replace("self.layers(features)", "self.layers(features).sum(dim=1)"),
        {},
        "def __init__",
        ("returned (8,)", "logits (8, 2)", "background, signal"),
    ),
    "too many tensors": (
        NETWORK.replace("def forward(self, features)", "def forward(self, a, b, c)"),
        {},
        None,
        ("forward of model 'own' takes 3 tensors (a, b, c)", "2 columns to read (features, ht)"),
    ),
    "no module": (
        '@model("own")\ndef own(schema, hidden: int = 3):\n    return 3\n',
        {},
        None,
        ("model 'own' is a int", "nn.Module"),
    ),
    "another network each time": (
        NETWORK.replace(
            "super().__init__()",
            "super().__init__(); self.w = nn.Parameter(torch.tensor(np.random.default_rng().random()))",
        ),
        {},
        "def __init__",
        ("another network each time", "w differs"),
    ),
    "an exception in init": (
        NETWORK.replace("super().__init__()", "super().__init__(); 1 / 0"),
        {},
        "1 / 0",
        ("in __init__: super().__init__(); 1 / 0: ZeroDivisionError", "building model 'own'"),
    ),
    "a mean": (
        NETWORK + '@loss("own")\ndef own(logits, labels):\n    return logits.mean()\n',
        {"loss": "own"},
        '@loss("own")',
        ("returned () for 8 events", "(8,)", "leave out the mean"),
    ),
    "a loss without a gradient": (
        NETWORK + '@loss("own")\ndef own(logits, labels):\n    return logits.detach()[:, 0]\n',
        {"loss": "own"},
        '@loss("own")',
        ("no gradient",),
    ),
    "a loss that is not a number": (
        NETWORK + '@loss("own")\ndef own(logits, labels):\n    return logits[:, 0] / 0\n',
        {"loss": "own"},
        '@loss("own")',
        ("loss 'own' is [inf, inf", "for 8 events that model 'own' has not trained on yet", "finite"),
    ),
    "a loss that raises": (
        NETWORK + '@loss("own")\ndef own(logits, labels):\n    return logits[:, labels.nope]\n',
        {"loss": "own"},
        "labels.nope",
        ("AttributeError", "computing loss 'own'"),
    ),
    "a metric that is an array": (
        NETWORK + '@metric("own", larger_is_better=True)\ndef own(scores): return scores[:, 0]\n',
        {},
        '@metric("own"',
        ("metric 'own' returned array(", "must return a number"),
    ),
    "a metric that is not a number": (
        NETWORK + '@metric("own", larger_is_better=True)\ndef own(scores): return float("nan")\n',
        {},
        '@metric("own"',
        ("metric 'own' is nan", "finite"),
    ),
    "a metric that raises": (
        NETWORK + '@metric("own", larger_is_better=True)\ndef own(scores): return scores.nope\n',
        {},
        "scores.nope",
        ("AttributeError", "computing metric 'own'"),
    ),
    "an optimizer that raises": (
        NETWORK
        + '@optimizer("own")\nclass Own2(torch.optim.SGD):\n'
        + "    def __init__(self, params, lr, weight_decay: float = 0.0):\n"
        + "        super().__init__(params, lr)\n"
        + "    def step(self, closure=None):\n        raise ValueError('no step')\n",
        {"optimizer": "own"},
        "no step",
        ("ValueError", "a step of optimizer 'own'"),
    ),
    "a schedule that raises": (
        NETWORK
        + '@schedule("own")\ndef own(optimizer, epochs, gamma: float = 0.5):\n    return epochs.nope\n',
        {"schedule": "own"},
        "epochs.nope",
        ("AttributeError", "building schedule 'own'"),
    ),
    "a scaler that raises": (
        NETWORK
        + '@scaler("own")\nclass Own2(Scaler):\n    def _fit(self, values):\n        values.nope\n'
        + "    def _scale(self, values):\n        return values\n",
        {"scalar_scaling": "own"},
        "values.nope",
        ("AttributeError", "fitting a scaler"),
    ),
    "an augmentation that raises": (
        NETWORK + SMEAR.replace("width * noise", "width.nope"),
        {"augmentation": "own"},
        "width.nope",
        ("in smear: return values + width.nope: AttributeError", "computing augmentation 'own'"),
    ),
    "an augmentation that draws from elsewhere": (
        NETWORK + SMEAR.replace("generator=generator, ", ""),
        {"augmentation": "own"},
        "@augmentation",
        ("augmentation 'own' gives another 'features' each time for one seed", "generator=generator"),
    ),
    "an augmentation that changes the events themselves": (
        NETWORK + SMEAR.replace("values + width * noise", "values.add_(noise)"),
        {"augmentation": "own"},
        "@augmentation",
        ("augmentation 'own' changes 'features' in place",),
    ),
    "an augmentation of another shape": (
        NETWORK + SMEAR.replace("values + width * noise", "values[:, :2]"),
        {"augmentation": "own"},
        "@augmentation",
        ("augmentation 'own' returned (8, 2) of torch.float32 on cpu for values (8, 3) of torch.float32",),
    ),
    "an augmentation of another type": (
        NETWORK + SMEAR.replace("values + width * noise", "(values + width * noise).double()"),
        {"augmentation": "own"},
        "@augmentation",
        (
            "augmentation 'own' returned (8, 3) of torch.float64 on cpu",
            "(8, 3) of torch.float32",
            ".to(values)",
        ),
    ),
    "an augmentation that returns a sparse tensor": (
        NETWORK + SMEAR.replace("values + width * noise", "values.to_sparse()"),
        {"augmentation": "own"},
        "@augmentation",
        ("augmentation 'own' returned (8, 3) of torch.float32 on cpu, torch.sparse_coo",),
    ),
    "an augmentation that is not finite": (
        NETWORK + SMEAR.replace("values + width * noise", "values / 0"),
        {"augmentation": "own"},
        "@augmentation",
        ("augmentation 'own' gives NaN or infinite values of 'features'",),
    ),
    "an augmentation of what no model reads": (
        NETWORK + SMEAR.replace('("features",)', '"tracks"'),
        {"augmentation": "own"},
        "@augmentation",
        ("augmentation 'own' changes tracks, and the model reads features",),
    ),
    "an augmentation of images, of which there are none": (
        NETWORK + SMEAR.replace(', columns=("features",)', ""),
        {"augmentation": "own"},
        "@augmentation",
        ("augmentation 'own' changes images, and the model reads none (features)",),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_named_error_with_the_user_s_own_line_first(check, tmp_path: Path, fault: str) -> None:
    source, params, text, words = FAULTS[fault]
    with pytest.raises(HepRayError) as caught:
        check(source, **params)
    told = str(caught.value)
    assert tells(told, *words), told
    if text is not None:
        assert told.startswith(line_of(tmp_path / "own_nets.py", text)), told


@pytest.mark.parametrize("when", ["imported", "built"])
def test_a_file_of_the_user_s_folder_is_missed_before_any_trial(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.txt").write_text("3")

    def attempt(name: str, file: str) -> Any:
        reads, source = f"open({file!r}).close()", HEAD + NETWORK
        source = (
            source + reads
            if when == "imported"
            else source.replace("super().__init__()", f"super().__init__(); {reads}")
        )
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        plugin = Plugin(
            module=name, path=str(path), sha256=_digest(path), registers=("model 'own'",), source=source
        )
        return tried([plugin], [PARAMS], SCHEMA, EVENTS)

    assert attempt("reads_files", str(tmp_path / "weights.txt"))
    MODELS._entries.pop("own")
    with raises(HepRayError, "weights.txt", "Path(__file__).with_name(…)"):
        attempt("reads_files_here", "weights.txt")
    assert Path.cwd() == tmp_path


def test_own_optimizer_schedule_and_scaler_are_taken_as_they_are(check) -> None:
    source = (
        NETWORK
        + '@optimizer("own")\nclass Own2(torch.optim.SGD):\n'
        + "    def __init__(self, params, lr, momentum: float = 0.5):\n"
        + "        super().__init__(params, lr, momentum=momentum)\n"
        + '@schedule("own")\ndef own(optimizer, epochs, gamma: float = 0.5):\n'
        + "    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)\n"
        + '@scaler("own")\nclass Own3(Scaler):\n    def _fit(self, values):\n        pass\n'
        + "    def _scale(self, values):\n        return values / 100\n"
    )
    params = {"optimizer": "own", "schedule": "own", "scalar_scaling": "own", "momentum": 0.25, "gamma": 0.1}
    check(source, **params)
    loop = start_trial(TrialConfig.from_params(PARAMS | params), SCHEMA, EVENTS, EVENTS, epochs=2, seed=0)
    rates = [loop.run_epoch()["learning_rate"] for _ in range(2)]
    assert rates == pytest.approx([0.01, 0.001])
    assert loop.optimizer.param_groups[0]["momentum"] == 0.25


def test_an_own_augmentation_changes_training_alone_and_a_resumed_trial_sees_the_same(check) -> None:
    check(NETWORK + SMEAR, augmentation="own", width=0.25)

    def trial(**params: object) -> Any:
        config = TrialConfig.from_params(PARAMS | {"batch_size": 4} | params)
        return start_trial(config, SCHEMA, EVENTS, EVENTS, epochs=3, seed=0)

    def numbers(metrics: dict[str, float]) -> dict[str, float]:
        return {key: value for key, value in metrics.items() if key != "epoch_seconds"}

    whole, plain = trial(augmentation="own", width=2.0), trial()
    first = whole.run_epoch()
    assert whole.config.resolved()["width"] == 2.0
    assert first["train_loss"] != plain.run_epoch()["train_loss"]
    state = copy.deepcopy(whole.state_dict())
    resumed = trial(augmentation="own", width=2.0)
    resumed.load_state_dict(state)
    assert [numbers(whole.run_epoch()) for _ in range(2)] == [numbers(resumed.run_epoch()) for _ in range(2)]
    # A width of nothing leaves the events as they are: validation and the rest of training are not touched.
    assert numbers(trial(augmentation="own", width=0.0).run_epoch()) == numbers(trial().run_epoch())


def test_a_failed_trial_tells_the_user_s_own_line_first(check, tmp_path: Path) -> None:
    broken = NETWORK.replace('"own"', '"broken"').replace(
        "return self.layers(features)", "return features.nope"
    )
    check(NETWORK + broken)
    with pytest.raises(AttributeError) as caught:
        start_trial(
            TrialConfig.from_params({**PARAMS, "model": "broken"}), SCHEMA, EVENTS, EVENTS, epochs=1, seed=0
        )
    told = cause_of(caught.value)
    assert told.startswith(line_of(tmp_path / "own_nets.py", "features.nope")), told
    assert tells(told.splitlines()[0], "in forward: return features.nope: AttributeError")
    assert "Traceback" in told


def test_a_metric_of_ones_own_is_among_those_of_every_evaluation(check) -> None:
    check(
        NETWORK
        + '@metric("own", larger_is_better=True)\ndef own(scores, labels, weights): return weights.sum()\n'
    )
    scores = np.array([[0.5, 0.5], [0.2, 0.8]])
    found = classification_metrics(scores, np.array([0, 1]), SCHEMA.classes, "signal")
    assert found["own"] == 2


def test_a_metric_that_is_no_number_later_is_told_with_its_line(check, tmp_path: Path) -> None:
    late = '@metric("own", larger_is_better=True)\ndef own(labels): return 0.5\n'
    check(NETWORK + late)
    for metrics, line in (
        ({"epoch": 4.0, "val_own": math.nan}, line_of(tmp_path / "own_nets.py", "@metric")),
        ({"epoch": 4.0, "val_loss": math.inf}, "every metric"),
    ):
        with pytest.raises(NonFiniteLoss, match="after epoch 4") as caught:
            _check_finite(metrics)
        assert str(caught.value).startswith(line)
    _check_finite({"epoch": 4.0, "val_own": 0.5})
