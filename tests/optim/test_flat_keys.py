"""A trial's parameters are one flat dictionary, so a key means one thing whatever component reads it."""

from __future__ import annotations

from hep_ray.losses import LOSSES
from hep_ray.models import MODELS
from hep_ray.optim import OPTIMIZERS, SCHEDULES

TRAINER_KEYS = {"model", "loss", "optimizer", "schedule", "learning_rate", "batch_size", "epochs", "seed"}
KINDS = (MODELS, LOSSES, OPTIMIZERS, SCHEDULES)


def keys_by_kind() -> dict[str, set[str]]:
    return {kind.kind: {key for name in kind for key in kind[name].config.model_fields} for kind in KINDS}


def test_a_key_belongs_to_one_kind_of_component():
    owners: dict[str, list[str]] = {}
    for kind, keys in keys_by_kind().items():
        for key in keys:
            owners.setdefault(key, []).append(kind)
    assert {key: kinds for key, kinds in owners.items() if len(kinds) > 1} == {}


def test_no_component_takes_a_key_of_the_trainer():
    for kind, keys in keys_by_kind().items():
        assert not keys & TRAINER_KEYS, kind


def test_every_kind_has_the_components_of_the_studies():
    """At least these: adding one edits nothing here, losing one is seen."""
    needed = {
        "model": "bilinear_cnn cnn cnn_rnn conv3d conv_lstm convnext coordconv cvn deep_cnn densenet electron_id mlp "
        "object_cnn pretrained_resnet34 pretrained_resnet50 resnet18 resnet34 resnet50 resnet101 "
        "vision_transformer wide_resnet",
        "loss": "binary_cross_entropy cross_entropy focal hinge mse root_softmax",
        "optimizer": "adam adamw sgd rmsprop entropy_sgd replicated_sgd",
        "schedule": "none step cosine exponential cyclic",
    }
    for kind in KINDS:
        assert set(needed[kind.kind].split()) <= set(kind), kind.kind
