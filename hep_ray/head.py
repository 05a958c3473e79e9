"""Which Ray cluster a driver is meant to join, and whether its head answers; Ray itself would wait for minutes."""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from hep_ray.errors import ClusterUnavailable, InvalidConfig

logger = logging.getLogger(__name__)

PROBE_SECONDS = 10.0
"""For which a head that does not answer is asked again."""
LOOK_SECONDS = 0.5
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a gRPC client begins (RFC 9113, section 3.4): the preface, and a frame of settings without any."""
SETTINGS = 4
"""Type of the frame with which every server answers; it is in the fourth byte."""
ADDRESS = "RAY_ADDRESS"
SCHEME = "ray://"


@dataclass(frozen=True)
class Head:
    """The head of a cluster that is to be joined.

    Attributes:
        host: name or address.
        port: of its control store, or of Ray's client server.
        noted: file in which `ray start` noted it; None where RAY_ADDRESS names it.
    """

    host: str
    port: int
    noted: Path | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def ray_temp_dir() -> Path:
    """Where Ray keeps sessions, sockets and the note of the cluster that was last started on this machine."""
    return Path(os.environ.get("RAY_TMPDIR", os.environ.get("TMPDIR", "/tmp"))) / "ray"  # noqa: S108 - Ray's own


def meant() -> Head | None:
    """The head that RAY_ADDRESS or the note of a local `ray start` names; None where a cluster is to be started here.

    Raises:
        InvalidConfig: RAY_ADDRESS is no address.
    """
    named = os.environ.get(ADDRESS, "").strip()
    if named == "local":
        return None
    if named and named != "auto":
        host, _, port = named.removeprefix(SCHEME).rpartition(":")
        if not host or not port.isdecimal():
            raise InvalidConfig(
                f"{ADDRESS} is HOST:PORT, {SCHEME}HOST:PORT, auto or local; got '{named}': type {ADDRESS}=local to "
                "start Ray on this machine"
            )
        return Head(host.strip("[]"), int(port))
    note = ray_temp_dir() / "ray_current_cluster"
    try:
        host, _, port = note.read_text(encoding="utf-8").strip().rpartition(":")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ClusterUnavailable(
            f"`ray start` notes its cluster in {note}; it cannot be read: {exc.strerror}: type RAY_TMPDIR=FOLDER for "
            f"a folder of yours, or {ADDRESS}=local to start Ray on this machine"
        ) from exc
    return Head(host.strip("[]"), int(port), note) if host and port.isdecimal() else None


def check(head: Head) -> None:
    """See that a head answers, as Ray does.

    Raises:
        ClusterUnavailable: it does not, for `PROBE_SECONDS`; the message says who named it and what to type.
    """
    until = time.monotonic() + PROBE_SECONDS
    while fault := _silence(head, max(until - time.monotonic(), LOOK_SECONDS)):
        if time.monotonic() + LOOK_SECONDS > until:
            raise ClusterUnavailable(_words(head, fault))
        logger.debug("no Ray at %s yet: %s", head, fault)
        time.sleep(LOOK_SECONDS)


def _words(head: Head, fault: str) -> str:
    tried = f"{fault}, tried for {PROBE_SECONDS:g} s"
    if head.noted is None:
        return (
            f"{ADDRESS} names a running Ray cluster to join; none answers at {head} ({tried}): start it there, mend "
            f"{ADDRESS} (`ray status --address {head}` asks it), or type {ADDRESS}=local to start Ray on this machine"
        )
    return (
        f"a search joins the Ray cluster that was last started on this machine; {head.noted} notes one at {head}, "
        f"which is gone ({tried}): remove the note, `rm {head.noted}`, or start the cluster again; "
        f"{ADDRESS}=local passes it by"
    )


def _silence(head: Head, seconds: float) -> str:
    """Why a head does not answer; nothing where it does."""
    try:
        with socket.create_connection((head.host, head.port), timeout=seconds) as line:
            if os.environ.get("RAY_USE_TLS", "0") not in {"", "0"}:
                return ""  # it greets nobody before the handshake
            line.sendall(HELLO)
            answer = b""
            while len(answer) <= 3:  # noqa: PLR2004 - the type is the fourth byte
                if not (more := line.recv(9)):
                    return "it is no Ray head: it hung up"
                answer += more
    except socket.gaierror as exc:
        return f"no host of that name: {exc.strerror}"
    except TimeoutError:
        return "no answer"
    except OSError as exc:
        return exc.strerror or str(exc)
    return "" if answer[3] == SETTINGS else "it is no Ray head: it does not speak gRPC"
