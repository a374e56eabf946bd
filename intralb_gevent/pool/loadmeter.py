"""Measures the load of a balancer at every tick: the saturation of each resource, and the rates of requests and errors.

`policy/saturation.py` defines saturation; this module computes the ratios from the balancer's counters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..observe.stats import Stats
from ..policy.saturation import Mean, Saturation, slot_ratio

if TYPE_CHECKING:
    from .context import LaneContext
    from .lane import Lane

__all__ = ["Load", "LoadMeter"]


class Load(NamedTuple):
    """The load of a process or of a site, as means over about ten seconds."""

    saturation: float
    requests_per_second: float
    """Number of arriving requests per second, including requests that are rejected."""
    errors_per_second: float
    """Number of requests per second that were rejected, failed, timed out, or expired in the queue."""


class LoadMeter:
    """The load of one balancer. All values are means over about ten seconds."""

    def __init__(self) -> None:
        self.saturation = Saturation()
        self.connections: Callable[[], float] = lambda: 0.0
        """Function that returns the number of client connections, divided by their maximum."""
        self.site: Callable[[], Load] | None = None
        """Function that returns the load of all processes; None if this process is the only process."""
        self._requests, self._errors = Mean(), Mean()
        self._read_at: float | None = None
        self._busy = 0.0
        self._counted = (0, 0)

    def __repr__(self) -> str:
        return f"<LoadMeter {self.own}>"

    @property
    def own(self) -> Load:
        """The load of this process."""
        return Load(self.saturation.value, self._requests.value, self._errors.value)

    @property
    def whole(self) -> Load:
        """The load of all processes behind the same address."""
        return self.own if self.site is None else self.site()

    def begin(self, now: float, busy: float) -> None:
        """Start measuring; `busy` is the total number of seconds for which the hub has been busy."""
        self._read_at, self._busy = now, busy

    def read(self, now: float, busy: float, context: LaneContext, lanes: Sequence[Lane]) -> None:
        """Update the means with the values since the last call. Times are in `time.monotonic()` seconds."""
        if self._read_at is None or now <= self._read_at:
            return
        seconds = now - self._read_at
        ratios = {
            "slots": max(map(_slots, lanes)),
            "hub": max(0.0, busy - self._busy) / seconds,
            "streams": _streams(context, lanes),
            "upgrades": len(context.upgrades.holders) / (context.options.max_upgraded or 1),
            "connections": self.connections(),
        }
        self.saturation.add(ratios, seconds)
        self._count(lanes, seconds)
        self._read_at, self._busy = now, busy

    def _count(self, lanes: Sequence[Lane], seconds: float) -> None:
        requests, errors = sum(lane.stats.submitted for lane in lanes), sum(_errors(lane.stats) for lane in lanes)
        self._requests.add((requests - self._counted[0]) / seconds, seconds)
        self._errors.add((errors - self._counted[1]) / seconds, seconds)
        self._counted = requests, errors


def _slots(lane: Lane) -> float:
    pool = lane.pool
    capacity = lane.options.max_workers * lane.options.max_concurrent_per_router
    if pool.limit is not None:
        # The limiter allows fewer running jobs than there are slots. Long streams do not count towards the limit.
        capacity = min(capacity, pool.limit + pool.lasting)
    return slot_ratio(pool.running, pool.queued, capacity, lane.admission.rejection_ratio)


def _streams(context: LaneContext, lanes: Sequence[Lane]) -> float:
    if context.options.max_streams is not None:
        return context.streams / context.options.max_streams
    return max(len(lane.pool.streams) / lane.pool.most_streams for lane in lanes)


def _errors(stats: Stats) -> int:
    outcomes = stats.outcomes
    return outcomes["shed"] + outcomes["failed"] + outcomes["timed_out"] + outcomes["expired"]
