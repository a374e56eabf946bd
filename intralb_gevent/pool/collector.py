"""Runs the garbage collector in greenlets, and never in the hub.

Python starts a collection wherever the next object is made, and calls the finalizers of what it finds there. In the hub
no finalizer may wait, so one that closes a connection would fail. While a hub is watched, automatic collection is off,
and what is due is collected in a greenlet of its own, or in the greenlet that computes.

This module is not compiled: from Python 3.12 on a collection starts between two steps of interpreted code only.
"""

from __future__ import annotations

import gc

import gevent

__all__ = ["Collector"]

COLLECT_SECONDS = 5.0
"""How long finalizers may wait in one collection; until they return, Python begins no other."""


class _Tracked:
    """An object that counts as allocated."""


class Collector:
    """The garbage collection of a process while one of its hubs is watched."""

    ITERATIONS = 8
    """How many iterations of the loop share one look, which takes as long as reading a short request's head."""

    def __init__(self) -> None:
        self._ours = False
        self._running = False
        self._iterations = 0

    def __repr__(self) -> str:
        return f"<Collector {'on' if self._ours else 'off'}, garbage {gc.get_count()}>"

    def in_hub(self) -> None:
        """Keep automatic collection off, and have a greenlet collect what is due; called in each loop iteration.

        An application that has turned automatic collection off keeps it so.
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
        """Collect what is due, as Python would do by itself; must not be called in the hub."""
        if self._ours and self._due():
            self._collect()

    def stop(self) -> None:
        """Leave collection to Python again."""
        if self._ours:
            self._ours = False
            gc.enable()

    def _collect_in_greenlet(self) -> None:
        try:
            # With False, it ends the block without an error.
            with gevent.Timeout(COLLECT_SECONDS, False):  # type: ignore[arg-type]  # not in its stubs
                self._collect()
        finally:
            self._running = False

    @staticmethod
    def _due() -> bool:
        threshold = gc.get_threshold()[0]
        return 0 < threshold < gc.get_count()[0]

    def _collect(self) -> None:
        """Let Python itself decide how much to collect: allocate an object while automatic collection is on."""
        gc.enable()
        try:
            _Tracked()
            for _ in range(2):
                # From Python 3.12 on, the end of an iteration is where the collection starts.
                pass
        finally:
            # A finalizer may have waited until after the end of the watch.
            if self._ours:
                gc.disable()
