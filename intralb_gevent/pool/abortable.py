"""Aborts the application that a slot runs, and repeats the abort if the application swallows it.

If the application waits, the hub throws the abort into the application's greenlet. If the application is CPU-bound, the
watchdog's signal handler raises the abort between two bytecode instructions. After `MOST_ABORTS` or `MOST_INTERRUPTS`
swallowed aborts, the slot is abandoned.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..aborts.safepoints import drops_an_abort
from ..aborts.waits import (
    has_been_notified,
    is_giving_back,
    is_importing,
    is_notifying,
    is_paused_within_step,
    is_starting_program,
    is_taking_its_lock_back,
    take_no_notification,
)
from ..aborts.watchdog import Watchdog
from ..errors import Abort, EndedByOperator, RequestKilled
from ..stdlib import monotonic

if TYPE_CHECKING:
    from ..aborts.slotgreenlet import SlotGreenlet
    from .job import Job
    from .worker import Worker

__all__ = ["MOST_ABORTS", "MOST_INTERRUPTS", "Abortable"]

BUSY_REPEAT_SECONDS = 0.01
"""Seconds between two aborts of a handler that is still CPU-bound after its clean-up time (`cleanup_seconds`)."""

IMPORT_SECONDS = 60.0
"""Maximum seconds, counted from the end of the job, for which an abort waits until the handler has imported a module
or started a program. The limit is needed because an import may hang."""

PUT_OFF_SECONDS = 0.02
"""Interval, in seconds, at which the server tries to raise a postponed abort."""

LOCK_SECONDS = 0.25
"""Maximum seconds, counted from the deadline, for which an abort waits until a CPU-bound handler holds no lock. Other
requests cannot run in the meantime."""

MOST_ABORTS = 5
"""Maximum number of aborts thrown into a waiting handler; if the handler swallows all of them, its slot is
abandoned."""

MOST_INTERRUPTS = 10
"""Maximum number of aborts raised in a CPU-bound handler; if the handler swallows all of them, its slot is
abandoned."""


class Abortable:
    """The base class of `Slot`, which aborts the slot's job."""

    __slots__ = (
        "_abort",
        "_aborts",
        "_interrupt_at",
        "_interrupts",
        "_raised",
        "_repeat_at",
        "_to_throw",
        "given_up",
        "greenlet",
        "interruptible",
        "job",
        "lane",
        "worker",
    )

    greenlet: SlotGreenlet
    """The greenlet that runs the job; a subclass creates it."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.lane = worker.lane
        self.job: Job | None = None
        self.interruptible = False
        """True while the application runs or waits, so that an abort may be raised in it."""
        self.given_up = False
        """True once the pool has replaced this slot, because its application cannot be ended, or has taken over the
        connection."""
        self._abort: Abort | None = None
        """The last abort of the current job. The slot raises copies of this exception, so the exception itself refers
        to no frames."""
        self._raised = False
        """True once `_abort` has been raised; False while `_abort` is pending or postponed."""
        self._to_throw = False
        """True while a hub callback that will throw the abort is pending."""
        self._aborts = self._interrupts = 0
        self._repeat_at = self._interrupt_at = math.inf

    def abandon(self) -> None:
        """Have the pool replace this slot, because its application cannot be ended."""
        raise NotImplementedError

    def flush_responses(self) -> None:
        """Send the deferred responses of other jobs now, because the current job may compute for a long time."""
        self.lane.context.flush_queue.flush()

    @property
    def due(self) -> float:
        """Time of this slot's next abort, in `time.monotonic()` seconds; infinity if no abort is planned."""
        if self.job is None or not self.interruptible:
            return math.inf
        return self.job.due if self._abort is None else self._repeat_at

    @property
    def uncancellable(self) -> bool:
        """Whether the application has swallowed the maximum number of aborts, so that its slot must be abandoned."""
        return self._aborts >= MOST_ABORTS or self._interrupts >= MOST_INTERRUPTS

    def abort(self, signal: Abort, now: float) -> None:
        """Schedule a hub callback that throws `signal` into the waiting application; call this method in the hub.

        If an earlier abort is still pending or postponed, that abort is thrown instead, unless `signal` is the abort of
        a shutdown.
        """
        if self._abort is not None and not self._raised and not self._is_of_shutdown(signal):
            signal = self._abort
        self._aborts += 1
        self._note(signal, now)
        # The application may resume before the callback runs, and be CPU-bound forever; `interrupt` then raises the
        # abort.
        self._to_throw, self._interrupt_at = True, now
        # Throw in a callback of the hub: `throw()` switches greenlets, and nothing would resume a caller other than the
        # hub.
        self.worker.loop.run_callback(self._throw, self.job, signal)

    def interrupt_request(self, started: float | None) -> None:
        """Raise KeyboardInterrupt in the request that began at `started`, if that request still runs.

        Called in the hub.
        """
        job = self.job
        if job is not None and job.started == started and self._abort is None:
            self._throw(job, KeyboardInterrupt())

    def _throw(self, job: Job, signal: BaseException) -> None:
        if not self.interruptible or self.job is not job:
            return
        if isinstance(signal, Abort) and not self._to_throw:
            # The application was CPU-bound, and `interrupt` has already raised the abort.
            return
        # No variable of this method may refer to the application's objects, because their finalizers would then run in
        # the hub. So this method stores no frame in a variable. This method also throws a copy of the exception,
        # because the traceback of `signal` itself would refer to all frames of the application.
        if self._may_go_on(job, signal):
            self._put_off()
        elif self._is_about_to_run():
            # The greenlet will run in this iteration of the event loop; throw the abort after the greenlet has run.
            self.worker.loop.run_callback(self._throw, job, signal)
        elif not is_taking_its_lock_back(self.greenlet.gr_frame):
            self._begin_clean_up()
            self.lane.stats.waiting_aborts += 1
            take_no_notification(self.greenlet.gr_frame)
            self.greenlet.throw(type(signal), signal.args)

    def _is_about_to_run(self) -> bool:
        """Return whether throwing now would lose a notification that the greenlet has received or is sending."""
        frame, patient = self.greenlet.gr_frame, self.patient
        return has_been_notified(frame, patient) or (patient and is_notifying(frame))

    def _begin_clean_up(self) -> None:
        """Give the application time to clean up before the next abort."""
        if self._to_throw:
            cleanup = self.worker.options.cleanup_seconds
            self._interrupt_at = monotonic() + (BUSY_REPEAT_SECONDS if self._raised else cleanup)
        self._to_throw, self._raised = False, True

    def _may_go_on(self, job: Job, signal: BaseException) -> bool:
        """Return whether the abort must be postponed until the application's current step is finished."""
        if job.ended is None:
            return False
        frame = self.greenlet.gr_frame
        if self.may_finish and (is_giving_back(frame) or is_paused_within_step(frame) or drops_an_abort(frame)):
            return True
        now = monotonic()
        # At a shutdown, a half-imported module does no harm, because the process will end.
        if self._is_of_shutdown(signal) or now >= min(job.ended + IMPORT_SECONDS, self.lane.context.ends_at):
            return False
        return is_importing(frame) or is_starting_program(frame)

    @staticmethod
    def _is_of_shutdown(signal: BaseException) -> bool:
        return isinstance(signal, RequestKilled) and not isinstance(signal, EndedByOperator)

    def _put_off(self) -> None:
        """Postpone the abort until the application has finished its current step."""
        now = monotonic()
        self._aborts -= 1
        self._to_throw = False
        self._interrupt_at = now
        self._repeat_at = now + PUT_OFF_SECONDS
        self.lane.context.look_at(self._repeat_at)
        Watchdog.look_soon()

    @property
    def late(self) -> bool:
        """Whether the application must be aborted now, even if it is CPU-bound."""
        if self.job is None or not self.interruptible:
            return False
        now = monotonic()
        return now >= (self._end_at(self.job) if self._abort is None else self._interrupt_at)

    def _end_at(self, job: Job) -> float:
        return min(job.due, self.lane.context.ends_at)

    @property
    def patient(self) -> bool:
        """Whether a due abort may still be postponed until the application reaches a safer point."""
        since = self._end_at(self.job) if self._abort is None and self.job is not None else self._interrupt_at
        return monotonic() < since + self.worker.options.cleanup_seconds

    @property
    def may_finish(self) -> bool:
        """Whether the first abort may still be postponed, so that the application can finish releasing a resource."""
        return self._may_go_on_for(self.worker.options.cleanup_seconds)

    @property
    def may_release(self) -> bool:
        """Whether the first abort may still be postponed, so that the application can finish a change under a lock."""
        return self.late and self._may_go_on_for(min(LOCK_SECONDS, self.worker.options.cleanup_seconds))

    def _may_go_on_for(self, seconds: float) -> bool:
        if self._raised or self.job is None:
            return False
        since = self._end_at(self.job) if self.job.ended is None else self.job.ended
        return monotonic() < since + seconds

    @property
    def cleaning_up(self) -> bool:
        """Whether the application has been aborted and still has time to clean up."""
        return self._abort is not None and self.interruptible and not self.late

    def interrupt(self) -> None:
        """Raise the abort if the application's time is over; called in the greenlet of the CPU-bound application."""
        if self.job is None or not self.late:
            return
        if self.uncancellable:
            if not self.given_up:
                self.abandon()
            self._stay_away()
        signal = self.lane.cut(self.job) if self._abort is None else self._abort
        self._interrupts += 1
        self.lane.stats.computing_aborts += 1
        self._note(signal, monotonic())
        self._to_throw, self._raised = False, True
        # Raise a copy, so that the traceback of `signal` refers to no frames. At the next abort, the hub drops its
        # reference to `signal`, and would finalize all objects to which such frames refer.
        raise type(signal)(*signal.args)

    def _note(self, signal: Abort, now: float) -> None:
        cleanup = self.worker.options.cleanup_seconds
        self._repeat_at = now + cleanup
        self._interrupt_at = now + (BUSY_REPEAT_SECONDS if self._raised else cleanup)
        self._abort = signal

    def _stay_away(self) -> None:
        """Switch to the hub and never return, so that other greenlets can run; the application keeps its resources."""
        while True:
            # Catch everything, because any exception would resume the application. For example, a `gevent.Timeout` of
            # the application may be raised here.
            try:
                self.worker.hub.switch()
            except BaseException:
                continue
