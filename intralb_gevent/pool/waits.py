"""Where an abort may not be raised yet in a handler that waits.

An abort is an exception where the application expects none. Most waits are left by it in good order, as by a timeout of
gevent. But some code is left with half of its work done, and others depend on the other half: a module that is being
imported, a program that is being started, a record that is being logged, a `finally` block that gives something back.
"""

from __future__ import annotations

import threading
from types import FrameType
from typing import Any, Final

from .blocks import calls_exit, is_within_step
from .breaks import take_break
from .finallyblocks import is_in_finally
from .safepoints import DELICATE, application_frames, package_of

__all__ = [
    "has_been_notified",
    "is_giving_back",
    "is_importing",
    "is_paused_within_step",
    "is_starting_program",
    "is_taking_its_lock_back",
    "receiver",
    "take_no_notification",
]

_EXECUTES_A_MODULE: Final = frozenset({"_load_unlocked", "_exec", "exec_module"})
"""Functions of importlib below which a module's own code runs. Others only look for it, or wait for its lock."""

_GIVES_BACK: Final = frozenset({"__exit__", "__aexit__", "release", "_release", "close"})
"""Names of functions that give back what the handler has taken."""


def is_importing(frame: FrameType | None) -> bool:
    """Say whether a greenlet that waits is executing a module.

    Ended there, the module would be left half made: others that import it meanwhile get it as it is, and what it has
    registered with others, such as a table of SQLAlchemy's, would be there already when it is imported anew.
    """
    return _is_in(frame, "importlib", _EXECUTES_A_MODULE)


def is_starting_program(frame: FrameType | None) -> bool:
    """Say whether a greenlet that waits is in the constructor of `subprocess.Popen`, and the program may be running.

    Ended there, nobody would have the `Popen` by which to end the program.
    """
    return _is_in(frame, "gevent", frozenset({"_execute_child"}))


def _is_in(frame: FrameType | None, package: str, functions: frozenset[str]) -> bool:
    while frame is not None:
        if frame.f_code.co_name in functions and package_of(frame) == package:
            return True
        frame = frame.f_back
    return False


def is_giving_back(frame: FrameType | None) -> bool:
    """Say whether a greenlet waits in a `finally` block, at the end of a `with` block, or in a logging handler.

    Ended there, a pool would lose a member for good, and the stream that a handler sends records by would be left in
    the middle of one.
    """
    return receiver(frame) is not None


def receiver(frame: FrameType | None) -> FrameType | None:
    """Return the outermost frame that is giving something back, or waits for what does; None if nothing is given back.

    It is where an abort can be raised next, once its `finally` block has ended or what it has called has returned.
    """
    found: FrameType | None = None
    for each, line in application_frames(frame):
        if each.f_code.co_name in _GIVES_BACK or package_of(each) == "logging":
            found = each.f_back or each
        elif calls_exit(each.f_code, each.f_lasti) or is_in_finally(each.f_code, line):
            found = each
    return found


def is_paused_within_step(frame: FrameType | None) -> bool:
    """Say whether a handler that computes was paused by us where it has not yet kept what a call has returned.

    Ended there, it would not give back what it has taken by that call. It goes on soon, and is ended elsewhere.
    """
    while frame is not None and frame.f_code is not take_break.__code__:
        frame = frame.f_back
    place = next((each for each, _ in application_frames(frame)), None)
    return place is not None and is_within_step(place.f_code, place.f_lasti)


def is_taking_its_lock_back(frame: FrameType | None) -> bool:
    """Say whether a greenlet waits at the end of `Condition.wait()` for the lock that its `with` block will give back.

    Ended there, the block would give back a lock that another holds.
    """
    while frame is not None and package_of(frame) in DELICATE:
        if frame.f_code.co_name == "_acquire_restore":
            return True
        frame = frame.f_back
    return False


def has_been_notified(frame: FrameType | None) -> bool:
    """Say whether a greenlet in `Condition.wait()` has been notified, and has not run since.

    Ended there, it would take the notification with it, and another that waits would never get it.
    """
    if is_taking_its_lock_back(frame):
        # It has run, or its time was over before.
        return False
    _, waiter = _waiter(frame)
    return waiter is not None and not waiter.locked()


def take_no_notification(frame: FrameType | None) -> None:
    """Have a greenlet in `Condition.wait()` not be notified any more, as it is ended now.

    It leaves the list of waiters itself, but only once it has its lock back: who holds that may notify it before.
    """
    condition, waiter = _waiter(frame)
    if waiter is not None and waiter in condition._waiters:
        condition._waiters.remove(waiter)


def _waiter(frame: FrameType | None) -> tuple[Any, Any]:
    """Return the condition that a greenlet waits for, and the lock by which it is notified; (None, None) if none."""
    while frame is not None and package_of(frame) in DELICATE:
        if frame.f_code is threading.Condition.wait.__code__:
            known = frame.f_locals
            return known.get("self"), known.get("waiter")
        frame = frame.f_back
    return None, None
