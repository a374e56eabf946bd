"""Kernel timers on the processor time of one thread, which go off even where no Python thread can run.

Code in C that holds the interpreter lock, such as the matching of a regular expression, keeps the watchdog's thread
from running. These timers stand in for it: the thread sets them back whenever it runs, and if it cannot, they send a
signal. They count processor time, so they never interrupt a thread that waits, nor a process that was stopped.

There is one only on 64-bit Linux; elsewhere `cpu_timer` returns None.
"""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any, Final

__all__ = ["CpuTimer", "cpu_timer"]

_SIGEV_THREAD_ID: Final = 4


class _SigEvent(ctypes.Structure):
    """`struct sigevent` of <signal.h>: 64 bytes, of which these fields tell which signal which thread gets."""

    _fields_ = (  # the value that comes with the signal, which is not used
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread_id", ctypes.c_int),
        ("padding", ctypes.c_int * 11),
    )


class _TimerSpec(ctypes.Structure):
    """`struct itimerspec` of <time.h>."""

    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


class CpuTimer:
    """A timer that sends a signal to a thread once that has used some processor time, and then at an interval."""

    def __init__(self, library: Any, timer: ctypes.c_void_p) -> None:
        self._library = library
        self._timer = timer

    def __repr__(self) -> str:
        return f"<CpuTimer {self._timer.value}>"

    def set(self, seconds: float, interval: float = 0.0) -> None:
        """Send the signal after `seconds` of processor time from now on; never with 0."""
        spec = _TimerSpec(*_split(interval), *_split(seconds))
        self._library.timer_settime(self._timer, 0, ctypes.byref(spec), None)

    def close(self) -> None:
        """Give the timer back to the kernel."""
        self._library.timer_delete(self._timer)


def _split(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e9)


def cpu_timer(thread: int, native_id: int, signal_number: int) -> CpuTimer | None:
    """Return a timer on the processor time of a thread, or None where the system has none.

    `thread` is the thread's `_thread.get_ident()`, and `native_id` its `_thread.get_native_id()`.
    """
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        # The calls are short, and giving up the interpreter lock for them would make other threads wait for it.
        library = ctypes.PyDLL(None)
        create = library.timer_create
    except (OSError, AttributeError):
        return None
    timer = ctypes.c_void_p()
    event = _SigEvent(None, signal_number, _SIGEV_THREAD_ID, native_id)
    clock = time.pthread_getcpuclockid(thread)
    return None if create(clock, ctypes.byref(event), ctypes.byref(timer)) else CpuTimer(library, timer)
