"""Reports a blocked event loop, and exits the process if the loop stays blocked, so that the process is restarted.

A blocked loop serves no request and runs no timer, so this code runs in the watchdog's native thread. This code writes
its reports directly to standard error, because it must not wait for a lock that another thread may hold, such as a lock
of `logging`.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from types import FrameType
from typing import Any, Final

from gevent import getcurrent
from gevent.monkey import get_original

from ..policy.requestidentity import identity
from ..process.children import end_children
from ..process.logline import LINES
from ..process.outlet import drain
from ..process.threadframes import ThreadFrames
from .places import line_of
from .safepoints import application_frames
from .slotgreenlet import slot_at

__all__ = ["EXIT_CODE", "WHILE_BLOCKED", "BlockedLoop", "while_blocked"]

REPORT_SECONDS: Final = 5.0
"""Seconds for which the loop must have been blocked before a report is written; each blockage is reported once."""

EXIT_CODE: Final = 70
"""Exit code of a process whose loop was blocked for too long; equal to EX_SOFTWARE in sysexits.h."""

LONGEST_STEP: Final = 0.1
"""Maximum number of seconds that one check adds to the measured time. If more time has passed since the previous check,
the process was probably stopped in between."""

WRITE_SECONDS: Final = 1.0
"""Maximum number of seconds to wait until a report is written; the write blocks if the reader of the pipe has
stopped."""

_sleep: Callable[[float], None] = get_original("time", "sleep")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = get_original("_thread", "get_ident")

WHILE_BLOCKED: Final[list[Callable[[], object]]] = []


def while_blocked(function: Callable[[], object]) -> None:
    """Register a function that a native thread calls repeatedly while a watched loop is blocked. The function must not
    block."""
    WHILE_BLOCKED.append(function)


class BlockedLoop:
    """Measures how long one thread's event loop has been blocked."""

    def __init__(self) -> None:
        self.timeout = math.inf
        """Seconds for which the loop may be blocked before the process exits."""
        self.thread = -1
        """Id of the loop's thread, as `_thread.get_ident()` returns it."""
        self._program: FrameType | None = None
        self._since: float | None = None
        self._last = 0.0
        self._blocked = 0.0
        self._reported = False

    def __repr__(self) -> str:
        return f"<BlockedLoop for {self._blocked:.1f} s, timeout {self.timeout:g} s>"

    def begin(self) -> None:
        """Begin to measure the event loop of the current thread."""
        self.thread = _ident()
        self._program = _outermost(_root_frame())

    def look(self, busy_since: float) -> None:
        """Record that the loop has been busy since `busy_since`.

        If the loop has been blocked for too long, this method writes a report or ends the process. This method is
        called in a native thread.
        """
        now = monotonic()
        if busy_since != self._since:
            self._since, self._blocked, self._reported = busy_since, 0.0, False
        else:
            self._blocked += min(now - self._last, LONGEST_STEP)
        self._last = now
        if self._blocked >= REPORT_SECONDS and not self._reported and self._by_a_greenlet():
            self._reported = True
            self._write("it still does")
        if self._blocked >= self.timeout and self._by_a_greenlet():
            self._write(f"exiting with code {EXIT_CODE}, as block_timeout_seconds is {self.timeout:g}")
            end_children()
            drain(WRITE_SECONDS)
            os._exit(EXIT_CODE)

    def _by_a_greenlet(self) -> bool:
        """Return True if a greenlet blocks the loop, and False if the main program does; at start and exit, the main
        program may block the loop."""
        with ThreadFrames() as frames:
            outermost = _outermost(frames.get(self.thread))
        if self._program is not None and outermost is self._program:
            self._blocked = 0.0
            return False
        return True

    def _write(self, consequence: str) -> None:
        with ThreadFrames() as frames:
            slot = slot_at(frames.get(self.thread))
        culprit = "code outside of requests" if slot is None or slot.job is None else slot.job.name
        kept = f"{culprit} kept the event loop from all other work for {self._blocked:.1f} s; {consequence}"
        fields = {} if slot is None or slot.job is None else identity(slot.job.environ)
        write_report(WRITE_SECONDS, kept, stacks(self.thread), fields)


def _root_frame() -> FrameType | None:
    """Return the innermost frame of the greenlet that runs the main program."""
    root: Any = getcurrent()
    if root.parent is None:
        return sys._getframe()
    while root.parent is not None:
        root = root.parent
    frame: FrameType | None = root.gr_frame
    return frame


def _outermost(frame: FrameType | None) -> FrameType | None:
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame


def stacks(first: int) -> list[str]:
    """Return the stacks of all native threads as lines of text; the first stack is that of the thread `first`.

    Each stack ends with its innermost frame. If the thread `first` has frames of the application, its other frames are
    omitted. Source lines are omitted, because reading a source file might be slow.
    """
    lines: list[str] = []
    with ThreadFrames() as frames:
        for ident in sorted(frames, key=lambda ident: ident != first):
            shown = list(application_frames(frames[ident])) if ident == first else []
            lines.append(f"native thread {ident:#x}, most recent call last:")
            for frame, line in reversed(shown or list(_outwards(frames[ident]))):
                lines.append(f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}')
    return lines


def _outwards(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, line_of(frame)
        frame = frame.f_back


def write_report(seconds: float, message: str, lines: Iterable[str], fields: Mapping[str, str] | None = None) -> None:
    """Write a message and stacks to standard error, in the format of the log; wait at most `seconds` until the write
    has ended."""
    stack = "\n".join(lines)
    if LINES.json:
        text = LINES.line("CRITICAL", message, {**(fields or {}), "stack": stack})
    else:
        text = f"{LINES.line('CRITICAL', message)}\n{stack}"
    write_within(seconds, f"{text}\n")


def write_within(seconds: float, text: str) -> None:
    """Write to standard error in a new native thread; wait at most `seconds` until the write has ended."""
    done: list[bool] = []

    def write() -> None:
        try:
            rest = text.encode("utf-8", "backslashreplace")
            while rest:
                rest = rest[os.write(2, rest) :]
        except OSError:
            pass
        done.append(True)

    _start_thread(write, ())
    end = monotonic() + seconds
    while not done and monotonic() < end:
        _sleep(0.005)
