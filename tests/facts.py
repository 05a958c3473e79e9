"""Check what an error says by the facts in it, so that its wording may change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def raises(
    error: type[BaseException] | tuple[type[BaseException], ...], *facts: object
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Expect `error` with a message that holds every fact as whole words, in any order.

    A fact is what somebody needs to mend the fault: the name, number or path at fault, or the command to type.
    """
    with pytest.raises(error) as caught:
        yield caught
    told = str(caught.value)
    missing = [fact for fact in facts if not tells(told, fact)]
    assert not missing, f"{type(caught.value).__name__} does not say {missing}: {told}"


def tells(text: str, *facts: object) -> bool:
    """Return whether every fact stands in a text as whole words: 12 is in 'got 12', and not in 'got 123'."""
    return all(re.search(rf"(?<!\w){re.escape(str(fact))}(?!\w)", text) for fact in facts)
