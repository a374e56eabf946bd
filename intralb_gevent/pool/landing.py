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
from time import monotonic
from types import CodeType, FrameType, MethodDescriptorType
from typing import TYPE_CHECKING, Any, Final

from gevent import getcurrent

from .blocks import change_of_depth, is_at_edge, is_call, loop_start, returns, returns_soon
from .callsites import arguments, callee, is_a
from .finallyblocks import is_in_finally
from .headroom import HEADROOM
from .safepoints import landing_frame

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["cancel_landing", "is_stuck", "land", "trace", "trace_no_other_frame"]

STUCK_SECONDS: Final = 0.02
"""A call that takes longer is ended by an abort that is raised in it, though its result may be lost by that."""

MOST_STEPS: Final = 5000
"""Instructions after which a search ends; they take about 5 ms, and the watchdog's next look begins another search."""


def trace_no_other_frame(frame: FrameType, event: str, argument: object) -> None:
    """Ignore the call of a function. While this traces, an abort waits for the return of what a frame has called."""


def land(frame: FrameType, slot: Slot) -> bool:
    """Have the slot interrupted as soon as this frame comes to a place where that leaves nothing half done.

    Returns False where a debugger prevents that.
    """
    if _waits(frame):
        return True
    if not trace(frame, _Search(frame, slot)):
        return False
    _end_statements(frame)
    return True


def is_stuck(frame: FrameType) -> bool:
    """Say whether a search began here some time ago, and the call that the frame is making has not returned since.

    A system call that is interrupted begins anew unless the handler of the signal raises.
    """
    return _waits(frame) and monotonic() - frame.f_trace.began >= STUCK_SECONDS  # type: ignore[union-attr]


def _waits(frame: FrameType) -> bool:
    """Say whether a search has begun at this frame, which has not gone on since."""
    search = frame.f_trace
    return sys.gettrace() is trace_no_other_frame and type(search) is _Search and not search.steps


class _Search:
    """Follows a frame to the next instruction at which an abort may be raised, and raises it if it is time for it then.

    A statement that has made a call is finished first, and a `try` after it begun: else no `finally` block would give
    back what the call has taken. If the statement returns that, the one that called the function is finished, too.
    Where a block has ended there is no telling what its `finally` and `__exit__` have done, up to the next statement.
    """

    def __init__(self, frame: FrameType, slot: Slot) -> None:
        start = loop_start(frame.f_code, frame.f_lasti)
        self._slot = slot
        self._offset = frame.f_lasti if start is None else start
        self._line: int | None = frame.f_lineno
        self._within_statement = start is None and is_call(frame.f_code, frame.f_lasti)
        self.began = monotonic()
        self.steps = 0
        """How many instructions have been executed since."""

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self.steps += 1
        code, offset = frame.f_code, frame.f_lasti
        if self._is_place(code, offset, frame.f_lineno):
            cancel_landing()
            self._interrupt()
        elif returns(code, offset) or self.steps >= MOST_STEPS:
            cancel_landing()
            if self.steps < MOST_STEPS:
                self._go_on_in_caller(frame)

    def _is_place(self, code: CodeType, offset: int, line: int | None) -> bool:
        depth = change_of_depth(code, self._offset, offset)
        if depth < 0:
            self._within_statement = True
        elif depth > 0 or line != self._line or offset <= self._offset:
            self._within_statement = False
        self._offset, self._line = offset, line
        # Instructions by which Python itself ends a handler of exceptions have no line.
        if line is None or self._within_statement or returns_soon(code, offset):
            return False
        return not (is_at_edge(code, offset) or is_in_finally(code, line))

    def _go_on_in_caller(self, frame: FrameType) -> None:
        """Follow what has called this frame; if that is the server, the next call of it is a place for an abort."""
        place = landing_frame(frame.f_back, self._slot.patient)
        if place is not None:
            trace(place, _Search(place, self._slot))

    def _interrupt(self) -> None:
        if not HEADROOM.take():
            return
        try:
            if getcurrent() is self._slot.greenlet:
                self._slot.interrupt()
        finally:
            HEADROOM.give_back()


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
    for value in arguments(frame) if type(called) is MethodDescriptorType else ():
        _end_statement(value)


def _end_statement(owner: Any) -> None:
    """Interrupt the statement that a connection or a cursor of SQLite is executing."""
    sqlite3: Any = sys.modules.get("sqlite3")
    if sqlite3 is None:
        return
    connection: Any = owner.connection if is_a(owner, sqlite3.Cursor) else owner
    if is_a(connection, sqlite3.Connection):
        with suppress(sqlite3.Error):
            connection.interrupt()


def cancel_landing() -> None:
    """End the tracing, if it was begun here."""
    if sys.gettrace() is trace_no_other_frame:
        sys.settrace(None)
