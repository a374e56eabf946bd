"""The load balancer: it admits jobs, sees each to its one end, and sizes the pool.

Decides nothing by itself: `policy/` says whether a job is admitted and how many workers there are, and this module
does it. Nothing between reading the loads and queueing yields, so least-busy is exact without locks. It must not know
sockets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent

from ..errors import ClientDisconnected, DeadlineExceeded, OptionError, RequestKilled
from ..observe.snapshot import Condition, Durations, Snapshot
from ..observe.stats import Stats
from ..options import Options
from ..policy.admission import Placement, place
from ..policy.answers import DRAINING, EXPIRED, KILLED, QUEUE_FULL, TIMED_OUT, Answer
from ..policy.autoscale import Autoscaler, PoolSize
from ..policy.lifecycle import Outcome
from .bridge import serve_through
from .deadlines import DeadlineTimer
from .exchange import Application, Exchange, StartResponse
from .job import Deadline, Job
from .joblog import JobLog
from .session import CLEANUP_SECONDS
from .supervisor import Supervisor
from .worker import Worker
from .workerpool import WorkerPool

__all__ = ["LoadBalancer"]


class LoadBalancer:
    """A WSGI application that runs another one on a pool of greenlets, partitioned into workers.

    Give it to `WSGIServer`, or to any other gevent server as the WSGI callable it is (`balance_load()` returns the
    same). Greenlets and timers are made at the first request, so one may be built before a server forks. It belongs
    to one thread. Raises `OptionError` when `application` cannot be called.
    """

    def __init__(self, application: Application, options: Options | None = None) -> None:
        if not callable(application):
            raise OptionError(f"application: {application!r} is not allowed; it must be a WSGI callable")
        self.application = application
        self.options = options = options or Options()
        self.condition: Condition = "serving"
        self._users: set[object] = set()
        self._stats = Stats()
        self._pool = WorkerPool(options, self)
        self._timeout = options.deadline_seconds
        self._job_log = JobLog(options.log_format) if options.enable_logging else None
        self._deadlines: DeadlineTimer | None = None
        self._supervisor: Supervisor | None = None
        size = PoolSize(
            minimum=options.first_workers,
            maximum=options.max_workers,
            group=options.worker_group_size,
            slots=options.max_concurrent_per_router,
        )
        self._autoscaler = Autoscaler(size, options.worker_quiet_seconds)

    def __repr__(self) -> str:
        return f"<LoadBalancer {self.condition}: {self._pool!r} {self._stats!r}>"

    # As a WSGI callable.

    def balance_load(self) -> Callable[[dict[str, Any], StartResponse], Iterator[bytes]]:
        """Return the WSGI callable that balances: this object itself."""
        return self

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
        """Answer a request of any gevent WSGI server; waits in that server's greenlet, runs in a slot."""
        return serve_through(self, environ, start_response)

    # The way of a job.

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> Job:
        """Bring a request to a worker, or refuse it at once; the response goes to `exchange`. Never waits."""
        now = monotonic()
        deadline = environ["intralb.deadline"] = Deadline(now + self._timeout)
        environ["intralb.client_disconnected"] = exchange.client_disconnected
        job = Job(environ, exchange, now, deadline)
        self._stats.submitted += 1
        if self.condition == "stopped":
            self._refuse(job, "shed", DRAINING)
            return job
        deadlines = self._deadlines or self._begin()
        worker, placement = self._placed()
        if placement == "refuse":
            self._refuse(job, "shed", QUEUE_FULL)
            return job
        job.move("queued")
        if placement == "run":
            worker.run(job)
        else:
            worker.enqueue(job)
        deadlines.watch(deadline.at)
        return job

    def _placed(self) -> tuple[Worker, Placement]:
        """Choose the worker for the next job and what happens to it there; a full pool grows first if it may."""
        slots, queue_size = self.options.max_concurrent_per_router, self.options.queue_size
        worker = self._pool.least_busy()
        placement = place(worker.load, slots, queue_size)
        if placement == "refuse":
            self._review()
            worker = self._pool.least_busy()
            placement = place(worker.load, slots, queue_size)
        return worker, placement

    def claim(self, job: Job) -> bool:
        """Move a job that a slot takes up to running; False if it is late or has ended, and must not be run."""
        if job.state != "queued":
            return False
        now = monotonic()
        if job.deadline.at <= now:
            self._refuse(job, "expired", EXPIRED)
            return False
        job.move("running")
        job.started = now
        if job.worker is not None:
            job.environ["intralb.worker"] = job.worker.id
        self._stats.queue_wait.add(now - job.arrived)
        return True

    def abandon(self, job: Job) -> None:
        """The client has left: a job that waits in a queue is dropped; one that has a slot goes on, if it may."""
        if job.state == "queued" and job.worker is not None and job in job.worker.queue:
            self._leave_queue(job)
            self.end(job, "disconnected")
        elif job.state == "running" and job.slot is not None and self.options.cancel_on_disconnect:
            self.end(job, "disconnected")
            job.slot.abort(ClientDisconnected("the client has left"), monotonic())

    def end(self, job: Job, outcome: Outcome, reason: str | None = None) -> None:
        """Give a job its one outcome."""
        job.move(outcome)
        job.ended = monotonic()
        if outcome == "shed":
            self._stats.shed(reason or "")
        else:
            self._stats.outcomes[outcome] += 1
        if job.started is not None:
            self._stats.run_time.add(job.ended - job.started)
        if self._job_log is not None:
            self._job_log.ended(job, outcome, reason)

    def _refuse(self, job: Job, outcome: Outcome, answer: Answer) -> None:
        """Answer a job that never ran."""
        self._leave_queue(job)
        job.exchange.refuse(answer)
        self.end(job, outcome, answer.reason)

    def _leave_queue(self, job: Job) -> None:
        if job.worker is not None and job.slot is None:
            job.worker.remove(job)
            self._pool.released()

    # Ending jobs before their time.

    def _sweep(self) -> float:
        """End every job that is late; return the next moment at which one may be."""
        now = monotonic()
        pool = self._pool
        for job in pool.waiting:
            if job.deadline.at <= now:
                self._refuse(job, "expired", EXPIRED)
        for slot in pool.slots:
            if slot.due <= now and slot.job is not None:
                self._cut(slot.job, "timed_out", TIMED_OUT)
                slot.abort(DeadlineExceeded("the request's deadline has passed"), now)
        nearest = min((job.deadline.at for job in pool.waiting), default=math.inf)
        return min(nearest, min((slot.due for slot in pool.slots), default=math.inf))

    def _kill_all(self) -> int:
        """End every job because the server stops; return how many."""
        now = monotonic()
        before = self._stats.ended
        for job in self._pool.waiting:
            self._refuse(job, "killed", KILLED)
        for slot in self._pool.slots:
            if slot.job is not None:
                self._cut(slot.job, "killed", KILLED)
                slot.abort(RequestKilled("the server is shutting down"), now)
        return self._stats.ended - before

    def _cut(self, job: Job, outcome: Outcome, answer: Answer) -> None:
        """Answer for a job that has a slot and may be running; the application is interrupted afterwards."""
        if job.state == "running":
            job.exchange.fail(answer)
            self.end(job, outcome)
        elif job.state == "queued" and outcome == "killed":
            self._refuse(job, "killed", answer)
        elif job.state == "queued":
            self._refuse(job, "expired", EXPIRED)

    # The size of the pool.

    def resize(self, workers: int) -> None:
        """Set the number of workers now; autoscaling goes on from there.

        Raises `OptionError` unless `workers` lies between `min_workers` and `max_workers`.
        """
        lowest, highest = self.options.first_workers, self.options.max_workers
        if not lowest <= workers <= highest:
            raise OptionError(f"workers: {workers!r} is not allowed; it must be from {lowest} to {highest}")
        if self._supervisor is None:
            self._begin()
        self._change(workers - len(self._pool.active))

    def _begin(self) -> DeadlineTimer:
        """Make what belongs to the serving process: timers and the first workers."""
        loop = gevent.get_hub().loop
        self._deadlines = DeadlineTimer(loop, self._sweep, monotonic)
        self._supervisor = Supervisor(loop, self._review)
        self._supervisor.start()
        self._pool.add(self.options.first_workers)
        return self._deadlines

    def _review(self) -> None:
        pool = self._pool
        self._change(self._autoscaler.change(monotonic(), len(pool.active), pool.queued, pool.running))

    def _change(self, workers: int) -> None:
        if workers > 0:
            self._pool.add(workers)
        elif workers < 0:
            self._pool.retire(-workers)

    # Stopping.

    def drain(self, timeout: float) -> int:
        """Wait until no job is left, `timeout` seconds at most, cut the rest, and close all sessions.

        Until the time is over new jobs are admitted; afterwards they are refused. Returns how many
        jobs were cut. It waits, so it must not be called in the hub.
        """
        self.condition = "draining"
        self._pool.wait_until_idle(timeout)
        self.condition = "stopped"
        cut = self._kill_all()
        self._pool.retire(len(self._pool.active))
        self._pool.wait_until_retired(CLEANUP_SECONDS)
        if self._supervisor is not None and self._deadlines is not None:
            self._supervisor.stop()
            self._deadlines.stop()
            self._supervisor = self._deadlines = None
        if self._job_log is not None:
            self._job_log.records.flush(CLEANUP_SECONDS)
        return cut

    def open_for(self, user: object) -> None:
        """A server begins to bring requests: admit them, also after an earlier `drain`."""
        self._users.add(user)
        self.condition = "serving"

    def close_for(self, user: object) -> bool:
        """A server brings no more requests; say whether it was the last one."""
        self._users.discard(user)
        return not self._users

    # Being looked at.

    def snapshot(self) -> Snapshot:
        """Return one frozen picture of the whole."""
        stats, workers = self._stats, self._pool.snapshot()
        return Snapshot(
            condition=self.condition,
            submitted=stats.submitted,
            queued=sum(worker.queued for worker in workers),
            running=sum(worker.running for worker in workers),
            outcomes=dict(stats.outcomes),
            shed_reasons=dict(stats.shed_reasons),
            workers=workers,
            most_workers=self.options.max_workers,
            queue_wait=Durations.of(stats.queue_wait),
            run_time=Durations.of(stats.run_time),
            log_records_dropped=0 if self._job_log is None else self._job_log.records.dropped,
        )
