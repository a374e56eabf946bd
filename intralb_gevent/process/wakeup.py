"""Wakes the event loop when a signal arrives that Python handles.

Python's handlers run between two bytecodes, and a waiting event loop executes no bytecodes. A signal interrupts the
loop's wait, unless the signal arrives just before the wait begins, or in another thread. Therefore, Python's C-level
handler also writes a byte to a pipe that the loop watches.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from gevent.monkey import get_original

__all__ = ["Wakeup"]

_READ: Final = 1
_close: Callable[[int], None] = get_original("os", "close")
"""The original close(); gevent's version cannot be used, because it waits for the event loop."""

_BYTES: Final = 65536
"""Capacity of a pipe in bytes."""


class Wakeup:
    """The wakeup pipe, used until `close` is called; passes the signal numbers to `taken`, one byte for each signal."""

    def __init__(self, loop: Any, taken: Callable[[bytes], object]) -> None:
        self._drained = taken
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._earlier = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        except ValueError:
            # set_wakeup_fd() has failed because this is not the main thread.
            self._close_pipe()
            raise
        self._watcher = loop.io(self._reader, _READ, ref=False, priority=loop.MAXPRI)
        self._watcher.start(self.take)

    def __repr__(self) -> str:
        return f"<Wakeup by descriptors {self._writer} to {self._reader}>"

    def take(self) -> None:
        """Read the pipe; pass the bytes to `taken` and to the earlier wakeup descriptor. Can be called in any
        thread."""
        with contextlib.suppress(OSError):
            numbers = os.read(self._reader, _BYTES)
            if self._earlier != -1:
                with contextlib.suppress(OSError):
                    os.write(self._earlier, numbers)
            self._drained(numbers)

    def close(self) -> None:
        """Close the pipe, and restore the earlier wakeup descriptor unless the application has set another one."""
        self._replace_by(self._earlier)

    def close_in_child(self) -> None:
        """Close the child's copy of the pipe; otherwise, the parent would receive the child's signals."""
        self._replace_by(-1)

    def _replace_by(self, descriptor: int) -> None:
        present = signal.set_wakeup_fd(-1)
        with contextlib.suppress(OSError, ValueError):
            # Ignore errors, because the owner of the earlier wakeup descriptor may have closed it.
            signal.set_wakeup_fd(descriptor if present == self._writer else present)
        self._watcher.stop()
        self._close_pipe()

    def _close_pipe(self) -> None:
        for descriptor in (self._reader, self._writer):
            # Ignore errors, because the application may have closed all descriptors, including these.
            with contextlib.suppress(OSError):
                _close(descriptor)
