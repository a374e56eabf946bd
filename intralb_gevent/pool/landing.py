"""Raises an abort later, where it leaves nothing half done: in the frame that computes, or in one that has called it.

An abort may not be raised between the return of a call and the use of its result, nor in a collation of SQLite, say,
but a statement that sorts a large table may spend all of its time there. Looking now and then would hardly ever find
another place. So Python's tracing is used: it calls a function before each instruction of one frame. Not before each
line: the next line may already be the end of a `with` or `try` block, where `__exit__` and `finally` no longer apply. A
debugger or a coverage tool that traces already is left alone. A statement of SQLite is asked to end at once, which
undoes it as a whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from types import CodeType, FrameType, MethodDescriptorType
from typing import TYPE_CHECKING, Any, Final

from gevent import getcurrent

from .blocks import (
    calls_exit,
    change_of_depth,
    has_value,
    height,
    is_at_edge,
    is_loop,
    loop_start,
    returns,
    returns_soon,
)
from .callsites import arguments, callee, is_a
from .finallyblocks import is_in_finally
from .headroom import HEADROOM
from .safepoints import is_ours

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["FINISH_STEPS", "cancel_landing", "is_stuck", "land", "trace", "trace_no_other_frame"]

STUCK_SECONDS: Final = 0.02
"""A call that takes longer is ended by an abort that is raised in it, though its result may be lost by that."""

MOST_STEPS: Final = 5000
"""Instructions after which a search ends; they take about 5 ms, and the watchdog's next look begins another search."""

FINISH_STEPS: Final = 200
"""The same where the frame is giving something back: following it must not slow that down."""


def trace_no_other_frame(frame: FrameType, event: str, argument: object) -> None:
    """Ignore the call of a function. While this traces, an abort waits for the return of what a frame has called."""


def land(frame: FrameType, slot: Slot, most_steps: int = MOST_STEPS) -> bool:
    """Have the slot interrupted as soon as this frame comes to a place where that leaves nothing half done.

    Returns False where a debugger prevents that.
    """
    if _waits(frame):
        return True
    if not trace(frame, _Search(frame, slot, most_steps)):
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

    What the present statement has made is used first, and a `try` after it begun: else no `finally` block would give
    back what was taken. If the statement returns that, the one that called the function is finished, too. Where a block
    has ended there is no telling what its `finally` and `__exit__` have done, up to the next statement.
    """

    def __init__(self, frame: FrameType, slot: Slot, most_steps: int, *, returned: bool = False) -> None:
        start = loop_start(frame.f_code, frame.f_lasti)
        self._slot = slot
        self._most_steps = most_steps
        self._executed = frame.f_lasti
        self._offset = frame.f_lasti if start is None else start
        self._line: int | None = frame.f_lineno
        self._held: int | None = None
        """How many values are on the stack with the lowest one that the statement has made and not used."""
        self._made = returned
        """Whether the frame has just got a value, from what it has called or waited for."""
        self._ends_block = False
        """Whether the statement has left a `try` or `with` block."""
        self.began = monotonic()
        self.steps = 0
        """How many instructions have been executed since."""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "exception" and argument[0] is StopIteration:
            # It is the end of a generator, or the result of a coroutine.
            return
        code, offset, line = frame.f_code, frame.f_lasti, frame.f_lineno
        try:
            if event == "exception":
                # What has failed has taken nothing, and its handlers and `finally` blocks are still to come.
                found, ends = not (calls_exit(code, offset) or is_in_finally(code, line)), False
            elif event == "opcode":
                self.steps += 1
                found, ends = self._is_place(code, offset, line), returns(code, offset)
            else:
                return
        except RecursionError:
            # The application must not see it; another look begins another search.
            cancel_landing()
            return
        if found:
            cancel_landing()
            self._interrupt()
        elif ends:
            self._go_on_in_caller(frame)
        elif self.steps >= self._most_steps:
            cancel_landing()

    def _is_place(self, code: CodeType, offset: int, line: int | None) -> bool:
        change = change_of_depth(code, self._offset, offset)
        if change < 0:
            self._ends_block = True
        elif change > 0 or line != self._line or offset <= self._offset:
            self._ends_block = False
        self._hold(code, offset, entered=change > 0)
        self._executed = self._offset = offset
        self._line = line
        # Instructions by which Python itself ends a handler of exceptions have no line.
        if line is None or self._held is not None or self._ends_block or returns_soon(code, offset):
            return False
        return not (is_at_edge(code, offset) or is_in_finally(code, line))

    def _hold(self, code: CodeType, offset: int, *, entered: bool) -> None:
        """Take note of a value that the last instruction has made, and of those that it has used."""
        values = height(code, offset)
        made, self._made = self._made or has_value(code, self._executed), False
        if entered:
            self._held = None
        elif values is None:
            # Something may be there.
            self._held = sys.maxsize
        elif is_loop(code, self._executed):
            self._held = values
        elif made:
            self._held = values if self._held is None else min(self._held, values)
        elif self._held is not None and values < self._held:
            self._held = None

    def _go_on_in_caller(self, frame: FrameType) -> None:
        """Follow what has called this frame; if that is the server, the next call of it is a place for an abort.

        Code in C that calls functions of Python, as `sorted` does, may have many more calls to make.
        """
        cancel_landing()
        caller = frame.f_back
        if caller is None or is_ours(caller):
            return
        sys.settrace(trace_no_other_frame)
        if is_stuck(caller):
            cancel_landing()
            self._interrupt()
        elif not _waits(caller):
            trace(caller, _Search(caller, self._slot, self._most_steps, returned=True))

    def _interrupt(self) -> None:
        if not HEADROOM.take():
            return
        try:
            if getcurrent() is self._slot.greenlet:
                self._slot.interrupt()
        finally:
            HEADROOM.give_back()


def trace(frame: FrameType, function: Callable[[FrameType, str, object], None]) -> bool:
    """Have a function called before each further instruction of this frame; return whether no debugger prevents it.

    It has to call `cancel_landing` in the end.
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
