"""The state that a balancer's lanes share: logs, deferred responses, and the time when a shutdown ends all jobs."""

from __future__ import annotations

import logging
import math
from itertools import count
from typing import TYPE_CHECKING

from gevent.event import Event

from ..config.options import Options
from ..hub.dispatch import FlushQueue
from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..hub.repeats import CLIENTS_MOST, Repeats
from ..observe.moves import Moves
from ..observe.refusals import Refusals
from ..observe.stats import ConnectionStats
from ..policy.cannedresponses import CannedResponse
from ..stdlib import monotonic
from .cutlog import CutRecord
from .endings import Endings
from .joblog import JobLog
from .loadmeter import LoadMeter
from .slotlog import FAILURES
from .upgrades import Upgrades

if TYPE_CHECKING:
    from ..aborts.watchdog import Watchdog
    from .job import Job
    from .runtime import Runtime

__all__ = ["LaneContext"]


class LaneContext:
    """The state that the lanes of one balancer share; the balancer creates the object, and passes it to each lane."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.flush_queue = FlushQueue()
        """The responses deferred until the end of the current batch of jobs."""
        self.upgrades = Upgrades(options.max_upgraded, self.changed)
        self.worker_ids = count(1)
        self.runtime: Runtime | None = None
        """The timers, the watchdog and the periodic reviews; None while the balancer is not running."""
        self.ends_at = math.inf
        """Time, in `time.monotonic()` seconds, at which a shutdown ends all running jobs; infinity if no shutdown has
        begun."""
        self.load = LoadMeter()
        """The saturation of this balancer, and its rates of requests and errors."""
        self.watchdog: Watchdog | None = None
        """The latest watchdog; its counts remain available after the watchdog has stopped."""
        self.streams = 0
        """Number of responses that are being streamed, in all lanes."""
        self.connections = ConnectionStats()
        """Statistics of the client connections of all servers."""
        self.log = HubLog(LOGGER.log)
        self.job_log = JobLog(options.log_format) if options.enable_logging else None
        self.endings = Endings(options.on_ended, self.log)
        self.moves = Moves()
        """Counts of the connections that were moved between processes."""
        self._late = Repeats(self.log)
        """Limits the log records of requests that were ended early: repeated records are only counted."""
        self.contended: set[object] = set()
        """The admission controls that have left their fast path; while there are any, servers call `shed_early` before
        `submit`."""
        self._rejections = 0
        self.changed_event: Event | None = None
        self.refusals: Refusals | None = None
        """The last rejected requests, for the status page; None without a status page."""

    def __repr__(self) -> str:
        return f"<LaneContext {self.streams} streams, {self.upgrades!r}>"

    def changed(self) -> None:
        """Wake a waiting `drain`, because a job has ended, a connection was closed, or a worker has left its pool."""
        if self.changed_event is not None:
            self.changed_event.set()

    def look_at(self, at: float) -> None:
        """Schedule a sweep for late jobs at `at`, in `time.monotonic()` seconds, or earlier."""
        if self.runtime is not None:
            self.runtime.deadlines.watch(at)

    def not_executed(self, answer: CannedResponse) -> CannedResponse:
        """Return the variant of `answer` for a request that the application has not run.

        The `Retry-After` of successive answers varies, so that not all rejected clients retry at the same time.
        """
        self._rejections += 1
        return answer.not_executed(self._rejections)

    def report_cut(self, job: Job, record: CutRecord) -> None:
        """Log that a job was ended early, with the stack of its handler.

        After many jobs were ended at the same line of the application, further jobs are only counted. Called before the
        handler is aborted; never waits.
        """
        kind = (record.setting, record.place)
        if self._late.admits(kind, CLIENTS_MOST, logging.WARNING, record):
            record.take_stack(job)
            self.log.record(logging.WARNING, record)

    def flush_logs(self, timeout: float) -> None:
        """Wait until all log records are written and all endings reported, for at most `timeout` seconds per queue."""
        FAILURES.flush()
        self._late.flush()
        if self.runtime is not None:
            self.runtime.refusals.report(monotonic())
        self.log.flush(timeout)
        if self.job_log is not None:
            self.job_log.records.flush(timeout)
        self.endings.flush(timeout)
