"""One long-lived pool greenlet that runs one job at a time, with its own database session.

A slot runs each job to an outcome. The slot's worker chooses the jobs, and is called when the slot is free again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent import getcurrent

from ..aborts.breaks import take_break
from ..aborts.frames import clear_frames
from ..aborts.safepoints import calls_application
from ..aborts.slotgreenlet import SlotGreenlet, is_watched, keep_ident, slot_of
from ..errors import (
    Abort,
    ClientDisconnected,
    RequestBodyError,
    RequestKilled,
    SessionUnavailable,
    StreamsFull,
    UpgradesFull,
)
from ..hub.forks import FORKS, end_child, when_isolated
from ..naming import type_name
from ..policy.cannedresponses import FAILED, NO_SESSION, TIMED_OUT, TOO_MANY_STREAMS, TOO_MANY_UPGRADED, CannedResponse
from ..policy.lifecycle import Outcome
from ..stdlib import Context, getrefcount, getweakrefcount, monotonic
from .abortable import Abortable
from .endings import abort_has_left
from .job import ENDED, Deadline, Job
from .logfields import of_request, request_fields
from .session import CurrentSession, SlotSession
from .slotlog import tell
from .upgrades import says_end

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["Slot"]

logger = logging.getLogger("intralb_gevent")

_CURRENT_SESSION: Final = CurrentSession()

_OWN_REFERENCES: Final[list[int]] = []
"""The number of references that this package itself holds to a parked greenlet; empty until the first count.

Compiled and interpreted code hold different numbers of references. Therefore, the number is measured at run time, with
the same expression that `_has_leftovers` uses.
"""


class Slot(Abortable):
    """A pool greenlet, which is parked until its worker gives it a job. A slot returns to the hub between any two jobs.

    A job runs in its own `contextvars` context. Thread-locals last from job to job, as in a thread of a thread pool.
    The slot takes a fresh greenlet if the last job was aborted, or left an object behind that could affect the next
    job. No exception raised by the application ends the slot, not even `SystemExit`. A process that the application has
    forked ends with the application's call, because it would otherwise be a second server on the same sockets.
    """

    # This class is not a subclass of Greenlet, because Greenlet stores attributes in a dictionary. Attributes in
    # `__slots__` are faster.
    __slots__ = ("_closes_session", "_has_session", "linked", "retired", "session", "yield_requested")

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.session = SlotSession(worker.pool.session_rules, worker.id)
        self._has_session = self.session.available
        self.retired = False
        self._closes_session = False
        self.yield_requested = False
        """True if this slot should yield, because the hub has not run for a long time."""
        self.greenlet = SlotGreenlet(self)
        self.linked = False
        """True if the application has linked a callback to the end of this greenlet, for example to release a lock."""

    def __repr__(self) -> str:
        return f"<Slot of worker {self.worker.id}: {self.job or ('retired' if self.retired else 'idle')}>"

    def give(self, job: Job) -> None:
        """Run a job; called in the hub while the slot is parked. The call returns once the job waits or has ended."""
        if self._has_leftovers():
            self.worker.pool.report_leftovers()
            parked = self.greenlet
            self._take_fresh_greenlet()
            # Resume the old greenlet, which detects that it has been replaced, and ends.
            parked.switch()
        self.job = job
        job.slot = self
        # Do not use `start()`: the greenlet would run only in the hub's next iteration, and the current batch would
        # create a slot for each of its jobs.
        try:
            self.greenlet.switch()
        except MemoryError as error:
            self._end_unstarted(job, error)

    def _end_unstarted(self, job: Job, error: MemoryError) -> None:
        """End a job whose greenlet could not start, because there was no memory for it, and have this slot replaced."""
        if self.job is not job or not self.greenlet.dead:
            raise error
        self._end_failed(job, error, None)
        self.job = None
        self.worker.abandon_slot(self)

    def _has_leftovers(self) -> bool:
        """Return whether a request has left an object behind that can still affect the slot's parked greenlet.

        An object that can throw into a greenlet, such as a timeout, holds a reference to the greenlet. A greenlet has
        no leftovers if it has no more references than a greenlet that has parked without running a job.
        """
        if not _OWN_REFERENCES:
            _OWN_REFERENCES.append(self._count_own_references())
        if getrefcount(self.greenlet) > _OWN_REFERENCES[0]:
            return True
        return getweakrefcount(self.greenlet) > 0 and is_watched(self.greenlet)

    def _count_own_references(self) -> int:
        """Count this package's own references to a parked greenlet; called in the hub."""
        parked = Slot(self.worker)
        parked.greenlet.switch()
        references = getrefcount(parked.greenlet)
        # With `given_up` set, the slot ends without calling the worker.
        parked.given_up = True
        parked.greenlet.switch()
        return references

    def _take_fresh_greenlet(self) -> None:
        """Create a new greenlet and a new session for the next job, so that no earlier request can affect this job."""
        # Finalizers that still run in the old greenlet must not find the next job through that greenlet.
        self.greenlet.intralb_slot = None
        self.greenlet = SlotGreenlet(self)
        self.linked = False
        self.session = SlotSession(self.worker.pool.session_rules, self.worker.id)

    def retire(self) -> None:
        """Close the slot's session and end the slot, once the slot has no job."""
        self.retired = True
        self.worker.loop.run_callback(self.greenlet.switch)

    def abandon(self) -> None:
        """Have the pool replace this slot, because its application cannot be ended."""
        self.lane.abandon_slot(self)

    def close_session(self) -> None:
        """Have the slot's greenlet close the session; called in the hub, which must not wait for the database server.

        The worker counts the slot as busy until the session is closed.
        """
        self._closes_session = True
        self.worker.loop.run_callback(self.greenlet.switch)

    def isolate(self) -> None:
        """In a process that the application has forked, detach the parent's deadline, session and client."""
        FORKS.keep(self.session)
        self.session.isolate()
        self.session = SlotSession(self.worker.pool.session_rules, self.worker.id)
        self._abort = None
        if self.job is not None:
            self.job.deadline.lift()
            self.job.exchange.isolate()

    # Running jobs.

    def run(self) -> None:
        """Run jobs until the slot retires or its current greenlet is replaced.

        The slot returns to the hub after each job, so that the event loop can handle sockets in between.
        """
        # Each greenlet of a slot has its own session, by which the greenlet detects that it has been replaced.
        session, ends = self.session, False
        while not ends and self.session is session:
            if self.job is not None:
                self._run_job(self.job)
            elif self._closes_session:
                self._closes_session = False
                session.close("unused")
                self.worker.released(self)
            ends = self.given_up or (self.retired and self.job is None)
            if not ends and self.session is session:
                self._park()
        session.close("slot_ended")
        if ends and self.given_up:
            self.lane.context.upgrades.leave(self)
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
            # An application that has kept a reference to this greenlet can kill it after the request. Another greenlet
            # logs this, because logging may block, and a parked slot must wait only for its next job.
            gevent.spawn(logger.warning, "%s thrown into an idle slot was ignored", type_name(error))

    def _serve(self, job: Job) -> bool:
        """Run a job to its outcome, then clean up the session; raises nothing.

        Return whether the application was ended early, and may have left work half done.
        """
        # This method is long and flat, because calls take time, and a forked child must be ended in this frame.
        if self._has_session:
            job.environ["intralb.session"] = _CURRENT_SESSION
        aborted = anywhere = False
        forks = FORKS.count
        context = Context()
        self.interruptible = True
        try:
            context.run(job.exchange.run, job.route.application, job.environ, self)
        except BaseException as error:
            # SystemExit and GreenletExit are caught, too: they end this request, not the server.
            if FORKS.count != forks:
                upgraded = job.exchange.upgrade is not None
                end_child(None if upgraded and says_end(error) else error)
            self._end_failed(job, error, context)
            # The application's `except Exception` does not catch such an error, and so may leave a transaction open.
            aborted = not isinstance(error, Exception)
            # An `Abort` that the slot has not raised comes from a call into this package, such as `write`, and not from
            # a database statement.
            anywhere = aborted and not isinstance(error, Abort)
            clear_frames(error)
        else:
            if FORKS.count != forks:
                end_child(None)
            self._end(job, "completed")
        # Drop the application's objects here, where their finalizers may wait until the request's deadline. In the hub,
        # the finalizers could not wait.
        job.environ = ENDED
        del context
        self.interruptible = False
        if FORKS.count != forks:
            end_child(None)
        if aborted or self._abort is not None or self.session.unsettled:
            return self._settle(aborted, anywhere)
        return False

    def _settle(self, aborted: bool, anywhere: bool) -> bool:
        """Forget the job's abort, and clean up the session; return whether the application was ended early."""
        if self._abort is not None:
            aborted = anywhere = True
            self._abort, self._raised, self._to_throw = None, False, False
            self._aborts = self._interrupts = 0
        self.session.settle(aborted=aborted, anywhere=anywhere)
        return aborted

    # Methods that the exchange calls while the application runs.

    def yield_to_hub(self) -> None:
        """Yield to the hub; if the application's time is over, raise the abort instead."""
        self.yield_requested = False
        self.interrupt()
        take_break()

    def begin_stream(self) -> Deadline | None:
        """Register the first part of a streamed response; return the deadline that each part extends."""
        job = self.job
        if job is None:
            return None
        self.lane.begin_stream(job)
        return job.deadline

    def stream_is_whole(self) -> None:
        """Cancel the pending decision about a held response, because the response has ended, and is not a stream."""
        if self.job is not None:
            self.job.undecided_until = math.inf

    def wait_for_client(self, wait: Callable[[float], bool]) -> None:
        """Stop the handler's clock while `wait` runs; raise `ClientDisconnected` if the client is too slow."""
        job = self.job
        if job is None:
            return
        job.deadline.suspend()
        try:
            taken = wait(self.worker.options.write_timeout_seconds)
        finally:
            job.deadline.resume()
            self.lane.context.look_at(job.deadline.at)
        if not taken:
            self.lane.client_is_too_slow(job)
            job.exchange.fail(TIMED_OUT)
            raise ClientDisconnected("the client has read nothing for write_timeout_seconds")

    def begin_upgrade(self, take: Callable[[], object] | None = None) -> None:
        """Let the application take over the connection, and have the pool replace this slot; can raise exceptions."""
        if self.job is None or self.job.state != "running":
            raise ClientDisconnected("the request has ended, and its connection cannot be taken over")
        self.lane.begin_upgrade(self, self.job, take)

    # Methods that end an application that has taken over its connection.

    def shut_down_upgrade(self) -> None:
        """Shut down the connection that the application uses, so that the application can end; never waits."""
        upgrade = None if self.job is None else self.job.exchange.upgrade
        if upgrade is not None:
            upgrade.shut_down()

    def isolate_upgrade(self) -> None:
        """In a process that a handler has forked, close the inherited copy of the socket."""
        upgrade = None if self.job is None else self.job.exchange.upgrade
        if upgrade is not None:
            upgrade.isolate()

    def kill_upgrade(self) -> None:
        """Abort the waiting application; called from another greenlet. Never waits."""
        self.abort(RequestKilled("the server is shutting down"), monotonic())

    # Outcomes.

    def _end(self, job: Job, outcome: Outcome, reason: str | None = None) -> None:
        """Set the outcome of a job, unless it already has an outcome; no abort is raised during this call."""
        self.interruptible = False
        if job.state == "running":
            self.lane.end(job, outcome, reason)
        self.interruptible = True

    def _end_failed(self, job: Job, error: BaseException, context: Any) -> None:
        self.interruptible = False
        refusal = _refusal(error)
        outcome = self._outcome(job, error, refusal)
        if not isinstance(error, Exception):
            abort_has_left(job, outcome if job.state == "running" else job.state, error, context)
        self._end(job, outcome, None if refusal is None else refusal.reason)
        # The deadline may have passed while the application could not be aborted.
        self.lane.context.look_at(self.due)

    def _outcome(self, job: Job, error: BaseException, refusal: CannedResponse | None) -> Outcome:
        """Return the outcome for an exception raised by the application, and send the matching response."""
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
        # Inside an outer server, a 101 response completes the job although the application has not used the socket.
        ends = says_end(error) if upgrade is None else upgrade.is_end(error)
        if (upgrade is not None or job.state == "completed") and not ends:
            _tell_failure("%s failed after it had taken its connection over: %s%s", job, error)
        if job.state != "running":
            return
        # Respond before logging, because logging may take a long time, and the deadline does not limit it.
        job.exchange.fail(FAILED)
        _tell_failure("%s failed: %s%s", job, error)


def _tell_failure(text: str, job: Job, error: BaseException) -> None:
    fields = request_fields(job.environ)
    tell(text, job.name, type_name(error), of_request(job.environ), exc_info=error, fields=fields)


def _refusal(error: BaseException) -> CannedResponse | None:
    """Return the response for an exception that means a resource is unavailable; None for other exceptions."""
    if isinstance(error, SessionUnavailable):
        return NO_SESSION
    if isinstance(error, StreamsFull):
        return TOO_MANY_STREAMS
    return TOO_MANY_UPGRADED if isinstance(error, UpgradesFull) else None


# `_serve` drops the last references to the application's objects, and so calls their finalizers.
calls_application(Slot._serve)


def _isolate() -> None:
    """Isolate the slot whose application has forked, if there is one."""
    current: Any = getcurrent()
    while current is not None:
        slot = slot_of(current)
        if slot is not None:
            slot.isolate()
        current = current.parent


when_isolated(_isolate)
