"""Stops interval timers that a request has set with `signal.alarm` or `signal.setitimer` and leaves running.

A process has one timer of each kind, and Python calls the signal's handler in whatever greenlet is running. A timer
that a request leaves running would raise its timeout in another request. So the timers that a request has set are
stopped when the request has ended. Repeating timers continue, because a profiler needs them, unless the request was
aborted or has also left a one-shot timer running.
"""

from __future__ import annotations

import functools
import signal
import sys
from types import FrameType
from typing import Any, Final

from ..aborts.slotgreenlet import current_slot
from .guards import Guard, register, watch_slot

__all__ = ["stop_timers_of_requests"]

_SIGNALS: Final[dict[int, int]] = {
    signal.ITIMER_REAL: signal.SIGALRM,
    signal.ITIMER_VIRTUAL: signal.SIGVTALRM,
    signal.ITIMER_PROF: signal.SIGPROF,
}

_alarm_of_python: Final = signal.alarm
_setitimer_of_python: Final = signal.setitimer

_set_by_requests: Final[dict[int, tuple[Any, bool]]] = {}
"""For each kind of timer, the slot whose running request has set the timer, and whether the timer repeats."""


def stop_timers_of_requests() -> None:
    """From now on, stop timers that requests leave running; a second call changes nothing."""
    # `signal.signal` is not patched, because a signal handler does no harm if no timer sends the signal.
    setattr(signal, "alarm", _alarm)  # noqa: B010  # its type has no parameter names
    setattr(signal, "setitimer", _setitimer)  # noqa: B010
    register(_GUARD)


@functools.wraps(_alarm_of_python)
def _alarm(seconds: int, /) -> int:
    left = _alarm_of_python(seconds)
    _note(signal.ITIMER_REAL, runs=bool(seconds), repeats=False, caller=sys._getframe(1))
    return left


@functools.wraps(_setitimer_of_python)
def _setitimer(which: int, seconds: float, interval: float = 0.0, /) -> tuple[float, float]:
    left = _setitimer_of_python(which, seconds, interval)
    _note(which, runs=bool(seconds), repeats=bool(interval), caller=sys._getframe(1))
    return left


def _note(which: int, *, runs: bool, repeats: bool, caller: FrameType) -> None:
    """Record whether the running request has set a timer of this kind."""
    # Ignore calls by the signal's own handler: a profiler's handler sets its timer again in whatever request it
    # interrupts.
    if _is_within_handler(caller, which):
        return
    slot = current_slot()
    if runs and slot is not None:
        _set_by_requests[which] = slot, repeats
        watch_slot()
    else:
        _set_by_requests.pop(which, None)


def _is_within_handler(frame: FrameType | None, which: int) -> bool:
    code = getattr(signal.getsignal(_SIGNALS[which]), "__code__", None)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


class _TimerGuard(Guard):
    """A guard that stops the timers of a request that has ended."""

    def __repr__(self) -> str:
        return "the guard of interval timers"

    def dirty(self) -> bool:
        """Return whether the request has left a one-shot timer running; if not, let its repeating timers continue."""
        own = _own_timers()
        if any(not _set_by_requests[which][1] for which in own):
            return True
        for which in own:
            del _set_by_requests[which]
        return False

    def abandon(self) -> None:
        """Stop the timers that the request has set."""
        for which in _own_timers():
            del _set_by_requests[which]
            _setitimer_of_python(which, 0)


_GUARD: Final = _TimerGuard()


def _own_timers() -> list[int]:
    slot = current_slot()
    return [which for which, (setter, _) in _set_by_requests.items() if setter is slot]
