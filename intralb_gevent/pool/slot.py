"""One long-lived pool greenlet that runs a job at a time, with its own database session.

Decides how a job is run and what its end was. It must not know where jobs come from: its worker gives it one,
and is told when the slot is free again.
"""

from __future__ import annotations

import logging
import math
from contextvars import Context
from typing import TYPE_CHECKING

import gevent
from gevent import Greenlet

from ..errors import Abort, ClientDisconnected, SessionUnavailable
from ..policy.answers import FAILED, NO_SESSION
from ..policy.lifecycle import Outcome
from .session import CurrentSession, SlotSession

if TYPE_CHECKING:
    from .job import Job
    from .worker import Worker

__all__ = ["MOST_ABORTS", "REPEAT_SECONDS", "Slot"]

logger = logging.getLogger("intralb_gevent")

REPEAT_SECONDS = 0.1
"""How long an application that has swallowed an abort is left alone before the next."""

MOST_ABORTS = 10
"""How often a job is aborted at most."""

_CURRENT_SESSION = CurrentSession()


class Slot(Greenlet):  # type: ignore[type-arg]  # generic in its stubs only
    """A pool greenlet: parked until its worker gives it a job, and back in the hub between any two jobs.

    A job runs in a `contextvars` context of its own. Thread-locals live as long as the slot, as they would in a
    thread of a thread pool. Nothing that an application raises ends the slot, `SystemExit` included.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self.worker = worker
        self.session = SlotSession(worker.options, worker.id)
        self.job: Job | None = None
        self.retired = False
        self._interruptible = False
        self._due = math.inf
        self._aborts = 0

    def __repr__(self) -> str:
        return f"<Slot of worker {self.worker.id}: {self.job or ('retired' if self.retired else 'idle')}>"

    @property
    def intralb_session(self) -> SlotSession | None:
        """The session while a job runs, for `current_session()`; None between jobs."""
        return self.session if self._interruptible else None

    def give(self, job: Job) -> None:
        """Run a job; called in the hub while the slot is parked, returns when the job waits or has ended."""
        self.job = job
        job.slot = self
        self._due = job.deadline.at
        # A new slot is not start()ed: that would be at the hub's next round, when many others have been made.
        self.switch()

    def retire(self) -> None:
        """Let the slot end once it has no job; it closes its session."""
        self.retired = True
        self.worker.loop.run_callback(self.switch)

    @property
    def due(self) -> float:
        """When, in `time.monotonic()` seconds, this slot's application must be interrupted; infinity if never."""
        return self._due if self.job is not None else math.inf

    def abort(self, signal: Abort, now: float) -> None:
        """Have `signal` raised in the application, and again later if the application swallows it."""
        self._aborts += 1
        self._due = now + REPEAT_SECONDS if self._aborts < MOST_ABORTS else math.inf
        # Only the hub may throw: any other greenlet would be left behind for ever.
        self.worker.loop.run_callback(self._throw, self.job, signal)

    def _throw(self, job: Job, signal: Abort) -> None:
        if self._interruptible and self.job is job:
            self.throw(signal)

    def _run(self) -> None:
        """Run jobs until retired; returns to the hub after each, so that sockets are served in between."""
        while True:
            if self.job is not None:
                self._serve(self.job)
                self.job = None
                self.worker.released(self)
            if self.retired and self.job is None:
                break
            self._park()
        self.session.close()
        self.worker.ended(self)

    def _park(self) -> None:
        try:
            self.worker.hub.switch()
        except BaseException as error:
            # An application that kept this greenlet may kill it when it is not its own any more. Logging may wait, and
            # nobody may switch to a slot that waits for anything but a job; so another greenlet does it.
            gevent.spawn(logger.warning, "%r thrown into an idle slot was ignored", error)

    def _serve(self, job: Job) -> None:
        """Take a job to its outcome, then make the session ready; nothing gets out of here."""
        keeper = self.worker.pool.keeper
        if not keeper.claim(job):
            return
        self._aborts = 0
        if self.session.available:
            job.environ["intralb.session"] = _CURRENT_SESSION
        outcome: Outcome = "completed"
        self._interruptible = True
        try:
            Context().run(job.exchange.run, keeper.application, job.environ)
        except BaseException as error:
            # SystemExit and GreenletExit too: they end this request, not the server.
            outcome = self._outcome(job, error)
        self._interruptible = False
        self._due = math.inf
        if job.state == "running":
            keeper.end(job, outcome)
        if self.session.opened:
            self.session.settle(aborted=self._aborts > 0)

    def _outcome(self, job: Job, error: BaseException) -> Outcome:
        """Say what an exception out of the application means, and answer for it."""
        self._interruptible = False
        if isinstance(error, ClientDisconnected):
            return "disconnected"
        if isinstance(error, SessionUnavailable):
            job.exchange.fail(NO_SESSION)
        else:
            self._report(job, error)
        return "failed"

    def _report(self, job: Job, error: BaseException) -> None:
        if job.state != "running":
            return
        request = f"{job.environ.get('REQUEST_METHOD')} {job.environ.get('PATH_INFO')}"
        logger.error("%s failed: %r", request, error, exc_info=error)
        job.exchange.fail(FAILED)
