"""Runs the tables of the five studies at laptop size, and writes their part of docs/results.md.

    python docs/scripts/studies.py [--smoke] [--data FOLDER] [--out FOLDER] [NAME …]    (make studies, studies-smoke)
    python docs/scripts/studies.py --so-far [--out FOLDER] [NAME …]
    python docs/scripts/studies.py --take FILE … --write

The first simulates or converts what it lacks, runs every table's search (or goes on with it) in a process of its own,
and prints one JSON line per row and metric, which it also writes to OUT/lines.jsonl. `--smoke` does the same with few
events and one epoch (three where weights are averaged) into folders of its own. The second prints the lines of what has
run until now, also while it runs, and runs nothing. The third takes the lines of files, such as OUT/lines.jsonl, into
docs/studies.jsonl, where they take the place of those of their tables, and writes docs/results.md from it: nothing
there is written by hand, and a test compares the two. Either flag goes without the other.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from scipy.stats import ttest_ind

from hep_ray.cluster import connect
from hep_ray.metrics.inference import holm, paired_t
from hep_ray.report.study import cells
from hep_ray.search.definition import Search
from hep_ray.search.draws import total_trials
from hep_ray.search.find import load_search
from hep_ray.search.published import StudyTable
from hep_ray.search.state import SearchState, TrialState
from hep_ray.training.config import TrialConfig

ROOT = Path(__file__).parents[2]
LINES = ROOT / "docs/studies.jsonl"
RESULTS = ROOT / "docs/results.md"
BEGIN, END = "<!-- studies: begin, written by docs/scripts/studies.py -->", "<!-- studies: end -->"
REAL = Path(os.environ.get("HEP_RAY_TEST_DATA", ROOT.parent / "shared/data"))
METRICS = {"auc": "AUC", "accuracy": "accuracy", "loss": "loss"}
"""Metric of a line → how published numbers name it."""


@dataclass(frozen=True)
class Dataset:
    """How a dataset is made.

    Attributes:
        events: to simulate, full and in a smoke run; none where it is converted.
        words: of `hep-ray data convert`, where it is; `{NAME}` is the folder of another dataset, `{real}` that of the
            real events, without which the studies that need it are left out.
        task: that is simulated, where the dataset has another name; `split` are its shares.
    """

    events: tuple[int, int] = (0, 0)
    words: tuple[str, ...] = ()
    task: str = ""
    split: str = ""


HALF = ("--reader", "parquet", "--split", "50/50/0")  # rejections need background to validate with
BINARY = ("{electron_id}", *HALF, "--classes", "background=others,electron")
HALVES = {"electron_central": "abs(eta) < 1.15", "electron_forward": "abs(eta) >= 1.15"}
CMS = ("{real}/cms_jet_images/jet_images.h5", "--schema", "cms_jet_images")
UCI = (
    *("{real}/susy_uci/X_train_5000.txt", "--schema", "uci_susy_text", "--task", "susy"),
    *("--split", "64/16/20"),
)
DATASETS = {
    "electron_id": Dataset(events=(5000, 1200)),
    "electron_id_binary": Dataset(words=(*BINARY, "--task", "electron_id_binary")),
    **{
        name: Dataset(words=("{electron_id_binary}", *HALF, "--task", name, "--select", half))
        for name, half in HALVES.items()
    },
    "susy": Dataset(events=(20000, 120)),
    "susy_uci": Dataset(words=UCI),
    "jet_images": Dataset(events=(2000, 120)),
    "cms_jet_images": Dataset(words=CMS),
    "cms_jet_images_balanced": Dataset(words=(*CMS, "--balance")),
    "atlas_objects": Dataset(events=(1600, 200)),
    "mbh_sph_thesis": Dataset(events=(1200, 120), task="mbh_sph", split="75/25/0"),
}


@dataclass(frozen=True)
class Table:
    """A table of a study.

    Attributes:
        study: whose it is.
        title: of the table.
        search: script that fills it.
        preset: of the script.
        data: name in `DATASETS`.
        place: of the table among those of the search.
        metrics: of the lines, by their names on the validation split.
        losses: whether losses are compared: after each of the table's epochs, and with cross-entropy by a test.
        flags: of the script, beside preset and data.
        watch: name in `DATASETS` of what it watches per epoch.
        differs: what differs beside the deviations of the preset.
        least_epochs: of a smoke run.
    """

    study: str
    title: str
    search: str
    preset: str
    data: str
    place: int = 0
    metrics: tuple[str, ...] = ("val_accuracy", "val_auc")
    losses: bool = False
    flags: tuple[str, ...] = ()
    watch: str = ""
    differs: tuple[str, ...] = ()
    least_epochs: int = 1

    @property
    def name(self) -> str:
        """Of its storage, and on the command line."""
        return f"{self.search}-{self.preset}-{self.data}"


OBJECTS = tuple(f"val_accuracy_{name}" for name in ("electron", "jet", "muon", "tau"))
LIMIT = "a factor without an error is a lower limit: the network leaves no background candidate there"
UNEVEN = (
    "the published accuracy of B-CNN is of an unbalanced test set, whose background is 0.86; here classes are equal",
)
TOP = ("top quarks against QCD, of CMS' simulation: another task, so no published number stands beside",)
EASY = (
    "the background is easier than that of ATLAS: 98 % of it are single charged hadrons of light jets",
    "of 1,600 background candidates few are left at any working point: rejections are rough",
    "half of the candidates are validated with, to have as many as that",
)
CLOSE = ("val_auc", "val_accuracy", "val_loss")
TABLES = (
    Table(
        "electrons",
        "best model, figure 3.2",
        "electron_id",
        "table",
        "electron_id_binary",
        differs=EASY,
    ),
    Table(
        "electrons",
        "scaling law, section 3.4.2",
        "electron_id",
        "table_scaling_law",
        "electron_id_binary",
        place=1,
        differs=EASY[::2],
    ),
    Table(
        "electrons",
        "table 3.2: parts of a candidate",
        "electron_parts",
        "table",
        "electron_id_binary",
        differs=EASY[::2],
    ),
    *(
        Table(
            "electrons",
            f"flat minima, learnt at {words} |η|",
            "flat_minima",
            "table",
            own,
            metrics=("val_accuracy", "watched_accuracy", "val_auc", "watched_auc"),
            watch=other,
            least_epochs=3,  # SWA averages two of them
            differs=(
                "watched: the validation events of the other half, at the epoch that is best in its own",
            ),
        )
        for words, own, other in (
            ("small", "electron_central", "electron_forward"),
            ("large", "electron_forward", "electron_central"),
        )
    ),
    Table("jets", "CVN, simulated", "jet_images", "table_cvn", "jet_images", metrics=CLOSE),
    Table("jets", "B-CNN, simulated", "jet_images", "table", "jet_images", metrics=CLOSE, differs=UNEVEN),
    Table(
        "jets",
        "CVN, CMS jets as they are",
        "jet_images",
        "table_cvn",
        "cms_jet_images",
        metrics=CLOSE,
        differs=TOP,
    ),
    Table(
        "jets",
        "CVN, CMS jets balanced",
        "jet_images",
        "table_cvn",
        "cms_jet_images_balanced",
        metrics=CLOSE,
        differs=TOP,
    ),
    Table(
        "jets",
        "B-CNN, CMS jets as they are",
        "jet_images",
        "table",
        "cms_jet_images",
        metrics=CLOSE,
        differs=TOP,
    ),
    Table(
        "jets",
        "B-CNN, CMS jets balanced",
        "jet_images",
        "table",
        "cms_jet_images_balanced",
        metrics=CLOSE,
        differs=TOP,
    ),
    Table("susy", "baseline and final network, 8 features and 18", "susy", "table", "susy"),
    Table("susy", "the same on events of UCI SUSY", "susy", "table_uci", "susy_uci"),
    Table("susy", "regularisation of 16-16", "susy", "table_regularisation", "susy", place=1),
    Table("objects", "optimizers", "atlas_objects", "table", "atlas_objects"),
    Table(
        "objects", "classes, by network", "atlas_objects", "table", "atlas_objects", place=1, metrics=OBJECTS
    ),
    *(
        Table(
            "black_holes",
            title,
            search,
            "thesis",
            "mbh_sph_thesis",
            metrics=("val_accuracy",),
            losses=True,
            flags=("--precision", "auto"),
        )
        for title, search in (
            ("table 6.1: CNN, by loss", "cnn_loss"),
            ("table 6.2: ResNet34, by loss", "resnet_loss"),
        )
    ),
)
"""In the order in which they run; those of study 4.1 last, which take hours."""


def lines(table: Table, search: Search, state: SearchState) -> Iterator[dict[str, Any]]:
    """Yield a line for each row and metric of a table that trials filled."""
    started, study = state.started, search.tables[table.place]
    assert started is not None
    trials = list(state.trials.values())
    points = study.published_gains.values()
    metrics = (*table.metrics, *(f"val_background_rejection_at_{point}" for point, _ in points))
    asked = StudyTable(study.title, study.rows, metrics)
    of_row: dict[str, list[TrialState]] = {}
    for trial in trials:
        if trial.status == "completed":
            of_row.setdefault(study.row(trial.started.params), []).append(trial)
    protocol = search.presets[table.preset].published
    if table.losses:
        of_run = how_much(state, len(study.published) * search.presets[table.preset].seeds)
        yield from of_losses(table, study, trials, protocol, state, of_run)
        return
    found = cells(asked, trials, started.metric, started.mode)
    finite: dict[str, dict[str, float]] = {}
    for row, results in found.items():
        if not row or row not in of_row:  # what has none of the table's parameters, such as a fitted model
            continue
        example = of_row[row][0]
        each = [trial.best(started.metric, started.mode) or {} for trial in of_row[row]]
        best = each[0]
        finite[study.name_of(row)] = {
            metric: statistics.fmean(float(one.get(f"{metric}_error", 0.0)) for one in each)
            for metric in metrics
        }
        for metric, cell in zip(metrics, results.values(), strict=True):
            values = [value for value in cell.values if math.isfinite(value)]
            if not values:
                continue
            error = (statistics.stdev(values) if len(values) > 1 else 0.0) or best.get(f"{metric}_error")
            name = metric.removeprefix("val_")
            yield {
                "study": table.study,
                "table": table.title,
                "row": study.name_of(row),
                "task": started.task,
                "inputs": inputs_of(example.started.params, state),
                "parameters": int(best["parameters"]) if "parameters" in best else None,
                "seeds": len(values),
                "metric": name,
                "ours": round(statistics.fmean(values), 4),
                "error": None if error is None else round(float(error), 4),
                "published": None if study.other_kind(started.task, None) else published(study, row, name),
                "deviations": []
                if protocol is None or example.started.params.get("model") in FITTED
                else [*protocol.ours, *table.differs],
                "preset": f"{table.search} --preset {table.preset}",
            }
    if study.published_gains:
        by_name = {
            study.name_of(row): dict(zip(metrics, results.values(), strict=True))
            for row, results in found.items()
        }
        yield from gains(table, study, by_name, finite, started.task, protocol)


def of_losses(
    table: Table,
    study: StudyTable,
    trials: Sequence[TrialState],
    protocol: Any,
    state: SearchState,
    of_run: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Yield accuracies after each epoch of a table of losses, and each loss's difference from cross-entropy with its p.

    Ours are paired by seed; the publication's runs share none, so its p is of Welch's test. Both are corrected by Holm.
    Completed trainings alone have a part, so that a run that goes on gives the rows that it has.
    """
    started = state.started
    assert started is not None
    metric = table.metrics[0]
    rows: dict[str, dict[int, TrialState]] = {}
    for trial in trials:
        if trial.status == "completed":
            params = trial.started.params
            rows.setdefault(study.row(params), {})[int(params.get("seed", trial.started.seed))] = trial
    reference = "root_index=1"
    precisions = {str(trial.started.params.get("precision", "float32")) for trial in trials} - {"float32"}
    rounded = tuple(f"products in {one}, sums and weights in float32" for one in sorted(precisions))
    deviations = [*protocol.ours, *rounded, *of_run, *table.differs]

    def after(trial: TrialState, epoch: int) -> float:
        return next((one[metric] for one in trial.history if int(one["epoch"]) == epoch), math.nan)

    def line(
        row: str,
        name: str,
        ours: float,
        error: float | None,
        beside: float | None,
        seeds: int,
        **each: Sequence[float],
    ) -> dict[str, Any]:
        example = next(iter(rows[row].values()))
        return {
            "study": table.study,
            "table": table.title,
            "row": "cross-entropy" if row == reference else row.replace("root_index=", "root "),
            "task": started.task,
            "inputs": inputs_of(example.started.params, state),
            "parameters": int(example.history[-1]["parameters"])
            if "parameters" in example.history[-1]
            else None,
            "seeds": seeds,
            "metric": name,
            "ours": round(ours, 4),
            "error": None if error is None else round(error, 4),
            "published": None if beside is None else round(beside, 4),
            **{name: [round(value, 4) for value in values] for name, values in each.items()},
            "deviations": deviations,
            "preset": f"{table.search} --preset {table.preset}",
        }

    comparable = not study.other_kind(started.task, None)
    for place, epoch in enumerate(study.epochs):
        theirs = {row: runs(study, row)[place] for row in rows if comparable and row in study.published}
        shared = {row: sorted(rows[row].keys() & rows.get(reference, {}).keys()) for row in rows}
        ours = {row: [after(of[seed], epoch) for seed in sorted(of)] for row, of in rows.items()}
        for row, values in ours.items():
            if all(map(math.isfinite, values)):
                error = statistics.stdev(values) if len(values) > 1 else None
                beside = statistics.fmean(theirs[row]) if row in theirs else None
                name = f"accuracy after {epoch} epochs"
                each = {"runs": values, "published_runs": theirs.get(row, ())}
                yield line(row, name, statistics.fmean(values), error, beside, len(values), **each)
        others = [row for row in rows if row != reference and len(shared[row]) > 1]
        pairs = {
            row: [[after(rows[one][seed], epoch) for seed in shared[row]] for one in (row, reference)]
            for row in others
        }
        tested = [row for row in others if all(math.isfinite(value) for both in pairs[row] for value in both)]
        p_ours = holm([paired_t(*pairs[row]).p_value for row in tested])
        known = [row for row in tested if row in theirs and reference in theirs]
        p_theirs = dict(
            zip(
                known,
                holm(
                    [
                        float(ttest_ind(theirs[row], theirs[reference], equal_var=False).pvalue)
                        for row in known
                    ]
                ),
                strict=True,
            )
        )
        for row, p_value in zip(tested, p_ours, strict=True):
            differences = [one - other for one, other in zip(*pairs[row], strict=True)]
            gained = (
                statistics.fmean(theirs[row]) - statistics.fmean(theirs[reference]) if row in known else None
            )
            mean, spread_of, seeds = (
                statistics.fmean(differences),
                statistics.stdev(differences),
                len(differences),
            )
            yield line(row, f"difference, epoch {epoch}", mean, spread_of, gained, seeds)
            if p_value is not None:
                yield line(row, f"p corrected, epoch {epoch}", p_value, None, p_theirs.get(row), seeds)


def how_much(state: SearchState, trainings: int) -> list[str]:
    """Say of a run, from its journal and its dataset, how many events, trainings and hours it is."""
    from hep_ray.dataset.dataset import Manifest

    assert state.started is not None
    words = []
    folder = Path(state.started.options["data"])
    if (folder / "manifest.json").is_file():
        counts = Manifest.load(folder).split_counts()
        words.append(
            f"{counts['train']:,} events to train with and {counts['val']:,} to validate, not 22,500 and 7,500"
        )
    trials = list(state.trials.values())
    done = sum(trial.status == "completed" for trial in trials)
    hours = sum(trial.used.get("cpu_seconds", 0.0) for trial in trials) / 3600
    words.append(f"{done} of {trainings} trainings of {state.started.epochs} epochs, {hours:.1f} CPU hours")
    return words


def runs(study: StudyTable, row: str) -> list[list[float]]:
    """Return the published accuracies of a row, per epoch of the table one of each run."""
    given = [[float(word) / 100 for word in one.split("/")] for one in study.published[row].split(";")]
    return [list(values) for values in zip(*given, strict=True)]


FITTED = ("likelihood", "gradient_boosting", "logistic_regression")


def gains(
    table: Table,
    study: StudyTable,
    found: Mapping[str, Any],
    finite: Mapping[str, Mapping[str, float]],
    task: str,
    protocol: Any,
) -> Iterator[dict[str, Any]]:
    """Yield the factor by which the network rejects more background than the likelihood at each working point.

    Its error has two parts: of the network the larger of its spread over seeds and the error of the background that
    passes it, and of the likelihood, which is fitted once, the latter.
    """
    for name, (point, factor) in study.published_gains.items():
        metric = f"val_background_rejection_at_{point}"
        both = [found[row][metric].values if row in found else () for row in ("network", "likelihood")]
        network, likelihood = both if all(both) else ((), ())
        ratios = [value / likelihood[0] for value in network if math.isfinite(value)]
        if ratios:
            mean, spread_of = statistics.fmean(ratios), statistics.stdev(ratios) if len(ratios) > 1 else 0.0
            of_network, of_likelihood = (
                finite.get(row, {}).get(metric, 0.0) / rejection
                for row, rejection in (("network", mean * likelihood[0]), ("likelihood", likelihood[0]))
            )
            error = math.hypot(max(spread_of, mean * of_network), mean * of_likelihood)
            yield {
                "study": table.study,
                "table": table.title,
                "row": f"network over likelihood, {name} ({point} % of the signal)",
                "task": task,
                "inputs": None,
                "parameters": None,
                "seeds": len(ratios),
                "metric": "factor gained",
                "ours": round(mean, 2),
                "error": round(error, 2) or None,
                "published": factor,
                "deviations": [*protocol.ours, *table.differs, *([] if error else [LIMIT])],
                "preset": f"{table.search} --preset {table.preset}",
            }


def inputs_of(params: Mapping[str, Any], state: SearchState) -> int | None:
    """Return how many numbers of an event a model reads; None where its dataset is not there any more."""
    from hep_ray.dataset.dataset import Dataset as Events

    folder = Path(state.started.options["data"]) if state.started else Path()
    if not (folder / "manifest.json").is_file():
        return None
    schema = Events.open(folder).schema
    with torch.device("meta"):
        model = TrialConfig.from_params(params).build_model(schema)
    return sum(math.prod(schema.column(name).shape) for name in model.columns)


def published(table: StudyTable, row: str, metric: str) -> float | None:
    """Return the published number of a row, of the words that the table has for it."""
    words = table.published.get(row, "")
    found = re.search(rf"\b{METRICS.get(metric, metric)} (?:about )?(\d+\.\d+)", words)
    return float(found[1]) if found else None


def make(name: str, folder: Path, *, smoke: bool) -> bool:
    """Make a dataset, and those that it is made from; say whether it is there."""
    out, how = folder / name, DATASETS[name]
    if (out / "manifest.json").is_file():
        return True
    words = ["simulate", how.task or name, "--events", str(how.events[smoke]), "--seed", "1"]
    words += ["--split", how.split] if how.split else []
    if how.words:
        named = re.findall(r"{(\w+)}", how.words[0])
        if "real" in named and not REAL.is_dir():
            return False
        if not all(make(one, folder, smoke=smoke) for one in named if one != "real"):
            return False
        places = {"real": str(REAL), **{one: str(folder / one) for one in DATASETS}}
        words = ["convert", *(word.format(**places) for word in how.words)]
    call([sys.executable, "-m", "hep_ray", "data", *words, "--out", str(out)])
    return True


def call(command: Sequence[str]) -> None:
    """Run a command; what it prints goes to stderr, so that stdout is lines alone."""
    subprocess.run(command, stdout=sys.stderr, cwd=ROOT, check=True)  # noqa: S603 - our own


def so_far(table: Table, out: Path) -> list[dict[str, Any]]:
    """Return the lines of what has run until now, which say how much that is, and run nothing."""
    search = load_search(str(ROOT / "searches" / f"{table.search}.py"))
    state = SearchState.read(out / table.name / table.search)
    found = [] if state.started is None else list(lines(table, search, state))
    if state.finished or table.losses:  # whose lines say it themselves
        return found
    preset = search.presets[table.preset]
    planned = total_trials(search, preset, preset.space or search.space)
    done = sum(trial.status == "completed" for trial in state.trials.values())
    words = f"{done} of {planned} trainings had ended"
    return [{**line, "deviations": [*line["deviations"], words]} for line in found]


def run(table: Table, data: Path, out: Path, *, smoke: bool) -> list[dict[str, Any]] | None:
    """Fill a table, or go on with it; None where its events cannot be had."""
    if not all(make(name, data, smoke=smoke) for name in (table.data, table.watch) if name):
        return None
    storage = out / table.name
    search = load_search(str(ROOT / "searches" / f"{table.search}.py"))
    state = SearchState.read(storage / table.search)
    if not state.finished:
        connect()  # one Ray for all of them
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        words = ["--preset", table.preset, "--data", str(data / table.data), *table.flags]
        words += ["--watch", str(data / table.watch)] if table.watch else []
        words = (
            ["--resume"]
            if state.started
            else [*words, *(["--epochs", str(table.least_epochs)] if smoke else [])]
        )
        script = str(ROOT / "searches" / f"{table.search}.py")
        call([sys.executable, script, *words, "--storage", str(storage)])
        state = SearchState.read(storage / table.search)
    return [{**line, **({"smoke": True} if smoke else {})} for line in lines(table, search, state)]


COMPARED = ("difference, ", "p corrected, ")
"""How the metrics of a comparison of losses begin."""


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the part of the results' page that lines tell, in Markdown."""
    parts = []
    for study in dict.fromkeys(line["study"] for line in found):
        parts.append(f"\n### {STUDIES.get(study, study)}\n")
        own = [line for line in found if line["study"] == study]
        for title in dict.fromkeys(line["table"] for line in own):
            of_table = [line for line in own if line["table"] == title]
            parts.append(f"\n**{title}** (`searches/{of_table[0]['preset'].replace(' ', '.py ', 1)}`)\n\n")
            for compared in (False, True):  # losses: what they reach, and how they differ, in a table each
                rows = [line for line in of_table if line["metric"].startswith(COMPARED) is compared]
                parts += ["\n" if compared and rows else "", *markdown(rows)]
            parts += [*every_run([line for line in of_table if "runs" in line]), *verdict(of_table)]
            deviations = dict.fromkeys(text for line in of_table for text in line["deviations"])
            parts += ["\nWhat differs: ", "; ".join(deviations), ".\n"] if deviations else []
    return "".join(parts)


STUDIES = {
    "black_holes": "Black holes against sphalerons (HVL thesis)",
    "electrons": "Electron identification (UdeM thesis)",
    "jets": "Jet images (UCSD)",
    "susy": "SUSY (UoL report)",
    "objects": "ATLAS objects (Islam and Ramachandra)",
}


def markdown(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the rows of one table, if any: ours ± error of each metric, and beside it what was published."""
    if not found:
        return
    metrics = list(dict.fromkeys(line["metric"] for line in found))
    by_row: dict[str, dict[str, Mapping[str, Any]]] = {}
    for line in found:
        by_row.setdefault(line["row"], {})[line["metric"]] = line
    told = [name for name in metrics if any(of[name]["published"] for of in by_row.values() if name in of)]
    head = ["row", "inputs", "parameters", "seeds"]
    for name in metrics:
        head += [name.replace("_", " "), *(["published"] if name in told else [])]
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    for row, of in by_row.items():
        one = next(iter(of.values()))
        counts = ["" if one[key] is None else f"{one[key]:,}" for key in ("inputs", "parameters", "seeds")]
        values = []
        for name in metrics:
            line = of.get(name)
            values.append("" if line is None else spread(line))
            values += [f"{line['published']:g}" if line and line["published"] else ""] if name in told else []
        yield f"| {' | '.join([row, *counts, *values])} |\n"


def every_run(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the table of single runs as the publication prints it: % after each epoch, ours beside the published."""
    if not found:
        return
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for line in found:
        by_row.setdefault(line["row"], []).append(line)
    count = max(len(line[key]) for line in found for key in ("runs", "published_runs"))
    beside = any(line["published_runs"] for line in found)
    epochs = " / ".join(dict.fromkeys(line["metric"].split()[2] for line in found))
    head = ["row"]
    for place in range(1, count + 1):
        head += [f"run {place}", *([f"published {place}"] if beside else [])]
    yield f"\nEvery run, accuracy in % after {epochs} epochs:\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    for row, lines_of in by_row.items():
        keys = ("runs", "published_runs") if beside else ("runs",)
        words = [
            " / ".join(f"{100 * line[key][place]:.1f}" for line in lines_of if place < len(line[key]))
            for place in range(count)
            for key in keys
        ]
        yield f"| {' | '.join([row, *words])} |\n"


def verdict(found: Sequence[Mapping[str, Any]], level: float = 0.05) -> Iterator[str]:
    """Yield one sentence: which losses differ from cross-entropy after the last epoch that was tested, if any."""
    tested = [line for line in found if line["metric"].startswith("p corrected, ")]
    if not tested:
        return
    epoch = tested[-1]["metric"].split()[-1]
    p_values = {line["row"]: line["ours"] for line in tested if line["metric"].endswith(f" {epoch}")}
    gains = {line["row"]: line for line in found if line["metric"] == f"difference, epoch {epoch}"}
    clear = [row for row, p_value in p_values.items() if p_value < level]
    least = min(p_values, key=lambda row: (p_values[row], -abs(gains[row]["ours"])))
    words = [f"{row} ({gains[row]['ours']:+.3f}, p = {p_values[row]:.2g})" for row in clear]
    said = (
        f"what differs from cross-entropy is {', '.join(words)}"
        if clear
        else "no loss differs from cross-entropy"
    )
    closest = f"; the least corrected p is {p_values[least]:.2g}, of {least} ({gains[least]['ours']:+.3f})"
    test = f"paired by seed, Holm's correction for {len(p_values)} losses"
    yield f"\nAfter {epoch} epochs {said} at a level of {level:g} ({test}){'' if clear else closest}.\n"


def spread(line: Mapping[str, Any]) -> str:
    """Return ours ± error, with the digits that the error leaves."""
    if not line["error"]:
        return f"{line['ours']:g}"
    digits = max(0, 1 - math.floor(math.log10(line["error"])))
    return f"{line['ours']:.{min(digits, 4)}f} ± {line['error']:.{min(digits, 4)}f}"


def read_lines(path: Path = LINES) -> list[dict[str, Any]]:
    """Return the lines of a file."""
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def taken(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return lines in the order of `TABLES`, of which new ones take the place of all of their table.

    A table that the script no longer has makes room for what its preset fills now; otherwise it is last of its study.
    """
    titles = [(table.study, table.title) for table in TABLES]
    last = {study: place for place, (study, _) in enumerate(titles)}
    found, presets = {(line["study"], line["table"]) for line in new}, {line["preset"] for line in new}

    def place(line: Mapping[str, Any]) -> int:
        key = (line["study"], line["table"])
        return titles.index(key) if key in titles else last[line["study"]]

    kept = [
        line
        for line in old
        if (key := (line["study"], line["table"])) not in found
        and (key in titles or line["preset"] not in presets)
    ]
    return sorted([*kept, *new], key=place)


def written(text: str, found: Sequence[Mapping[str, Any]]) -> str:
    """Return the results' page with its part between the marks written anew."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{page(found)}\n{END}{rest.partition(END)[2]}"


def fresh(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the lines of files; end where they are of a smoke run, or two of them are of one row and metric."""
    found: dict[tuple[str, ...], Path] = {}
    kept = []
    for file in files:
        for line in read_lines(file):
            key = tuple(str(line[name]) for name in ("study", "table", "row", "metric"))
            if line.get("smoke"):
                sys.exit(
                    f"{file} has lines of a smoke run ({key[1]}), whose numbers mean nothing: run without --smoke"
                )
            if key in found:
                sys.exit(
                    f"{file} has {', '.join(key)} once more, after {found[key]}: take each table from one file"
                )
            found[key] = file
            kept.append(line)
    return kept


def keep(files: Sequence[Path], *, write: bool) -> None:
    """Take the lines of files into those of the docs, and write their page."""
    if files:
        lines_now = taken(read_lines(), fresh(files))
        texts = (json.dumps(line, ensure_ascii=False) for line in lines_now)
        LINES.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    if write:
        RESULTS.write_text(written(RESULTS.read_text(encoding="utf-8"), read_lines()), encoding="utf-8")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="tables; all unless given")
    parser.add_argument("--smoke", action="store_true", help="few events and one epoch")
    parser.add_argument("--data", type=Path, help="folder of the datasets")
    parser.add_argument("--out", type=Path, help="folder of the searches and of lines.jsonl")
    parser.add_argument("--so-far", action="store_true", help="lines of what has run; run nothing")
    parser.add_argument(
        "--take", type=Path, nargs="+", default=(), metavar="FILE", help="lines to keep in docs"
    )
    parser.add_argument("--write", action="store_true", help="write docs/results.md from docs/studies.jsonl")
    given = parser.parse_args()
    if given.take or given.write:
        keep(given.take, write=given.write)
        return
    out = (given.out or ROOT / "runs" / ("studies-smoke" if given.smoke else "studies")).absolute()
    data = (given.data or ROOT / "data" / ("smoke" if given.smoke else "")).absolute()
    known = [table.name for table in TABLES]
    if unknown := [name for name in given.names if name not in known]:
        sys.exit(f"no table {', '.join(unknown)}; known: {', '.join(dict.fromkeys(known))}")
    if given.so_far:
        for table in TABLES:
            for line in so_far(table, out) if not given.names or table.name in given.names else ():
                print(json.dumps(line, ensure_ascii=False))
        return
    out.mkdir(parents=True, exist_ok=True)
    kept: list[str] = []
    for table in TABLES:
        if given.names and table.name not in given.names:
            continue
        made = run(table, data, out, smoke=given.smoke)
        if made is None:
            print(f"left out: {table.name}, whose real events are not in {REAL}", file=sys.stderr)
        for line in made or ():
            kept.append(json.dumps(line, ensure_ascii=False))
            print(kept[-1], flush=True)
        (out / "lines.jsonl").write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")


if __name__ == "__main__":
    main()
