"""How a preset stands to the document whose name it carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hep_ray.errors import InvalidConfig


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
