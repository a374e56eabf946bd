"""Postpones an abort of a CPU-bound handler to the next safe point, in the innermost frame or in one of its callers.

An abort must not be raised between the return of a call and the use of its result, or in an SQLite collation, for
example. A statement that sorts a large table may spend nearly all of its time in a collation, so periodic checks would
hardly ever find the handler at a safe point. Therefore, this module uses Python's tracing, which calls a function
before each bytecode instruction of one frame. Tracing each line would not suffice: the next line may already be after a
`with` or `try` block, where `__exit__` and `finally` no longer apply. If a debugger or a coverage tool is already
tracing, its tracing is left unchanged. A running SQLite statement is interrupted immediately, which rolls back the
whole statement.
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
    ends_loop,
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
from .heldlocks import holds_lock
from .safepoints import is_ours

if TYPE_CHECKING:
    from ..pool.slot import Slot

__all__ = ["FINISH_STEPS", "cancel_landing", "is_stuck", "land", "trace", "trace_no_other_frame"]

STUCK_SECONDS: Final = 0.02
"""Seconds after which a call that has not returned is aborted, although its result may then be lost."""

MOST_STEPS: Final = 5000
"""Number of instructions after which a search for a safe point ends; Python executes this number of instructions in
about 5 ms. The watchdog's next check starts a new search."""

FINISH_STEPS: Final = 200
"""Number of instructions after which a search ends if the frame is releasing a resource. `FINISH_STEPS` is lower than
`MOST_STEPS`, because tracing slows down the release of the resource."""


def trace_no_other_frame(frame: FrameType, event: str, argument: object) -> None:
    """Return None, so that Python traces no function that is called from now on, but only the frame of the search."""


def land(frame: FrameType, slot: Slot, most_steps: int = MOST_STEPS) -> bool:
    """Interrupt the slot as soon as this frame reaches a safe point.

    Returns False if a debugger prevents the tracing.
    """
    if _waits(frame):
        return True
    if not trace(frame, _Search(frame, slot, most_steps)):
        return False
    _end_statements(frame)
    return True


def is_stuck(frame: FrameType) -> bool:
    """Return whether a search in this frame has waited at least `STUCK_SECONDS` for the frame's current call to return.

    The current call may be a system call, which is restarted after a signal unless the signal handler raises an
    exception.
    """
    return _waits(frame) and monotonic() - frame.f_trace.began >= STUCK_SECONDS  # type: ignore[union-attr]


def _waits(frame: FrameType) -> bool:
    """Return whether a search has begun in this frame, and the frame has executed no instruction since."""
    search = frame.f_trace
    return sys.gettrace() is trace_no_other_frame and type(search) is _Search and not search.steps


class _Search:
    """Traces a frame up to its next safe point, and raises the abort at that point if the abort is still due.

    At a safe point, the current statement has used all values that it has produced. If a `try` block follows the
    statement, the block has begun at the safe point. After an abort at an unsafe point, no `finally` block would
    release a resource that the statement has acquired. If the statement returns a new value to the caller, the caller's
    statement must also finish. After the end of a block, no instruction up to the next statement is safe, because the
    bytecode does not show how far `finally` and `__exit__` have run.
    """

    def __init__(self, frame: FrameType, slot: Slot, most_steps: int, *, returned: bool = False) -> None:
        start = loop_start(frame.f_code, frame.f_lasti)
        self._slot = slot
        self._most_steps = most_steps
        self._executed = frame.f_lasti
        self._offset = frame.f_lasti if start is None else start
        self._line: int | None = frame.f_lineno
        self._held: int | None = None
        """Stack height including the lowest unused value that the statement has produced; None if no value is
        unused."""
        self._made = returned
        """True if the frame has just received a value from a call or a wait."""
        self._ends_block = False
        """True if the statement has left a `try` or `with` block."""
        self.began = monotonic()
        self.steps = 0
        """Number of instructions that the frame has executed since `began`."""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "exception" and argument[0] is StopIteration:
            # Ignore StopIteration, which is not an error: it ends a generator, or passes on the result of a coroutine.
            return
        code, offset, line = frame.f_code, frame.f_lasti, frame.f_lineno
        try:
            if event == "exception":
                # A failed call has acquired no resource, and the exception handlers and `finally` blocks around the
                # call will still run. Therefore, this point is safe, unless the failed call was part of the clean-up.
                found, ends = not (calls_exit(code, offset) or is_in_finally(code, line)), False
            elif event == "opcode":
                self.steps += 1
                found, ends = self._is_place(code, offset, line), returns(code, offset)
            else:
                return
            found = found and not (self._slot.may_release and holds_lock(frame))
        except RecursionError:
            # Hide the RecursionError from the application; the watchdog's next check starts a new search.
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
        # Instructions without a line number are not safe, because Python adds such instructions at the end of an
        # exception handler.
        if line is None or self._held is not None or self._ends_block or returns_soon(code, offset):
            return False
        return not (is_at_edge(code, offset) or is_in_finally(code, line))

    def _hold(self, code: CodeType, offset: int, *, entered: bool) -> None:
        """Record whether the last instruction has produced a value, or has used the values produced before."""
        values = height(code, offset)
        ended = ends_loop(code, self._executed, offset)
        made, self._made = self._made or (has_value(code, self._executed) and not ended), False
        if entered:
            self._held = None
        elif values is None:
            # The stack height is unknown, so there may be an unused value.
            self._held = sys.maxsize
        elif is_loop(code, self._executed) and not ended:
            self._held = values
        elif made:
            self._held = values if self._held is None else min(self._held, values)
        elif self._held is not None and values < self._held:
            self._held = None

    def _go_on_in_caller(self, frame: FrameType) -> None:
        """Continue the search in this frame's caller, unless the caller belongs to the server, which handles aborts.

        If an earlier search in the caller has lasted too long, abort now: the caller may be running C code, such as
        `sorted`, that makes many more calls to Python functions.
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
    """Call `function` before each further instruction of this frame; return False if a debugger prevents the tracing.

    To end the tracing, `function` must call `cancel_landing`.
    """
    if sys.gettrace() not in (None, trace_no_other_frame):
        return False
    frame.f_trace = function
    frame.f_trace_lines, frame.f_trace_opcodes = False, True
    sys.settrace(trace_no_other_frame)
    return True


def _end_statements(frame: FrameType) -> None:
    """Interrupt the SQLite statement, if any, that this frame is executing."""
    called, owner = callee(frame)
    # Check the arguments, too, because in `Cursor.execute(cursor, ...)`, the cursor is an argument.
    _end_statement(owner)
    for value in arguments(frame) if type(called) is MethodDescriptorType else ():
        _end_statement(value)


def _end_statement(owner: Any) -> None:
    """Interrupt the statement of an SQLite connection or cursor; do nothing for any other object."""
    sqlite3: Any = sys.modules.get("sqlite3")
    if sqlite3 is None:
        return
    connection: Any = owner.connection if is_a(owner, sqlite3.Cursor) else owner
    if is_a(connection, sqlite3.Connection):
        with suppress(sqlite3.Error):
            connection.interrupt()


def cancel_landing() -> None:
    """Stop the tracing that `trace` has started; the tracing of a debugger continues."""
    if sys.gettrace() is trace_no_other_frame:
        sys.settrace(None)
