"""No secret in what is printed or recorded (the passwords that a URI can hold), or open to others."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

_USERINFO = re.compile(r"(?P<before>://[^\s/:@'\"]*):[^\s/'\"]*@")
_QUERY = re.compile(
    r"(?P<before>[?&](?:password|passwd|pwd|token|secret|api_key|access_key)=)[^&\s'\"#]+", re.IGNORECASE
)
MASK = "***"


def mask(text: str) -> str:
    """Return a text with the passwords of its URIs hidden.

    >>> mask("mlflow at postgresql://ana:s3cret@db/mlflow")
    'mlflow at postgresql://ana:***@db/mlflow'
    """
    return _QUERY.sub(rf"\g<before>{MASK}", _USERINFO.sub(rf"\g<before>:{MASK}@", text))


def without_password(uri: str) -> str:
    """Return a URI that can be recorded: without its password, which the environment has to bring again.

    >>> without_password("postgresql://ana:s3cret@db/mlflow")
    'postgresql://ana@db/mlflow'
    """
    bare = _USERINFO.sub(r"\g<before>@", uri)
    head, _, query = bare.partition("?")
    kept = [part for part in query.split("&") if part and not _QUERY.match(f"?{part}")]
    return head + ("?" + "&".join(kept) if kept else "")


def ray_token() -> Path:
    """Return the file where Ray looks for its token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def close_token(path: Path) -> None:
    """Let nobody but its owner read the file of a token, where it is ours: Ray makes it for everyone to read."""
    if open_token(path) and path.stat().st_uid == os.geteuid():
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def open_token(path: Path) -> str:
    """Return a token's file with its permissions, where others than its owner can read or change it; else nothing."""
    if not path.is_file():
        return ""
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"{path} ({mode:04o})" if mode & (stat.S_IRWXG | stat.S_IRWXO) else ""
