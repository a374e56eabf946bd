"""Kernel timers that check a handler when the watchdog's thread cannot run, because C code holds the GIL."""

from __future__ import annotations

import _thread
import math
import signal
from collections.abc import Callable
from typing import Final

from gevent.monkey import get_original

from .cputimer import cpu_timer

__all__ = ["STARVED_SECONDS", "Starvation"]

STARVED_SECONDS: Final = 0.25
"""Seconds of CPU time of the main thread after which the kernel sends the watchdog's signal, because the watchdog's
thread has not run in that time."""

STARVED_REPEAT_SECONDS: Final = 0.05
"""Seconds of CPU time of the main thread between two signals that the kernel sends."""

SOON_REPEAT_SECONDS: Final = 0.001
"""Seconds of CPU time of the main thread between two signals after `look_soon`. Signals from the kernel are needed,
because the watchdog's thread may wait for the GIL for longer than the handler runs without a pause."""

_ident: Callable[[], int] = get_original("_thread", "get_ident")


class Starvation:
    """Kernel timers that replace the watchdog's thread while C code in the main thread holds the GIL.

    One timer sends the watchdog's signal. The second timer ends the process with SIGABRT; before that, `faulthandler`
    writes the stacks of all threads if it is enabled.
    """

    def __init__(self, number: int) -> None:
        thread, native_id = _ident(), _thread.get_native_id()
        self._looks = cpu_timer(thread, native_id, number)
        self._ends = cpu_timer(thread, native_id, signal.SIGABRT)

    def __repr__(self) -> str:
        return f"<Starvation {self._looks!r} {self._ends!r}>"

    def look_soon(self) -> None:
        """Make the kernel send the watchdog's signal as often as possible, until the timers are reset."""
        if self._looks is not None:
            self._looks.set(SOON_REPEAT_SECONDS, SOON_REPEAT_SECONDS)

    def set_back(self, block_timeout: float) -> None:
        """Restart both timers. SIGABRT is sent after `block_timeout` seconds of CPU time; never if `block_timeout` is
        infinite."""
        if self._looks is not None:
            self._looks.set(STARVED_SECONDS, STARVED_REPEAT_SECONDS)
        if self._ends is not None:
            self._ends.set(block_timeout if block_timeout < math.inf else 0.0)

    def close(self) -> None:
        """Delete the timers."""
        for timer in (self._looks, self._ends):
            if timer is not None:
                timer.close()
