"""Returns freed memory to the kernel after a peak.

glibc keeps free memory that lies between blocks in use, so a process would forever keep the memory that it needed at
its highest load. The function malloc_trim() returns free memory of glibc to the kernel. A call of malloc_trim() takes
tens of milliseconds per gigabyte, and during the call, other threads that allocate memory may have to wait. Therefore,
malloc_trim() is called rarely, in a native thread. With C libraries other than glibc, which have no malloc_trim(), this
module does nothing.
"""

from __future__ import annotations

import ctypes
import os
from time import monotonic
from typing import Any, Final

import gevent
from gevent.monkey import get_original

from ..policy.trimming import Trimming

__all__ = ["FreedMemory"]

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the resident memory of this process in bytes; raises OSError if it cannot be read."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


class FreedMemory:
    """A context manager that periodically checks whether to return freed memory to the kernel."""

    LOOK_SECONDS = 5.0

    def __init__(self) -> None:
        self._timer: Any = None
        self._trimming: Trimming | None = None
        self._running = False
        self._trim: Any = None

    def __repr__(self) -> str:
        return f"<FreedMemory {self._trimming!r}>"

    def __enter__(self) -> FreedMemory:
        try:
            self._trim = ctypes.CDLL(None).malloc_trim
            self._trimming = Trimming(monotonic(), resident())
        except (OSError, AttributeError):
            return self
        self._timer = gevent.get_hub().loop.timer(self.LOOK_SECONDS, self.LOOK_SECONDS, ref=False)
        self._timer.start(self._look)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()

    def _look(self) -> None:
        try:
            if not self._running and self._trimming is not None and self._trimming.due(monotonic(), resident()):
                self._running = True
                get_original("_thread", "start_new_thread")(self._trim_now, (self._trimming,))
        except (OSError, RuntimeError):
            # The process has run out of file descriptors or threads; a later check will try again.
            self._running = False

    def _trim_now(self, trimming: Trimming) -> None:
        try:
            before = resident()
            self._trim(0)
            trimming.trimmed(monotonic(), before, resident())
        except OSError:
            # Memory cannot be measured now; a later check will try again.
            pass
        finally:
            self._running = False
