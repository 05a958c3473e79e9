"""The page of a dataset: its counts, its pictures and where its events come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hep_ray.dataset.check import balance_notes, balance_problems
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.show.pictures import (
    QUANTILES,
    balance,
    distributions,
    features_of,
    mean_images,
    sequences,
    single_events,
)
from hep_ray.dataset.show.sample import Sample, kind_of
from hep_ray.dataset.splits import SPLITS
from hep_ray.drawing.page import PageTable, render
from hep_ray.drawing.style import house_style

TEMPLATE = Path(__file__).with_name("dataset.html")
COLOURS = "Logarithmic colours over four decades at most; bins without an entry are grey."


@dataclass(frozen=True)
class Section:
    """Pictures under one title, each with words for those who cannot see it; a note stands between both."""

    title: str
    pictures: list[tuple[str, Figure]]
    note: str = ""


def page(sample: Sample) -> str:
    """Return the HTML of a sample, with its pictures inside."""
    manifest = sample.manifest
    with house_style():
        return render(
            TEMPLATE,
            title=manifest.event_schema.task,
            manifest=manifest,
            counts=_counts(manifest),
            balance=balance(manifest),
            sentences=(*balance_problems(manifest), *balance_notes(manifest)),
            drawn=len(sample.labels),
            rows=manifest.rows(sample.split),
            split=sample.split,
            sections=[*_by_column(sample), *_distributions(sample)],
            source=json.dumps(manifest.source, indent=2),
        )


def _by_column(sample: Sample) -> Iterator[Section]:
    for column in sample.manifest.event_schema.columns:
        kind, name = kind_of(column), column.name
        if kind == "image":
            mean = mean_images(sample, column)
            yield Section(f"{name}: mean", [(f"mean {name} of every class", mean)], COLOURS)
            classes = enumerate(sample.manifest.event_schema.classes)
            singles = [
                (f"{name} of events of {one}", single_events(sample, column, label))
                for label, one in classes
                if len(sample.singles[name][label])
            ]
            yield Section(f"{name}: single events", singles)
        elif kind in {"sequence", "profile"}:
            pictures = [(f"mean {name} by place", figure) for figure in sequences(sample, column)]
            yield Section(f"{name}: mean by place", pictures)
        elif kind == "other":
            yield Section("", [], f"{name} has the shape {column.shape} and is not drawn.")


def _distributions(sample: Sample) -> Iterator[Section]:
    columns = [column for column in sample.manifest.event_schema.columns if kind_of(column) == "features"]
    features = [feature for column in columns for feature in features_of(sample, column)]
    if features:
        low, high = QUANTILES
        yield Section(
            "Distributions",
            [("distributions of features by class", figure) for figure in distributions(sample, features)],
            f"Each class has area 1; bars are statistical errors. Axes run from the {low:.1%} to the {high:.1%} "
            "quantile of all classes; values beyond are counted in the outer bins.",
        )


def _counts(manifest: Manifest) -> PageTable:
    meaning = manifest.event_schema.class_meaning
    by_split = [manifest.class_counts(split) for split in SPLITS]
    rows = [
        [name, *(str(counts[name]) for counts in by_split), str(events), meaning.get(name, "")]
        for name, events in manifest.class_counts().items()
    ]
    totals = [*manifest.split_counts().values(), sum(manifest.class_counts().values())]
    return PageTable(
        ["class", *SPLITS, "events", ""], rows, (len(SPLITS) + 2,), foot=["all", *map(str, totals), ""]
    )
