"""Compares the loop time of a lane's jobs with that of the other lanes, while the number of running jobs is limited.

All lanes of a process share the event loop. If CPU-bound jobs of another lane make the loop late, fewer running jobs in
this lane do not make the loop less late. Each job of this lane then waits for the loop as often as before, so this lane
would only lose throughput. Therefore, a lane's limit is lowered only if the jobs of this lane load the loop.

The time of greenlets that jobs spawn is not measured. If a lane has jobs with such greenlets, these greenlets may have
used all the time for which the loop was busy without a measured job.
"""

from __future__ import annotations

import math
from typing import Final

from .looptime import LEASE_SECONDS, LOOP_SECONDS

__all__ = ["LoopShare"]

LIGHT: Final = 0.5
"""A lane is light if its jobs use less than this share of the loop time that equally many other jobs use."""

KEPT: Final = 0.5
"""Weight of the earlier windows at each new window. In one window, a lane may have had no turn by chance."""

_RUNNING: Final = [0]
"""Sum of all samples of the number of running jobs, of all lanes."""

_SPAWNED_AT: Final = [-math.inf]
"""Time, in `time.monotonic()` seconds, at which a lane last had jobs with spawned greenlets."""


class LoopShare:
    """A lane's share of the running jobs, and of the time for which all running jobs keep the event loop busy."""

    __slots__ = ("_all_running", "_all_seconds", "_read", "_running", "_sampled", "_seconds")

    def __init__(self) -> None:
        self._sampled = 0
        """Sum of the samples since the last call of `is_light`."""
        self._read = (0.0, LOOP_SECONDS[0], _RUNNING[0])
        """The three totals at the last call: seconds of the lane, seconds of all lanes, and samples of all lanes."""
        self._seconds = self._all_seconds = self._running = self._all_running = 0.0
        """Sums over the windows, with smaller weights for earlier windows."""

    def __repr__(self) -> str:
        seconds = f"{self._seconds:.3f} of {self._all_seconds:.3f} s"
        return f"<LoopShare {seconds}, {self._running:.1f} of {self._all_running:.1f} running>"

    def begin(self, seconds: float) -> None:
        """Start measuring; `seconds` is the total time for which the lane's jobs have kept the loop busy so far."""
        self._read = (seconds, LOOP_SECONDS[0], _RUNNING[0])

    def sample(self, running: int) -> None:
        """Record how many jobs of the lane run now."""
        self._sampled += running
        _RUNNING[0] += running

    def is_light(self, seconds: float, busy: float, now: float, *, spawned: bool) -> bool:
        """Return whether the lane's jobs hardly load the loop compared with the other running jobs.

        `seconds` is the total time for which the lane's jobs have kept the loop busy, and `busy` is the time for which
        the loop was busy in the window that ends `now`. `spawned` is true if the lane had jobs with spawned greenlets
        in the window. Called once for each window. If there is no other lane, or nothing was measured, the result is
        False.
        """
        before, self._read = self._read, (seconds, LOOP_SECONDS[0], _RUNNING[0])
        if spawned:
            _SPAWNED_AT[0] = now
        measured = self._read[1] - before[1]
        unmeasured = max(0.0, busy - measured) if now - _SPAWNED_AT[0] <= LEASE_SECONDS else 0.0
        self._seconds = KEPT * self._seconds + seconds - before[0] + (unmeasured if spawned else 0.0)
        self._all_seconds = KEPT * self._all_seconds + measured + unmeasured
        self._running = KEPT * self._running + self._sampled
        self._all_running = KEPT * self._all_running + self._read[2] - before[2]
        self._sampled = 0
        return self._seconds * self._all_running < LIGHT * self._running * self._all_seconds
