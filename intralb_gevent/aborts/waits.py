"""Determines whether the abort of a waiting handler must be postponed.

An abort is an exception that the application does not expect. Most waits can be aborted cleanly, as if by a gevent
timeout. But some operations must not be left half done, because other code depends on their results. The operations
that must be completed are the import of a module, the start of a program, the logging of a record, and a `finally`
block that releases a resource.
"""

from __future__ import annotations

import threading
from types import FrameType
from typing import Any, Final

from gevent.event import Event

from ..framevariables import variables
from .blocks import calls_exit, is_within_step
from .breaks import take_break
from .callsites import callee, is_a
from .finallyblocks import is_in_finally
from .safepoints import DELICATE, RELEASES, application_frames, is_acquiring, package_of

__all__ = [
    "has_been_notified",
    "is_giving_back",
    "is_importing",
    "is_notifying",
    "is_paused_within_step",
    "is_starting_program",
    "is_taking_its_lock_back",
    "receiver",
    "take_no_notification",
]

_EXECUTES_A_MODULE: Final = frozenset({"_load_unlocked", "_exec", "exec_module"})
"""Functions of importlib that execute a module's code; the other functions of importlib only find the module, or wait
for the module's lock."""

_GIVES_BACK: Final = frozenset({"__exit__", "__aexit__", "close", *RELEASES})
"""Names of functions that release a resource of the handler."""


def is_importing(frame: FrameType | None) -> bool:
    """Return whether a waiting greenlet is executing the code of a module that is being imported.

    An abort would leave the module half executed, and other greenlets that import the module at the same time would get
    the half executed module. Objects that the module has registered elsewhere, such as SQLAlchemy tables, would already
    exist when the module is imported again.
    """
    return _is_in(frame, "importlib", _EXECUTES_A_MODULE)


def is_starting_program(frame: FrameType | None) -> bool:
    """Return whether a greenlet waits in the constructor of `subprocess.Popen`; the program may already be running.

    After an abort, the application would have no `Popen` object with which it could end the program.
    """
    return _is_in(frame, "gevent", frozenset({"_execute_child"}))


def _is_in(frame: FrameType | None, package: str, functions: frozenset[str]) -> bool:
    while frame is not None:
        if frame.f_code.co_name in functions and package_of(frame) == package:
            return True
        frame = frame.f_back
    return False


def is_giving_back(frame: FrameType | None) -> bool:
    """Return whether a greenlet waits while it releases a resource, as in a `finally` block, or while it logs a record.

    After an abort, a connection pool would have lost a connection forever, or a log file would contain half a record.
    """
    return receiver(frame) is not None


def receiver(frame: FrameType | None) -> FrameType | None:
    """Return the outermost frame that releases a resource, or calls a function that acquires or releases a resource;
    None without such a frame.

    An abort can be raised in this frame once the frame's `finally` block has ended, or the called function has
    returned.
    """
    found: FrameType | None = None
    for each, line in application_frames(frame):
        name = each.f_code.co_name
        if name in _GIVES_BACK or is_acquiring(each) or package_of(each) == "logging":
            found = each.f_back or each
        elif calls_exit(each.f_code, each.f_lasti) or is_in_finally(each.f_code, line):
            found = each
    return found


def is_paused_within_step(frame: FrameType | None) -> bool:
    """Return whether the watchdog has paused a CPU-bound handler before the handler could store the result of a call.

    After an abort, the handler could not release a resource that the call has acquired. The paused handler continues
    soon, and is aborted after the step.
    """
    while frame is not None and frame.f_code is not take_break.__code__:
        frame = frame.f_back
    place = next((each for each, _ in application_frames(frame)), None)
    return place is not None and is_within_step(place.f_code, place.f_lasti)


def is_taking_its_lock_back(frame: FrameType | None) -> bool:
    """Return whether a greenlet waits at the end of `Condition.wait()` to reacquire the lock of its `with` block.

    After an abort, the `with` block would release a lock that another greenlet holds.
    """
    while frame is not None and package_of(frame) in DELICATE:
        if frame.f_code.co_name == "_acquire_restore":
            return True
        frame = frame.f_back
    return False


def has_been_notified(frame: FrameType | None, patient: bool) -> bool:
    """Return whether a greenlet in `Condition.wait()` or `Event.wait()` has been notified, and has not run since.

    After an abort, no other waiting greenlet would receive the notification, and an object that was handed over with an
    event would be lost. Events are checked only if `patient` is true, because the result may be wrong: the event is
    read from a variable, which may have been reassigned during the call.
    """
    if is_taking_its_lock_back(frame):
        # The greenlet has run since it was notified, or its wait has timed out.
        return False
    _, waiter = _waiter(frame)
    return not waiter.locked() if waiter is not None else patient and _event_is_set(frame)


def _event_is_set(frame: FrameType | None) -> bool:
    """Return whether the innermost frame waits for an event that has already been set."""
    if frame is None:
        return False
    _, event = callee(frame)
    return is_a(event, Event) and event.is_set()


def is_notifying(frame: FrameType | None) -> bool:
    """Return whether a greenlet has yielded in `Condition.notify()`; such a greenlet continues in this iteration of the
    loop.

    In `Condition.notify()`, gevent's locks yield to the hub. After an abort, no waiter would be notified of an item
    that has just been added, and the item that `Queue.get()` has just removed would be lost.
    """
    while frame is not None and package_of(frame) in DELICATE:
        if frame.f_code is threading.Condition.notify.__code__:
            return True
        frame = frame.f_back
    return False


def take_no_notification(frame: FrameType | None) -> None:
    """Remove a greenlet that is aborted in `Condition.wait()` from the list of the condition's waiters.

    The greenlet itself would leave the list only after it has reacquired the lock. In the meantime, the holder of the
    lock could notify the aborted greenlet, and the notification would be lost.
    """
    condition, waiter = _waiter(frame)
    if waiter is not None and waiter in condition._waiters:
        condition._waiters.remove(waiter)


def _waiter(frame: FrameType | None) -> tuple[Any, Any]:
    """Return the condition for which a greenlet waits, and the lock that wakes it; (None, None) without a condition."""
    while frame is not None and package_of(frame) in DELICATE:
        if frame.f_code is threading.Condition.wait.__code__:
            known = variables(frame)
            return known.get("self"), known.get("waiter")
        frame = frame.f_back
    return None, None
