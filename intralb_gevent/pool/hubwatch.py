"""How long the hub goes without looking at its sockets and timers, which is how long everybody waits.

Decides what counts: a stretch begins when the system has told the hub of events, and ends when the hub asks for more.
Measured by two callbacks in each round of the loop; there is no timer. It must not know who has taken the time.

What comes during a stretch lies unseen until its end. A long one makes the hub late: with what it still reads in the
same stretch, and with what it reads for as long again afterwards. That is not only the next round, as connections that
came meanwhile are accepted some at a time, and each is read from in a later round.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ..observe.stats import Histogram

__all__ = ["HubWatch"]

LATE_SECONDS: Final = 0.02
"""A stretch of so long is a long one."""


class HubWatch:
    """Counts the stretches of one loop; `after_long` is called after each of `long_seconds` or more."""

    def __init__(self, loop: Any, long_seconds: float, after_long: Callable[[], object]) -> None:
        self.busy_since: float | None = monotonic()
        """When the present stretch began, in `time.monotonic()` seconds; None while the hub waits for events."""
        self.late_after = math.inf
        """What is read after this moment, in `time.monotonic()` seconds, may have come long before."""
        self._late_until = 0.0
        self.lag = Histogram()
        self._long_seconds = long_seconds
        self._after_long = after_long
        self.each_iteration: Callable[[], object] | None = None
        """Called in each iteration of the loop, once its events are known and before they are handled."""
        # The last thing before the hub waits, and the first thing afterwards.
        self._before = loop.prepare(ref=False, priority=loop.MINPRI)
        self._after = loop.check(ref=False, priority=loop.MAXPRI)

    def __repr__(self) -> str:
        doing = "waiting" if self.busy_since is None else f"busy for {monotonic() - self.busy_since:.3f}s"
        return f"<HubWatch {doing}>"

    def busy(self, now: float) -> float:
        """Return for how many seconds the hub has been busy, all stretches and the present one together."""
        return self.lag.total + (0.0 if self.busy_since is None else now - self.busy_since)

    def start(self) -> None:
        """Begin to measure."""
        self._before.start(self._about_to_wait)
        self._after.start(self._has_waited)

    def stop(self) -> None:
        """Measure no more."""
        self._before.stop()
        self._after.stop()
        self.late_after = math.inf

    def _has_waited(self) -> None:
        if self.busy_since is not None:
            # Started in the middle of a round: its beginning was not seen, and is not counted.
            self._after_long()
        self.busy_since = now = monotonic()
        self.late_after = now + LATE_SECONDS if now >= self._late_until else now
        if self.each_iteration is not None:
            self.each_iteration()

    def _about_to_wait(self) -> None:
        if self.busy_since is None:
            return
        now = monotonic()
        stretch = now - self.busy_since
        self.busy_since = None
        self.lag.add(stretch)
        if stretch >= LATE_SECONDS:
            self._late_until = max(self._late_until, now + stretch)
        if stretch >= self._long_seconds:
            self._after_long()
