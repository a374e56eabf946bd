"""The load balancer: it admits jobs, sees each to its one end, and sizes the pool.

Decides nothing by itself: `policy/` says whether a job is admitted and how many workers there are, and this module
does it. Nothing between reading the loads and queueing yields, so least-busy is exact without locks. It must not know
sockets.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event

from ..compiling import mypyc_attr
from ..errors import Abort, ClientDisconnected, DeadlineExceeded, OptionError, RequestKilled, StreamsFull, WrongThread
from ..observe.snapshot import Condition, Durations, Snapshot
from ..observe.stats import Histogram, Stats
from ..options import Options
from ..policy.answers import DRAINING, EXPIRED, KILLED, TIMED_OUT, Answer
from ..policy.deadline import TimeLimits, TimeTold
from ..policy.lifecycle import Outcome
from ..priority import Priority
from .bridge import serve_through
from .deadlines import DeadlineTimer
from .exchange import Application, Exchange, StartResponse
from .hublog import HubLog
from .hubturns import TurnEnd
from .hubwatch import HubWatch
from .job import Deadline, Job, JobKeeper, RouteState, ToldDeadline
from .joblog import JobLog
from .lagprobe import LagProbe
from .lane import Lane
from .mounts import Mounts
from .origin import priority_of
from .session import CLEANUP_SECONDS
from .slot import Slot
from .supervisor import Supervisor
from .watchdog import Watchdog
from .worker import Worker

__all__ = ["LoadBalancer"]

_OFF = "a handler that never waits is not interrupted at its deadline: {}"
_ELSEWHERE = (
    "this LoadBalancer runs in the thread of its first request or server, and was called in another one; "
    "serve it with a gevent server, which calls it in one thread, or make one for each thread"
)
_GIVEN_UP = (
    "{} cannot be ended, as its handler swallows every abort; another slot has taken its place. "
    "Let BaseException pass: catch Exception instead, or raise again"
)


@mypyc_attr(allow_interpreted_subclasses=True)
class LoadBalancer(JobKeeper):
    """A WSGI application that runs another one on a pool of greenlets, partitioned into workers.

    Give it to `WSGIServer`, or to any other gevent server as the WSGI callable it is (`balance_load()` returns the
    same). Greenlets and timers are made at the first request, so one may be built before a server forks. It belongs
    to the thread of its first request until it is drained, and raises `WrongThread` when it is called in another one.

    `application` may also be a mapping of paths to applications, `{"/users": users, "/shop": shop}`: each is found
    below its path, which is then its SCRIPT_NAME, and has workers of its own. Raises `OptionError` when an application
    cannot be called, a path cannot be one, or `options` are no `Options`.
    """

    def __init__(self, application: Application | Mapping[str, Application], options: Options | None = None) -> None:
        self.application = application
        self.options = options = _checked(options)
        self.condition: Condition = "serving"
        self._turn_end = TurnEnd()
        self._users: set[object] = set()
        self._mounts = Mounts(application, options, self)
        self._lanes = self._mounts.lanes
        self._priority_func = options.priority_func
        self._streams = 0
        self._refusals = 0
        self._changed: Event | None = None
        self._probe: LagProbe | None = None
        self._log = HubLog(logging.getLogger("intralb_gevent").log)
        self._job_log = JobLog(options.log_format) if options.enable_logging else None
        self._deadlines: DeadlineTimer | None = None
        self._supervisor: Supervisor | None = None
        self._watchdog: Watchdog | None = None
        self._hub_watch: HubWatch | None = None
        self._hub: Any = None

    def __repr__(self) -> str:
        return f"<LoadBalancer {self.condition}: {', '.join(map(repr, self._lanes))}>"

    @property
    def turn_end(self) -> TurnEnd:
        """What is put off until the end of the hub's present turn."""
        return self._turn_end

    # As a WSGI callable.

    def balance_load(self) -> Callable[[dict[str, Any], StartResponse], Iterator[bytes]]:
        """Return the WSGI callable that balances: this object itself."""
        return self

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        """Answer a request of any gevent WSGI server; waits in that server's greenlet, runs in a slot."""
        self.require_own_thread()
        return serve_through(self, environ, start_response)

    def require_own_thread(self) -> None:
        """Raise `WrongThread` where nothing would ever wake whoever waits here, as the slots run in another thread."""
        if self._hub is not None and self._hub is not gevent.get_hub():
            raise WrongThread(_ELSEWHERE)

    # The way of a job.

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> Job:
        """Bring a request to a worker, or refuse it; the response goes to `exchange`. Never waits."""
        now = monotonic()
        # A hub that was late asks when the request came.
        late = self._hub_watch is not None and now >= self._hub_watch.late_after
        unseen = exchange.unseen_seconds() if late else 0.0
        route = self._mounts.find(environ)
        lane, priority = route.lane, self._priority_of(environ, route)
        deadline = environ["intralb.deadline"] = _deadline(environ, now, unseen, route.limits)
        environ["intralb.client_disconnected"] = exchange.client_disconnected
        job = Job(environ, exchange, now - unseen, deadline, route)
        job.priority = priority
        lane.stats.submitted += 1
        if self.condition == "stopped":
            self.refuse(job, "shed", DRAINING)
            return job
        if unseen and deadline.at <= now:
            self.refuse(job, "expired", EXPIRED)
            return job
        deadlines = self._deadlines or self._begin()
        refusal = lane.admit(job, now)
        if refusal is not None:
            self.refuse(job, "shed", refusal)
        elif deadline.at < deadlines.due:
            deadlines.watch(deadline.at)
        return job

    def _priority_of(self, environ: dict[str, Any], route: RouteState) -> Priority:
        if self._priority_func is None and "intralb.priority" not in environ:
            return route.priority
        priority = priority_of(environ, self._priority_func, route.priority)
        # Kept, so that the application's function is asked once.
        environ["intralb.priority"] = priority.name.lower()
        return priority

    @property
    def calm(self) -> bool:
        """Whether `turn_away` need not be asked before `submit`: nobody has been refused of late."""
        if self.condition == "stopped":
            return False
        return all(lane.calm for lane in self._lanes)

    def turn_away(self, environ: dict[str, Any]) -> Answer | None:
        """Refuse a request that has no place now, before anything is made for it: refusing many must be cheap.

        Its head is enough. Returns what to answer, or None where `submit` has to decide: there is a place, or the pool
        may grow, or another may have to make room.
        """
        route = self._mounts.find(environ)
        lane = route.lane
        if self.condition == "stopped":
            answer: Answer | None = DRAINING
        else:
            answer = lane.refusal_at_once(environ, self._priority_of(environ, route))
        if answer is None:
            return None
        lane.stats.submitted += 1
        lane.stats.add_shed(answer.reason)
        self._refusals += 1
        answer = answer.not_executed(self._refusals)
        if self._job_log is not None:
            self._job_log.turned_away(environ, answer)
        return answer

    def claim(self, job: Job) -> bool:
        """Move a job whose turn it is to running; False if it was refused instead, and must not be run."""
        now = monotonic()
        if job.deadline.at <= now:
            self.refuse(job, "expired", EXPIRED)
            return False
        lane = job.route.lane
        if (answer := lane.too_late(job, now)) is not None:
            self.refuse(job, "shed", answer)
            return False
        job.move("running")
        job.started = now
        self._mounts.enter(job.environ)
        if job.worker is not None:
            job.environ["intralb.worker"] = job.worker.id
        if job.counted_by is not None:
            job.counted_by.begin(job.client, job.priority)
        lane.stats.queue_wait.add(now - job.arrived)
        return True

    def abandon(self, job: Job) -> None:
        """The client has left: a job that waits is dropped; one that has a slot goes on, if it may."""
        if job.state == "queued" and job.worker is not None and job.worker.keeps_waiting(job):
            self._leave_queue(job)
            self.end(job, "disconnected")
        elif job.state == "running" and job.slot is not None and self.options.cancel_on_disconnect:
            self.end(job, "disconnected")
            job.slot.abort(ClientDisconnected("the client has left"), monotonic())

    def end(self, job: Job, outcome: Outcome, reason: str | None = None) -> None:
        """Give a job its one outcome."""
        job.move(outcome)
        job.ended = monotonic()
        if job.streams:
            self._streams -= 1
        route = job.route
        lane = route.lane
        if outcome == "shed":
            lane.stats.add_shed(reason or "")
        else:
            lane.stats.add(outcome)
        if job.started is not None:
            run_time = job.ended - job.started
            lane.ended(run_time)
            if outcome == "completed":
                route.usual.add(run_time)
        if job.counted_by is not None:
            job.counted_by.end(job.client, job.priority, began=job.started is not None)
        if self._job_log is not None:
            self._job_log.ended(job, outcome, reason)

    def begin_stream(self, job: Job) -> None:
        """The response of a running job is streamed from now on; raises `StreamsFull` if it must not be."""
        most = self.options.max_streams
        if most is not None and self._streams >= most:
            raise StreamsFull(f"{most} responses are streamed already, which is max_streams")
        job.streams = True
        self._streams += 1
        job.deadline.begin_stream()
        if self._deadlines is not None:
            self._deadlines.watch(job.deadline.at)

    def refuse(self, job: Job, outcome: Outcome, answer: Answer) -> None:
        """Answer a job that has not run and will not."""
        self._leave_queue(job)
        self._refusals += 1
        job.exchange.refuse(answer.not_executed(self._refusals))
        self.end(job, outcome, answer.reason)

    def _leave_queue(self, job: Job) -> None:
        if job.worker is not None and job.slot is None:
            job.worker.remove(job)
            self.changed()

    def changed(self) -> None:
        """A slot or a place in a queue has become free, or a worker is gone: whoever waits for that may look."""
        if self._changed is not None:
            self._changed.set()

    # Ending jobs before their time.

    def _sweep(self) -> float:
        """End every job that is late; return the next moment at which one may be."""
        return min(self._sweep_lane(lane, monotonic()) for lane in self._lanes)

    def _sweep_lane(self, lane: Lane, now: float) -> float:
        pool = lane.pool
        for job in pool.waiting:
            if job.deadline.at <= now:
                self.refuse(job, "expired", EXPIRED)
        for slot in pool.slots:
            if slot.due <= now and slot.job is not None:
                self._end_late(slot, slot.job, now)
        nearest = min((job.deadline.at for job in pool.waiting), default=math.inf)
        return min(nearest, min((slot.due for slot in pool.slots), default=math.inf))

    def _end_late(self, slot: Slot, job: Job, now: float) -> None:
        if slot.stubborn:
            self.give_up(slot)
        else:
            slot.abort(self.time_out(job), now)

    def time_out(self, job: Job) -> Abort:
        """Answer for a running job whose deadline has passed, and return what its application is to be ended with."""
        self._cut(job, "timed_out", TIMED_OUT)
        return DeadlineExceeded("the request's deadline has passed")

    def give_up(self, slot: Slot) -> None:
        """Put another slot in the place of one whose application cannot be ended."""
        pool = slot.worker.pool
        lane = next(lane for lane in self._lanes if lane.pool is pool)
        pool.give_up(slot)
        lane.stats.given_up += 1
        self._log.record(logging.CRITICAL, partial(_GIVEN_UP.format, slot.job and slot.job.name))

    def _kill_all(self) -> int:
        """End every job because the server stops; return how many."""
        now, before = monotonic(), self._totals().ended
        for lane in self._lanes:
            for job in lane.pool.waiting:
                self.refuse(job, "killed", KILLED)
            for slot in lane.pool.slots:
                if slot.job is not None:
                    self._cut(slot.job, "killed", KILLED)
                    slot.abort(RequestKilled("the server is shutting down"), now)
        return self._totals().ended - before

    def _cut(self, job: Job, outcome: Outcome, answer: Answer) -> None:
        """Answer for a job that has a slot and may be running; the application is interrupted afterwards."""
        if job.state == "running":
            job.exchange.fail(answer)
            self.end(job, outcome)
        elif job.state == "queued" and outcome == "killed":
            self.refuse(job, "killed", answer)
        elif job.state == "queued":
            self.refuse(job, "expired", EXPIRED)

    # The size of the pool.

    def resize(self, workers: int) -> None:
        """Set the number of workers for all requests without workers of their own; autoscaling goes on from there.

        Raises `OptionError` unless `workers` lies between `min_workers` and `max_workers`.
        """
        lowest, highest = self.options.first_workers, self.options.max_workers
        if not lowest <= workers <= highest:
            raise OptionError(f"workers: {workers!r} is not allowed; it must be from {lowest} to {highest}")
        if self._supervisor is None:
            self._begin()
        self._lanes[0].resize(workers)

    def _begin(self) -> DeadlineTimer:
        """Make what belongs to the serving process: timers and the first workers."""
        self._hub = gevent.get_hub()
        loop = self._hub.loop
        self._deadlines = DeadlineTimer(loop, self._sweep, monotonic)
        self._supervisor = Supervisor(loop, self._review)
        self._supervisor.start()
        self._watchdog = Watchdog.of(self.options.interrupt_number)
        self._hub_watch = self._watchdog.watch
        self._turn_end.watched = not self._watchdog.off_because
        if self._watchdog.off_because:
            self._log.record(logging.WARNING, partial(_OFF.format, self._watchdog.off_because))
        self._probe = LagProbe(loop, self._sample)
        for lane in self._lanes:
            lane.begin(self._watchdog.busy)
        return self._deadlines

    def _sample(self) -> None:
        for lane in self._lanes:
            lane.sample()

    def _review(self) -> None:
        now, least_lag = monotonic(), None if self._probe is None else self._probe.take()
        for lane in self._lanes:
            lane.review(now, least_lag)
        if self._probe is not None:
            self._probe.run(any(lane.pool.load for lane in self._lanes))

    # Stopping.

    def drain(self, timeout: float) -> int:
        """Wait until no job is left, `timeout` seconds at most, cut the rest, and close all sessions.

        Until the time is over new jobs are admitted; afterwards they are refused. Returns how many
        jobs were cut. It waits, so it must not be called in the hub. A server that begins to bring requests meanwhile
        ends the draining.
        """
        self.condition = "draining"
        self._wait_until(lambda: self._serves() or not any(worker.load for worker in self._workers), timeout)
        if self._serves():
            return 0
        self.condition = "stopped"
        cut = self._kill_all()
        for lane in self._lanes:
            lane.pool.retire(len(lane.pool.active))
        self._wait_until(lambda: not any(lane.pool.retiring for lane in self._lanes), CLEANUP_SECONDS)
        if not self._serves():
            self._rest()
        self._log.flush(CLEANUP_SECONDS)
        if self._job_log is not None:
            self._job_log.records.flush(CLEANUP_SECONDS)
        return cut

    def _serves(self) -> bool:
        return self.condition == "serving"

    @property
    def _workers(self) -> list[Worker]:
        return [worker for lane in self._lanes for worker in lane.pool.all]

    def _wait_until(self, reached: Callable[[], bool], timeout: float) -> None:
        end = monotonic() + timeout
        changed = self._changed = Event()
        while not reached() and (left := end - monotonic()) > 0:
            changed.clear()
            changed.wait(left)
        self._changed = None

    def _rest(self) -> None:
        """Give up what `_begin` has made, until the next request."""
        for part in (self._supervisor, self._deadlines, self._probe):
            if part is not None:
                part.stop()
        if self._watchdog is not None:
            self._watchdog.release()
        self._supervisor = self._deadlines = self._watchdog = self._hub_watch = self._probe = None
        self._hub = None

    def open_for(self, user: object) -> None:
        """A server begins to bring requests: admit them, also after an earlier `drain`."""
        self._users.add(user)
        self.condition = "serving"
        if self._watchdog is None:
            self._begin()
            return
        for lane in self._lanes:
            if not lane.pool.active:
                # The drain has not let the last of the earlier workers go yet.
                lane.begin(self._watchdog.busy)
        self.changed()

    def close_for(self, user: object) -> bool:
        """A server brings no more requests; say whether it was the last one."""
        self._users.discard(user)
        return not self._users

    # Being looked at.

    def _totals(self) -> Stats:
        return sum((lane.stats for lane in self._lanes), Stats())

    def snapshot(self) -> Snapshot:
        """Return one frozen picture of the whole."""
        stats, watchdog = self._totals(), self._watchdog
        workers = tuple(worker for lane in self._lanes for worker in lane.pool.snapshot(lane.name))
        return Snapshot(
            condition=self.condition,
            submitted=stats.submitted,
            queued=sum(worker.queued for worker in workers),
            running=sum(worker.running for worker in workers),
            outcomes=stats.outcomes,
            shed_reasons=dict(stats.shed_reasons),
            workers=workers,
            lanes=tuple(lane.snapshot() for lane in self._lanes),
            most_workers=sum(lane.options.max_workers for lane in self._lanes),
            queue_wait=Durations.of(stats.queue_wait),
            run_time=Durations.of(stats.run_time),
            streams=self._streams,
            given_up=stats.given_up,
            hub_lag=Durations.of(Histogram() if watchdog is None else watchdog.lag),
            hub_blocked=0 if watchdog is None else watchdog.blocked,
            interrupts="not started" if watchdog is None else watchdog.off_because or "on",
            log_records_dropped=0 if self._job_log is None else self._job_log.records.dropped,
        )


def _checked(options: Any) -> Options:
    if options is None:
        return Options()
    if not isinstance(options, Options):
        raise OptionError(f"options: {options!r} is not allowed; it must be an Options, such as Options(queue_size=50)")
    return options


def _deadline(environ: dict[str, Any], now: float, unseen: float, limits: TimeLimits) -> Deadline:
    """Return the deadline of a request that came `unseen` seconds ago."""
    arrived = now - unseen
    told: TimeTold | None = environ.get("intralb.time_told")
    if told is not None:
        return ToldDeadline(arrived, limits, told.seen_earlier(unseen))
    return Deadline(arrived + limits.timeout, arrived, limits)
