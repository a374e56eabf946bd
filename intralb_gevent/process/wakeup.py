"""Wakes the event loop for signals that Python handles.

Python's handlers run between two bytecodes, and an event loop that waits executes none. A signal interrupts the wait,
except when it arrives just before the wait begins, or in another thread. So the kernel-level handler also writes a byte
to a pipe, which the loop watches.
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
"""gevent's waits for the event loop."""

_BYTES: Final = 65536
"""As much as a pipe holds."""


class Wakeup:
    """The pipe, in use from its creation to `close`; `taken` receives the numbers of the signals, one byte each."""

    def __init__(self, loop: Any, taken: Callable[[bytes], object]) -> None:
        self._taken = taken
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._earlier = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        except ValueError:
            # This is not the main thread.
            self._close_pipe()
            raise
        self._watcher = loop.io(self._reader, _READ, ref=False, priority=loop.MAXPRI)
        self._watcher.start(self.take)

    def __repr__(self) -> str:
        return f"<Wakeup by descriptors {self._writer} to {self._reader}>"

    def take(self) -> None:
        """Pass on what has been written, also to the earlier owner of the wakeup descriptor. Callable in any thread."""
        with contextlib.suppress(OSError):
            numbers = os.read(self._reader, _BYTES)
            if self._earlier != -1:
                with contextlib.suppress(OSError):
                    os.write(self._earlier, numbers)
            self._taken(numbers)

    def close(self) -> None:
        """Restore the earlier wakeup descriptor, unless the application has set another since."""
        self._replace_by(self._earlier)

    def close_in_child(self) -> None:
        """Leave the pipe to the parent process, which would take the child's signals for its own."""
        self._replace_by(-1)

    def _replace_by(self, descriptor: int) -> None:
        present = signal.set_wakeup_fd(-1)
        with contextlib.suppress(OSError, ValueError):
            # The earlier owner may have closed its descriptor.
            signal.set_wakeup_fd(descriptor if present == self._writer else present)
        self._watcher.stop()
        self._close_pipe()

    def _close_pipe(self) -> None:
        for descriptor in (self._reader, self._writer):
            # An application that closes descriptors wholesale may have been here before.
            with contextlib.suppress(OSError):
                _close(descriptor)
