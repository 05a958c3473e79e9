"""A search over models that go wrong, each in another way, in a training step of its second epoch.

Run as a script, which brings its workers a model that hep_ray does not have.
"""

import os
import re
import signal
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from hep_ray.config import Config
from hep_ray.models import Model, SchemaLike, model
from hep_ray.search.definition import Preset, Search
from hep_ray.search.parameters import Choice
from hep_ray.search.space import Space

EPOCHS = 3
BATCH = 16
Behaviour = Literal[
    "sound",
    "dies_once",
    "raises",
    "raises_too",
    "memory",
    "allocator",
    "diverges",
    "exits",
    "segfaults",
    "reads",
    "spins",
    "loses_source",
    "greedy",
]


class FaultyConfig(Config):
    """Configuration of `faulty`.

    Attributes:
        behaviour: what happens.
        faulty_at: training step, counted over epochs, in which it happens.
    """

    behaviour: Behaviour = "sound"
    faulty_at: int = 6


@model("faulty", FaultyConfig)
class Faulty(Model):
    """A linear classifier with dropout."""

    columns = ("image",)

    def __init__(self, config: FaultyConfig, schema: SchemaLike) -> None:
        super().__init__()
        size = torch.Size(schema.columns[0].shape).numel()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(size, len(schema.classes)))
        self.config = config
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, image: Tensor) -> Tensor:
        logits = self.layers(image)
        if self.training:
            self.steps += 1
            if self.steps == self.config.faulty_at:
                print(f"step {int(self.steps)}, and now: {self.config.behaviour}", flush=True)
                return logits * go_wrong(self.config.behaviour)
        return logits


def go_wrong(behaviour: str) -> float:
    folder = Path(os.environ["FAULTY_FOLDER"])
    if behaviour == "dies_once" and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour in {"raises", "raises_too"}:
        raise KeyError("no such layer")
    if behaviour == "memory":
        bytearray(1 << 60)
    if behaviour == "allocator":
        torch.empty(1 << 50)
    if behaviour == "loses_source" and not (folder / "away").exists():
        shard = next((folder / "toy").glob("train-*.parquet"))
        shard.rename(folder / "away")
        os.mkfifo(shard)  # whoever reads the next epoch waits, as for a file system that hangs
    end_or_hang(behaviour, folder)
    return float("nan") if behaviour == "diverges" else 1.0


def end_or_hang(behaviour: str, folder: Path) -> None:
    if behaviour == "exits":
        os._exit(7)
    if behaviour == "segfaults":
        import ctypes

        ctypes.string_at(0)
    if behaviour == "greedy":  # until Ray's memory monitor ends it; never more than the test has made sure of
        held = []
        for _ in range(int(os.environ["GREEDY_GB"]) * 10):
            held.append(torch.ones(10**8 // 4))
            time.sleep(0.05)
        time.sleep(30)
    if behaviour == "reads":  # a data source that never answers
        (folder / "source").open("rb").read()
    if behaviour == "spins":  # backtracking holds the interpreter's lock for longer than anyone waits
        re.match(r"(a+)+$", "a" * 64 + "b")


def grid(*behaviours: str) -> Space:
    training = {"loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": BATCH}
    return Space(model="faulty", behaviour=Choice(*behaviours), **training)


search = Search(
    name="faulty",
    task="toy",
    title="Models that go wrong.",
    space=grid("sound"),
    presets={
        name: Preset(epochs=EPOCHS, sampler="grid", scheduler="none", space=grid(*behaviours))
        for name, behaviours in {
            "fail": ("diverges", "raises", "memory", "allocator", "sound"),
            "die": ("exits", "sound", "segfaults", "dies_once"),
            "source": ("loses_source",),
            "hang": ("reads", "spins", "sound"),
            "greedy": ("greedy", "sound"),
            "all": ("diverges", "raises", "raises_too", "memory"),
        }.items()
    },
)


if __name__ == "__main__":
    import ray

    from hep_ray import main

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    main(search)
