"""Limits the time of application code that runs outside of a handler, such as the `__str__` of an exception.

A timer interrupts code that waits. The watchdog interrupts CPU-bound code; without the watchdog, one `__str__` with an
endless loop would block all requests.
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
    """A context manager that limits the time for which its block is CPU-bound, and the total time of the block.

    If the block is CPU-bound for `compute_seconds` without a pause, `OutOfTime` is raised in the block. If the block
    takes longer than `seconds` in total, `gevent.Timeout` is raised. The block must call application code through a
    function that is marked with `calls_application`. If the watchdog does not interrupt CPU-bound handlers, it does not
    interrupt CPU-bound blocks either.
    """

    __slots__ = ("_began", "_compute_seconds", "_greenlet", "_outer", "_timeout", "exceeded")

    def __init__(self, compute_seconds: float, seconds: float) -> None:
        self._compute_seconds = compute_seconds
        self._timeout = gevent.Timeout(seconds)
        self._began = 0.0
        self._greenlet: Any = None
        self._outer: Bound | None = None
        self.exceeded = False
        """True if `OutOfTime` was raised in the block, even if the block has caught the exception."""

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
        # Drop the reference to the slot's greenlet; otherwise, the slot would conclude that the request has left an
        # object behind.
        self._greenlet = self._outer = None
        self._timeout.close()

    def enforce(self, since: float, frame: FrameType | None) -> None:
        """Raise `OutOfTime` if the block has been CPU-bound for too long.

        The watchdog's signal handler calls this method in the greenlet of the block. `since` is the time, in
        `time.monotonic()` seconds, since which the greenlet has run without a pause.
        """
        if monotonic() - max(since, self._began) >= self._compute_seconds and in_application(frame):
            self.exceeded = True
            raise OutOfTime
