"""Hours and dollars of a hundred million events on many GPUs, from what this machine measures.

Converting, streaming and training are timed here on two sizes of a dataset of images (50×50×3 with 3 % of the bins
filled) and tell seconds and bytes per event. A third, four times as large as the first, is timed too and stands
beside what the first two predict. Then the same formulas give conversion, an epoch and a search on clusters that the
flags describe.

What no CPU can measure is told by flags, and each forecast repeats it: how many times the events of a core one GPU
trains on (`make bench-gpu` measures its events), the bandwidth of the storage and between nodes, the price.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from dataset import write_dataset
from ingest import LABELLED, write_hdf5
from ingest_to_batches import stream_rates

from hep_ray.cluster import connect
from hep_ray.conversion.convert import convert
from hep_ray.conversion.schema_file import parse_schema
from hep_ray.dataset.dataset import Dataset
from hep_ray.loading.stream import load_resident
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import start_trial

GIGA = 1e9
HOUR = 3600.0
FLOAT32 = 4
READ_MORE = 16
"""Reading is that much faster, so that many more events are read."""
MODEL = {"model": "cnn", "dropout": 0.0, "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3}
BATCH = 128


@dataclass(frozen=True)
class Rates:
    """What an event costs.

    Attributes:
        convert: processor seconds of one core for an event of an HDF5 file.
        read: seconds of one reading task for an event, from shards to batches.
        bytes: on disk, of an event in a dataset.
        train: seconds for an event of training and its share of validation, on one device.
        parameters: of the model, whose gradients devices exchange.
    """

    convert: float
    read: float
    bytes: float
    train: float
    parameters: int


@dataclass(frozen=True)
class Cluster:
    """What a trial runs on.

    Attributes:
        nodes: machines.
        cores: of a node.
        gpus: of a node.
        storage: bytes per second that a node reads or writes.
        network: bytes per second between two nodes.
        dollars: of a node per hour.
    """

    nodes: int
    cores: int
    gpus: int
    storage: float
    network: float
    dollars: float


def conversion_seconds(events: float, rates: Rates, cluster: Cluster) -> float:
    """Return seconds to convert: whichever takes longer of all cores' work and writing at the storage's bandwidth."""
    work = events * rates.convert / (cluster.nodes * cluster.cores)
    return max(work, events * rates.bytes / (cluster.nodes * cluster.storage))


def epoch_seconds(events: float, rates: Rates, cluster: Cluster, batch: int) -> dict[str, float]:
    """Return seconds of an epoch of one trial on all GPUs, part by part, and of the whole.

    Reading (bandwidth), decoding (half of the cores) and computing run at the same time, so the slowest counts. Each
    step also waits for a ring all-reduce, which moves 2 (G − 1)/G of the gradients through each GPU's link.

    Args:
        events: of an epoch.
        rates: of an event.
        cluster: of the trial.
        batch: events of a step on one GPU.
    """
    gpus = cluster.nodes * cluster.gpus
    exchanged = 2 * (gpus - 1) / gpus * FLOAT32 * rates.parameters
    parts = {
        "compute": events * rates.train / gpus,
        "exchange": events / (gpus * batch) * exchanged / cluster.network,
        "read": events * rates.bytes / (cluster.nodes * cluster.storage),
        "decode": events * rates.read / max(1.0, cluster.nodes * cluster.cores / 2),
    }
    return {**parts, "whole": max(parts["compute"] + parts["exchange"], parts["read"], parts["decode"])}


def main() -> None:
    """Print a line that checks the model on this machine, and one for each number of GPUs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=float, default=120e6, help="that are converted and trained on")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64], help="of the whole cluster")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--cores-per-node", type=int, default=96)
    parser.add_argument(
        "--gpu-over-core", type=float, default=100.0, help="events a GPU trains on over a core's"
    )
    parser.add_argument("--storage", type=float, default=2.0, help="GB/s that a node reads from storage")
    parser.add_argument("--network", type=float, default=12.5, help="GB/s between nodes")
    parser.add_argument("--dollars", type=float, default=30.0, help="of a node per hour")
    parser.add_argument("--batch-size", type=int, default=512, help="of one GPU")
    parser.add_argument("--full-trainings", type=float, default=20.0, help="that a search spends in all")
    parser.add_argument("--epochs", type=int, default=10, help="of a full training")
    parser.add_argument(
        "--measured", type=int, default=4096, help="events of the smallest dataset that is timed"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    connect()
    with tempfile.TemporaryDirectory() as name:
        rates, line = check(Path(name), options.measured)
    gpu = Rates(**{**asdict(rates), "train": rates.train / options.gpu_over_core})
    clusters = [
        Cluster(
            nodes=max(1, gpus // options.gpus_per_node),
            cores=options.cores_per_node,
            gpus=min(gpus, options.gpus_per_node),
            storage=options.storage * GIGA,
            network=options.network * GIGA,
            dollars=options.dollars,
        )
        for gpus in options.gpus
    ]
    what = "scale_model: seconds for four times the events, predicted from smaller sizes; the peer is what it took"
    print(json.dumps({"what": what, **line, "forecasts": [forecast(gpu, one, options) for one in clusters]}))


def forecast(rates: Rates, cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Return the line of one cluster."""
    convert_hours = conversion_seconds(options.events, rates, cluster) / HOUR
    epoch = epoch_seconds(options.events, rates, cluster, options.batch_size)
    search_hours = epoch["whole"] * options.epochs * options.full_trainings / HOUR
    parts = {key: value for key, value in epoch.items() if key != "whole"}
    return {
        "events": options.events,
        "gpus": cluster.nodes * cluster.gpus,
        "nodes": cluster.nodes,
        "terabytes": round(options.events * rates.bytes / 1e12, 3),
        "conversion_hours": round(convert_hours, 2),
        "epoch_hours": round(epoch["whole"] / HOUR, 3),
        "epoch_is_bound_by": max(parts, key=lambda key: parts[key]),
        "search_hours": round(search_hours, 1),
        "dollars": round((convert_hours + search_hours) * cluster.nodes * cluster.dollars),
        "assumed": {
            "gpu_events_per_s": round(1 / rates.train),
            "storage_gb_per_s": options.storage,
            "network_gb_per_s": options.network,
            "dollars_per_node_hour": options.dollars,
            "full_trainings": options.full_trainings,
            "epochs": options.epochs,
        },
    }


def check(folder: Path, events: int) -> tuple[Rates, dict[str, Any]]:
    """Return rates from two sizes, and what they predict of four times the smaller one beside what it takes."""
    parts: dict[str, tuple[Callable[[Path, int], float], int]] = {
        "convert": (converting, events),
        "read": (reading, READ_MORE * events),
        "train": (training, events),
    }
    slopes, predicted, measured = {}, {}, {}
    for name, (seconds, least) in parts.items():
        one, two, measured[name] = (
            seconds(folder / f"{name}{size}", size) for size in (least, 2 * least, 4 * least)
        )
        if two <= one:
            sys.exit(
                f"scale_model: '{name}' took {one:.2g} s for {least:,} events and {two:.2g} s for twice as many: too "
                "few to time; give --measured more"
            )
        slopes[name] = (two - one) / least
        predicted[name] = one + 3 * (two - one)
    dataset = Dataset.open(folder / f"train{events}", verify=False)
    rates = Rates(
        convert=slopes["convert"],
        read=slopes["read"],
        bytes=sum(path.stat().st_size for path in dataset.paths("train")) / dataset.rows("train"),
        train=slopes["train"],
        parameters=sum(value.numel() for value in config().build_model(dataset.schema).parameters()),
    )
    ours, peer = sum(predicted.values()), sum(measured.values())
    return rates, {
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "ratio": round(ours / peer, 2),
        "events": 4 * events,
        "over_measured": {name: round(predicted[name] / measured[name], 2) for name in parts},
        "events_per_s": {name: round(1 / slope) for name, slope in slopes.items()},
        "bytes_per_event": round(rates.bytes),
    }


def converting(folder: Path, events: int) -> float:
    """Return processor seconds from an HDF5 file to a dataset."""
    folder.mkdir()
    write_hdf5(folder / "events.h5", events)
    schema = parse_schema(LABELLED.format("hdf5"), "hdf5")
    used = time.process_time()
    convert([folder / "events.h5"], None, None, folder / "out", schema=schema, workers=1)
    return time.process_time() - used


def reading(folder: Path, events: int) -> float:
    """Return seconds of a streamed pass in batches, by one reading task that has read before."""
    dataset = Dataset.open(write_dataset(folder, events), verify=False)
    return dataset.rows("train") / stream_rates(dataset, budget=1.0)[1]


def training(folder: Path, events: int) -> float:
    """Return processor seconds of the second epoch of the thesis' CNN, with its validation."""
    dataset = Dataset.open(write_dataset(folder, events, val=events // 4), verify=False)
    data = load_resident(dataset)
    loop = start_trial(config(), dataset.schema, data.events("train"), data.events("val"), epochs=2, seed=0)
    loop.run_epoch()
    used = time.process_time()
    loop.run_epoch()
    return time.process_time() - used


def config() -> TrialConfig:
    """Return the configuration that is trained."""
    return TrialConfig.from_params(MODEL)


if __name__ == "__main__":
    main()
