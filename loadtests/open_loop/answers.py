"""Reads HTTP/1 answers, as fast as a load generator needs it.

Decides where an answer ends and whether its connection can be used again. It must not know about sockets.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Answer", "read"]

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)")
_REASON: Final = re.compile(rb"\r\nx-intralb-reason: *([a-z_]+)")
_HEAD_END: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    kept: bool
    """Whether another request may follow on the connection."""
    reason: str = ""
    """Why it was refused, where the server says so."""


def read(received: bytes, ended: bool) -> Answer | None:
    """Return the answer, or None while it is not whole; `ended` says that nothing more comes.

    Raises `ValueError` when it is not an answer.
    """
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    head = received[:end].lower()
    if not head.startswith(b"http/1."):
        raise ValueError(f"not an answer: {received[:20]!r}")
    length = _LENGTH.search(head)
    if not _whole(received, head, end + len(_HEAD_END), length, ended):
        return None
    reason = _REASON.search(head)
    return Answer(int(received[9:12]), not ended and _kept(head), reason[1].decode() if reason else "")


def _whole(received: bytes, head: bytes, body: int, length: re.Match[bytes] | None, ended: bool) -> bool:
    if length:
        return len(received) >= body + int(length[1])
    if b"\r\ntransfer-encoding: chunked" in head:
        # Its first chunk may be the last one; the line end before it is then the head's.
        return received.endswith(_LAST_CHUNK)
    return ended


def _kept(head: bytes) -> bool:
    if head.startswith(b"http/1.0"):
        return b"\r\nconnection: keep-alive" in head
    return b"\r\nconnection: close" not in head
