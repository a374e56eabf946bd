"""Gives memory that has been freed back to the system, after a peak.

glibc keeps what is freed between pieces that are in use, so a process whose clients once made it keep much would have
all of that for ever. Its malloc_trim() takes tens of milliseconds for a gigabyte, in which others may wait for memory:
so it is called seldom, in a native thread, and never where other C libraries have none.
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
    """Return how many bytes this process has in memory; raises OSError where the system does not tell."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


class FreedMemory:
    """Looks now and then, as long as it is entered, whether freed memory is to be given back."""

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
            # Out of descriptors, or of threads: there will be some at a later look.
            self._running = False

    def _trim_now(self, trimming: Trimming) -> None:
        try:
            before = resident()
            self._trim(0)
            trimming.trimmed(monotonic(), before, resident())
        except OSError:
            # It cannot be measured now, and is looked at again.
            pass
        finally:
            self._running = False
