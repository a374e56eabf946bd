"""Runs the garbage collector in greenlets, never in the hub.

Python runs a due collection when an object is allocated, and calls the finalizers of garbage at that point. In the hub,
a finalizer must not wait, so a finalizer that closes a connection would fail. While a hub is watched, automatic
collection is off, and due collections run in a separate greenlet, or in a greenlet that has been CPU-bound for a while.

This module is not compiled, because from Python 3.12 on, a collection starts only between two instructions of
interpreted code.
"""

from __future__ import annotations

import gc

import gevent

__all__ = ["Collector"]

COLLECT_SECONDS = 5.0
"""Maximum number of seconds that finalizers may wait in one collection; until a collection ends, Python starts no
other."""


class _Tracked:
    """An object whose allocation Python's garbage collector counts."""


class Collector:
    """The garbage collection of a process while one of its hubs is watched."""

    ITERATIONS = 8
    """Number of iterations of the event loop for each check of whether a collection is due. A check takes as long as
    parsing the head of a short request, so checking in every iteration would be too expensive."""

    def __init__(self) -> None:
        self._ours = False
        self._running = False
        self._iterations = 0

    def __repr__(self) -> str:
        return f"<Collector {'on' if self._ours else 'off'}, garbage {gc.get_count()}>"

    def in_hub(self) -> None:
        """Keep automatic collection off, and spawn a greenlet if a collection is due; called in each loop iteration.

        If the application has disabled automatic collection, this method does nothing.
        """
        self._iterations += 1
        if self._iterations % self.ITERATIONS != 1:
            return
        if gc.isenabled():
            gc.disable()
            self._ours = True
        if self._ours and not self._running and self._due():
            self._running = True
            gevent.spawn(self._collect_in_greenlet)

    def in_greenlet(self) -> None:
        """Run a collection if one is due, as Python itself would; must not be called in the hub."""
        if self._ours and self._due():
            self._collect()

    def stop(self) -> None:
        """Turn automatic collection on again if this object has turned it off."""
        if self._ours:
            self._ours = False
            gc.enable()

    def _collect_in_greenlet(self) -> None:
        try:
            # Pass False, so that the timeout ends the block without an exception.
            with gevent.Timeout(COLLECT_SECONDS, False):  # type: ignore[arg-type]  # gevent's stubs forbid False
                self._collect()
        finally:
            self._running = False

    @staticmethod
    def _due() -> bool:
        threshold = gc.get_threshold()[0]
        return 0 < threshold < gc.get_count()[0]

    def _collect(self) -> None:
        """Allocate an object while automatic collection is on, so that Python decides which generations to collect."""
        gc.enable()
        try:
            _Tracked()
            for _ in range(2):
                # From Python 3.12 on, the collection starts at the end of an iteration of this `for` loop.
                pass
        finally:
            # Leave automatic collection on if `stop` was called while a finalizer waited.
            if self._ours:
                gc.disable()
