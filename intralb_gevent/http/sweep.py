"""Close timed-out connections at regular intervals, without counting time for which the event loop was blocked.

The event loop runs due timers before it reads sockets. So if the loop was blocked, one sweep is skipped, and data
that arrived in the meantime is read first.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from .context import ServerContext

__all__ = ["Sweep"]

LATE_SECONDS: Final = 0.1
"""Delay of a sweep in seconds above which the event loop is regarded as having been blocked."""


class Sweep:
    """A periodic timer that checks all connections of a server for timeouts."""

    def __init__(self, shared: ServerContext, seconds: float, sweep: Callable[[], None]) -> None:
        self._shared = shared
        self._seconds = seconds
        self._sweep = sweep
        """The function that ends the connections that have timed out."""
        self._due = monotonic() + seconds
        self._left_out = False
        self._timer: Any = shared.loop.timer(seconds, seconds, ref=False)
        self._timer.start(self._look)

    def __repr__(self) -> str:
        return f"<Sweep of {self._shared!r} every {self._seconds:g} s>"

    def stop(self) -> None:
        """Stop the timer."""
        self._timer.stop()

    def _look(self) -> None:
        now = monotonic()
        late, self._due = now - self._due, now + self._seconds
        # Never skip two sweeps in a row: otherwise, no connection would time out while the loop is often blocked.
        self._left_out = late > LATE_SECONDS and not self._left_out
        if self._left_out:
            self._shared.kept_until = now
        else:
            self._sweep()
