"""The page itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape

from hep_ray.dataset.check import balance_notes, balance_problems
from hep_ray.dataset.manifest import Manifest
from hep_ray.dataset.show.features import QUANTILES, balance, distributions, features_of, sequences
from hep_ray.dataset.show.images import mean_images, single_events
from hep_ray.dataset.show.sample import Sample, kind_of
from hep_ray.dataset.splits import SPLITS
from hep_ray.drawing.page import document, picture
from hep_ray.drawing.style import house_style


def page(sample: Sample) -> str:
    """The HTML of a sample, with its pictures inside."""
    with house_style():
        return document(sample.manifest.event_schema.task, "\n".join(_sections(sample)))


def _sections(sample: Sample) -> Iterator[str]:
    manifest, schema = sample.manifest, sample.manifest.event_schema
    drawn, rows = len(sample.labels), manifest.rows(sample.split)
    yield f'<p class="note">Fingerprint <code>{manifest.fingerprint}</code></p>'
    yield _counts(manifest)
    yield picture(balance(manifest), "share of every class in every split")
    for sentence in (*balance_problems(manifest), *balance_notes(manifest)):
        yield f"<p>{escape(sentence)}.</p>"
    which = f"all {rows}" if drawn == rows else f"{drawn} of {rows}"
    chosen = (
        "" if drawn == rows else ", the first in the order of a hash of their ids, which is a random choice"
    )
    yield (
        f"<p>Drawn below: {which} events of the split <b>{sample.split}</b>{chosen}. "
        "Events of the test split are not read here: they are kept for the final confirmation.</p>"
    )
    for column in schema.columns:
        if kind_of(column) == "image":
            yield f"<h2>{escape(column.name)}: mean</h2>"
            yield '<p class="note">Logarithmic colours over four decades at most; bins without an entry are grey.</p>'
            yield picture(mean_images(sample, column), f"mean {column.name} of every class")
            yield f"<h2>{escape(column.name)}: single events</h2>"
            for label, name in enumerate(schema.classes):
                if len(sample.singles[column.name][label]):
                    yield picture(single_events(sample, column, label), f"{column.name} of events of {name}")
        elif kind_of(column) in {"sequence", "profile"}:
            yield f"<h2>{escape(column.name)}: mean by place</h2>"
            for figure in sequences(sample, column):
                yield picture(figure, f"mean {column.name} by place")
        elif kind_of(column) == "other":
            yield f"<p>{escape(column.name)} has the shape {column.shape} and is not drawn.</p>"
    yield from _distributions(sample)
    yield "<h2>Where the events come from</h2>"
    yield f"<pre>{escape(json.dumps(manifest.source, indent=2))}</pre>"


def _distributions(sample: Sample) -> Iterator[str]:
    columns = [column for column in sample.manifest.event_schema.columns if kind_of(column) == "features"]
    features = [feature for column in columns for feature in features_of(sample, column)]
    if not features:
        return
    low, high = QUANTILES
    yield "<h2>Distributions</h2>"
    yield (
        f'<p class="note">Each class has area 1; bars are statistical errors. Axes run from the {low:.1%} to the '
        f"{high:.1%} quantile of all classes; values beyond are counted in the outer bins.</p>"
    )
    for figure in distributions(sample, features):
        yield picture(figure, "distributions of features by class")


def _counts(manifest: Manifest) -> str:
    schema = manifest.event_schema
    head = "".join(f"<th>{name}</th>" for name in ("class", *SPLITS, "events"))
    body = ""
    for name, events in manifest.class_counts().items():
        cells = [manifest.class_counts(split)[name] for split in SPLITS]
        body += f"<tr><td>{escape(name)}</td>" + "".join(f"<td>{count}</td>" for count in (*cells, events))
        body += f'<td class="text">{escape(schema.class_meaning.get(name, ""))}</td></tr>\n'
    totals = (*manifest.split_counts().values(), sum(manifest.class_counts().values()))
    foot = "<td>all</td>" + "".join(f"<td>{count}</td>" for count in totals)
    return (
        f"<table><thead><tr>{head}<th></th></tr></thead>\n<tbody>\n{body}</tbody>\n"
        f"<tfoot><tr>{foot}</tr></tfoot></table>"
    )
