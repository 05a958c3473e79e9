"""`hep-ray predict`: scores of many events by a promoted model."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hep_ray.console import result_console
from hep_ray.errors import InvalidConfig, StorageError
from hep_ray.flags import IN_STORAGE, STORAGE, ModelName, Plugins, Settings, Storage, TrustCode, python, typed

if TYPE_CHECKING:
    from hep_ray.predict.friend import Friend
    from hep_ray.predict.shift import ShiftSettings
    from hep_ray.promote.package import Package


SCORING = {
    *("schema", "reader", "select", "settings", "batch", "workers", "gpus_per_worker"),
    *("shift_test", "shift_level", "shift_class", "calibrated", "friend", "friend_name"),
}
"""Parameters that only say how events are scored."""


FOLDS = "folds.json"
"""File by which the folder of folds is known."""


class ShiftMethod(StrEnum):
    """Choices of `--shift-test`."""

    COLUMNS = "columns"
    CLASSIFIER = "classifier"
    OFF = "off"


def predict(
    context: typer.Context,
    model: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="A dataset folder, or files, folders and globs of one format: ROOT, … An address (https://, s3://, "
            "root://, …) is fetched first.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the scores; absent, empty, or that of the same prediction."),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            help="Schema file (.toml or a ready-made name) that makes the columns; its label is not read."
        ),
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(
            help="Format, where the ending does not tell: hdf5, hvl, npz, parquet, png, root, text."
        ),
    ] = None,
    select: Annotated[str | None, typer.Option(help="Score only events that fulfil this expression.")] = None,
    settings: Settings = None,
    batch: Annotated[int, typer.Option(min=1, help="Events per forward pass.")] = 512,
    workers: Annotated[
        int | None,
        typer.Option(help="Worker processes. Default: none for little work, else all that have room."),
    ] = None,
    gpus_per_worker: Annotated[
        float, typer.Option(help="GPUs of a worker; 0.5 lets two share one. Default: computes on CPU.")
    ] = 0,
    friend: Annotated[
        bool,
        typer.Option(
            "--friend",
            help="Write for each ROOT file a tree of its scores too, below --out: a friend of its tree, an entry for "
            "each of its entries.",
        ),
    ] = False,
    friend_name: Annotated[
        str | None,
        typer.Option(
            help="With --friend: name of these trees, with which their branches begin, NAME_score_CLASS; so that two "
            "friends of one tree do not clash. Default: scores, and branches without a prefix.",
            show_default=False,
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            help="Write the model as an ONNX file too, checked against torch to 1e-5; INPUT may be left out."
        ),
    ] = None,
    shift_test: Annotated[
        ShiftMethod | None,
        typer.Option(
            help="Compare the inputs with those of the training: each column; also all together by a classifier; "
            "or not. Default: columns, where the model holds reference inputs.",
            show_default=False,
        ),
    ] = None,
    shift_level: Annotated[
        float,
        typer.Option(help="Probability that the shift test warns of anything, where nothing is shifted."),
    ] = 0.05,
    shift_class: Annotated[
        str | None,
        typer.Option(help="Compare with reference events of this class alone, such as the background."),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrated",
            help="Make score_CLASS probabilities by the calibration that was stored with the model; log_odds_CLASS, to "
            "cut on, stay as they are.",
        ),
    ] = False,
    trust_code: TrustCode = False,
    plugin: Plugins = None,
    storage: Storage = STORAGE,
    tracking_uri: Annotated[str | None, IN_STORAGE] = None,
) -> None:
    """Write the scores of every event of INPUT into --out: Parquet files of event_id and score_CLASS.

    Events need no labels. Columns of other names, shapes, types or units than the model was trained on are refused.
    Killed in the middle, type the same command again: finished files are kept, nothing is done twice.

    Before, some inputs are compared with those of the training; what differs is told as a warning and recorded in the
    manifest of the scores (--shift-test).

    Such as:

    hep-ray predict models:/mbh_sph@champion data/new --out scores

    hep-ray predict models:/uci_susy@champion new.csv.gz --schema uci_susy --out scores

    hep-ray predict models:/pid@champion run1.root run2.root --gpus-per-worker 0.5 --out scores

    hep-ray predict models:/pid@champion run1.root run2.root --friend --out scores

    hep-ray predict models:/mbh_sph@champion --onnx mbh_sph.onnx

    hep-ray predict runs/susy/folds5 data/susy --out scores

    Raises:
        UnknownName: there is no such model, version or alias.
        ModelMismatch: the events are not such as the model was trained on.
        UntrustedCode: the model carries code of its own, and neither --trust-code nor --plugin is given.
        TrackingUnavailable: MLflow does not answer.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hep_ray.conversion.cli import parse_settings

    if bool(inputs) != (out is not None) or not (inputs or onnx):
        raise InvalidConfig(
            f"cannot predict {len(inputs or ())} inputs into --out {out} with --onnx {onnx}: name one INPUT or more "
            "and --out, or --onnx alone"
        )
    flags = {one.opts[0]: one.name or "" for one in context.command.params if one.name in SCORING}
    sources = {flag: context.get_parameter_source(name) for flag, name in flags.items()}
    typed_flags = [flag for flag, source in sources.items() if source and source.name == "COMMANDLINE"]
    if typed_flags and not inputs:
        raise InvalidConfig(f"--onnx without INPUT scores no events: leave out {', '.join(typed_flags)}")
    of_friends = _friend_name(friend_name, wanted=friend)
    parsed = parse_settings(settings or []) or None
    package, origin = _model(model, storage, tracking_uri, single=onnx is not None)
    from hep_ray.predict.inputs import Ways
    from hep_ray.predict.run import Crew
    from hep_ray.predict.run import predict as score
    from hep_ray.promote.fold_set import training_of

    crew, ways = Crew(workers, gpus_per_worker, batch), Ways(reader, schema, select, parsed)
    shift = _shift_settings(context, package, shift_test, shift_level, shift_class)
    package = with_own_code(package, plugin, trust=trust_code)
    say = partial(result_console().print, soft_wrap=True, highlight=False, markup=False)
    if onnx is not None:
        from hep_ray.predict.onnx_export import export_onnx, rounding

        classifier = package.build()
        difference = export_onnx(classifier, onnx)
        say(f"{onnx} holds {origin}; ONNX Runtime and torch differ by {difference:.1e} at most")
        if classifier.half:
            say(
                "it computes in float32; the model was trained and confirmed in bfloat16, whose scores differ by up to "
                f"{rounding(classifier):.1e}"
            )
    if out is None or not inputs:
        return
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bars, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("scoring, pieces", total=None)
        fetching = bar.add_task("fetching, MB", total=None, visible=False)
        progress = lambda done, total: bar.update(row, completed=done, total=total)  # noqa: E731
        fetched = lambda done, total: bar.update(  # noqa: E731
            fetching, completed=done // 10**6, total=total // 10**6 or None, visible=True
        )
        done = score(
            dataclasses.replace(package, calibrated=calibrated),
            inputs,
            out,
            ways=ways,
            crew=crew,
            origin=origin,
            progress=progress,
            shift=shift,
            friend=of_friends,
            fetched=fetched,
            training=training_of(Path(model), package.description) if package.of_folds else None,
        )
    kept = f", {done.reused} of them there before" if done.reused else ""
    say(f"{done.events} events scored by {origin} into {done.files} files{kept}")
    for note in (*done.notes, *_folds(package, done.out, done.events)):
        say(f"note: {note}")
    for line in done.shift.lines() if done.shift else ():
        say(line)
    for line in _friends(done.friends, done.out):
        say(line)
    if done.units != "checked":
        say(f"units: {done.units}")
    code = f"import pandas; print(pandas.read_parquet({str(done.out)!r}).describe())"
    say(f"next: {typed(python(), '-c', code)}")


def _friend_name(name: str | None, *, wanted: bool) -> str | None:
    if name is not None and not wanted:
        raise InvalidConfig(f"--friend-name {name} names friend trees, and none is asked for: add --friend")
    if name is not None or not wanted:
        return name
    from hep_ray.predict.friend import TREE

    return TREE


def _friends(friends: Sequence[Friend], out: Path) -> Iterator[str]:
    """Say which friend trees there are, how ROOT is told of one, and what is not as one may expect."""
    if not friends:
        return
    first = friends[0]
    folder = out / Path(*Path(first.file).parts[:2])
    yield (
        f"{len(friends)} friend tree{'s' * (len(friends) > 1)} in {folder}; in ROOT, of {first.of}: "
        f'tree->AddFriend("{first.tree}", "{out / first.file}")'
    )
    others = [
        f"{branch} of {column}" for column, branch in first.branches.items() if not branch.endswith(column)
    ]
    if others:
        yield f"branches that are not called as their class, so that ROOT can use them: {', '.join(others)}"
    if lost := sum(one.events - one.scored for one in friends):
        yield f"{lost} entries of the trees are not selected: their scores are NaN"


def _folds(package: Package, out: Path, events: int) -> Iterator[str]:
    """Say of the models of folds how many events were scored by one of them, and how many by all."""
    from hep_ray.predict.output import scored_by_one

    if package.of_folds:
        own, models = scored_by_one(out), package.description.origin["folds"]
        yield (
            f"{own} events are, by their ids, of the folds, each scored by the model that never saw it; "
            f"{events - own} by the mean of all {models}"
        )


def _shift_settings(
    context: typer.Context, package: Package, method: ShiftMethod | None, level: float, of_class: str | None
) -> ShiftSettings | None:
    """Settings of the shift test; None where there is none, since it is off or an older model has no reference."""
    from hep_ray.predict.shift import ShiftSettings

    source = context.get_parameter_source("shift_level")
    further = of_class is not None or (source is not None and source.name == "COMMANDLINE")
    if method is ShiftMethod.OFF:
        if further:
            raise InvalidConfig("--shift-test off tests nothing: leave out --shift-level and --shift-class")
        return None
    if method is None and not further and not package.reference:
        return None
    return ShiftSettings("classifier" if method is ShiftMethod.CLASSIFIER else "columns", level, of_class)


def _model(model: str, storage: Path, tracking_uri: str | None, *, single: bool) -> tuple[Package, str]:
    """Return a model as `find_model` does, or the models of folds by their folder.

    Raises:
        InvalidConfig: it is several, where a single one is needed.
    """
    if (Path(model) / FOLDS).is_file():
        from hep_ray.promote.fold_set import read_folds

        package, origin = read_folds(model), str(Path(model).absolute())
    else:
        package, origin = find_model(model, storage, tracking_uri)
    if single and package.members:
        raise InvalidConfig(f"--onnx holds one model, and {model} is {package.words}: leave --onnx out")
    return package, origin


def find_model(model: str, storage: Path, tracking_uri: str | None) -> tuple[Package, str]:
    """Return a model by its registry URI or its folder, and a name that will always mean this one.

    Raises:
        UnknownName: there is no such model, version or alias.
        UnreadableInput: it is not the folder of a model.
        StorageError: the storage holds no registry.
    """
    from hep_ray.promote.package import Package
    from hep_ray.tracking.client import default_uri

    if not model.startswith("models:/"):
        return Package.read(model), str(Path(model).absolute())
    if tracking_uri is None and not (storage / "mlflow.db").exists():
        raise StorageError(
            f"a registered model is looked up in the MLflow database of a storage; {storage} has none: name its "
            "--storage or a --tracking-uri"
        )
    from hep_ray.tracking.registry import ModelRegistry

    registry = ModelRegistry(tracking_uri or default_uri(storage))
    version = registry.find(model)
    with tempfile.TemporaryDirectory(prefix="hep_ray-predict-") as scratch:
        return Package.read(registry.download(version, Path(scratch))), version.uri


def with_own_code(package: Package, plugin: Sequence[str] | None, *, trust: bool) -> Package:
    """Import plug-ins, and return a model that may run code of its own where it is trusted, or is one of these.

    Raises:
        PluginFailed: one cannot be imported.
    """
    from hep_ray.plugins import import_named, vouched

    import_named(plugin or ())
    return dataclasses.replace(package, trust_code=trust or vouched(package.description.plugins))
