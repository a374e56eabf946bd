"""Measures for how long a thread was ready to run, but had no processor.

Other processes may use all processors, or a container may have reached its CPU limit. The event loop is then late,
although no handler blocks it. Linux counts the time for each thread (`schedstat` in proc(5)); on other systems, the
result is 0.
"""

from __future__ import annotations

import _thread
import math
import os

__all__ = ["CPUWait"]

# Keep the functions, because an application may replace them, and they are called in a signal handler.
_open, _read, _close = os.open, os.read, os.close


class CPUWait:
    """The time for which one thread has waited for a processor."""

    def __init__(self) -> None:
        self._path = ""
        self._marked = math.inf

    def __repr__(self) -> str:
        return f"<CPUWait of {self._path or 'no thread'}: {self.seconds():.3f} s>"

    def begin(self) -> None:
        """Measure the current thread from now on."""
        self._path = f"/proc/self/task/{_thread.get_native_id()}/schedstat"
        self.mark()

    def mark(self) -> None:
        """Restart the measurement."""
        total = self._total()
        self._marked = math.inf if total is None else total

    def seconds(self) -> float:
        """Return the seconds for which the thread has waited since the last call of `mark`; 0 if they are unknown."""
        return max(0.0, (self._total() or 0.0) - self._marked)

    def _total(self) -> float | None:
        try:
            descriptor = _open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return int(_read(descriptor, 100).split()[1]) / 1e9
            finally:
                _close(descriptor)
        except (OSError, ValueError, IndexError):
            return None
