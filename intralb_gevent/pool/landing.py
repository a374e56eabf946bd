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
from types import CodeType, FrameType, MethodDescriptorType
from typing import TYPE_CHECKING, Any, Final

from gevent import getcurrent

from .callsites import arguments, callee, change_of_depth, is_at_edge, is_call, loop_start
from .finallyblocks import is_in_finally
from .headroom import HEADROOM

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["cancel_landing", "land", "trace", "trace_no_other_frame"]

MOST_STEPS: Final = 5000
"""Instructions after which a search ends; they take about 5 ms, and the watchdog's next look begins another search."""


def trace_no_other_frame(frame: FrameType, event: str, argument: object) -> None:
    """Ignore the call of a function. While this traces, an abort waits for the return of what a frame has called."""


def land(frame: FrameType, slot: Slot) -> None:
    """Have the slot interrupted as soon as this frame comes to a place where that leaves nothing half done."""
    if trace(frame, _Search(frame, slot)):
        _end_statements(frame)


class _Search:
    """Follows a frame to the next instruction at which an abort may be raised, and raises it if it is time for it then.

    A statement that has made a call is finished first, and a `try` after it begun: else no `finally` block would give
    back what the call has taken. Where a block has ended there is no telling what its `finally` and `__exit__` have
    done, up to the next statement.
    """

    def __init__(self, frame: FrameType, slot: Slot) -> None:
        start = loop_start(frame.f_code, frame.f_lasti)
        self._slot = slot
        self._offset = frame.f_lasti if start is None else start
        self._line: int | None = frame.f_lineno
        self._within_statement = start is None and is_call(frame.f_code, frame.f_lasti)
        self._steps = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self._steps += 1
        at_place = self._is_place(frame.f_code, frame.f_lasti, frame.f_lineno)
        if not at_place and self._steps < MOST_STEPS:
            return
        cancel_landing()
        if not at_place or not HEADROOM.take():
            return
        try:
            if getcurrent() is self._slot.greenlet:
                self._slot.interrupt()
        finally:
            HEADROOM.give_back()

    def _is_place(self, code: CodeType, offset: int, line: int | None) -> bool:
        depth = change_of_depth(code, self._offset, offset)
        if depth < 0:
            self._within_statement = True
        elif depth > 0 or line != self._line or offset <= self._offset:
            self._within_statement = False
        self._offset, self._line = offset, line
        # Instructions by which Python itself ends a handler of exceptions have no line.
        if line is None or self._within_statement:
            return False
        return not (is_at_edge(code, offset) or is_in_finally(code, line))


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
