"""The interface through which servers submit requests: it finds the lane, submits a job, or rejects the request.

Applications use the public class `LoadBalancer` instead.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import gevent

from ..config.options import Options
from ..errors import WrongThread
from ..hub.forks import FORKS
from ..observe.snapshot import Condition
from ..policy.cannedresponses import DRAINING, EXPIRED, CannedResponse
from ..priority import Priority
from ..stdlib import monotonic
from .classify import priority_of
from .context import LaneContext
from .exchange import Application, Exchange
from .job import Job, RouteStats
from .mounts import Mounts
from .runtime import Runtime
from .slot import Slot

__all__ = ["Intake"]

_ELSEWHERE = (
    "this LoadBalancer runs in the thread of its first request or server, and was called in another thread; "
    "serve it with a gevent server, which calls it in one thread, or create a LoadBalancer for each thread"
)


class Intake:
    """The lanes of a balancer, and the servers that submit requests to them."""

    def __init__(self, application: Application | Mapping[str, Application], options: Options) -> None:
        self.application = application
        self.options = options
        self.condition: Condition = "serving"
        self.context = LaneContext(options)
        self.mounts = Mounts(application, options, self.context)
        self.lanes = self.mounts.lanes
        self.upgrades = self.context.upgrades
        self.killed_before = 0
        """Number of jobs that had been killed by the end of the last drain."""
        self.servers: set[Any] = set()
        """The attached servers, which submit requests."""
        self.context.load.connections = self._connection_ratio
        self._priority_func = options.priority_func

    def __repr__(self) -> str:
        return f"<Intake {self.condition}: {', '.join(map(repr, self.lanes))}>"

    def require_own_thread(self) -> None:
        """Raise `WrongThread` if the slots run in another thread, because that thread could never wake the caller."""
        runtime = self.context.runtime
        if runtime is not None and runtime.hub is not gevent.get_hub():
            raise WrongThread(_ELSEWHERE)

    # From request to job.

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> Job:
        """Assign a request to a worker, or reject it; the response goes to `exchange`. Never waits."""
        now = monotonic()
        # After a long stall of the event loop, find out from the kernel how long the request was in the socket buffer.
        runtime = self.context.runtime
        late = runtime is not None and now >= runtime.watch.late_after
        unseen = exchange.socket_wait() if late else 0.0
        route = self.mounts.only or self.mounts.find(environ)
        lane, priority = route.lane, self._priority_of(environ, route)
        job = Job(environ, exchange, now - unseen, unseen, route)
        job.priority = priority
        environ["intralb.deadline"] = job.deadline
        environ["intralb.client_disconnected"] = exchange.client_disconnected
        lane.stats.received[priority] += 1
        if self.condition == "stopped":
            lane.reject(job, "shed", DRAINING)
            return job
        if unseen and job.deadline.at <= now:
            lane.reject(job, "expired", EXPIRED)
            return job
        lane.admit(job, now, runtime or self.begin())
        return job

    def _priority_of(self, environ: dict[str, Any], route: RouteStats) -> Priority:
        if self._priority_func is None and "intralb.priority" not in environ:
            return route.priority
        priority = priority_of(environ, self._priority_func, route.priority)
        # Cache the priority, so that the application's `priority_func` is called only once per request.
        environ["intralb.priority"] = priority.name.lower()
        return priority

    def shed_early(self, environ: dict[str, Any], asker: Hashable = None) -> CannedResponse | None:
        """Return the rejection for a request that finds no capacity, without the cost of creating a job.

        The server may call this method before it has received the request's body. Returns None if `submit` has to
        decide: there is capacity, the pool may grow, or another job may have to be evicted. `asker` identifies the
        connection of the request.
        """
        route = self.mounts.find(environ)
        lane = route.lane
        priority = self._priority_of(environ, route)
        if self.condition == "stopped":
            answer: CannedResponse | None = DRAINING
        else:
            answer = lane.admission.early_rejection(environ, route.admissions[priority], priority, asker)
        if answer is None:
            return None
        lane.stats.received[priority] += 1
        lane.stats.add_shed(answer.reason, priority)
        answer = self.context.not_executed(answer)
        if self.context.job_log is not None:
            self.context.job_log.turned_away(environ, answer)
        if self.context.refusals is not None:
            priority = self._priority_of(environ, route)
            lane.note_refusal(self.context.refusals, environ, priority, answer.reason, route.limits.timeout)
        return answer

    @property
    def load(self) -> int:
        """Number of jobs in all lanes."""
        load = 0
        # Use a loop, which is faster than sum(): with several processes, each event loop iteration reads this property.
        for lane in self.lanes:
            load += lane.pool.load
        return load

    def end_request(self, slot: Slot) -> bool:
        """End the running request of a slot on behalf of an operator; return whether a request was running."""
        ended = slot.lane.end_by_operator(slot)
        # Exclude this request from the number of requests that the next drain reports as killed.
        self.killed_before += int(ended)
        return ended

    @property
    def queued(self) -> int:
        """Number of queued jobs in all lanes."""
        queued = 0
        for lane in self.lanes:
            queued += lane.pool.order.count
        return queued

    @property
    def submitted(self) -> int:
        """Number of requests that all lanes have received."""
        submitted = 0
        for lane in self.lanes:
            submitted += lane.stats.submitted
        return submitted

    @property
    def is_full(self) -> bool:
        """Whether any lane has no free slot."""
        for lane in self.lanes:  # noqa: SIM110  # this is called for each read, and any() is slower when compiled
            if lane.pool.free == 0:
                return True
        return False

    def streams_body(self, environ: dict[str, Any]) -> bool:
        """Return whether the server should submit a request before its body has arrived."""
        return self.mounts.find(environ).streams_body

    # Starting and stopping.

    def begin(self) -> Runtime:
        """Start the timers, the watchdog and the first workers, in the process that handles requests."""
        FORKS.serving.add(self)
        return Runtime.begin(self.context, self.lanes)

    def stop(self) -> None:
        """Stop everything that `begin` started; the next request calls `begin` again."""
        if self.context.runtime is not None:
            self.context.runtime.stop()
        self.context.runtime = None
        FORKS.serving.discard(self)

    def end_by(self, at: float) -> None:
        """End all jobs at `at`, in `time.monotonic()` seconds, even CPU-bound ones; a later call cannot postpone `at`.

        A shutdown calls this method as soon as the signal arrives, when a CPU-bound handler may be blocking the event
        loop. The method neither waits nor raises.
        """
        self.context.ends_at = min(self.context.ends_at, at)

    def _connection_ratio(self) -> float:
        """Return the number of client connections divided by its maximum, for the server with the highest ratio."""
        return max((server.connection_ratio for server in self.servers), default=0.0)

    def attach(self, server: Any) -> None:
        """Register a server that will submit requests, and admit its requests, even after an earlier `drain`."""
        self.servers.add(server)
        self.condition = "serving"
        self.context.ends_at = math.inf
        if self.context.runtime is None:
            self.begin()
        else:
            self.context.runtime.begin_again()
            self.context.changed()

    def detach(self, server: Any) -> bool:
        """Unregister a server; return whether it was the last server."""
        self.servers.discard(server)
        return not self.servers

    def isolate(self) -> None:
        """In a process that a handler has forked, reset this object, because its jobs belong to the parent process."""
        self.upgrades.isolate()
        FORKS.keep(self.upgrades, self.mounts)
        FORKS.keep(self.context, self.servers)
        for lane in self.lanes:
            for slot in lane.pool.slots:
                slot.session.isolate()
            source = lane.pool.session_rules.source
            if source is not None:
                source.isolate()
        Intake.__init__(self, self.application, self.options)
