"""Guards: what libraries keep for each greenlet, such as Django's connections, is looked after between a slot's jobs.

Decides when a guard is called and how long it may take. It must not know libraries: `integrations/` registers a guard
for each one that is in use.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent import getcurrent

from .slotlog import tell

__all__ = ["CLEANUP_SECONDS", "Guard", "leave", "register", "settle", "watch_slot"]

CLEANUP_SECONDS = 5.0
"""How long cleaning up after a job may take before it is given up."""

_GUARDS: list[Guard] = []


class Guard:
    """Looks after what a library keeps for the current greenlet; all methods are called in a slot's greenlet."""

    def dirty(self) -> bool:
        """Say whether a job that has ended by itself has left something that the next one must not find; never waits.

        Only called where `watch_slot` has been, and after each job, so it should be quick.
        """
        return False

    def abandon(self) -> None:
        """Drop what the library keeps here, and end what it does on its servers: its state is unknown."""

    def leave(self) -> None:
        """Close what the library keeps here: the greenlet ends, or has been idle for long."""


def register(guard: Guard) -> None:
    """Have a guard called from now on; a second time changes nothing."""
    if guard not in _GUARDS:
        _GUARDS.append(guard)


def watch_slot() -> None:
    """Have the guards asked after every job of the current greenlet whether it was left dirty."""
    slot = getattr(getcurrent(), "intralb_slot", None)
    if slot is not None:
        slot.session.watched = slot.session.unsettled = True


def settle(*, aborted: bool) -> None:
    """Clean up after a job, in its greenlet; raises nothing."""
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
