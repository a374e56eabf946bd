"""A bound for code of the application that the server calls on its own account, such as `str()` of an exception.

Code that waits is ended by a timer. Code that computes is ended by the watchdog, in the way of a handler that is late:
without that, one `__str__` with an endless loop would stop every request.
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
    """The code has computed for longer than its `Bound` allows."""


class Bound:
    """A context manager: its block may compute for `compute_seconds` without a pause, and take `seconds` in all.

    Beyond these it is ended by `OutOfTime` or `gevent.Timeout`. It must call the application through a function that is
    marked with `calls_application`. Where handlers that compute are not interrupted, this is not either.
    """

    __slots__ = ("_began", "_compute_seconds", "_greenlet", "_outer", "_timeout", "exceeded")

    def __init__(self, compute_seconds: float, seconds: float) -> None:
        self._compute_seconds = compute_seconds
        self._timeout = gevent.Timeout(seconds)
        self._began = 0.0
        self._greenlet: Any = None
        self._outer: Bound | None = None
        self.exceeded = False
        """Whether the block has been interrupted because it was computing, even if it has ignored that."""

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
        # Nothing may hold on to the greenlet of a slot.
        self._greenlet = self._outer = None
        self._timeout.close()

    def enforce(self, since: float, frame: FrameType | None) -> None:
        """Raise `OutOfTime` if the block has computed for too long; called by the watchdog, in the block's greenlet.

        `since` is when, in `time.monotonic()` seconds, the greenlet began to run without a pause.
        """
        if monotonic() - max(since, self._began) >= self._compute_seconds and in_application(frame):
            self.exceeded = True
            raise OutOfTime
