"""Room on the stack for the watchdog's handler, which Python calls on top of whatever computes.

A handler that recurses up to the limit leaves none: what the watchdog calls would raise RecursionError in its place,
and a handler that catches that and recurses again would never be ended.
"""

from __future__ import annotations

import sys
from typing import Final

from gevent import getcurrent

__all__ = ["HEADROOM"]

_FRAMES: Final = 200
"""More than the watchdog needs to find the place of an abort, to answer the request, and to raise."""


class Headroom:
    """A higher limit of recursion, as long as the watchdog's handler runs."""

    def __init__(self) -> None:
        self._limit = self._limit_before = 0
        self._taken_by = 0
        """The id of the greenlet in which the handler runs; a reference would count as a leftover of its request."""

    def __repr__(self) -> str:
        return f"<Headroom above {self._limit}>" if self._limit else "<Headroom not taken>"

    def take(self) -> bool:
        """Raise the limit; return False if this greenlet has done so, or if the stack is too deep to lower it again.

        A handler in another greenlet has yielded since, perhaps for good, and does without.
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
        """Lower it again, unless another one has been set since; called at the depth of `take`, or less."""
        limit, self._limit = self._limit, 0
        if limit and sys.getrecursionlimit() == limit + _FRAMES:
            sys.setrecursionlimit(limit)

    def take_beforehand(self) -> None:
        """Raise the limit until `give_back_beforehand`, for a handler that has left no room to do so; in any thread."""
        if not self._limit_before:
            self._limit_before = sys.getrecursionlimit()
            sys.setrecursionlimit(self._limit_before + _FRAMES)

    def give_back_beforehand(self) -> None:
        """Lower it again, unless another one has been set since."""
        limit, self._limit_before = self._limit_before, 0
        if limit and sys.getrecursionlimit() == limit + _FRAMES:
            sys.setrecursionlimit(limit)


HEADROOM: Final = Headroom()
"""The headroom of this process."""
