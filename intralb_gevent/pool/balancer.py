"""The load balancer: the WSGI callable that assigns requests to lanes, and starts and stops the lanes.

This module is the interface for applications, and is not compiled, so that help() shows the docstrings. Servers submit
requests through the balancer's `intake`, and each lane manages its jobs (`lane.py`). The modules in `policy/` decide
whether a job is admitted, and how many workers a lane has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gevent.event import Event

from ..config.options import Options
from ..errors import OptionError
from ..hub.log import all_dropped
from ..observe.snapshot import Condition, Durations, Snapshot
from ..observe.stats import Histogram, Stats
from ..stdlib import monotonic
from .bridge import serve_through
from .exchange import Application, Exchange, StartResponse
from .intake import Intake
from .job import Job
from .mounts import enter_root
from .session import CLEANUP_SECONDS
from .slot import Slot
from .worker import Worker

__all__ = ["LoadBalancer"]

_LAST_ABORT_SECONDS = 0.25
"""Seconds that a shutdown waits in addition to `cleanup_seconds`, so that a handler can end after its second abort."""


class LoadBalancer:
    """A WSGI application that runs another WSGI application on a pool of greenlets, partitioned into workers.

    Pass the balancer to `WSGIServer`, or to any other gevent server as a WSGI callable (`balance_load()` returns the
    balancer itself). A balancer creates greenlets and timers at the first request, so it may be built before a server
    forks. A balancer belongs to the thread of its first request until it is drained, and raises `WrongThread` if called
    in another thread.

    `application` may also be a mapping of paths to applications, `{"/users": users, "/shop": shop}`. Each application
    is then mounted at its path, which becomes its SCRIPT_NAME, and has its own workers. Raises `OptionError` if an
    application is not callable, a path is not valid, or `options` is not an `Options`.

    The attributes `application` and `options` are the constructor's arguments. `intake` and `submit` are for servers.
    """

    def __init__(self, application: Application | Mapping[str, Application], options: Options | None = None) -> None:
        self.application = application
        self.options = options = _checked(options)
        self.intake = Intake(application, options)
        """The interface for servers, which also call `submit`; applications do not need `intake`."""

    def __repr__(self) -> str:
        return f"<LoadBalancer {self.condition}: {', '.join(map(repr, self.intake.lanes))}>"

    def __dir__(self) -> list[str]:
        """Return the names of the public attributes."""
        return [name for name in super().__dir__() if not name.startswith("_")]

    @property
    def condition(self) -> Condition:
        """The balancer's state: "serving", "draining" or "stopped"."""
        return self.intake.condition

    # The WSGI callable.

    def balance_load(self) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
        """Return this object, which is the WSGI callable."""
        return self

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Run the application in a slot for a request of any gevent WSGI server; the server's greenlet waits."""
        self.intake.require_own_thread()
        root_path = self.options.root_path
        # This package's server (in front of middleware) or gunicorn may have moved the root path to SCRIPT_NAME
        # already.
        if root_path and not environ.get("SCRIPT_NAME", "").endswith(root_path):
            enter_root(environ, root_path)
        return serve_through(self.submit, environ, start_response)

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> Job:
        """Assign a request to a worker, or reject it; the response goes to `exchange`. Never waits."""
        return self.intake.submit(environ, exchange)

    # The size of the pool.

    def resize(self, workers: int) -> None:
        """Set the number of workers for requests without a dedicated lane; autoscaling continues from this number.

        Raises `OptionError` unless `workers` is from `min_workers` to `max_workers`, both inclusive.
        """
        lowest, highest = self.options.first_workers, self.options.max_workers
        if not lowest <= workers <= highest:
            raise OptionError(f"workers: {workers!r} is not allowed; it must be from {lowest} to {highest}")
        if self.intake.context.runtime is None:
            self.intake.begin()
        self.intake.lanes[0].resize(workers)

    # Stopping.

    def drain(self, timeout: float) -> int:
        """Wait until no job is left, for `timeout` seconds at most; then end the remaining jobs and close all sessions.

        New jobs are admitted during this wait, and rejected afterwards. Aborted handlers have `cleanup_seconds` to
        clean up, and are then abandoned. Sessions have 5 seconds to close. Returns the number of jobs that were ended
        early. This method waits, so do not call it in the hub. A server that starts during the wait cancels the drain.
        """
        intake = self.intake
        intake.condition = "draining"
        self._wait_until(lambda: self._serves() or self._idle(), timeout)
        if self._serves():
            return 0
        intake.condition = "stopped"
        for lane in intake.lanes:
            lane.kill_all()
        intake.upgrades.shut_down()
        for lane in intake.lanes:
            lane.pool.retire(len(lane.pool.active))
        # An application that has taken over a connection, and waits for its client, ends when `shut_down` closes the
        # connection. An application that has not ended after half of the clean-up time is aborted.
        cleaned_up = monotonic() + intake.options.cleanup_seconds + _LAST_ABORT_SECONDS
        self._wait_until(lambda: not intake.upgrades.holders, intake.options.cleanup_seconds / 2)
        intake.upgrades.kill()
        self._wait_until(lambda: not (self._unended() or intake.upgrades.holders), cleaned_up - monotonic())
        for slot in self._unended():
            slot.lane.leave_behind(slot)
        intake.upgrades.holders.clear()
        self._wait_until(lambda: not any(lane.pool.retiring for lane in intake.lanes), CLEANUP_SECONDS)
        if not self._serves():
            intake.stop()
        intake.context.flush_logs(CLEANUP_SECONDS)
        return self._killed_since()

    def _idle(self) -> bool:
        """Return whether there are no jobs and no connections that applications have taken over."""
        return not (self.intake.upgrades.holders or any(worker.load for worker in self._workers))

    def _unended(self) -> list[Slot]:
        """Return the slots of retiring workers in which an application still runs."""
        workers = (worker for lane in self.intake.lanes for worker in lane.pool.retiring)
        return [slot for worker in workers for slot in worker.slots if slot.job is not None and slot.interruptible]

    def _killed_since(self) -> int:
        """Return the number of jobs killed since the previous drain, including those killed before this drain began."""
        intake = self.intake
        before, intake.killed_before = intake.killed_before, self._totals().outcomes["killed"]
        return intake.killed_before - before

    def _serves(self) -> bool:
        return self.condition == "serving"

    @property
    def _workers(self) -> list[Worker]:
        return [worker for lane in self.intake.lanes for worker in lane.pool.all]

    def _wait_until(self, reached: Callable[[], bool], timeout: float) -> None:
        end = monotonic() + timeout
        changed = self.intake.context.changed_event = Event()
        while not reached() and (left := end - monotonic()) > 0:
            changed.clear()
            changed.wait(left)
        self.intake.context.changed_event = None

    # Statistics.

    def _totals(self) -> Stats:
        return sum((lane.stats for lane in self.intake.lanes), Stats())

    def snapshot(self) -> Snapshot:
        """Return one immutable snapshot of the whole balancer."""
        stats, runtime, moves = self._totals(), self.intake.context.runtime, self.intake.context.moves
        watchdog = None if runtime is None else runtime.watchdog
        workers = tuple(worker for lane in self.intake.lanes for worker in lane.pool.snapshot(lane.name))
        return Snapshot(
            condition=self.condition,
            submitted=stats.submitted,
            queued=sum(worker.queued for worker in workers),
            running=sum(worker.running for worker in workers),
            outcomes=stats.outcomes,
            shed_reasons=dict(stats.shed_reasons),
            workers=workers,
            lanes=tuple(lane.snapshot() for lane in self.intake.lanes),
            most_workers=sum(lane.options.max_workers for lane in self.intake.lanes),
            queue_wait=Durations.of(stats.queue_wait),
            run_time=Durations.of(stats.run_time),
            streams=self.intake.context.streams,
            upgraded=len(self.intake.upgrades.holders),
            given_up=stats.given_up,
            hub_lag=Durations.of(Histogram() if watchdog is None else watchdog.lag),
            hub_blocked=0 if watchdog is None else watchdog.blocked,
            interrupts="not started" if watchdog is None else watchdog.off_because or "on",
            log_records_dropped=all_dropped(),
            saturation=self.intake.context.load.saturation.value,
            saturation_by_resource=self.intake.context.load.saturation.by_resource,
            connections_moved=dict(moves.moved),
            connections_received=dict(moves.received),
            connections_returned=dict(moves.returned),
            connections_not_moved=dict(moves.not_moved),
            endings_dropped=self.intake.context.endings.dropped,
        )


def _checked(options: Any) -> Options:
    if options is None:
        return Options()
    if not isinstance(options, Options):
        raise OptionError(f"options: {options!r} is not allowed; it must be an Options, such as Options(queue_size=50)")
    return options
