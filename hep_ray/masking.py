"""No secret in what is printed or recorded: the passwords that a URI can hold."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(?P<before>://[^\s/:@'\"]*):[^\s/'\"]*@")
_QUERY = re.compile(
    r"(?P<before>[?&](?:password|passwd|pwd|token|secret|api_key|access_key)=)[^&\s'\"#]+", re.IGNORECASE
)
MASK = "***"


def mask(text: str) -> str:
    """A text with the passwords of its URIs hidden.

    >>> mask("mlflow at postgresql://ana:s3cret@db/mlflow")
    'mlflow at postgresql://ana:***@db/mlflow'
    """
    return _QUERY.sub(rf"\g<before>{MASK}", _USERINFO.sub(rf"\g<before>:{MASK}@", text))


def without_password(uri: str) -> str:
    """A URI that can be recorded: as given, without its password, which the environment has to bring again.

    >>> without_password("postgresql://ana:s3cret@db/mlflow")
    'postgresql://ana@db/mlflow'
    """
    bare = _USERINFO.sub(r"\g<before>@", uri)
    head, _, query = bare.partition("?")
    kept = [part for part in query.split("&") if part and not _QUERY.match(f"?{part}")]
    return head + ("?" + "&".join(kept) if kept else "")
