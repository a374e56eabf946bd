"""Kernel timers that measure the CPU time of one thread, and fire even while no Python thread can run.

C code that holds the GIL, such as the matching of a regular expression, prevents the watchdog's thread from running.
Whenever the watchdog's thread runs, it resets the kernel timers. If the watchdog's thread cannot run, the timers
expire, and send a signal in place of the thread. The timers measure CPU time, so they never fire for a thread that
waits, or for a stopped process.

This module supports only 64-bit Linux; on other platforms, `cpu_timer` returns None.
"""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any, Final

__all__ = ["CpuTimer", "cpu_timer"]

_SIGEV_THREAD_ID: Final = 4


class _SigEvent(ctypes.Structure):
    """The `struct sigevent` of <signal.h>, 64 bytes; the fields select a signal and the thread that receives it."""

    _fields_ = (  # the handler of the signal does not use `value`
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread_id", ctypes.c_int),
        ("padding", ctypes.c_int * 11),
    )


class _TimerSpec(ctypes.Structure):
    """The `struct itimerspec` of <time.h>: an interval and an initial time."""

    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


class CpuTimer:
    """A timer that sends a signal to a thread, once or repeatedly, after the thread has used a given amount of CPU
    time."""

    def __init__(self, library: Any, timer: ctypes.c_void_p) -> None:
        self._library = library
        self._timer = timer

    def __repr__(self) -> str:
        return f"<CpuTimer {self._timer.value}>"

    def set(self, seconds: float, interval: float = 0.0) -> None:
        """Send the signal after `seconds` more seconds of CPU time, and then every `interval` seconds of CPU time.

        If `interval` is 0, the signal is sent only once. If `seconds` is 0, the timer is disarmed.
        """
        spec = _TimerSpec(*_split(interval), *_split(seconds))
        self._library.timer_settime(self._timer, 0, ctypes.byref(spec), None)

    def close(self) -> None:
        """Delete the timer."""
        self._library.timer_delete(self._timer)


def _split(seconds: float) -> tuple[int, int]:
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e9)


def cpu_timer(thread: int, native_id: int, signal_number: int) -> CpuTimer | None:
    """Return a timer that measures the CPU time of a thread, or None if this platform is not supported.

    `thread` is the thread's `_thread.get_ident()`, and `native_id` is its `_thread.get_native_id()`.
    """
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        # Use PyDLL, which keeps the GIL during calls: the calls are short, so releasing the GIL would only cause
        # contention.
        library = ctypes.PyDLL(None)
        create = library.timer_create
    except (OSError, AttributeError):
        return None
    timer = ctypes.c_void_p()
    event = _SigEvent(None, signal_number, _SIGEV_THREAD_ID, native_id)
    clock = time.pthread_getcpuclockid(thread)
    return None if create(clock, ctypes.byref(event), ctypes.byref(timer)) else CpuTimer(library, timer)
