"""`hep-ray data`: convert, schemas, check."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.schema import EventSchema
from hep_ray.dataset.splits import SPLITS, SplitRule
from hep_ray.errors import InvalidConfig
from hep_ray.flags import AsJson, Overwrite, Plugins, Settings, Split, Stratify, python, typed

app = typer.Typer(no_args_is_help=True, help="Convert, simulate, check and show datasets.")


@app.command("convert")
def convert_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="PATH, in the order of the classes, or CLASS=PATH. A folder stands for the files in it; a glob is put "
            "in quotes: 'sig=runs/*/out.root'. An address (https://, s3://, root://, …) is fetched first.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Dataset folder to make; absent or empty.")],
    reader: Annotated[
        str | None, typer.Option(help="Format: delphes, hdf5, hvl, npz, parquet, png, root, text.")
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(help="Schema file (.toml), or the name of a ready-made one (`data schemas`)."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names, separated by commas: m8,m12. Of a dataset of hep_ray also classes as one: "
            "background=jet/photon,electron, or background=others,electron."
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Take only these fields, separated by commas. Default: every numeric one."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Field that holds the label: 0, 1, … in the order of --classes, their names, or one-hot. Without "
            "--classes its values, texts or whole numbers, are the classes."
        ),
    ] = None,
    label_values: Annotated[
        str | None,
        typer.Option(help="Values of the label in the order of --classes, where they are others: -1,1."),
    ] = None,
    weight: Annotated[
        str | None, typer.Option(help="Field that weights the events; no model sees it.")
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(
            help="Field of numbers that decides the split: events of one value, such as candidates of one collision or "
            "copies of one event, are in one split; no model sees it."
        ),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE|nan",
            help="What takes the place of NaN, null and empty cells; nan keeps them, for models to fill or take. "
            "Default: they are refused.",
        ),
    ] = None,
    select: Annotated[
        str | None, typer.Option(help="Keep the events that fulfil this expression over fields.")
    ] = None,
    split: Split = None,
    stratify: Stratify = False,
    train_where: Annotated[
        str | None,
        typer.Option(help="Expression over columns: events that fulfil it are train and val, others test."),
    ] = None,
    test_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CLASS=]PATH",
            help="File, folder or glob whose events are the test split, given as INPUT is; may be given several times. "
            "Other events are then train and val: --split 80/20/0.",
        ),
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Of equal events keep one.")
    ] = False,
    balance: Annotated[
        bool, typer.Option("--balance", help="Keep as many events of every class as the rarest has.")
    ] = False,
    settings: Settings = None,
    workers: Annotated[
        int, typer.Option(min=1, help="CPUs to use; more than 1 start Ray or join its cluster.")
    ] = 1,
    task: Annotated[str | None, typer.Option(help="Name of the task. Default: the classes.")] = None,
    signal: Annotated[str | None, typer.Option(help="The signal class. Default: the last one.")] = None,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
) -> None:
    """Turn files into a dataset: Parquet shards in three splits, with a manifest.

    Every event is given to train (60 %), val (15 %) or test (25 %; others with --split) by a hash of its id, or of its
    value of --split-by, once and for all.
    A search trains on train and ranks by val; test is kept for the final confirmation. A split that would have no event
    of some class is refused; events that are only predicted on take --split 100/0/0.

    Such as:

    hep-ray data convert m8.h5 m12.h5 --reader hvl --classes m8,m12 --out data/mine

    hep-ray data convert SUSY.csv.gz --schema uci_susy --out data/susy

    hep-ray data convert tau=taus.root jet=jets.root --reader root --split-by event_number --out data/tau_id

    hep-ray data convert electron=E.root pion=P.root --reader root --select "p > 1.5" --out data/pid

    hep-ray data convert sphaleron=sph.root black_hole=bh.root --schema delphes_images --out data/delphes

    hep-ray data convert data/mbh_sph --reader parquet --select "n_objects_70 >= 5 and st >= 7000" --out data/cut
    """
    from hep_ray.conversion.convert import convert
    from hep_ray.conversion.schema_file import LabelRule, SchemaFile, load_schema
    from hep_ray.plugins import import_named

    import_named(plugin or ())
    _refuse_empty(reader=reader, schema=schema, classes=classes, columns=columns, label=label, weight=weight)
    _refuse_empty(label_values=label_values, select=select, train_where=train_where, task=task, signal=signal)
    _refuse_empty(split=split, split_by=split_by, missing=missing)
    rules: str | SchemaFile | None = schema
    if label is not None or label_values is not None:
        if schema is None and reader is None:
            raise InvalidConfig("neither --reader nor --schema is given")
        base = load_schema(schema) if schema else SchemaFile(reader=str(reader))
        field, values = label or base.label.field, words(label_values)
        if field is None:
            raise InvalidConfig(
                f"--label-values '{label_values}' is given without --label, the field that has them"
            )
        told = {"from": "field", "field": field, "values": values or (() if label else base.label.values)}
        rules = base.model_copy(update={"label": LabelRule.model_validate(told)})
    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bars, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("converting", total=None)
        fetching = bar.add_task("fetching, MB", total=None, visible=False)

        def fetched(done: int, total: int) -> None:
            bar.update(fetching, completed=done // 10**6, total=total // 10**6 or None, visible=True)

        manifest = convert(
            inputs,
            reader,
            words(classes),
            out,
            schema=rules,
            rule=split_rule(split, train_where, stratified=stratify),
            test_files=test_file or (),
            every_class=True,
            overwrite=overwrite,
            workers=workers,
            progress=lambda done, total: bar.update(row, completed=done, total=total),
            fetched=fetched,
            task=task,
            signal=signal,
            columns=words(columns),
            weight=weight,
            split_by=split_by,
            missing=filling(missing),
            selection=select,
            options=parse_settings(settings or []),
            drop_duplicates=drop_duplicates,
            balance=balance,
        )
    print_dataset(manifest, out)


@app.command("schemas")
def schemas_command() -> None:
    """List the ready-made schema files that `data convert --schema` knows."""
    from hep_ray.conversion.schema_file import known_schemas, load_schema

    table = Table("schema", "reader", "classes", "columns")
    for name in known_schemas():
        rules = load_schema(name)
        shown = ", ".join(column.name for column in rules.columns) or "every numeric field"
        table.add_row(name, rules.reader, ", ".join(rules.classes) or "--classes", shown)
    Console().print(table)


def _refuse_empty(**given: str | None) -> None:
    """Refuse flags that were given without a word, as by a shell's variable that is not set."""
    for name, text in given.items():
        if text is not None and not text.strip(" ,"):
            raise InvalidConfig(f"--{name.replace('_', '-')} got '{text}', which says nothing: leave it out")


def split_rule(shares: str | None, train_where: str | None, *, stratified: bool = False) -> SplitRule:
    """Return the rule of the splits, of shares in per cent such as 64/16/20.

    Raises:
        InvalidConfig: they are not three numbers whose sum is 100, or the rule refuses them.
    """
    if shares is None:
        return SplitRule(train_where=train_where, stratified=stratified)
    try:
        train, val, test = (float(share) for share in shares.split("/"))
    except ValueError:
        raise InvalidConfig(
            f"--split '{shares}' is not three numbers: type per cents of train, val and test, such as 64/16/20"
        ) from None
    if abs(train + val + test - 100) > 1e-6:  # noqa: PLR2004
        raise InvalidConfig(
            f"--split {shares} adds up to {train + val + test:g}; per cents add up to 100: 64/16/20"
        )
    return SplitRule(
        train=train / 100, val=val / 100, test=test / 100, train_where=train_where, stratified=stratified
    )


def filling(text: str | None) -> float | Literal["nan"] | None:
    """Return what takes the place of missing values.

    Raises:
        InvalidConfig: it is neither a finite number nor `nan`.
    """
    if text is None or text.strip().lower() == "nan":
        return None if text is None else "nan"
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise InvalidConfig(
            f"--missing '{text}' is neither a number nor nan: type --missing 0, or --missing nan"
        )
    return value


def words(text: str | None) -> tuple[str, ...]:
    """Return words that commas separate."""
    return tuple(word.strip() for word in text.split(",")) if text else ()


@app.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Dataset folder, or its address.")],
    accept: Annotated[
        str | None,
        typer.Option(
            help="Columns that are meant, such as measurements, separated by commas: found, they are noted only."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what would spoil a training; exit 1 when something is found.

    Compares every shard with the manifest and reads every event: NaN, labels outside the classes, an empty
    split or class, columns that never change, duplicates, the same event in two splits, events of one collision in two
    splits, columns that separate the classes alone, and classes whose weights sum to 0 or less.
    """
    from hep_ray.dataset.check import check

    report = check(folder, words(accept))
    if as_json:
        typer.echo(report.to_json())
    else:
        console = Console()
        console.print(_table(Manifest.read(folder)))
        console.print(f"fingerprint {report.fingerprint}", soft_wrap=True)
        for note in report.notes:
            console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
        for problem in report.problems:
            console.print(f"problem: {problem}", soft_wrap=True, markup=False, highlight=False)
        if not report.problems:
            console.print("no problems found")
    if report.problems:
        raise typer.Exit(1)


def print_dataset(manifest: Manifest, folder: Path) -> None:
    """Say what a new dataset holds and what to type next."""
    console = Console()
    console.print(_table(manifest))
    kept = sum(manifest.split_counts().values())
    if (read := manifest.source.get("events_read", kept)) != kept:
        console.print(
            f"read {read} events, kept {kept}: the others were selected away, duplicates or surplus"
        )
    notes = manifest.source.get("notes", [])
    for note in notes if isinstance(notes, list) else []:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    left_out = manifest.source.get("left_out")
    for name, why in left_out.items() if isinstance(left_out, dict) else ():
        console.print(f"left out: {name} ({why})", soft_wrap=True, markup=False, highlight=False)
    console.print(f"fingerprint {manifest.fingerprint}", soft_wrap=True)
    console.print(f"next: {next_command(manifest.event_schema, folder)}", soft_wrap=True, highlight=False)


def _table(manifest: Manifest) -> Table:
    table = Table("class", *SPLITS, "events")
    total = manifest.class_counts()
    for name, events in total.items():
        table.add_row(name, *(str(manifest.class_counts(split)[name]) for split in SPLITS), str(events))
    table.add_section()
    table.add_row("all", *map(str, manifest.split_counts().values()), str(sum(total.values())))
    return table


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` words as a dict; the config that takes them decides what the values mean.

    Raises:
        InvalidConfig: a word has no `=`, or a key comes twice.
    """
    values: dict[str, Any] = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidConfig(f"'{word}' is no KEY=VALUE")
        if key in values:
            raise InvalidConfig(f"'{key}' is set twice")
        values[key] = value
    return values


SCRIPTS = (Path("searches"), Path(__file__).resolve().parents[2] / "searches")
"""Where search scripts lie: here, else in the checkout that hep_ray is installed from."""
CNN_PIXELS = 26
"""Smallest image that the network of `cnn_loss` takes."""
IMAGES, TABLES = "cnn_loss", "particle_id"
"""The search that takes any image, and the one that takes any scalar and vector columns."""


def next_command(schema: EventSchema, folder: Path) -> str:
    """Return the command that searches these events, or makes of them what a search reads; else one that writes one."""
    script = suggested_search(schema)
    meant = script is not None and _is_for(Path(script).read_text(encoding="utf-8"), schema)
    if not meant and (conversion := _conversion_for_a_search(schema, folder)) is not None:
        return conversion
    if script is not None:
        return typed(python(), script, data=folder)
    name = re.sub(r"\W+", "_", schema.task.lower()).strip("_")
    return typed("hep-ray", "new", f"{name if name[:1].isalpha() else 'my'}_search", data=folder)


def suggested_search(schema: EventSchema) -> str | None:
    """Return the script of a search that reads these events; None where there is none.

    One that is meant for the task comes first, if the columns that it names are there; then the one that takes any
    image, or any scalars and vectors.
    """
    folder = next((one for one in SCRIPTS if one.is_dir()), None)
    if folder is None:
        return None
    for script in sorted(folder.glob("*.py"), key=lambda path: (path.stem != IMAGES, path)):
        text = script.read_text(encoding="utf-8")
        if _is_for(text, schema):
            return str(script)
    image = any(column.name == "image" and min(column.shape[:2]) >= CNN_PIXELS for column in schema.inputs)
    table = all(len(column.shape) <= 1 for column in schema.inputs)
    script = folder / f"{IMAGES if image else TABLES}.py"
    return str(script) if (image or table) and script.is_file() else None


def _is_for(text: str, schema: EventSchema) -> bool:
    """Whether a script is meant for the task of these events, and the columns that it names are there."""
    meant = re.search(rf"""^\s*task=["']{re.escape(schema.task)}["']""", text, re.MULTILINE)
    return meant is not None and _columns_named(text) <= {column.name for column in schema.inputs}


def _conversion_for_a_search(schema: EventSchema, folder: Path) -> str | None:
    """Return the conversion by which a search's description makes its dataset of events of this task, if one does."""
    scripts = next((one for one in SCRIPTS if one.is_dir()), None)
    stated = re.compile(rf"hep-ray data convert data/{re.escape(schema.task)} ((?:[^\n\\]|\\\n)*)")
    for script in sorted(scripts.glob("*.py")) if scripts else ():
        text = script.read_text(encoding="utf-8")
        if found := stated.search(text):
            *rest, out = shlex.split(found[1].replace("\\\n", " "))
            return typed("hep-ray", "data", "convert", folder, *rest, folder.parent / Path(out).name)
    return None


def _columns_named(text: str) -> set[str]:
    """Return the columns that a script names as what its network reads."""
    found = re.findall(r"""^\s*(?:inputs|INPUTS)\s*=\s*["']([\w+]+)["'],?$""", text, re.MULTILINE)
    return {name for names in found for name in names.split("+")} - {"all"}
