"""Applications that have begun their answer and do not come to its end.

Decides how the body goes on. It must not know of deadlines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from . import LONG_SECONDS, body

__all__ = ["endless", "stalled"]

_PIECE = b"x" * 1024


@body
def stalled() -> Iterator[bytes]:
    """Give one piece, then wait."""
    yield _PIECE
    time.sleep(LONG_SECONDS)


@body
def endless() -> Iterator[bytes]:
    """Give pieces as fast as the client takes them, for ever."""
    while True:
        yield _PIECE
