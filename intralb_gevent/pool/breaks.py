"""Lets the event loop run while a handler computes."""

from __future__ import annotations

from typing import Final

import gevent

__all__ = ["take_break"]

_SECONDS: Final = 1e-6
"""Any time but none: gevent calls its callbacks again and again before it looks at sockets and timers, and after
`sleep(0)` the handler would be one of them (measured: a timer of 20 ms expired after 50 of those)."""


def take_break() -> None:
    """Have the loop look at its sockets and timers once; called in a handler's greenlet."""
    gevent.sleep(_SECONDS)
