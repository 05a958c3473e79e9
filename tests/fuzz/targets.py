"""What reads the outside world, each as a function of bytes: it gives a result or a `HepRayError`, and nothing else."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hep_ray.confirm.confirmation import FILE_NAME as CONFIRMATION
from hep_ray.confirm.confirmation import FILE_NAME as USES
from hep_ray.confirm.confirmation import FOLDER, load_confirmation, uses
from hep_ray.conversion.readers import READERS
from hep_ray.conversion.schema_file import load_schema
from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.check import check
from hep_ray.dataset.dataset import MANIFEST, Dataset
from hep_ray.dataset.expressions import FUNCTIONS, Expression
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.promote.package import DESCRIPTION, WEIGHTS, Description, Package
from hep_ray.search.definition import Preset, Search
from hep_ray.search.find import find_search, load_search
from hep_ray.search.parameters import Choice, Integer, LogUniform, Uniform
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import FILE_NAME as JOURNAL
from hep_ray.tracking.journal import Journal, read_records
from hep_ray.tracking.records import EpochFinished, SearchStarted, TrialFinished, TrialStarted
from hep_ray.training.checkpoint import restore_model, save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import METADATA, read_scores

ROWS = 40
SCHEMA = EventSchema(task="toy", columns=(Column(name="x", shape=(3,)),), classes=("a", "b"))
PARAMS = {
    "model": "mlp", "hidden_layers": 1, "hidden_features": 4, "loss": "root_softmax", "root_index": 3,
    "optimizer": "adam", "learning_rate": 1e-2,
}  # fmt: skip
COLUMNS = {
    "x": np.linspace(-3, 3, ROWS, dtype=np.float32),
    "n": np.arange(ROWS),
    "flag": np.arange(ROWS) % 2 == 0,
    "vector": np.ones((ROWS, 2), np.float32),
}
Target = Callable[[Path, bytes], Any]
Seeds = Callable[[Path], Iterator[bytes]]


def values(random: np.random.Generator) -> np.ndarray:
    return random.normal(size=(ROWS, 3)).astype(np.float32)


def a_file(name: str) -> Callable[[Callable[[Path], Any]], Target]:
    """Make a target of a function of a path: the bytes are put there."""

    def wrap(read: Callable[[Path], Any]) -> Target:
        def target(folder: Path, content: bytes) -> Any:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            return read(folder / name)

        return target

    return wrap


def everything(reader: str, **options: Any) -> Callable[[Path], None]:
    """Read a whole file with a reader."""

    def read(path: Path) -> None:
        entry = READERS[reader]
        opened = entry.open(path, entry.options(**options))
        for part in opened.parts:
            for _ in opened.read(part, 0, None, part.fields.names):
                pass

    return read


def expression(_: Path, content: bytes) -> None:
    parsed = Expression(content.decode("utf-8", "replace"))
    parsed.evaluate(COLUMNS)
    parsed.mask(COLUMNS, ROWS)


def parameters(_: Path, content: bytes) -> None:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return
    if isinstance(values, dict):
        TrialConfig.from_params(values)


def space(_: Path, content: bytes) -> None:
    """A space as a script may state it: the bytes choose keys, kinds of parameters and their limits."""
    try:
        stated = json.loads(content)
    except (ValueError, RecursionError):
        return
    if not isinstance(stated, dict) or not all(isinstance(key, str) for key in stated):
        return
    kinds = {"choice": Choice, "uniform": Uniform, "log": LogUniform, "int": Integer}
    made = {}
    for key, value in stated.items():
        if isinstance(value, list) and value and isinstance(value[0], str) and value[0] in kinds:
            try:
                made[key] = kinds[value[0]](*value[1:4])
            except TypeError:
                return  # a call that Python itself refuses
        else:
            made[key] = value
    built = Space(**made)
    built.check()
    built.to_json()


def names(folder: Path, content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    for use in (
        lambda: load_search(text, folder),
        lambda: find_search(text, folder, folder),
        lambda: Search(
            name=text, task="toy", title="", space=Space(), presets={"smoke": Preset(epochs=1, trials=1)}
        ),
        lambda: Dataset.open(folder / text),
        lambda: load_schema(text),
        lambda: READERS[text],
    ):
        try:
            use()
        except Exception as fault:
            from hep_ray.errors import HepRayError

            if not isinstance(fault, HepRayError):
                raise


def dataset(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    check(folder)
    Dataset.open(folder)


@a_file(JOURNAL)
def journal(path: Path) -> None:
    read_records(path.parent)
    SearchState.read(path.parent)
    with Journal(path.parent) as opened:
        SearchState.fold(opened)


def model(folder: Path, content: bytes) -> None:
    """The first half of the bytes is `model.json`, after its length; the rest are the weights."""
    length = int.from_bytes(content[:4], "little")
    (folder / DESCRIPTION).write_bytes(content[4 : 4 + length])
    (folder / WEIGHTS).write_bytes(content[4 + length :])
    Package.read(folder).build()


def seeds_of_npz(folder: Path) -> Iterator[bytes]:
    arrays = {"x": values(np.random.default_rng(0)), "label": np.arange(ROWS) % 2}
    for write in (np.savez, np.savez_compressed):
        write(folder / "seed.npz", **arrays)
        yield (folder / "seed.npz").read_bytes()
    np.save(folder / "seed.npy", np.asfortranarray(arrays["x"]))
    yield (folder / "seed.npy").read_bytes()


def seeds_of_text(_: Path) -> Iterator[bytes]:
    yield b"x,y,label\n" + b"".join(b"%d,%f,%d\n" % (row, row / 3, row % 2) for row in range(ROWS))
    yield b"1 2 3\n4 5 6\n"


def seeds_of_hdf5(folder: Path) -> Iterator[bytes]:
    for options in ({}, {"compression": "gzip", "chunks": (10, 3)}):
        with h5py.File(folder / "seed.h5", "w") as file:
            file.create_dataset("events/x", data=values(np.random.default_rng(0)), **options)
            file.create_dataset("events/label", data=np.arange(ROWS) % 2)
        yield (folder / "seed.h5").read_bytes()


def seeds_of_hvl(folder: Path) -> Iterator[bytes]:
    with h5py.File(folder / "seed.h5", "w") as file:
        for event in range(4):
            file.create_dataset(f"{event}/data", data=np.ones((4, 4, 3), np.float32) * event)
    yield (folder / "seed.h5").read_bytes()


def seeds_of_root(folder: Path) -> Iterator[bytes]:
    import uproot

    with uproot.recreate(folder / "seed.root") as file:
        file.mktree("tree", {"x": ("f4", (3,)), "n": "i8"})
        file["tree"].extend({"x": values(np.random.default_rng(0)), "n": np.arange(ROWS)})
    yield (folder / "seed.root").read_bytes()


def seeds_of_parquet(folder: Path) -> Iterator[bytes]:
    table = pa.table({"x": np.arange(ROWS, dtype=np.float32), "label": np.arange(ROWS) % 2})
    pq.write_table(table, folder / "seed.parquet")
    yield (folder / "seed.parquet").read_bytes()


def seeds_of_checkpoints(folder: Path) -> Iterator[bytes]:
    config = TrialConfig.from_params(PARAMS)
    torch.manual_seed(0)
    state = {
        "model": config.build_model(SCHEMA).state_dict(),
        "params": config.resolved(),
        "metrics": {"epoch": 1},
    }
    save_checkpoint(folder / "best.pt", state)
    yield (folder / "best.pt").read_bytes()


def seeds_of_models(_: Path) -> Iterator[bytes]:
    config = TrialConfig.from_params(PARAMS)
    description = Description(event_schema=SCHEMA, params=config.resolved(), dataset_fingerprint="f" * 64)
    package = Package.create(description, config.build_model(SCHEMA).state_dict())
    text = package.description.dumps().encode()
    yield len(text).to_bytes(4, "little") + text + package.weights


def seeds_of_scores(folder: Path) -> Iterator[bytes]:
    facts = {METADATA: json.dumps({"epoch": 1, "loss": 0.5})}
    half = np.full(ROWS, 0.5, np.float32)
    table = pa.table({"event_id": [str(n) for n in range(ROWS)], "label": np.arange(ROWS) % 2, "score_a": half,
                      "score_b": half}, metadata=facts)  # fmt: skip
    pq.write_table(table, folder / "seed.parquet")
    yield (folder / "seed.parquet").read_bytes()


def seeds_of_journals(_: Path) -> Iterator[bytes]:
    records = [
        SearchStarted(
            time=1.0, search="toy", search_id="a" * 32, dataset_fingerprint="f" * 64, task="toy",
            metric="val_accuracy", mode="max", epochs=2, sampler="tpe", scheduler="none", seed=0,
            space={"learning_rate": "0.1 … 0.2"}, options={"data": "data"}, provenance={"git_commit": "c0ffee"},
        ),
        TrialStarted(time=2.0, trial_id="t0000", number=0, params={"learning_rate": 0.1}, seed=0),
        EpochFinished(time=3.0, trial_id="t0000", metrics={"epoch": 1, "val_accuracy": 0.5}),
        TrialFinished(time=4.0, trial_id="t0000", status="failed", cause="it broke"),
    ]  # fmt: skip
    yield b"".join(record.model_dump_json().encode() + b"\n" for record in records)
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        with Journal(Path(folder)) as written:
            for record in records:
                written.append(record)
        yield (Path(folder) / JOURNAL).read_bytes()


def seeds_of_manifests(folder: Path) -> Iterator[bytes]:
    labels = np.arange(200) % 2
    with ShardWriter(folder / "seed", SCHEMA) as writer:
        writer.write(
            {
                "event_id": [str(row) for row in range(200)],
                "label": labels,
                "x": np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32),
            }
        )
    yield (folder / "seed" / MANIFEST).read_bytes()


def seeds_of_confirmations(_: Path) -> Iterator[bytes]:
    estimate = {"mean": 0.5, "sd": 0.1, "low": 0.4, "high": 0.6}
    run = {
        "trial_id": "c0",
        "seed": 0,
        "epoch": 1,
        "metrics": {"test_accuracy": 0.5},
        "checkpoint": "trials/c0/best.pt",
        "scores": "trials/c0/test_scores.parquet",
    }
    one = {"params": {"model": "mlp"}, "runs": [run], "estimates": {"test_accuracy": estimate}}
    yield json.dumps(
        {
            "search": "toy", "search_id": "a", "task": "toy", "dataset_fingerprint": "f", "metric": "test_accuracy",
            "mode": "max", "level": 0.95, "correction": "holm", "seeds": [0], "epochs": 2,
            "contenders": [{"name": "t0000", "role": "finalist", **one},
                           {"name": "baseline", "role": "baseline", **one}],
            "comparisons": [{"contender": "t0000", "metric": "test_accuracy", "difference": estimate, "p_value": None,
                             "adjusted_p_value": None}],
            "provenance": {},
        }
    ).encode()  # fmt: skip


def texts(*words: str) -> Seeds:
    return lambda _: (word.encode() for word in words)


def ready_schemas(_: Path) -> Iterator[bytes]:
    from hep_ray.conversion import schema_file

    folder = Path(schema_file.__file__).parent / "schemas"
    yield from (path.read_bytes() for path in sorted(folder.glob("*.toml")))


@a_file(f"{FOLDER}/{CONFIRMATION}")
def confirmation(path: Path) -> None:
    found = load_confirmation(path.parent.parent)
    assert found.baseline.role == "baseline"
    assert found.finalists is not None


TARGETS: dict[str, tuple[Target, Seeds]] = {
    "expressions": (
        expression,
        texts("n >= 5 and x < 7.5", "abs(x) < 0.65", "x ** 2 + hypot(x, n)", "sum(vector) > 1", "not flag",
              *(f"{name}(x)" for name in FUNCTIONS), "'a' * 3", "2 ** 3 ** 4", "(9 ** 64) ** 64", "x == 'a'"),
    ),
    "schema files": (a_file("schema.toml")(lambda path: load_schema(str(path))), ready_schemas),
    "manifests": (dataset, seeds_of_manifests),
    "journals": (journal, seeds_of_journals),
    "spaces": (
        space,
        texts(
            json.dumps(PARAMS),
            json.dumps(PARAMS | {"learning_rate": ["log", 1e-4, 1e-1], "hidden_features": ["int", 1, 9]}),
            json.dumps(PARAMS | {"loss": ["choice", "hinge", "mse", "focal"], "batch_size": ["choice", 1, 2]}),
            json.dumps({"model": "cnn", "dropout": ["uniform", 0, 1]}),
        ),
    ),
    "parameters": (parameters, texts(json.dumps(PARAMS), json.dumps(PARAMS | {"model": "cnn", "mixup": 1e308}))),
    "checkpoints": (a_file("best.pt")(lambda path: restore_model(path, SCHEMA)), seeds_of_checkpoints),
    "models": (model, seeds_of_models),
    "scores": (a_file("scores.parquet")(lambda path: read_scores(path, SCHEMA)), seeds_of_scores),
    "confirmations": (confirmation, seeds_of_confirmations),
    "looks at the test split": (
        a_file(USES)(lambda path: uses(path.parent)),
        texts('{"time":1,"purpose":"confirm","dataset_fingerprint":"f","contenders":["a"],"confirmation_id":"b"}\n'),
    ),
    "names and paths": (names, texts("cnn_loss", "../cnn_loss", "cnn_loss.py", "hvl", "/etc", "~", "a\0b", "CON", ".")),
    "npz": (a_file("events.npz")(everything("npz")), seeds_of_npz),
    "text": (a_file("events.csv")(everything("text")), seeds_of_text),
    "hdf5": (a_file("events.h5")(everything("hdf5")), seeds_of_hdf5),
    "hvl": (a_file("events.h5")(everything("hvl")), seeds_of_hvl),
    "root": (a_file("events.root")(everything("root")), seeds_of_root),
    "parquet": (a_file("events.parquet")(everything("parquet")), seeds_of_parquet),
}  # fmt: skip
"""Name → what reads the bytes, and well-formed bytes to begin with, made in a folder."""


def stored_zip(members: dict[str, bytes]) -> bytes:
    """A zip file of uncompressed members, for tests."""
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
