"""Measures for how long each job keeps the event loop busy, while the number of running jobs of a pool is limited.

The hub switches to a job's greenlet, and the call of `switch` returns when the greenlet waits or has ended. So the
duration of the call is the time for which the job has kept the loop busy. The same applies to `throw`, by which a
timeout ends a wait. While a pool needs this time, methods that measure it replace `SlotGreenlet.switch` and
`SlotGreenlet.throw`. At other times, nothing is measured, because a switch takes less than a microsecond and each
request needs at least one.

The samples of the watchdog cannot replace this measurement. A job that computes for less than 5 ms at a time is hardly
ever sampled: libev releases the GIL between two callbacks, so the watchdog's thread usually finds the hub.

This module is not compiled, because a compiled function does not become a method if it is assigned to a class.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from gevent import Greenlet, getcurrent

from ..aborts.slotgreenlet import SlotGreenlet
from ..stdlib import monotonic

if TYPE_CHECKING:
    from .job import Job
    from .slot import Slot

__all__ = ["LEASE_SECONDS", "LOOP_SECONDS", "RESUMED", "measure"]

LEASE_SECONDS: Final = 1.0
"""Seconds after the last call of `measure` for which the measurement goes on."""

RESUMED: Final = [0.0]
"""Time at which the hub has switched to the running job, in `time.monotonic()` seconds; 0 while no job is measured."""

LOOP_SECONDS: Final = [0.0]
"""Total seconds for which the measured jobs of all pools have kept the loop busy."""

_switch: Final[Any] = Greenlet.switch
_throw: Final[Any] = Greenlet.throw
_until: Final = [0.0]


def measure(now: float) -> None:
    """Measure until `LEASE_SECONDS` from now; add the measured seconds to each job's `loop_time`."""
    _until[0] = now + LEASE_SECONDS
    SlotGreenlet.switch = _measured_switch  # type: ignore[method-assign, assignment]
    SlotGreenlet.throw = _measured_throw  # type: ignore[method-assign, assignment]


def _measured_switch(self: SlotGreenlet, *values: Any) -> Any:
    # If a thread that reads frames, such as a profiler or the watchdog, keeps a frame of this module for a moment, the
    # frame must not keep the greenlet: the slot would conclude that the request has left an object behind.
    try:
        return _measured(_switch, self, values)
    finally:
        del self, values


def _measured_throw(self: SlotGreenlet, *values: Any) -> Any:
    try:
        return _measured(_throw, self, values)
    finally:
        del self, values


def _measured(resume: Any, self: SlotGreenlet, values: tuple[Any, ...]) -> Any:
    slot = self.intralb_slot
    job = None if slot is None else slot.job
    try:
        # Another greenlet that switches to this one continues at some later time.
        if slot is None or job is None or getcurrent() is not slot.worker.hub:
            return resume(self, *values)
        began = monotonic()
        if began > _until[0]:
            _stop()
        RESUMED[0] = began
        try:
            return resume(self, *values)
        finally:
            _count(slot, job, began)
    finally:
        del self, values


def _count(slot: Slot, job: Job, began: float) -> None:
    RESUMED[0] = 0.0
    seconds = monotonic() - began
    job.loop_time += seconds
    slot.worker.pool.loop_seconds += seconds
    LOOP_SECONDS[0] += seconds


def _stop() -> None:
    # Another thread with a hub may have removed the methods just now.
    with suppress(AttributeError):
        del SlotGreenlet.switch, SlotGreenlet.throw
