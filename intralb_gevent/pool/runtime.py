"""The parts of a balancer that exist only while it handles requests: timers, watchdog, and periodic reviews."""

from __future__ import annotations

import gc
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent

from ..aborts.watchdog import Watchdog
from ..hub.deadlinetimer import DeadlineTimer
from ..hub.lag import LagProbe
from ..hub.nativepool import NativePoolWatch
from ..hub.ticker import Ticker
from ..stdlib import monotonic
from .itimers import stop_timers_of_requests
from .refusalsummary import RefusalSummary

if TYPE_CHECKING:
    from .context import LaneContext
    from .lane import Lane

__all__ = ["Runtime"]

_OFF = "a handler that never waits is not interrupted at its deadline: {}"


class Runtime:
    """The running parts of a balancer, in the thread that handles requests; `begin` creates the first workers."""

    def __init__(self, context: LaneContext, lanes: list[Lane]) -> None:
        options, log = context.options, context.log
        self.hub: Any = gevent.get_hub()
        stop_timers_of_requests()
        self._lanes = lanes
        self._context = context
        self.deadlines = DeadlineTimer(self.hub.loop, self._sweep, monotonic)
        """The timer for all deadlines."""
        self._ticker = Ticker(self.hub.loop, self.review)
        self._ticker.start()
        self.watchdog = Watchdog.of(options.interrupt_number, options.block_timeout_seconds)
        context.watchdog = self.watchdog
        self.watch = self.watchdog.watch
        """The hub's watch, which measures for how long the hub is busy."""
        context.flush_queue.watched = not self.watchdog.off_because
        if self.watchdog.off_because:
            log.record(logging.WARNING, partial(_OFF.format, self.watchdog.off_because))
        self.refusals = RefusalSummary(lanes, log)
        self._probe = LagProbe(self.hub.loop, self._sample)
        self._native_pool = NativePoolWatch(self.hub, log)

    def __repr__(self) -> str:
        return f"<Runtime {self.deadlines!r}, {self.watchdog!r}>"

    @staticmethod
    def begin(context: LaneContext, lanes: list[Lane]) -> Runtime:
        """Start all parts and the first workers of all lanes."""
        collects = gc.isenabled()
        # Disable garbage collection, because a finalizer might wait here. A request that arrived during this wait
        # would find no workers.
        gc.disable()
        try:
            runtime = context.runtime = Runtime(context, lanes)
            for lane in lanes:
                lane.begin(runtime.watchdog.busy)
            now = monotonic()
            context.load.begin(now, runtime.watchdog.busy(now))
            return runtime
        finally:
            if collects:
                gc.enable()

    def begin_again(self) -> None:
        """Start workers in the lanes whose workers were retired by a drain that a new server has cancelled."""
        for lane in self._lanes:
            if not lane.pool.active:
                lane.begin(self.watchdog.busy)

    def stop(self) -> None:
        """Stop all timers, release the watchdog, and log the rejections that have not been reported yet."""
        self.refusals.report(monotonic())
        self._ticker.stop()
        self.deadlines.stop()
        self._probe.stop()
        self.watchdog.release()

    def _sweep(self) -> float:
        """End every late job; return the next time, in `time.monotonic()` seconds, at which a job may be late."""
        now = monotonic()
        return min(lane.sweep(now) for lane in self._lanes)

    def _sample(self) -> None:
        for lane in self._lanes:
            lane.sample()

    def review(self) -> None:
        """Update each lane's number of workers, limiter and admission control; called at every tick."""
        now, least_lag = monotonic(), self._probe.take()
        for lane in self._lanes:
            lane.review(now, least_lag)
        self._context.load.read(now, self.watchdog.busy(now), self._context, self._lanes)
        self._probe.run(any(lane.pool.load for lane in self._lanes))
        self._native_pool.look(now)
        self.refusals.look(now)
