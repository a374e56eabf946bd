"""Ends what clients have taken too long for, at intervals; the time that the event loop was kept is not their fault.

Decides when a connection whose time is over is asked to end. Timers that are due run before sockets are read. So after
the loop was kept, one sweep is left out, in which all that came meanwhile is read.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from .shared import Shared

__all__ = ["Sweep"]

LATE_SECONDS: Final = 0.1
"""A sweep that is so late tells that the event loop was kept."""


class Sweep:
    """A timer of the event loop that has all connections of a server looked at."""

    def __init__(self, shared: Shared, seconds: float, sweep: Callable[[], None]) -> None:
        self._shared = shared
        self._seconds = seconds
        self._sweep = sweep
        """Ends what is over."""
        self._due = monotonic() + seconds
        self._left_out = False
        self._timer: Any = shared.loop.timer(seconds, seconds, ref=False)
        self._timer.start(self._look)

    def __repr__(self) -> str:
        return f"<Sweep of {self._shared!r} every {self._seconds:g} s>"

    def stop(self) -> None:
        """Look no more."""
        self._timer.stop()

    def _look(self) -> None:
        now = monotonic()
        late, self._due = now - self._due, now + self._seconds
        # Never twice in a row: a loop that is kept again and again would end nothing.
        self._left_out = late > LATE_SECONDS and not self._left_out
        if self._left_out:
            self._shared.kept_until = now
        else:
            self._sweep()
