"""Measures how long the event loop is busy between two polls of its sockets and timers.

A busy period begins when the kernel reports events to the loop, and ends when the loop polls again. Two watchers that
run in each iteration of the loop measure the busy periods, without a timer.

Data that arrives during a busy period is not read before the period ends. After a long busy period, data counts as read
late for another period of the same duration, because a loop that was blocked needs several iterations to catch up. In
one iteration, the loop accepts only a few connections, and does not read from new connections yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

from ..observe.stats import Histogram

__all__ = ["HubWatch"]

LATE_SECONDS: Final = 0.02
"""Seconds from the start of a busy period until data counts as read late. For a while after a long busy period, all
data counts as read late."""


class Witness(Protocol):
    """An object to which a watch reports each iteration of its loop; its methods must be quick, and never wait or
    raise."""

    def busy(self, now: float) -> None:
        """Record that the loop is busy from `now` on, in `time.monotonic()` seconds."""

    def idle(self) -> None:
        """Record that the loop waits for events."""


class HubWatch:
    """Measures the busy periods of one loop; calls `after_long` after each period of at least `long_seconds`."""

    def __init__(self, loop: Any, long_seconds: float, after_long: Callable[[], object]) -> None:
        self._began = monotonic()
        self.busy_since: float | None = self._began
        """Start of the current busy period, in `time.monotonic()` seconds; None while the hub waits for events."""
        self.late_after = math.inf
        """Time from which on data counts as read late, in `time.monotonic()` seconds."""
        self._late_until = 0.0
        self.lag = Histogram()
        self._long_seconds = long_seconds
        self._after_long = after_long
        self.each_iteration: Callable[[], object] | None = None
        """Function that is called in each iteration of the loop, after polling and before the events are handled."""
        self.witness: Witness | None = None
        """The object to which each iteration is reported; None if there is none."""
        # `_before` is the last callback before the loop polls, and `_after` is the first callback afterwards.
        self._before = loop.prepare(ref=False, priority=loop.MINPRI)
        self._after = loop.check(ref=False, priority=loop.MAXPRI)

    def __repr__(self) -> str:
        doing = "waiting" if self.busy_since is None else f"busy for {monotonic() - self.busy_since:.3f}s"
        return f"<HubWatch {doing}>"

    def busy(self, now: float) -> float:
        """Return the total number of seconds for which the hub has been busy, including the current busy period.

        The total does not include the first period while that period lasts: the period may be discarded when it ends,
        and the total must not fall.
        """
        since = self.busy_since
        return self.lag.total + (0.0 if since is None or since == self._began else now - since)

    def start(self) -> None:
        """Start to measure busy periods."""
        self._before.start(self._about_to_wait)
        self._after.start(self._has_waited)

    def stop(self) -> None:
        """Stop measuring busy periods."""
        self._before.stop()
        self._after.stop()
        self.late_after = math.inf

    def _has_waited(self) -> None:
        if self.busy_since is not None:
            # Measuring has started in the middle of this busy period, so its duration is unknown, and is not added to
            # `lag`.
            self._after_long()
        self.busy_since = now = monotonic()
        self.late_after = now + LATE_SECONDS if now >= self._late_until else now
        if self.witness is not None:
            self.witness.busy(now)
        if self.each_iteration is not None:
            self.each_iteration()

    def _about_to_wait(self) -> None:
        if self.busy_since is None:
            return
        if self.witness is not None:
            self.witness.idle()
        now = monotonic()
        stretch = now - self.busy_since
        self.busy_since = None
        self.lag.add(stretch)
        if stretch >= LATE_SECONDS:
            self._late_until = max(self._late_until, now + stretch)
        if stretch >= self._long_seconds:
            self._after_long()
