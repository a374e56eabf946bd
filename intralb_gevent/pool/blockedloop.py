"""What happens when the event loop is blocked for seconds: a report while it lasts, and in the end a restart.

A blocked loop serves no request and runs no timer, so only a native thread can act: the watchdog's. It must use nothing
that another thread may hold, such as the locks of `logging`: it writes to the standard error directly.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType
from typing import Any, Final

from gevent import getcurrent
from gevent.monkey import get_original

from ..process.children import end_children
from ..process.outlet import drain
from .slotgreenlet import slot_at

__all__ = ["EXIT_CODE", "BlockedLoop"]

REPORT_SECONDS: Final = 5.0
"""A loop that was blocked for this long is reported, once."""

EXIT_CODE: Final = 70
"""What the process exits with when its loop was blocked for too long: EX_SOFTWARE of sysexits.h."""

LONGEST_STEP: Final = 0.1
"""Seconds that count at most between two looks: a process that was stopped meanwhile was not blocked."""

WRITE_SECONDS: Final = 1.0
"""How long writing a report may take; the reader of a pipe may have stopped."""

_sleep: Callable[[float], None] = get_original("time", "sleep")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = get_original("_thread", "get_ident")


class BlockedLoop:
    """Follows how long one thread's event loop has been blocked."""

    def __init__(self) -> None:
        self.timeout = math.inf
        """Seconds after which the process exits."""
        self.thread = -1
        """The thread of the loop, by its `_thread.get_ident()`."""
        self._program: FrameType | None = None
        self._since: float | None = None
        self._last = 0.0
        self._blocked = 0.0
        self._reported = False

    def __repr__(self) -> str:
        return f"<BlockedLoop for {self._blocked:.1f} s, timeout {self.timeout:g} s>"

    def begin(self) -> None:
        """Follow the loop of the present thread."""
        self.thread = _ident()
        self._program = _outermost(_root_frame())

    def look(self, busy_since: float) -> None:
        """Note that the loop is still in the stretch that began at `busy_since`; report it, or exit, when it is due.

        Called in a native thread.
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
        """Return whether a greenlet blocks the loop, and not the program itself, which may start and stop slowly."""
        if self._program is not None and _outermost(self._frame()) is self._program:
            self._blocked = 0.0
            return False
        return True

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self.thread)

    def _write(self, consequence: str) -> None:
        slot = slot_at(self._frame())
        culprit = "code outside of requests" if slot is None or slot.job is None else slot.job.name
        kept = f"{culprit} kept the event loop from all other work for {self._blocked:.1f} s; {consequence}"
        write_within(WRITE_SECONDS, "\n".join([f"intralb_gevent: {kept}", *stacks(self.thread), ""]))


def _root_frame() -> FrameType | None:
    """Return the innermost frame of the greenlet that runs the program itself."""
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


def stacks(first: int) -> Iterator[str]:
    """Yield the stacks of all native threads as lines, beginning with one thread; without source, which may be slow."""
    frames = sys._current_frames()
    for ident in sorted(frames, key=lambda ident: ident != first):
        yield f"native thread {ident:#x}, most recent call first:"
        frame: FrameType | None = frames[ident]
        while frame is not None:
            yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'
            frame = frame.f_back


def write_within(seconds: float, text: str) -> None:
    """Write to the standard error from a native thread, but wait no longer than this for its reader."""
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
