"""State what a search repeats of a publication: its protocol, and its tables with the published numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from hep_ray.errors import InvalidConfig
from hep_ray.registry import check_kind, takes_named_fields


@takes_named_fields
@dataclass(frozen=True)
class Published:
    """Account of a preset that repeats a publication: what is its, what is not, and where it says nothing.

    `--dry-run` prints it, and `docs/howto/protocols.md` holds those of all searches.

    Attributes:
        document: whose protocol it is, with the place in it.
        follows: settings that the document states and the preset has.
        ours: settings in which the preset differs from the document: its deviations.
        silent: settings that the document leaves open, or that are not known to us, and what stands in their place.

    Raises:
        InvalidConfig: it names no document, or nothing that follows it.
    """

    document: str
    follows: tuple[str, ...]
    ours: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.document or not self.follows:
            raise InvalidConfig(
                "a published protocol needs a document and what follows it; one of them is empty"
            )

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield heading and statement, one by one, as a terminal and a page show them."""
        yield "document", self.document
        for heading, statements in (("follows", self.follows), ("ours", self.ours), ("silent", self.silent)):
            for statement in statements:
                yield heading, statement

    def with_ours(self, *deviations: str) -> Published:
        """Return the same protocol with more deviations, as of a preset that is cut to minutes."""
        return replace(self, ours=(*self.ours, *deviations))


@takes_named_fields
@dataclass(frozen=True)
class StudyTable:
    """A table of the study: groups of trials, mean ± s.d. over each, beside the published numbers.

    Attributes:
        title: what is tabulated, and where it was published.
        rows: parameters whose values make the rows; trials that agree in them are one row.
        metrics: keys of the per-epoch report, one column each.
        epochs: the metrics are shown after each of these epochs; empty: at the trial's best epoch.
        published: text of a row, as `StudyTable.row` writes it → the published result.
        published_on: the data on which those were measured, shown wherever they are.
        published_task: task of the published numbers, as datasets name theirs; empty is not stated.
        published_classes: number of classes that they tell apart; 0 is not stated.
        published_inputs: what they were computed from, in words; empty is not stated.
        inputs: what the trials of this search are computed from, in the same words.
        published_gains: working point → its signal efficiency in per cent, and the published factor by which the best
            row rejects more background there than the row to beat.
        names: text of a row → what the study calls it, in tables, bars and legends.

    Raises:
        InvalidConfig: no rows or no metrics, or published results without their data.
    """

    title: str
    rows: tuple[str, ...]
    metrics: tuple[str, ...] = ("val_accuracy",)
    epochs: tuple[int, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    published_on: str = ""
    published_task: str = ""
    published_classes: int = 0
    published_inputs: str = ""
    inputs: str = ""
    published_gains: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rows", "metrics", "epochs"):
            check_kind(f"{name} of a StudyTable", getattr(self, name), (list, tuple), "('loss',)")
        if not self.rows or not self.metrics:
            raise InvalidConfig(f"a study table needs rows and metrics; got {self.rows} and {self.metrics}")
        if (self.published or self.published_gains) and not self.published_on:
            raise InvalidConfig(
                f"'{self.title}' has published results and no published_on: name the data they were measured on"
            )

    def other_kind(self, task: str, classes: int | None) -> str:
        """Say why the published numbers are of another kind than a search's; empty where they are not.

        Args:
            task: of the search.
            classes: that its trials tell apart; None where they do not tell.
        """
        reasons = []
        if self.published_task and self.published_task != task:
            reasons.append(f"of the task {self.published_task}, not {task}")
        if self.published_classes and classes and self.published_classes != classes:
            reasons.append(f"of {self.published_classes} classes, not {classes}")
        if self.published_inputs and self.published_inputs != self.inputs:
            reasons.append(f"from {self.published_inputs}, not {self.inputs or 'what is stated here'}")
        return ", ".join(reasons)

    def row(self, params: Mapping[str, str | int | float]) -> str:
        """Return the row of a trial: `model=cnn, root_index=3`; a parameter that it lacks is left out."""
        return ", ".join(f"{name}={params[name]}" for name in self.rows if name in params)

    def name_of(self, row: str) -> str:
        """Return what the study calls a row; its own text where the study has no name for it."""
        return self.names.get(row, row or "all")
