"""The load balancer: it admits jobs, sees each to its one end, and sizes the pool.

Decides nothing by itself: `policy/` says whether a job is admitted and how many workers there are, and this module
does it. Nothing between reading the loads and queueing yields, so least-busy is exact without locks. It must not know
sockets.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any

import gevent
from gevent.event import Event

from ..compiling import mypyc_attr
from ..errors import Abort, ClientDisconnected, DeadlineExceeded, OptionError, RequestKilled, StreamsFull, WrongThread
from ..observe.snapshot import Condition, Durations, Snapshot
from ..observe.stats import Histogram, Stats
from ..options import Options
from ..policy.answers import DRAINING, EXPIRED, KILLED, TIMED_OUT, TOO_MANY_STREAMS, Answer
from ..policy.deadline import TimeLimits, TimeTold
from ..policy.lifecycle import Outcome
from ..priority import Priority
from ..stdlib import monotonic
from .bridge import serve_through
from .cutlog import cut_text, killed_text, late_text
from .deadlines import DeadlineTimer
from .endings import ENDED_EARLY, Endings
from .exchange import Application, Exchange, StartResponse
from .forks import FORKS
from .hublog import HubLog, all_dropped
from .hubturns import TurnEnd
from .hubwatch import HubWatch
from .itimers import stop_timers_of_requests
from .job import Deadline, Job, JobKeeper, RouteState, ToldDeadline
from .joblog import JobLog
from .lagprobe import LagProbe
from .lane import Lane
from .loghandlers import LOGGER
from .mounts import Mounts, enter_root
from .nativepool import NativePoolWatch
from .origin import priority_of
from .repeats import Repeats
from .session import CLEANUP_SECONDS
from .slot import Slot
from .slotlog import FAILURES
from .supervisor import Supervisor
from .upgrades import Holder, Upgrades
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
_LEFT_BEHIND = "{} has not ended within cleanup_seconds of the shutdown's abort, and is left behind"

UNDECIDED_SECONDS = 0.25
"""How long a response may go on that would be one stream too many, before it is refused: a page ends sooner."""

_LAST_ABORT_SECONDS = 0.25
"""How long a handler has to end at a shutdown once it has been aborted again after its time for clean-up."""


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
        self.upgrades = Upgrades(options.max_upgraded)
        self._refusals = 0
        self._ends_at = math.inf
        self._killed_before = 0
        self._changed: Event | None = None
        self._probe: LagProbe | None = None
        self._native_pool: NativePoolWatch | None = None
        self._log = HubLog(LOGGER.log)
        self._job_log = JobLog(options.log_format) if options.enable_logging else None
        self._late = Repeats(self._log)
        """The requests that were cut, or whose deadline has passed."""
        self._endings = Endings(options.on_ended, self._log)
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

    @property
    def ends_at(self) -> float:
        """When all running jobs are ended because the server stops, in `time.monotonic()` seconds; else infinity."""
        return self._ends_at

    def end_by(self, at: float) -> None:
        """End all jobs at `at`, in `time.monotonic()` seconds, even where a handler computes; never later than before.

        A shutdown calls it as soon as its signal arrives, while such a handler may block the event loop. It neither
        waits nor raises.
        """
        self._ends_at = min(self._ends_at, at)

    # As a WSGI callable.

    def balance_load(self) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
        """Return the WSGI callable that balances: this object itself."""
        return self

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request of any gevent WSGI server; waits in that server's greenlet, runs in a slot."""
        self.require_own_thread()
        root_path = self.options.root_path
        # Our own server, with middleware in front, or gunicorn may have done so.
        if root_path and not environ.get("SCRIPT_NAME", "").endswith(root_path):
            enter_root(environ, root_path)
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

    def turn_away(self, environ: dict[str, Any], asker: Hashable = None) -> Answer | None:
        """Refuse a request that has no place now, before anything is made for it: refusing many must be cheap.

        Its head is enough. Returns what to answer, or None where `submit` has to decide: there is a place, or the pool
        may grow, or another may have to make room. `asker` is the same for each request of a connection.
        """
        route = self._mounts.find(environ)
        lane = route.lane
        if self.condition == "stopped":
            answer: Answer | None = DRAINING
        else:
            priority = self._priority_of(environ, route)
            answer = lane.refusal_at_once(environ, route.admissions[priority], priority, asker)
        if answer is None:
            return None
        lane.stats.submitted += 1
        lane.stats.add_shed(answer.reason)
        self._refusals += 1
        answer = answer.not_executed(self._refusals)
        if self._job_log is not None:
            self._job_log.turned_away(environ, answer)
        return answer

    def streams_body(self, environ: dict[str, Any]) -> bool:
        """Return whether a request is to be submitted before its body has arrived."""
        return self._mounts.find(environ).streams_body

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

    def abandon(self, job: Job, gone: bool = False) -> None:
        """Drop a job that waits, as its client has left, or end one that runs if `cancel_on_disconnect` is set.

        A client that only sends no more looks as if it had left, and may still read the answer; so a job that is about
        to get its slot is kept, unless the client is known to be `gone`.
        """
        if job.state == "queued" and job.worker is not None and (gone or job.worker.keeps_waiting(job)):
            self._leave_queue(job)
            self.end(job, "disconnected")
        elif job.state == "running" and job.slot is not None and self.options.cancel_on_disconnect:
            self.end(job, "disconnected")
            self._abort(job.slot, ClientDisconnected("the client has left"), monotonic())

    def end(self, job: Job, outcome: Outcome, reason: str | None = None) -> None:
        """Give a job its one outcome."""
        job.move(outcome)
        # Looking into a set takes longer than this comparison.
        if outcome != "completed" and outcome in ENDED_EARLY:
            self._endings.report(job, outcome)
        job.ended = monotonic()
        route = job.route
        lane = route.lane
        if job.streams_since is not None:
            lane.pool.streams.discard(job)
        if outcome == "shed":
            lane.stats.add_shed(reason or "")
        else:
            lane.stats.add(outcome)
        if job.started is not None:
            run_time = job.ended - job.started
            service_time = run_time if job.streams_since is None else job.service_time
            lane.ended(run_time, service_time)
            if outcome == "completed":
                route.usual.add(service_time)
        if job.counted_by is not None:
            job.counted_by.end(job.client, job.priority, began=job.started is not None)
        if self._job_log is not None:
            self._job_log.ended(job, outcome, reason)

    # Streamed responses.

    def begin_stream(self, job: Job) -> None:
        """Take note of the first part of a streamed response.

        Where there are as many streams as there may be it is kept back for a moment. So a page that comes in parts is
        answered whatever runs, and only what goes on is refused, of which nothing has been sent.
        """
        if self._streams_are_full(job):
            job.undecided_until = monotonic() + UNDECIDED_SECONDS
            job.exchange.hold()
            self.look_at(job.undecided_until)
        else:
            self._stream(job)

    def _streams_are_full(self, job: Job) -> bool:
        most = self.options.max_streams
        if most is not None:
            return self._streams >= most
        pool = job.route.lane.pool
        return len(pool.streams) >= pool.most_streams

    @property
    def _streams(self) -> int:
        return sum(len(lane.pool.streams) for lane in self._lanes)

    def _stream(self, job: Job) -> None:
        job.undecided_until = math.inf
        job.streams_since = monotonic()
        job.route.lane.pool.streams.add(job)
        job.deadline.begin_stream()
        self.look_at(job.deadline.at)

    def begin_upgrade(self, slot: Slot, job: Job) -> None:
        """The application of a running job takes its connection over; raises `UpgradesFull` if it must not.

        The job is completed, and the slot replaced by another: its greenlet goes on by itself, without a deadline.
        """
        self.upgrades.enter(slot)
        job.undecided_until = math.inf
        self.end(job, "completed")
        job.deadline.lift()
        slot.worker.give_up(slot)

    def upgrade_ended(self, holder: Holder) -> None:
        """An application that has taken its connection over has ended."""
        self.upgrades.holders.discard(holder)
        self.changed()

    def client_is_too_slow(self, job: Job) -> None:
        """Log that the response of a job is cut because its client takes nothing."""
        why = f"its client took nothing for write_timeout_seconds={self.options.write_timeout_seconds:g}"
        self._warn("client_is_too_slow", cut_text(job, why))

    def refuse(self, job: Job, outcome: Outcome, answer: Answer) -> None:
        """Answer a job that has not run and will not."""
        self._leave_queue(job)
        self._refusals += 1
        if outcome == "expired":
            self._warn(outcome, late_text(job))
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

    def look_at(self, at: float) -> None:
        """Look for jobs that are late at `at` at the latest, in `time.monotonic()` seconds."""
        if self._deadlines is not None:
            self._deadlines.watch(at)

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
        elif (
            job.undecided_until <= now < job.deadline.at and job.state == "running" and not self._streams_are_full(job)
        ):
            self._stream(job)
            job.exchange.release()
        else:
            slot.abort(self.cut(job), now)

    def _abort(self, slot: Slot, signal: Abort, now: float) -> None:
        """Abort outside of a sweep, and let one abort the slot again when its time for clean-up is over."""
        slot.abort(signal, now)
        if self._deadlines is not None:
            self._deadlines.watch(now + self.options.cleanup_seconds)

    def cut(self, job: Job) -> Abort:
        """Answer for a running job whose time is over, and return what its application is to be ended with."""
        now = monotonic()
        if job.deadline.at > now >= self._ends_at:
            self._answer_cut(job, "killed", KILLED)
            return RequestKilled("the server is shutting down")
        if job.deadline.at > now >= job.undecided_until:
            self._answer_cut(job, "failed", TOO_MANY_STREAMS)
            return StreamsFull("there are as many streamed responses as max_streams allows")
        self._answer_cut(job, "timed_out", TIMED_OUT)
        return DeadlineExceeded("the request's deadline has passed")

    def give_up(self, slot: Slot) -> None:
        """Put another slot in the place of one whose application cannot be ended."""
        self._do_without(slot, _GIVEN_UP)

    def _do_without(self, slot: Slot, why: str) -> None:
        pool = slot.worker.pool
        lane = next(lane for lane in self._lanes if lane.pool is pool)
        if slot.job is not None:
            self._endings.report(slot.job, "given_up")
        pool.give_up(slot)
        lane.stats.given_up += 1
        self._log.record(logging.CRITICAL, partial(why.format, slot.job and slot.job.name))

    def _kill_all(self) -> None:
        """End every job because the server stops."""
        now = monotonic()
        for lane in self._lanes:
            for job in lane.pool.waiting:
                self.refuse(job, "killed", KILLED)
            for slot in lane.pool.slots:
                if slot.job is not None:
                    self._answer_cut(slot.job, "killed", KILLED)
                    # One that has been aborted already keeps its time for clean-up.
                    if not slot.cleaning_up:
                        self._abort(slot, RequestKilled("the server is shutting down"), now)

    def _answer_cut(self, job: Job, outcome: Outcome, answer: Answer) -> None:
        """Answer for a job that has a slot and may be running; the application is interrupted afterwards."""
        if job.state == "running":
            if outcome == "timed_out":
                self._warn(outcome, late_text(job))
            elif outcome == "killed":
                self._log.record(logging.WARNING, partial(str, killed_text(job)))
            job.exchange.fail(answer)
            self.end(job, outcome, answer.reason if outcome == "failed" else None)
        elif job.state == "queued" and outcome == "killed":
            self.refuse(job, "killed", answer)
        elif job.state == "queued":
            self.refuse(job, "expired", EXPIRED)

    def _warn(self, kind: str, text: str) -> None:
        self._late.record(kind, logging.WARNING, lambda: text)

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
        collects = gc.isenabled()
        # A finalizer may wait, and a request that came meanwhile would find no workers.
        gc.disable()
        try:
            return self._make_runtime()
        finally:
            if collects:
                gc.enable()

    def _make_runtime(self) -> DeadlineTimer:
        self._hub = gevent.get_hub()
        FORKS.serving.add(self)
        stop_timers_of_requests()
        loop = self._hub.loop
        self._deadlines = DeadlineTimer(loop, self._sweep, monotonic)
        self._supervisor = Supervisor(loop, self._review)
        self._supervisor.start()
        self._watchdog = Watchdog.of(self.options.interrupt_number, self.options.block_timeout_seconds)
        self._hub_watch = self._watchdog.watch
        self._turn_end.watched = not self._watchdog.off_because
        if self._watchdog.off_because:
            self._log.record(logging.WARNING, partial(_OFF.format, self._watchdog.off_because))
        self._probe = LagProbe(loop, self._sample)
        self._native_pool = NativePoolWatch(self._hub, self._log)
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
        if self._native_pool is not None:
            self._native_pool.look(now)

    # Stopping.

    def drain(self, timeout: float) -> int:
        """Wait until no job is left, `timeout` seconds at most, cut the rest, and close all sessions.

        Until the time is over new jobs are admitted; afterwards they are refused. Handlers that are cut have
        `cleanup_seconds`, then they are left behind, and sessions have 5 seconds to close. Returns how many jobs were
        cut. It waits, so it must not be called in the hub. A server that begins to bring requests meanwhile ends the
        draining.
        """
        self.condition = "draining"
        self._wait_until(lambda: self._serves() or self._idle(), timeout)
        if self._serves():
            return 0
        self.condition = "stopped"
        self._kill_all()
        self.upgrades.shut_down()
        for lane in self._lanes:
            lane.pool.retire(len(lane.pool.active))
        # An application that waits for its client sees the end; another one is aborted while there is time to clean up.
        cleaned_up = monotonic() + self.options.cleanup_seconds + _LAST_ABORT_SECONDS
        self._wait_until(lambda: not self.upgrades.holders, self.options.cleanup_seconds / 2)
        self.upgrades.kill()
        self._wait_until(lambda: not (self._unended() or self.upgrades.holders), cleaned_up - monotonic())
        for slot in self._unended():
            self._do_without(slot, _LEFT_BEHIND)
        self.upgrades.holders.clear()
        self._wait_until(lambda: not any(lane.pool.retiring for lane in self._lanes), CLEANUP_SECONDS)
        if not self._serves():
            self._rest()
        FAILURES.flush()
        self._late.flush()
        self._log.flush(CLEANUP_SECONDS)
        if self._job_log is not None:
            self._job_log.records.flush(CLEANUP_SECONDS)
        self._endings.flush(CLEANUP_SECONDS)
        return self._killed_since()

    def _idle(self) -> bool:
        """Return whether there are no jobs, and no connections that applications have taken over."""
        return not (self.upgrades.holders or any(worker.load for worker in self._workers))

    def _unended(self) -> list[Slot]:
        """Return the slots of retiring workers whose application has control."""
        workers = (worker for lane in self._lanes for worker in lane.pool.retiring)
        return [slot for worker in workers for slot in worker.slots if slot.job is not None and slot.interruptible]

    def _killed_since(self) -> int:
        """Return how many jobs were killed since this was last called, which includes those killed before `drain`."""
        before, self._killed_before = self._killed_before, self._totals().outcomes["killed"]
        return self._killed_before - before

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
        FORKS.serving.discard(self)
        self._supervisor = self._deadlines = self._watchdog = self._hub_watch = self._probe = None
        self._hub = self._native_pool = None

    def isolate(self) -> None:
        """Start anew in a process that a handler has forked: all jobs and workers belong to the parent."""
        self.upgrades.isolate()
        FORKS.keep(self.upgrades, self._mounts)
        FORKS.keep(self._supervisor, self._deadlines, self._probe, self._log, self._job_log, self._users)
        for lane in self._lanes:
            for slot in lane.pool.slots:
                slot.session.isolate()
            source = lane.pool.session_rules.source
            if source is not None:
                source.isolate()
        LoadBalancer.__init__(self, self.application, self.options)

    def open_for(self, user: object) -> None:
        """A server begins to bring requests: admit them, also after an earlier `drain`."""
        self._users.add(user)
        self.condition = "serving"
        self._ends_at = math.inf
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
            upgraded=len(self.upgrades.holders),
            given_up=stats.given_up,
            hub_lag=Durations.of(Histogram() if watchdog is None else watchdog.lag),
            hub_blocked=0 if watchdog is None else watchdog.blocked,
            interrupts="not started" if watchdog is None else watchdog.off_because or "on",
            log_records_dropped=all_dropped(),
            endings_dropped=self._endings.dropped,
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
