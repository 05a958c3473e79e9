"""The page of a report: sentences, tables and figures in the order in which they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from hep_ray.drawing.page import document, picture
from hep_ray.report import summary, tables
from hep_ray.report.figures import Drawn, Section
from hep_ray.report.material import Material

TITLES: dict[Section, str] = {
    "confirmation": "Confirmation",
    "classifier": "The classifier",
    "training": "Training",
    "search": "The search",
}


@dataclass(frozen=True)
class Shown:
    """A figure of the page, or why there is none.

    Attributes:
        name: of its files.
        section: where it stands.
        title: above it.
        drawn: the figure and its caption, or a sentence in their place.
    """

    name: str
    section: Section
    title: str
    drawn: Drawn | str


def page(material: Material, figures: Sequence[Shown], storage: Path) -> str:
    """The HTML of a report.

    Args:
        material: gathered.
        figures: drawn, in their order.
        storage: folder of all searches, for the commands.
    """
    return document(summary.heading(material), "\n".join(_body(material, figures, storage)))


def _body(material: Material, figures: Sequence[Shown], storage: Path) -> Iterator[str]:
    if running := summary.still_running(material):
        yield f'<p class="mark"><b>{escape(running)}</b></p>'
    yield f"<p>Report of the search <code>{escape(material.search.name)}</code></p>"
    for sentence in summary.result(material):
        yield f"<p>{escape(sentence)}</p>"
    yield f"<p>{escape(summary.what_ran(material))}</p>"
    for note in material.notes:
        yield f'<p class="mark">{escape(note)}</p>'
    yield "<h2>The dataset</h2>"
    fingerprint = escape(material.started.dataset_fingerprint)
    yield f"<p>{escape(material.started.task)}, fingerprint <code>{fingerprint}</code></p>"
    yield tables.dataset(material)
    yield from _results(material)
    if material.confirmation is not None:
        yield f"<h2>{TITLES['confirmation']}</h2>"
        yield tables.confirmation(material.confirmation)
        yield from _figures(figures, "confirmation")
    if material.scores is not None:
        yield f"<h2>{TITLES['classifier']}</h2>"
        yield _whose(material)
        for shown in _figures(figures, "classifier"):
            yield shown
            if 'id="rejection"' in shown:
                yield tables.working_points(material.scores)
        yield tables.per_class(material.scores)
    for section in ("training", "search"):
        yield f"<h2>{TITLES[section]}</h2>"
        yield from _figures(figures, section)
    yield tables.failures(material)
    yield f"<h2>Provenance</h2>{tables.provenance(material)}"
    yield f"<h2>The same again</h2><pre>{escape(summary.commands(material, storage))}</pre>"


def _results(material: Material) -> Iterator[str]:
    yield "<h2>Results of the search</h2>"
    yield (
        '<p class="note">Validation split; each trial at its best epoch; ± is statistical, from the number of events. '
        "The best of many noisy values is too good on average.</p>"
    )
    yield tables.leaderboard(material)
    left_out = len(material.state.trials) - tables.BEST_TRIALS
    if left_out > 0:
        yield f'<p class="note">{left_out} more trials are in leaderboard.json.</p>'
    studies = list(tables.studies(material))
    if studies:
        yield from studies
        yield (
            '<p class="note">Ours: validation split, mean ± s.d. over trials (their number). Published numbers are of '
            "the data named in their column, not of ours.</p>"
        )


def _whose(material: Material) -> str:
    scores = material.scores
    assert scores is not None
    if scores.confirmed:
        return (
            f"<p>Test split, {scores.events:,} events, each contender retrained with {scores.seeds} seeds by the "
            "confirmation; no trial of the search was chosen by these events.</p>"
        )
    words = summary.confirm_command(material)
    command = f"; type <code>{escape(words)}</code>" if words else ""
    return (
        f'<p class="mark">Validation split: a biased pick{command}. '
        f"The model is that of {escape(material.name_of(material.best))}.</p>"
    )


def _figures(figures: Sequence[Shown], section: Section) -> Iterator[str]:
    for shown in figures:
        if shown.section != section:
            continue
        if isinstance(shown.drawn, str):
            yield f'<p class="note">{escape(shown.drawn)}</p>'
            continue
        image = picture(shown.drawn.figure, shown.title)
        yield (
            f'<h3>{escape(shown.title)}</h3><figure id="{escape(shown.name)}">{image}'
            f"<figcaption>{escape(shown.drawn.caption)}</figcaption></figure>"
        )
