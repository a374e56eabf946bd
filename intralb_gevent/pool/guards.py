"""Between a slot's jobs, guards clean up the state that libraries keep per greenlet, such as Django's connections.

This module determines when a guard is called and how long it may take. `integrations/` registers a guard for each
library that is in use.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent

from ..aborts.slotgreenlet import current_slot
from .slotlog import tell

__all__ = ["CLEANUP_SECONDS", "Guard", "leave", "register", "settle", "watch_slot"]

CLEANUP_SECONDS = 5.0
"""Timeout of each clean-up step after a job, in seconds."""

_GUARDS: list[Guard] = []


class Guard:
    """Cleans up a library's state in the current greenlet; all methods are called in a slot's greenlet."""

    def dirty(self) -> bool:
        """Return whether a job that was not aborted has left state that the next job must not see; never waits.

        In slots for which `watch_slot` was called, this method is called after each job, so it should be fast.
        """
        return False

    def abandon(self) -> None:
        """Discard the library's state, and cancel the operations that the library still runs on its servers."""

    def leave(self) -> None:
        """Close the library's resources, because the greenlet is about to end or has been idle for a long time."""


def register(guard: Guard) -> None:
    """Register a guard; a second call for the same guard changes nothing."""
    if guard not in _GUARDS:
        _GUARDS.append(guard)


def watch_slot() -> None:
    """From now on, call each guard's `dirty` after every job of the current slot."""
    slot = current_slot()
    if slot is not None:
        slot.session.watched = slot.session.unsettled = True


def settle(*, aborted: bool) -> None:
    """Clean up after a job, in the job's greenlet; raises nothing."""
    for guard in _GUARDS:
        if aborted or guard.dirty():
            _call(guard, guard.abandon)


def leave() -> None:
    """Clean up before the current greenlet ends; raises nothing."""
    for guard in _GUARDS:
        _call(guard, guard.leave)


def _call(guard: Guard, step: Callable[[], None]) -> None:
    try:
        with gevent.Timeout(CLEANUP_SECONDS):
            step()
    except BaseException as error:
        tell("%r could not clean up after a request", guard, exc_info=error)
