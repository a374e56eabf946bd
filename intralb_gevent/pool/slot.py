"""One long-lived pool greenlet that runs a job at a time, with its own database session.

Decides how a job is run and what its end was. It must not know where jobs come from: its worker gives it one,
and is told when the slot is free again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent import getcurrent

from ..errors import (
    Abort,
    ClientDisconnected,
    RequestBodyError,
    RequestKilled,
    SessionUnavailable,
    StreamsFull,
    UpgradesFull,
)
from ..naming import type_name
from ..policy.answers import FAILED, NO_SESSION, TIMED_OUT, TOO_MANY_STREAMS, TOO_MANY_UPGRADED, Answer
from ..policy.lifecycle import Outcome
from ..stdlib import Context, getrefcount, getweakrefcount, monotonic
from .breaks import take_break
from .endings import abort_has_left
from .forks import FORKS, end_child, when_isolated
from .frames import clear_frames
from .job import ENDED, Deadline, Job
from .safepoints import calls_application
from .session import CurrentSession, SlotSession
from .slotgreenlet import SlotGreenlet, is_watched, keep_ident
from .slotlog import tell
from .upgrades import says_end
from .waits import (
    has_been_notified,
    is_giving_back,
    is_importing,
    is_paused_within_step,
    is_starting_program,
    is_taking_its_lock_back,
    take_no_notification,
)
from .watchdog import Watchdog

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["MOST_ABORTS", "MOST_INTERRUPTS", "Slot"]

logger = logging.getLogger("intralb_gevent")

BUSY_REPEAT_SECONDS = 0.01
"""Between two interrupts of a handler that goes on computing after its time for clean-up is over."""

IMPORT_SECONDS = 60.0
"""How long an import, or the start of a program, may go on after its request was cut: one that hangs must end."""

PUT_OFF_SECONDS = 0.02
"""Between two looks whether the application may be aborted by now where it waits."""

MOST_ABORTS = 5
"""How often a job is aborted where it waits before its slot is given up."""

MOST_INTERRUPTS = 10
"""How often a job is aborted where it computes before its slot is given up."""

_CURRENT_SESSION: Final = CurrentSession()

_OWN_REFERENCES: Final[list[int]] = []
"""How many references a parked greenlet has that are ours, once that has been counted.

Compiled and interpreted code have different numbers, so it is counted by the expression that is compared with it.
"""


class Slot:
    """A pool greenlet: parked until its worker gives it a job, and back in the hub between any two jobs.

    A job runs in a `contextvars` context of its own. Thread-locals last from job to job, as they would in a thread of a
    thread pool, but never beyond a job that was aborted or that left something behind which could act on the next one:
    then the slot takes a fresh greenlet. Nothing that an application raises ends the slot, `SystemExit` included. Only
    a process that it has forked meanwhile is ended by it, which would otherwise go on as a second server on the same
    sockets.
    """

    # Not a Greenlet itself: the attributes of one are found by hash, those of a class with slots by their place.
    __slots__ = (
        "_abort",
        "_aborts",
        "_closes_session",
        "_has_session",
        "_interrupt_at",
        "_interrupts",
        "_raised",
        "_repeat_at",
        "_to_throw",
        "given_up",
        "greenlet",
        "interruptible",
        "job",
        "linked",
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
        """Whether the pool has another in its place: its application cannot be ended, or holds a connection."""
        self._abort: Abort | None = None
        """What the present job was last aborted with; a copy of it was raised, so it holds no frames."""
        self._raised = False
        """Whether that has been raised, and not only put off."""
        self._to_throw = False
        """Whether the hub is about to throw it, once callbacks have their turn."""
        self._aborts = self._interrupts = 0
        self._repeat_at = self._interrupt_at = math.inf
        self.greenlet = SlotGreenlet(self)
        self.linked = False
        """Whether the application waits for the end of this greenlet, for instance to release a resource then."""

    def __repr__(self) -> str:
        return f"<Slot of worker {self.worker.id}: {self.job or ('retired' if self.retired else 'idle')}>"

    def give(self, job: Job) -> None:
        """Run a job; called in the hub while the slot is parked, returns when the job waits or has ended."""
        if self._has_leftovers():
            self.worker.pool.report_leftovers()
            parked = self.greenlet
            self._take_fresh_greenlet()
            # It finds that it has been replaced, and ends.
            parked.switch()
        self.job = job
        job.slot = self
        # A new greenlet is not start()ed: that would be at the hub's next round, when many others have been made.
        self.greenlet.switch()

    def _has_leftovers(self) -> bool:
        """Return whether something could still act on the slot's parked greenlet.

        Whatever can throw into a greenlet holds a reference to it. So it is free of leftovers when it has no more
        references than one that has parked without running anything.
        """
        if not _OWN_REFERENCES:
            _OWN_REFERENCES.append(self._count_own_references())
        if getrefcount(self.greenlet) > _OWN_REFERENCES[0]:
            return True
        return getweakrefcount(self.greenlet) > 0 and is_watched(self.greenlet)

    def _count_own_references(self) -> int:
        """Count the references to a parked greenlet that are ours; called in the hub."""
        parked = Slot(self.worker)
        parked.greenlet.switch()
        references = getrefcount(parked.greenlet)
        # It ends without a word to the worker.
        parked.given_up = True
        parked.greenlet.switch()
        return references

    def _take_fresh_greenlet(self) -> None:
        """Let the next job run in a greenlet, and with a session, that no earlier request can reach."""
        # Finalizers that still run in the old one must not find the next job by it.
        self.greenlet.intralb_slot = None
        self.greenlet = SlotGreenlet(self)
        self.linked = False
        self.session = SlotSession(self.worker.pool.session_rules, self.worker.id)

    def retire(self) -> None:
        """Let the slot end once it has no job; it closes its session."""
        self.retired = True
        self.worker.loop.run_callback(self.greenlet.switch)

    def close_session(self) -> None:
        """Let the slot close its session, which may wait; called in the hub, and its worker counts it as busy."""
        self._closes_session = True
        self.worker.loop.run_callback(self.greenlet.switch)

    # Ending a job before its time.

    @property
    def due(self) -> float:
        """When, in `time.monotonic()` seconds, this slot's application must be aborted; infinity if never."""
        if self.job is None or not self.interruptible:
            return math.inf
        return self.job.due if self._abort is None else self._repeat_at

    @property
    def stubborn(self) -> bool:
        """Whether the application has swallowed so many aborts that more of them are no use."""
        return self._aborts >= MOST_ABORTS or self._interrupts >= MOST_INTERRUPTS

    def abort(self, signal: Abort, now: float) -> None:
        """Have `signal` raised where the application waits, or what was to be raised before; called in the hub."""
        if self._abort is not None and not self._raised and not isinstance(signal, RequestKilled):
            signal = self._abort
        self._aborts += 1
        self._note(signal, now)
        # The application may go on before the callback, and then keep the hub from it for ever.
        self._to_throw, self._interrupt_at = True, now
        # Only the hub may throw: any other greenlet would be left behind for ever.
        self.worker.loop.run_callback(self._throw, self.job, signal)

    def interrupt_request(self, started: float | None) -> None:
        """Raise KeyboardInterrupt in the request that began at this moment, if it still runs; called in the hub."""
        job = self.job
        if job is not None and job.started == started and self._abort is None:
            self._throw(job, KeyboardInterrupt())

    def _throw(self, job: Job, signal: BaseException) -> None:
        if not self.interruptible or self.job is not job:
            return
        if isinstance(signal, Abort) and not self._to_throw:
            # It has been raised where the application computes.
            return
        # No variable here may hold what the application has: it would be finalized in the hub. So no frame is kept, and
        # a copy of the signal is raised, as the traceback of the signal itself would hold all frames.
        if self._may_go_on(job, signal):
            self._put_off()
        elif has_been_notified(self.greenlet.gr_frame):
            # No other waiter is notified in its place, so it must run first, which it does in this loop iteration.
            self.worker.loop.run_callback(self._throw, job, signal)
        elif not is_taking_its_lock_back(self.greenlet.gr_frame):
            self._begin_clean_up()
            take_no_notification(self.greenlet.gr_frame)
            self.greenlet.throw(type(signal), signal.args)

    def _begin_clean_up(self) -> None:
        """Give the application time before it is aborted again."""
        if self._to_throw:
            cleanup = self.worker.options.cleanup_seconds
            self._interrupt_at = monotonic() + (BUSY_REPEAT_SECONDS if self._raised else cleanup)
        self._to_throw, self._raised = False, True

    def _may_go_on(self, job: Job, signal: BaseException) -> bool:
        """Say whether what the application waits for must not be cut short yet."""
        if job.ended is None:
            return False
        frame = self.greenlet.gr_frame
        if self.may_finish and (is_giving_back(frame) or is_paused_within_step(frame)):
            return True
        now = monotonic()
        # Nobody needs the module when the server stops.
        if isinstance(signal, RequestKilled) or now >= min(job.ended + IMPORT_SECONDS, self.worker.pool.keeper.ends_at):
            return False
        return is_importing(frame) or is_starting_program(frame)

    def _put_off(self) -> None:
        """Abort as soon as the application has finished what it is at, wherever it is then."""
        now = monotonic()
        self._aborts -= 1
        self._to_throw = False
        self._interrupt_at = now
        self._repeat_at = now + PUT_OFF_SECONDS
        self.worker.pool.keeper.look_at(self._repeat_at)
        Watchdog.look_soon()

    @property
    def late(self) -> bool:
        """Whether the application must be interrupted now, even if it never waits."""
        if self.job is None or not self.interruptible:
            return False
        now = monotonic()
        return now >= (self._end_at(self.job) if self._abort is None else self._interrupt_at)

    def _end_at(self, job: Job) -> float:
        return min(job.due, self.worker.pool.keeper.ends_at)

    @property
    def patient(self) -> bool:
        """Whether an abort that is due may still wait for a better place in the application."""
        since = self._end_at(self.job) if self._abort is None and self.job is not None else self._interrupt_at
        return monotonic() < since + self.worker.options.cleanup_seconds

    @property
    def may_finish(self) -> bool:
        """Whether what the application was giving back as its time was over may be finished before the first abort."""
        if self._raised or self.job is None:
            return False
        since = self._end_at(self.job) if self.job.ended is None else self.job.ended
        return monotonic() < since + self.worker.options.cleanup_seconds

    @property
    def cleaning_up(self) -> bool:
        """Whether the application has been aborted and still has time for its clean-up."""
        return self._abort is not None and self.interruptible and not self.late

    def interrupt(self) -> None:
        """Raise here and now what the application must be ended with, if its time is over; called where it computes."""
        if self.job is None or not self.late:
            return
        keeper = self.worker.pool.keeper
        if self.stubborn:
            if not self.given_up:
                keeper.give_up(self)
            self._stay_away()
        signal = keeper.cut(self.job) if self._abort is None else self._abort
        self._interrupts += 1
        self._note(signal, monotonic())
        self._to_throw, self._raised = False, True
        # Not the signal itself: the hub drops it at the next abort, and would drop its frames, too.
        raise type(signal)(*signal.args)

    def _note(self, signal: Abort, now: float) -> None:
        cleanup = self.worker.options.cleanup_seconds
        self._repeat_at = now + cleanup
        self._interrupt_at = now + (BUSY_REPEAT_SECONDS if self._raised else cleanup)
        self._abort = signal

    def _stay_away(self) -> None:
        """Never come back from here, so that the hub and all others go on; what the application holds stays held."""
        while True:
            # A timeout of the application's own would have it compute again, for ever.
            try:
                self.worker.hub.switch()
            except BaseException:
                continue

    def isolate(self) -> None:
        """Drop deadline, session and client in a process that the application has forked: they are the parent's."""
        FORKS.keep(self.session)
        self.session.isolate()
        self.session = SlotSession(self.worker.pool.session_rules, self.worker.id)
        self._abort = None
        if self.job is not None:
            self.job.deadline.lift()
            self.job.exchange.isolate()

    # Running jobs.

    def run(self) -> None:
        """Run jobs until retired, or until another greenlet has taken the place of the present one.

        Returns to the hub after each job, so that sockets are served in between.
        """
        # Each greenlet of a slot has a session of its own, by which it knows that it has been replaced.
        session, ends = self.session, False
        while not ends and self.session is session:
            if self.job is not None:
                self._run_job(self.job)
            elif self._closes_session:
                self._closes_session = False
                session.close()
                self.worker.released(self)
            ends = self.given_up or (self.retired and self.job is None)
            if not ends and self.session is session:
                self._park()
        session.close()
        if ends and self.given_up:
            self.worker.pool.keeper.upgrade_ended(self)
        elif ends:
            self.worker.ended(self)

    def _run_job(self, job: Job) -> None:
        aborted = self._serve(job)
        self.job = None
        if aborted:
            keep_ident(self.greenlet)
        if self.given_up:
            return
        if aborted or self.linked:
            self._take_fresh_greenlet()
        self.worker.released(self)

    def _park(self) -> None:
        try:
            self.worker.hub.switch()
        except BaseException as error:
            # An application that kept this greenlet may kill it when it is not its own any more. Logging may wait, and
            # nobody may switch to a slot that waits for anything but a job; so another greenlet does it.
            gevent.spawn(logger.warning, "%s thrown into an idle slot was ignored", type_name(error))

    def _serve(self, job: Job) -> bool:
        """Take a job to its outcome, then make the session ready; nothing gets out of here.

        Returns whether the application was ended before its time, and so may have left anything half done.
        """
        # Long and flat, as each call would cost, and what ends the child of a fork must be in this frame.
        if self._has_session:
            job.environ["intralb.session"] = _CURRENT_SESSION
        aborted = anywhere = False
        forks = FORKS.count
        context = Context()
        self.interruptible = True
        try:
            context.run(job.exchange.run, job.route.application, job.environ, self)
        except BaseException as error:
            # SystemExit and GreenletExit too: they end this request, not the server.
            if FORKS.count != forks:
                upgraded = job.exchange.upgrade is not None
                end_child(None if upgraded and says_end(error) else error)
            self._end_failed(job, error, context)
            # `except Exception`, by which applications roll back, has not seen it.
            aborted = not isinstance(error, Exception)
            # Some of our own signals are raised only where the application calls us, not within a statement.
            anywhere = aborted and not isinstance(error, Abort)
            clear_frames(error)
        else:
            if FORKS.count != forks:
                end_child(None)
            self._end(job, "completed")
        # Finalizers are called here, where they may wait as long as the request has time, and not in the hub.
        job.environ = ENDED
        del context
        self.interruptible = False
        if FORKS.count != forks:
            end_child(None)
        if self._abort is not None:
            aborted = anywhere = True
            self._abort, self._raised, self._to_throw = None, False, False
            self._aborts = self._interrupts = 0
        if aborted or self.session.unsettled:
            self.session.settle(aborted=aborted, anywhere=anywhere)
        return aborted

    # For the exchange, while the application runs.

    def take_turn(self) -> None:
        """Give the hub a turn, or raise what ends the application if its time is over."""
        self.turn_wanted = False
        self.interrupt()
        take_break()

    def begin_stream(self) -> Deadline | None:
        """Take note of the first part of a streamed response; return the deadline that each part moves on."""
        job = self.job
        if job is None:
            return None
        self.worker.pool.keeper.begin_stream(job)
        return job.deadline

    def stream_is_whole(self) -> None:
        """Decide nothing more of a response that was kept back and has come to its end."""
        if self.job is not None:
            self.job.undecided_until = math.inf

    def wait_for_client(self, wait: Callable[[float], bool]) -> None:
        """Wait with the handler's clock stopped; raises `ClientDisconnected` if the client takes nothing for long."""
        job = self.job
        if job is None:
            return
        keeper = self.worker.pool.keeper
        job.deadline.suspend()
        try:
            taken = wait(self.worker.options.write_timeout_seconds)
        finally:
            job.deadline.resume()
            keeper.look_at(job.deadline.at)
        if not taken:
            keeper.client_is_too_slow(job)
            job.exchange.fail(TIMED_OUT)
            raise ClientDisconnected("the client has taken nothing for write_timeout_seconds")

    def begin_upgrade(self) -> None:
        """Let the application go on with the connection, without this slot; raises `UpgradesFull` if it must not."""
        if self.job is None or self.job.state != "running":
            raise ClientDisconnected("the request has ended, and its connection cannot be taken over")
        self.worker.pool.keeper.begin_upgrade(self, self.job)

    # An application that has taken its connection over.

    def shut_down_upgrade(self) -> None:
        """End the connection, so that the application sees its end; never waits."""
        upgrade = None if self.job is None else self.job.exchange.upgrade
        if upgrade is not None:
            upgrade.shut_down()

    def isolate_upgrade(self) -> None:
        """Close the copy of the socket in a process that a handler has forked."""
        upgrade = None if self.job is None else self.job.exchange.upgrade
        if upgrade is not None:
            upgrade.isolate()

    def kill_upgrade(self) -> None:
        """End the application where it waits; called outside of its greenlet, never waits."""
        self.abort(RequestKilled("the server is shutting down"), monotonic())

    # How it ended.

    def _end(self, job: Job, outcome: Outcome, reason: str | None = None) -> None:
        """Give a job its outcome, if it has none. The application cannot be aborted meanwhile."""
        self.interruptible = False
        if job.state == "running":
            self.worker.pool.keeper.end(job, outcome, reason)
        self.interruptible = True

    def _end_failed(self, job: Job, error: BaseException, context: Any) -> None:
        self.interruptible = False
        refusal = _refusal(error)
        outcome = self._outcome(job, error, refusal)
        if not isinstance(error, Exception):
            abort_has_left(job, outcome if job.state == "running" else job.state, error, context)
        self._end(job, outcome, None if refusal is None else refusal.reason)
        # Its time may have been over while it could not be aborted.
        self.worker.pool.keeper.look_at(self.due)

    def _outcome(self, job: Job, error: BaseException, refusal: Answer | None) -> Outcome:
        """Say what an exception out of the application means, and answer for it."""
        if isinstance(error, ClientDisconnected):
            return "disconnected"
        if isinstance(error, RequestBodyError):
            job.exchange.fail(error.answer or FAILED)
            return "disconnected"
        if refusal is not None:
            job.exchange.fail(refusal)
        else:
            self._report(job, error)
        return "failed"

    def _report(self, job: Job, error: BaseException) -> None:
        upgrade = job.exchange.upgrade
        if upgrade is not None and not upgrade.is_end(error):
            tell("%s failed after it had taken its connection over: %s", job.name, type_name(error), exc_info=error)
        if job.state != "running":
            return
        # First of all: the client need not wait for the logging, and no deadline ends that.
        job.exchange.fail(FAILED)
        tell("%s failed: %s", job.name, type_name(error), exc_info=error)


def _refusal(error: BaseException) -> Answer | None:
    """Return what answers a request that could not have what it needs; None for other exceptions."""
    if isinstance(error, SessionUnavailable):
        return NO_SESSION
    if isinstance(error, StreamsFull):
        return TOO_MANY_STREAMS
    return TOO_MANY_UPGRADED if isinstance(error, UpgradesFull) else None


# What an application leaves is freed in this function, so its finalizers are called there.
calls_application(Slot._serve)


def _isolate() -> None:
    """Isolate the slot that has forked, if one has."""
    current: Any = getcurrent()
    while current is not None:
        slot: Slot | None = getattr(current, "intralb_slot", None)
        if slot is not None:
            slot.isolate()
        current = current.parent


when_isolated(_isolate)
