"""A lane: a dedicated worker pool (a bulkhead) for a subset of requests, from their admission to their outcome.

A balancer has one lane for most requests, and one more for each mounted application or route with its own workers. The
choice of the least busy worker is exact without locks, because no code between reading the workers' loads and queueing
a job yields to the hub.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..config.options import Options
from ..errors import Abort, ClientDisconnected, DeadlineExceeded, EndedByOperator, RequestKilled, StreamsFull
from ..observe.refusals import Refusals
from ..observe.snapshot import LaneSnapshot
from ..observe.stats import SLOW_SECONDS, Stats
from ..policy.cannedresponses import ENDED_BY_OPERATOR, EXPIRED, KILLED, TIMED_OUT, TOO_MANY_STREAMS, CannedResponse
from ..policy.lifecycle import Outcome
from ..policy.limiters import Limiter, Window, limiter_named
from ..priority import Priority
from ..stdlib import monotonic, time_of_day
from .admissioncontrol import AdmissionControl
from .context import LaneContext
from .cutlog import cut_record, killed_record, late_record
from .endings import ENDED_EARLY
from .exemplars import keep_exemplar
from .job import Job
from .limitwindow import LimitWindow
from .loopshare import LoopShare
from .scaling import PoolScaler
from .slot import Slot
from .workerpool import WorkerPool

if TYPE_CHECKING:
    from .mounts import Mounts
    from .runtime import Runtime

__all__ = ["Lane"]

_GIVEN_UP = (
    "{} cannot be ended, as every abort was swallowed, by its handler or by finalizers (__del__, weakref callbacks) "
    "that ran in it; another slot has taken its place. Let BaseException pass: catch Exception instead, or raise "
    "again; let no finalizer wait for long"
)
_LEFT_BEHIND = "{} has not ended within cleanup_seconds of the shutdown's abort, and is left behind"

UNDECIDED_SECONDS: Final = 0.25
"""Seconds for which a response beyond `max_streams` is held before it is rejected; most pages that are sent in parts
are complete by then."""


class Lane:
    """A pool of workers with its statistics, admission control, limiter and scaler."""

    def __init__(self, name: str, options: Options, context: LaneContext, mounts: Mounts) -> None:
        self.name = name
        self.options = options
        self.context = context
        self._mounts = mounts
        self.stats = Stats()
        self.pool = WorkerPool(options, self)
        self.admission = AdmissionControl(self)
        self.scaler = PoolScaler(
            self.pool, self.stats, self.admission.service, self.admission.throughput, self.admission.grown
        )
        first_slots = options.first_workers * options.max_concurrent_per_router
        self._limiter: Limiter = limiter_named(options.limiter, first_slots)
        self._window = LimitWindow(self.stats)
        self._loop_share = LoopShare()

    def __repr__(self) -> str:
        return f"<Lane {self.name or 'of all others'}: {self.pool!r} {self.stats!r}>"

    # From admission to outcome.

    def admit(self, job: Job, now: float, runtime: Runtime) -> None:
        """Assign a job to a worker, or reject it. Never waits."""
        refusal = self.admission.admit(job, now)
        if refusal is not None:
            self.reject(job, "shed", refusal)
        elif job.deadline.at < runtime.deadlines.due:
            runtime.deadlines.watch(job.deadline.at)

    def claim(self, job: Job) -> bool:
        """Mark as running a job that is due to start; return False if the job was rejected instead."""
        now = monotonic()
        if job.deadline.at <= now:
            self.reject(job, "expired", EXPIRED)
            return False
        admission, left = job.route.admissions[job.priority], job.deadline.at - now
        # Both comparisons are false for almost every job.
        if admission.overloaded or left < job.route.usual.mean:
            answer = self.admission.stale_rejection(job, now)
            if answer is not None:
                self.reject(job, "shed", answer)
                return False
        admission.begun += 1
        job.move("running")
        job.started = now
        if self._mounts.below_paths:
            self._mounts.enter(job.environ)
        if job.worker is not None:
            job.environ["intralb.worker"] = job.worker.id
        if job.counted_by is not None:
            job.counted_by.begin(job.client, job.priority)
        self.stats.queue_wait.add(now - job.arrived)
        return True

    def abandon(self, job: Job, gone: bool = False) -> None:
        """Drop a waiting job because its client has left; end a running job if `cancel_on_disconnect` is set.

        A client that has only shut down its sending side looks as if it had left, and may still read the response. So a
        job that is about to get its slot is kept, unless the client is known to be `gone`.
        """
        if job.waits and job.worker is not None and (gone or job.worker.still_waiting(job)):
            self._leave_queue(job)
            self.end(job, "disconnected")
        elif job.state == "running" and job.slot is not None and self.options.cancel_on_disconnect:
            self.end(job, "disconnected")
            self._abort(job.slot, ClientDisconnected("the client has left"), monotonic())

    def reject(self, job: Job, outcome: Outcome, answer: CannedResponse) -> None:
        """Reject a job that has not run: send `answer`, and set the outcome."""
        self._leave_queue(job)
        if outcome == "expired":
            self.context.report_cut(job, late_record(job))
        elif outcome == "killed":
            self.context.report_cut(job, killed_record(job))
        job.exchange.reject(self.context.not_executed(answer))
        self.end(job, outcome, answer.reason)

    def _leave_queue(self, job: Job) -> None:
        if job.worker is not None and job.slot is None:
            job.worker.remove(job)
            self.context.changed()

    def end(self, job: Job, outcome: Outcome, reason: str | None = None) -> None:
        """Set the one outcome of a job; `reason` is the reason of the balancer's own response, if there is one."""
        job.move(outcome)
        context = self.context
        # Compare with "completed" first, because the comparison is faster than a lookup in the set.
        if outcome != "completed" and outcome in ENDED_EARLY:
            context.endings.report(job, outcome, reason)
        job.ended = monotonic()
        if job.streams_since is not None:
            self._end_stream(job)
        if outcome == "shed":
            self.stats.add_shed(reason or "", job.priority)
        else:
            self._count(job, outcome, reason, job.ended)
        if job.started is not None:
            self._has_run(job, job.started, job.ended - job.started, outcome)
        self.pool.long_waits.ended(job, job.ended)
        if job.counted_by is not None:
            job.counted_by.end(job.client, job.priority, began=job.started is not None)
        if context.job_log is not None:
            context.job_log.ended(job, outcome, reason)
        if reason is not None and context.refusals is not None:
            self.note_refusal(context.refusals, job.environ, job.priority, reason, job.deadline.at - job.ended)

    def note_refusal(
        self, refusals: Refusals, environ: dict[str, Any], priority: Priority, reason: str, left: float
    ) -> None:
        """Record a rejected request for the status page; `left` is the time to its deadline, in seconds."""
        at = time_of_day()
        if not refusals.wants(at):
            return
        ahead = self.pool.waiting_before(priority)
        refusals.add(
            environ,
            at=at,
            lane=self.name,
            reason=reason,
            priority=priority.name.lower(),
            ahead=ahead,
            expected_wait=self.admission.throughput.wait(ahead),
            left=left,
        )

    def _count(self, job: Job, outcome: Outcome, reason: str | None, ended: float) -> None:
        """Add a job to the totals, unless it was shed; `ended` is its end, in `time.monotonic()` seconds."""
        stats, duration = self.stats, ended - job.arrived
        stats.add(outcome, duration, None if job.started is None else ended - job.started)
        completed = outcome == "completed"
        # A method call for each completed job with status 200 would cost more than this comparison.
        if not (completed and job.exchange.status.startswith("200")):
            stats.add_status(job.exchange.status, completed)
            if reason:
                stats.add_refused(reason, job.priority)
        if duration >= SLOW_SECONDS:
            keep_exemplar(stats, job.environ, duration)

    def _has_run(self, job: Job, started: float, run_time: float, outcome: Outcome) -> None:
        """Pass the run time of a job to the policies; only the time up to the first part counts for a long stream."""
        service_time = run_time if job.streams_since is None else job.service_time
        counted = self.pool.long_waits.counted(job, service_time, started + run_time)
        if not job.waits_long:
            self.admission.service.add(counted, started)
        self._window.add(run_time, counted)
        if outcome == "completed":
            job.route.usual.add(service_time)

    # Streamed responses and upgrades.

    def begin_stream(self, job: Job) -> None:
        """Register the first part of a streamed response.

        If the maximum number of streams is reached, the response is held for `UNDECIDED_SECONDS`. A page that is sent
        in parts is usually complete within this time, and succeeds. If the response takes longer, and no other stream
        has ended, the response is rejected before any part of it is sent.
        """
        if self._streams_are_full():
            job.undecided_until = monotonic() + UNDECIDED_SECONDS
            job.exchange.hold()
            self.context.look_at(job.undecided_until)
        else:
            self._stream(job)

    def _streams_are_full(self) -> bool:
        most = self.options.max_streams
        if most is not None:
            return self.context.streams >= most
        return len(self.pool.streams) >= self.pool.most_streams

    def _stream(self, job: Job) -> None:
        job.undecided_until = math.inf
        job.streams_since = monotonic()
        self.pool.streams.add(job)
        self.context.streams += 1
        job.deadline.begin_stream()
        self.context.look_at(job.deadline.at)

    def _end_stream(self, job: Job) -> None:
        self.pool.streams.discard(job)
        self.context.streams -= 1

    def begin_upgrade(self, slot: Slot, job: Job, take: Callable[[], object] | None) -> None:
        """Let the application of a running job take over the connection; raises what `Upgrades.enter` raises.

        The job counts as completed, and a new slot replaces the job's slot. The old greenlet continues without a
        deadline.
        """
        self.context.upgrades.enter(slot, take)
        job.undecided_until = math.inf
        self.end(job, "completed")
        job.deadline.lift()
        slot.worker.abandon_slot(slot)

    def client_is_too_slow(self, job: Job) -> None:
        """Log that the response of a job is cut because its client reads nothing."""
        why = f"its client read nothing for write_timeout_seconds={self.options.write_timeout_seconds:g}"
        self.context.report_cut(job, cut_record(job, why))

    # Ending jobs early.

    def sweep(self, now: float) -> float:
        """End every late job; return the next time, in `time.monotonic()` seconds, at which a job may be late."""
        pool = self.pool
        for job in pool.waiting:
            if job.deadline.at <= now:
                self.reject(job, "expired", EXPIRED)
        for slot in pool.slots:
            if slot.due <= now and slot.job is not None:
                self._end_late(slot, slot.job, now)
        nearest = min((job.deadline.at for job in pool.waiting), default=math.inf)
        return min(nearest, min((slot.due for slot in pool.slots), default=math.inf))

    def _end_late(self, slot: Slot, job: Job, now: float) -> None:
        if slot.uncancellable:
            self.abandon_slot(slot)
        elif job.undecided_until <= now < job.deadline.at and job.state == "running" and not self._streams_are_full():
            self._stream(job)
            job.exchange.release()
        else:
            slot.abort(self.cut(job), now)

    def _abort(self, slot: Slot, signal: Abort, now: float) -> None:
        """Abort a slot outside a sweep, and schedule a sweep for the end of the slot's clean-up time."""
        slot.abort(signal, now)
        self.context.look_at(now + self.options.cleanup_seconds)

    def cut(self, job: Job) -> Abort:
        """Send the error response for a running job whose time is over; return the abort for its application."""
        now = monotonic()
        if job.deadline.at > now >= self.context.ends_at:
            self._answer_cut(job, "killed", KILLED)
            return RequestKilled("the server is shutting down")
        if job.deadline.at > now >= job.undecided_until:
            self._answer_cut(job, "failed", TOO_MANY_STREAMS)
            return StreamsFull("there are as many streamed responses as max_streams allows")
        self._answer_cut(job, "timed_out", TIMED_OUT)
        return DeadlineExceeded("the request's deadline has passed")

    def _answer_cut(self, job: Job, outcome: Outcome, answer: CannedResponse) -> None:
        """Send the error response for a job that has a slot, running or not; the caller aborts the application."""
        if job.state == "running":
            if outcome == "timed_out":
                self.context.report_cut(job, late_record(job))
            elif outcome == "killed":
                self.context.report_cut(job, killed_record(job))
            job.exchange.fail(answer)
            self.end(job, outcome, answer.reason if outcome == "failed" else None)
        elif job.waits and outcome == "killed":
            self.reject(job, "killed", answer)
        elif job.waits:
            self.reject(job, "expired", EXPIRED)

    def end_by_operator(self, slot: Slot) -> bool:
        """End the running job of a slot on behalf of an operator; return whether a job was running."""
        job = slot.job
        if job is None or job.state != "running":
            return False
        job.exchange.fail(ENDED_BY_OPERATOR)
        self.end(job, "killed", ENDED_BY_OPERATOR.reason)
        self._abort(slot, EndedByOperator("an operator has ended the request"), monotonic())
        return True

    def abandon_slot(self, slot: Slot) -> None:
        """Replace a slot whose application cannot be ended."""
        self._do_without(slot, _GIVEN_UP)

    def leave_behind(self, slot: Slot) -> None:
        """At a shutdown, replace a slot whose application has not ended in time."""
        self._do_without(slot, _LEFT_BEHIND)

    def _do_without(self, slot: Slot, why: str) -> None:
        if slot.job is not None:
            self.context.endings.report(slot.job, "given_up")
        self.pool.abandon_slot(slot)
        self.stats.given_up += 1
        self.context.log.record(logging.CRITICAL, partial(why.format, slot.job and slot.job.name))

    def kill_all(self) -> None:
        """End every job because of a shutdown."""
        now = monotonic()
        for job in self.pool.waiting:
            self.reject(job, "killed", KILLED)
        for slot in self.pool.slots:
            if slot.job is not None:
                self._answer_cut(slot.job, "killed", KILLED)
                # Do not abort a handler that is still cleaning up after an earlier abort.
                if not slot.cleaning_up:
                    self._abort(slot, RequestKilled("the server is shutting down"), now)

    # Periodic work, and the number of workers.

    def begin(self, busy: Callable[[float], float]) -> None:
        """Start serving; `busy` returns the total seconds for which the hub has been busy up to a given time."""
        self.scaler.begin(busy)
        self._loop_share.begin(self.pool.loop_seconds)
        self.pool.add(self.options.first_workers)
        self._resized()

    def sample(self) -> None:
        """Record how many jobs run and how many wait; called several times in each window."""
        running = self.pool.running - self.pool.lasting
        self._window.sample(running, self.pool.waiting_count)
        self._loop_share.sample(running)

    def review(self, now: float, least_lag: float | None) -> None:
        """Update the number of workers, the limiter and the admission control; called at every tick.

        `least_lag` is the smallest lag of the hub since the last tick, in seconds.
        """
        self.pool.count_lasting(now)
        self.pool.close_stale_sessions()
        self.scaler.review()
        window = self._window.over(now, least_lag, busy := self.scaler.busy(now))
        self._limiter.observe(self._caused(window, now))
        self.admission.review(now, window, busy)
        self._resized()
        self.admission.run_queued_long_waits(now)
        self.admission.forget_clients(now)

    def _caused(self, window: Window, now: float) -> Window:
        """Return the window without the load that the jobs of other lanes cause, if this lane hardly loads the loop."""
        busy, spawned = window.busy * window.seconds, self.pool.long_waits.take_spawned()
        if not self._loop_share.is_light(self.pool.loop_seconds, busy, now, spawned=spawned):
            return window
        return window._replace(least_lag=0.0, busy=0.0, processor_seconds=0.0)

    def make_room(self) -> bool:
        """Grow the pool, because it has no capacity for a job; return whether the pool grew."""
        if not self.scaler.grow():
            return False
        self._resized()
        return True

    def resize(self, workers: int) -> None:
        """Add or retire workers, so that there are `workers` active workers."""
        self.scaler.change(workers - len(self.pool.active))
        self._resized()

    def _resized(self) -> None:
        """Apply a changed number of workers or a changed concurrency limit, and start waiting jobs."""
        pool, limiter = self.pool, self._limiter
        limiter.resize(max(1, pool.total_slots))
        pool.limit = limiter.limit if limiter.limit < pool.total_slots else None
        self.admission.update_fast_path()
        pool.fill()

    def snapshot(self) -> LaneSnapshot:
        """Return an immutable copy of the lane's current state."""
        return LaneSnapshot(
            name=self.name,
            limit=min(self._limiter.limit, self.pool.total_slots),
            overloaded=self.admission.overloaded,
            clients=self.admission.clients,
            workers=len(self.pool.active),
            most_workers=self.options.max_workers,
        )
