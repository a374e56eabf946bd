"""Time limits for application code that the server calls itself, such as the `__str__` of an exception.

A timer interrupts code that waits. The watchdog interrupts CPU-bound code as it interrupts a late handler; otherwise,
one `__str__` with an endless loop would block all requests.
"""

from __future__ import annotations

from time import monotonic
from types import FrameType, TracebackType
from typing import Any

import gevent
from gevent import getcurrent

from .safepoints import in_application

__all__ = ["Bound", "OutOfTime"]


class OutOfTime(BaseException):
    """Raised in the block of a `Bound` that has been CPU-bound for too long."""


class Bound:
    """A context manager that limits its block to `compute_seconds` of CPU-bound work, and to `seconds` in all.

    If the block is CPU-bound for longer, `OutOfTime` is raised in it; if it takes longer in all, `gevent.Timeout` is
    raised. The block must call application code through a function that is marked with `calls_application`. If the
    interruption of CPU-bound handlers is off, CPU-bound blocks are not interrupted either.
    """

    __slots__ = ("_began", "_compute_seconds", "_greenlet", "_outer", "_timeout", "exceeded")

    def __init__(self, compute_seconds: float, seconds: float) -> None:
        self._compute_seconds = compute_seconds
        self._timeout = gevent.Timeout(seconds)
        self._began = 0.0
        self._greenlet: Any = None
        self._outer: Bound | None = None
        self.exceeded = False
        """True if `OutOfTime` was raised in the block, even if the block ignored it."""

    def __repr__(self) -> str:
        return f"<Bound {self._compute_seconds:g} s computing, {self._timeout}{' exceeded' if self.exceeded else ''}>"

    def __enter__(self) -> Bound:
        self._began = monotonic()
        self._greenlet = getcurrent()
        self._outer = getattr(self._greenlet, "intralb_bound", None)
        self._timeout.start()
        self._greenlet.intralb_bound = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._greenlet.intralb_bound = self._outer
        # Drop the reference to the slot's greenlet, because it would count as a leftover of the request.
        self._greenlet = self._outer = None
        self._timeout.close()

    def enforce(self, since: float, frame: FrameType | None) -> None:
        """Raise `OutOfTime` if the block has been CPU-bound for too long; called by the watchdog, in its greenlet.

        `since` is the `time.monotonic()` time from which on the greenlet has run without a pause.
        """
        if monotonic() - max(since, self._began) >= self._compute_seconds and in_application(frame):
            self.exceeded = True
            raise OutOfTime
