"""Raises an abort in an outer frame, as soon as what that has called returns.

An abort may not be raised in a collation of SQLite, say, but a statement that sorts a large table may spend all of its
time there. Looking now and then would hardly ever find another place. So Python's tracing is used: it calls a function
before each instruction of one frame. Not before each line: the next line may already be the end of a `with` or `try`
block, where `__exit__` and `finally` no longer apply. A debugger or a coverage tool that traces already is left alone.
A statement of SQLite is asked to end at once, which undoes it as a whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, MethodDescriptorType
from typing import TYPE_CHECKING, Any

from gevent import getcurrent

from .callsites import are_in_one_block, arguments, callee, loop_start
from .headroom import HEADROOM

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["cancel_landing", "land", "trace", "trace_no_other_frame"]


def trace_no_other_frame(frame: FrameType, event: str, argument: object) -> None:
    """Ignore the call of a function. While this traces, an abort waits for the return of what a frame has called."""


def land(frame: FrameType, slot: Slot) -> None:
    """Have the slot interrupted at the next instruction of this frame, if its time is over then.

    Not if that instruction is in another `try` or `with` block, or at the end of one: there is no telling what its
    `finally` and `__exit__` have done by then.
    """
    start = loop_start(frame.f_code, frame.f_lasti)
    before = frame.f_lasti if start is None else start

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        cancel_landing()
        if not HEADROOM.take():
            return
        try:
            if getcurrent() is slot.greenlet and are_in_one_block(frame.f_code, before, frame.f_lasti):
                slot.interrupt()
        finally:
            HEADROOM.give_back()

    if trace(frame, interrupt):
        _end_statements(frame)


def trace(frame: FrameType, function: Callable[[FrameType, str, object], None]) -> bool:
    """Have a function called before the next instruction of this frame; return whether no debugger prevents it.

    It has to call `cancel_landing`.
    """
    if sys.gettrace() not in (None, trace_no_other_frame):
        return False
    frame.f_trace = function
    frame.f_trace_lines, frame.f_trace_opcodes = False, True
    sys.settrace(trace_no_other_frame)
    return True


def _end_statements(frame: FrameType) -> None:
    """Interrupt the statement that this frame has called."""
    called, owner = callee(frame)
    # `Cursor.execute(cursor, ...)` has the cursor among its arguments.
    _end_statement(owner)
    for value in arguments(frame) if isinstance(called, MethodDescriptorType) else ():
        _end_statement(value)


def _end_statement(owner: object) -> None:
    """Interrupt the statement that a connection or a cursor of SQLite is executing."""
    sqlite3: Any = sys.modules.get("sqlite3")
    if sqlite3 is None:
        return
    connection = owner.connection if isinstance(owner, sqlite3.Cursor) else owner
    if isinstance(connection, sqlite3.Connection):
        with suppress(sqlite3.Error):
            connection.interrupt()


def cancel_landing() -> None:
    """End the tracing, if it was begun here."""
    if sys.gettrace() is trace_no_other_frame:
        sys.settrace(None)
