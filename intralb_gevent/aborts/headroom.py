"""Reserves recursion depth for the watchdog's signal handler, which Python calls on the stack of the running code.

Without the reserve, the watchdog's own calls would raise RecursionError instead of the abort if a request handler has
recursed up to the recursion limit. Without the reserve, a handler that catches RecursionError and recurses again would
never be aborted.
"""

from __future__ import annotations

import sys
from typing import Final

from gevent import getcurrent

__all__ = ["HEADROOM"]

_FRAMES: Final = 200
"""Number of reserved frames: enough to find where to raise an abort, to send the response, and to raise the abort."""


class Headroom:
    """Raises the recursion limit while the watchdog's signal handler runs."""

    def __init__(self) -> None:
        self._limit = self._limit_before = 0
        self._taken_by = 0
        """Id of the greenlet in which the signal handler runs. If this object referred to the greenlet itself, the
        greenlet's slot would conclude that the request has left an object behind."""

    def __repr__(self) -> str:
        return f"<Headroom above {self._limit}>" if self._limit else "<Headroom not taken>"

    def take(self) -> bool:
        """Raise the recursion limit; return False if this greenlet has already raised it, or if the stack is too deep.

        The stack is too deep if Python would refuse to restore the earlier limit at this depth. If the signal handler
        is still running in another greenlet, that greenlet has yielded, perhaps forever, and loses its headroom.
        """
        if self._limit and self._taken_by == id(getcurrent()):
            return False
        limit = self._limit or sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(limit)
        except RecursionError:
            return False
        self._limit, self._taken_by = limit, id(getcurrent())
        sys.setrecursionlimit(limit + _FRAMES)
        return True

    def give_back(self) -> None:
        """Restore the recursion limit, unless other code has changed the limit since `take`.

        The stack must not be deeper than when `take` was called.
        """
        limit, self._limit = self._limit, 0
        if limit and sys.getrecursionlimit() == limit + _FRAMES:
            sys.setrecursionlimit(limit)

    def is_spare(self) -> bool:
        """Return whether the running greenlet has so few frames that the signal handler does not need the reserve.

        Other greenlets may only run during the signal handler if this is true, because they run without the reserve,
        and end it for this greenlet.
        """
        limit = self._limit_before or self._limit or sys.getrecursionlimit()
        try:
            sys._getframe(max(limit - _FRAMES, 0))
        except ValueError:
            return True
        return False

    def take_beforehand(self) -> None:
        """Raise the recursion limit until `give_back_beforehand` is called; used if the stack was too deep for `take`.

        Any thread can call this method.
        """
        if not self._limit_before:
            self._limit_before = sys.getrecursionlimit()
            sys.setrecursionlimit(self._limit_before + _FRAMES)

    def give_back_beforehand(self) -> None:
        """Restore the recursion limit that `take_beforehand` has raised, unless other code has changed the limit
        since."""
        limit, self._limit_before = self._limit_before, 0
        if limit and sys.getrecursionlimit() == limit + _FRAMES:
            sys.setrecursionlimit(limit)


HEADROOM: Final = Headroom()
"""The only `Headroom` of this process."""
