"""What a model costs, against arithmetic."""

import itertools
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.utils.flop_counter import FlopCounterMode

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.loading.batches import Events
from hep_ray.models import MODELS, Model
from hep_ray.models.fitted import FittedModel
from hep_ray.training.config import TrialConfig
from hep_ray.training.cost import Meter, model_cost
from hep_ray.training.fitted import FittedLoop
from hep_ray.training.loop import TrialLoop

FEATURES, CLASSES = 18, 3
SCHEMA = EventSchema(
    task="toy",
    columns=(
        Column(name="x", shape=(FEATURES,)),
        Column(name="counts", shape=(2,), dtype="uint8"),
        Column(name="image", shape=(28, 30, 2)),
    ),
    classes=("a", "b", "c"),
)
TRAINED = {"loss": "cross_entropy", "optimizer": "sgd", "learning_rate": 0.1}


def built(**params: Any) -> Model:
    return TrialConfig.from_params({**TRAINED, **params}).build_model(SCHEMA)


def mlp(layers: int, width: int, **params: Any) -> dict[str, float]:
    model = built(model="mlp", inputs="x", hidden_layers=layers, hidden_features=width, **params)
    assert model.training
    cost = model_cost(model, SCHEMA)
    assert model.training
    return cost


@pytest.mark.parametrize(("layers", "width"), [(1, 16), (2, 64), (5, 300)])
def test_a_fully_connected_network_by_hand(layers: int, width: int) -> None:
    # 18 → width, width → width, width → 3: a product and a sum for each weight; a bias for each output.
    weights = FEATURES * width + (layers - 1) * width**2 + width * CLASSES
    assert mlp(layers, width) == {"parameters": weights + layers * width + CLASSES, "flops": 2 * weights}


def test_in_a_family_of_networks_the_cost_orders_as_the_parameters_do() -> None:
    widths = (16, 32, 64, 128, 256, 512)
    costs = {layers: [mlp(layers, width) for width in widths] for layers in (1, 2, 3, 4, 5)}
    for of_depth in costs.values():
        flops, parameters = ([cost[name] for cost in of_depth] for name in ("flops", "parameters"))
        assert spearmanr(parameters, flops).statistic == pytest.approx(1)
    # Of all 30, biases, which are parameters and no products, exchange two pairs.
    every = list(itertools.chain(*costs.values()))
    flops, parameters = ([cost[name] for cost in every] for name in ("flops", "parameters"))
    assert spearmanr(parameters, flops).statistic > 0.999


class Parts(Model):
    """Layers of which torch has one kernel for the whole."""

    columns = ("x",)

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.lstm = torch.nn.LSTM(6, 4, batch_first=True)
        self.attention = torch.nn.MultiheadAttention(6, 2, batch_first=True)
        self.encoder = torch.nn.TransformerEncoderLayer(6, 2, 5, batch_first=True)
        self.convolution = torch.nn.Conv2d(1, 7, (3, 1), padding=(1, 0), groups=1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Three steps of six features."""
        steps = values.view(-1, 3, 6)
        if self.kind == "lstm":
            return self.lstm(steps)[0]
        if self.kind == "attention":
            return self.attention(steps, steps, steps, need_weights=False)[0]
        if self.kind == "encoder":
            return self.encoder(steps)
        return self.convolution(steps[:, None])


# An LSTM of 4 units has 4 gates: of each of 3 steps 16 × (6 + 4) weights. Attention over 3 steps: query, key, value and
# output 6 × 6 each for every step, and scores and their sums 3 × 3 × 6 each; the encoder has 6 → 5 → 6 for every step
# beside it. The convolution has 3 weights for each of 7 outputs of each of 18 pixels.
@pytest.mark.parametrize(
    ("kind", "products"),
    [
        ("lstm", 3 * 16 * 10),
        ("attention", 3 * 4 * 36 + 2 * 9 * 6),
        ("encoder", 3 * 4 * 36 + 2 * 9 * 6 + 3 * 2 * 30),
        ("convolution", 18 * 7 * 3),
    ],
)
def test_what_torch_does_in_one_kernel_is_counted_whole(kind: str, products: int) -> None:
    assert model_cost(Parts(kind), SCHEMA)["flops"] == 2 * products


@pytest.mark.parametrize("name", ["cnn", "cnn_rnn", "conv_lstm", "vision_transformer", "resnet18"])
def test_every_kind_of_network_of_images_has_a_cost(name: str) -> None:
    cost = model_cost(built(model=name), SCHEMA)
    # Every weight of a network is used at least once, but for biases and norms.
    assert cost["flops"] > cost["parameters"] > 0


def events(seed: int) -> Events:
    random = np.random.default_rng(seed)
    labels = np.arange(90) % CLASSES
    x = random.normal(size=(90, FEATURES)) + labels[:, None]
    return Events.from_arrays(
        {"x": x.astype(np.float32), "counts": np.ones((90, 2), np.uint8)}, labels
    )  # fmt: skip


# Of 20 features and 3 classes: gradient boosting of 5 trees for each class makes 2 comparisons and a sum in each;
# the likelihood finds each feature's bin and sums a number for each class; logistic regression is one product.
@pytest.mark.parametrize(
    ("params", "flops"),
    [
        ({"model": "gradient_boosting", "trees": 5, "tree_depth": 2}, 5 * 3 * (2 + 1)),
        ({"model": "likelihood"}, 20 * (1 + 3)),
        ({"model": "logistic_regression"}, 2 * 20 * 3),
    ],
)
def test_a_fitted_model_has_a_cost_too(params: dict[str, Any], flops: int) -> None:
    schema = SCHEMA.model_copy(update={"columns": SCHEMA.columns[:2]})
    loop = FittedLoop(TrialConfig.from_params(params), schema, events(0), events(1), seed=0)
    metrics = loop.run_epoch()
    assert metrics["flops"] == flops
    assert metrics["parameters"] > 0
    if params["model"] == "logistic_regression":
        assert (
            metrics["parameters"] == 20 * 3 + 3 + 2 * 20
        )  # weights, biases, means and spreads of the features


@pytest.mark.parametrize("name", [one.name for one in map(MODELS.__getitem__, MODELS) if one.fitted])
def test_what_a_fitted_model_counts_itself_leaves_no_product_out(name: str) -> None:
    schema = SCHEMA.model_copy(update={"columns": SCHEMA.columns[:2]})
    model = TrialConfig.from_params({"model": name}).build_model(schema)
    assert isinstance(model, FittedModel)
    assert not model.multiplies
    model.fitted.fill_(True)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *schema.columns[0].shape), torch.zeros(1, *schema.columns[1].shape))
    products = counter.get_total_flops()
    assert products == (model.operations() if name == "logistic_regression" else 0)
    # A user's own model that says nothing of products has those counted that its forward pass makes.
    model.multiplies = True
    assert model_cost(model, schema)["flops"] == products + model.operations()


def test_the_cost_of_a_fitted_model_comes_without_the_compiler_of_torch() -> None:
    """Three seconds of imports in every process that fits."""
    code = (
        "import sys\n"
        "from tests.training.test_cost import test_a_fitted_model_has_a_cost_too as fit\n"
        "before = 'torch._dynamo' in sys.modules\n"
        "fit({'model': 'gradient_boosting', 'trees': 5, 'tree_depth': 2}, 5 * 3 * 3)\n"
        "print(before, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_trial_reports_the_cost_of_its_model_in_every_epoch() -> None:
    params = {**TRAINED, "model": "mlp", "inputs": "x+counts", "hidden_layers": 1, "hidden_features": 8}
    loop = TrialLoop(
        TrialConfig.from_params(params), SCHEMA, events(0), events(1), epochs=2, seed=0
    )  # fmt: skip
    for metrics in (loop.run_epoch(), loop.run_epoch()):
        assert metrics["flops"] == 2 * (20 * 8 + 8 * 3)
        assert metrics["parameters"] == 20 * 8 + 8 + 8 * 3 + 3


def test_processor_time_is_that_of_this_process_alone() -> None:
    with Meter(gpus=0.5) as idle:
        time.sleep(0.2)
    assert idle.cpu_seconds < 0.1
    assert idle.gpu_seconds == pytest.approx(0.5 * 0.2, rel=0.5, abs=0.05)
    with Meter(gpus=0) as busy:
        start = time.process_time()
        while time.process_time() - start < 0.1:
            pass
    assert 0.1 <= busy.cpu_seconds < 0.3
    assert busy.gpu_seconds == 0
