"""One long-lived pool greenlet that runs a job at a time, with its own database session.

Decides how a job is run and what its end was. It must not know where jobs come from: its worker gives it one,
and is told when the slot is free again.
"""

from __future__ import annotations

import logging
import math
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING

import gevent

from ..errors import Abort, ClientDisconnected, SessionUnavailable, StreamsFull
from ..policy.answers import FAILED, NO_SESSION, TOO_MANY_STREAMS
from ..policy.lifecycle import Outcome
from .forks import FORKS, end_child
from .session import CurrentSession, SlotSession
from .slotgreenlet import SlotGreenlet
from .slotlog import tell

if TYPE_CHECKING:
    from .job import Job
    from .worker import Worker

__all__ = ["MOST_ABORTS", "MOST_INTERRUPTS", "REPEAT_SECONDS", "Slot"]

logger = logging.getLogger("intralb_gevent")

REPEAT_SECONDS = 1.0
"""How long an application that was aborted may wait, in its `finally` blocks for instance, before the next abort."""

BUSY_REPEAT_SECONDS = 0.01
"""The same where it computes without waiting, as everybody waits meanwhile."""

MOST_ABORTS = 5
"""How often a job is aborted where it waits before its slot is given up."""

MOST_INTERRUPTS = 10
"""How often a job is aborted where it computes before its slot is given up."""

_CURRENT_SESSION = CurrentSession()


class Slot:
    """A pool greenlet: parked until its worker gives it a job, and back in the hub between any two jobs.

    A job runs in a `contextvars` context of its own. Thread-locals live as long as the slot, as they would in a
    thread of a thread pool. Nothing that an application raises ends the slot, `SystemExit` included. Only a process
    that it has forked meanwhile is ended by it, which would otherwise go on as a second server on the same sockets.
    """

    # Not a Greenlet itself: the attributes of one are found by hash, those of a class with slots by their place.
    __slots__ = (
        "_abort",
        "_aborts",
        "_closes_session",
        "_greenlet",
        "_has_session",
        "_interrupt_at",
        "_interrupts",
        "_repeat_at",
        "given_up",
        "interruptible",
        "job",
        "retired",
        "session",
        "turn_wanted",
        "worker",
    )

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.session = SlotSession(worker.pool.session_rules, worker.id)
        self._has_session = self.session.available
        self.job: Job | None = None
        self.retired = False
        self.interruptible = False
        """Whether the application has control, so that it may be aborted."""
        self._closes_session = False
        self.turn_wanted = False
        """Whether the hub has had no turn for long while this slot was running."""
        self.given_up = False
        """Whether the pool has another in its place, as this one's application cannot be ended."""
        self._abort: Abort | None = None
        """What the present job was last aborted with."""
        self._aborts = self._interrupts = 0
        self._repeat_at = self._interrupt_at = math.inf
        self._greenlet = SlotGreenlet(self)

    def __repr__(self) -> str:
        return f"<Slot of worker {self.worker.id}: {self.job or ('retired' if self.retired else 'idle')}>"

    def give(self, job: Job) -> None:
        """Run a job; called in the hub while the slot is parked, returns when the job waits or has ended."""
        self.job = job
        job.slot = self
        # A new greenlet is not start()ed: that would be at the hub's next round, when many others have been made.
        self._greenlet.switch()

    def retire(self) -> None:
        """Let the slot end once it has no job; it closes its session."""
        self.retired = True
        self.worker.loop.run_callback(self._greenlet.switch)

    def close_session(self) -> None:
        """Let the slot close its session, which may wait; called in the hub, and its worker counts it as busy."""
        self._closes_session = True
        self.worker.loop.run_callback(self._greenlet.switch)

    # Ending a job before its time.

    @property
    def due(self) -> float:
        """When, in `time.monotonic()` seconds, this slot's application must be aborted; infinity if never."""
        if self.job is None or not self.interruptible:
            return math.inf
        return self.job.deadline.at if self._abort is None else self._repeat_at

    @property
    def stubborn(self) -> bool:
        """Whether the application has swallowed so many aborts that more of them are no use."""
        return self._aborts >= MOST_ABORTS or self._interrupts >= MOST_INTERRUPTS

    def abort(self, signal: Abort, now: float) -> None:
        """Have `signal` raised where the application waits; called in the hub."""
        self._aborts += 1
        self._note(signal, now)
        # Only the hub may throw: any other greenlet would be left behind for ever.
        self.worker.loop.run_callback(self._throw, self.job, signal)

    def _throw(self, job: Job, signal: Abort) -> None:
        if self.interruptible and self.job is job:
            self._greenlet.throw(signal)

    def interrupt(self) -> None:
        """Raise here and now what the application must be ended with, if its time is over; called where it computes."""
        now = monotonic()
        if self.job is None or not self.interruptible:
            return
        if now < (self.job.deadline.at if self._abort is None else self._interrupt_at):
            return
        keeper = self.worker.pool.keeper
        if self.stubborn:
            keeper.give_up(self)
            self._stay_away()
        signal = keeper.time_out(self.job) if self._abort is None else self._abort
        self._interrupts += 1
        self._note(signal, now)
        raise signal.with_traceback(None)

    def _note(self, signal: Abort, now: float) -> None:
        self._abort = signal
        self._repeat_at = now + REPEAT_SECONDS
        self._interrupt_at = now + BUSY_REPEAT_SECONDS

    def _stay_away(self) -> None:
        """Never come back from here, so that the hub and all others go on; what the application holds stays held."""
        while True:
            self.worker.hub.switch()

    # Running jobs.

    def run(self) -> None:
        """Run jobs until retired; returns to the hub after each, so that sockets are served in between."""
        while True:
            if self.job is not None:
                self._serve(self.job)
                self.job = None
                if self.given_up:
                    break
                self.worker.released(self)
            elif self._closes_session:
                self._closes_session = False
                self.session.close()
                self.worker.released(self)
            if self.retired and self.job is None:
                break
            self._park()
        self.session.close()
        if not self.given_up:
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
        if self._has_session:
            job.environ["intralb.session"] = _CURRENT_SESSION
        outcome: Outcome = "completed"
        forks = FORKS.count
        self.interruptible = True
        try:
            Context().run(job.exchange.run, job.route.application, job.environ, self)
        except BaseException as error:
            # SystemExit and GreenletExit too: they end this request, not the server.
            if FORKS.count != forks:
                end_child(error)
            outcome = self._outcome(job, error)
        self.interruptible = False
        if job.state == "running":
            keeper.end(job, outcome)
        if self.session.opened:
            self.session.settle(aborted=self._abort is not None)
        if self._abort is not None:
            self._abort = None
            self._aborts = self._interrupts = 0

    # For the exchange, while the application runs.

    def take_turn(self) -> None:
        """Give the hub a turn, or raise what ends the application if its time is over."""
        self.turn_wanted = False
        self.interrupt()
        gevent.sleep(0)

    def begin_stream(self) -> None:
        """The response is streamed from now on; raises `StreamsFull` if there are too many."""
        if self.job is not None:
            self.worker.pool.keeper.begin_stream(self.job)

    # How it ended.

    def _outcome(self, job: Job, error: BaseException) -> Outcome:
        """Say what an exception out of the application means, and answer for it."""
        self.interruptible = False
        if isinstance(error, ClientDisconnected):
            return "disconnected"
        if isinstance(error, SessionUnavailable):
            job.exchange.fail(NO_SESSION)
        elif isinstance(error, StreamsFull):
            job.exchange.fail(TOO_MANY_STREAMS)
        else:
            self._report(job, error)
        return "failed"

    def _report(self, job: Job, error: BaseException) -> None:
        if job.state != "running":
            return
        # First of all: the client need not wait for the logging, and no deadline ends that.
        job.exchange.fail(FAILED)
        tell("%s failed: %r", job.name, error, exc_info=error)
