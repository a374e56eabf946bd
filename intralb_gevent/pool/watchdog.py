"""Ends requests that never wait, and reports which ones block the event loop.

While a handler computes, the loop does not run, and so none of its timers can end the handler. A native thread looks
every few milliseconds whether the loop has been busy without a pause. If so, it has Python call the handler of a signal
in the main thread, between two steps of whatever computes there.

Looking must not disturb: a real signal would end system calls, and libraries in C may take that for the end of a wait
or for an error. So the thread only marks the signal as arrived, as `_thread.interrupt_main` does. It sends a real one
only when the job that runs is past its deadline: that ends a system call, such as `flock()`, that blocks the process.
Code in C that holds the interpreter lock is ended at its deadline where it looks for signals, as regular expressions
do, and else as soon as it returns.
"""

from __future__ import annotations

import _thread
import logging
import math
import signal
import sys
import traceback
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gevent import get_hub, getcurrent
from gevent.monkey import get_original

from .blockedloop import BlockedLoop
from .blocks import is_within_step
from .breaks import take_break
from .collector import Collector
from .cputimer import cpu_timer
from .forks import when_isolated
from .headroom import HEADROOM
from .hublog import HubLog
from .hubwatch import HubWatch
from .landing import FINISH_STEPS, cancel_landing, is_stuck, land, trace_no_other_frame
from .loghandlers import LOGGER
from .processlocks import has_waited, state_of_wait
from .safepoints import (
    application_frames,
    has_just_acquired,
    in_application,
    landing_frame,
    outside,
)
from .slotgreenlet import slot_at
from .waits import receiver

if TYPE_CHECKING:
    from .job import Job
    from .slot import Slot

__all__ = ["BLOCKED_SECONDS", "Watchdog", "while_blocked"]

LOOK_SECONDS: Final = 0.005
"""Between two looks of the thread while the hub is busy."""

IDLE_LOOK_SECONDS: Final = 0.02
"""The same while the hub waits for events; no deadline that is longer than this is kept less well for it."""

BUSY_SECONDS: Final = 0.01
"""A hub that was busy for so long without a pause may hold a handler that does not wait."""

BLOCKED_SECONDS: Final = 0.1
"""Who keeps the hub for so long is told of in the log: at that every other client has been waiting for as long."""

STARVED_SECONDS: Final = 0.25
"""Processor time of the main thread after which the kernel sends the signal, as the watchdog's thread could not run."""

STARVED_REPEAT_SECONDS: Final = 0.05
"""Processor time between two such signals."""

SET_BACK_SECONDS: Final = 0.05
"""How often the kernel's timers are set back, as each time costs some microseconds."""

_SOON_SECONDS: Final = 0.05
"""How long an abort that has been put off is looked for more closely, each time that it is put off."""

_SOON_REPEAT_SECONDS: Final = 0.001
"""Processor time of the main thread between two such looks. The thread may have to wait for longer than the handler
computes in one go, until Python passes the interpreter lock on."""

_STACK_FRAMES: Final = 30

_sleep: Callable[[float], None] = get_original("time", "sleep")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = get_original("_thread", "get_ident")

_Handler = Callable[[int, FrameType | None], Any]


_WHILE_BLOCKED: Final[list[Callable[[], object]]] = []


def while_blocked(function: Callable[[], object]) -> None:
    """Have a function called in a native thread, again and again, while a watched loop is blocked. It must not wait."""
    _WHILE_BLOCKED.append(function)


class _Starvation:
    """What acts when the watchdog's thread cannot run, as code in C keeps the interpreter lock of the main thread.

    One timer looks in its place. The other ends the process: with `faulthandler` enabled, SIGABRT writes the stacks of
    all threads first.
    """

    def __init__(self, number: int) -> None:
        thread, native_id = _ident(), _thread.get_native_id()
        self._looks = cpu_timer(thread, native_id, number)
        self._ends = cpu_timer(thread, native_id, signal.SIGABRT)

    def __repr__(self) -> str:
        return f"<_Starvation {self._looks!r} {self._ends!r}>"

    def look_soon(self) -> None:
        """Look as often as the kernel can, until the timers are set back."""
        if self._looks is not None:
            self._looks.set(_SOON_REPEAT_SECONDS, _SOON_REPEAT_SECONDS)

    def set_back(self, block_timeout: float) -> None:
        """Let the timers start again from now."""
        if self._looks is not None:
            self._looks.set(STARVED_SECONDS, STARVED_REPEAT_SECONDS)
        if self._ends is not None:
            self._ends.set(block_timeout if block_timeout < math.inf else 0.0)

    def close(self) -> None:
        """Give the timers back to the kernel."""
        for timer in (self._looks, self._ends):
            if timer is not None:
                timer.close()


def _stack_at(frame: FrameType | None) -> traceback.StackSummary:
    """Return where the application is; source lines are read when the record is written, not here."""
    stack = traceback.StackSummary.extract(application_frames(frame), limit=_STACK_FRAMES, lookup_lines=False)
    stack.reverse()
    return stack


def _pause() -> None:
    # Others must not find the limit of recursion raised meanwhile.
    HEADROOM.give_back()
    take_break()


class _Suspect:
    """The greenlet that was found running when the hub was busy, since when it had been, and when it was seen last."""

    __slots__ = ("greenlet", "job", "name", "since", "stack", "until")

    def __init__(self, greenlet: Any, job: Job | None, since: float) -> None:
        # Not the greenlet itself: a slot takes a reference to its greenlet for a leftover of the request.
        self.greenlet = id(greenlet)
        self.job = job
        self.name = "code outside of requests" if job is None else job.name
        """What it does, for the log."""
        self.since = self.until = since
        self.stack = traceback.StackSummary()
        """Where it was once it had taken too long."""

    def __repr__(self) -> str:
        return f"<_Suspect {self.name} since {self.since}>"

    def told(self) -> str:
        """Return the text of the log record."""
        lines = "".join(self.stack.format()).rstrip()
        seconds = self.until - self.since
        kept = f"{self.name} kept the event loop from all other work for {seconds:.3f} s"
        return f"{kept}; it was at:\n{lines}" if lines else f"{kept}, in the server's own code"


class Watchdog:
    """Watches one hub for all balancers that use it: get it by `Watchdog.of`, and give it back by `release`."""

    _all: Final[dict[tuple[Any, int | None], Watchdog]] = {}
    _soon_until: ClassVar[float] = 0.0

    def __init__(self, hub: Any, number: int | None) -> None:
        self._key = (hub, number)
        self._hub = hub
        self._number = number
        self._users = 0
        self._log = HubLog(LOGGER.log)
        self.watch = HubWatch(hub.loop, BUSY_SECONDS, self._has_turn)
        self._blocked_loop = BlockedLoop()
        self._block_timeout = 0.0
        self._collector = Collector()
        self._stopped = False
        self._marked = False
        """Whether the thread has marked or sent the signal, and its handler has not been called since."""
        self._in_c: traceback.StackSummary | None = None
        """Where the application has called code in C that had not returned at the last look."""
        self._starvation: _Starvation | None = None
        self._cramped = False
        """Whether the last look found no room to raise the recursion limit."""
        self._looked = monotonic()
        """When the thread last looked, in `time.monotonic()` seconds."""
        self._suspect: _Suspect | None = None
        self._culprits: list[_Suspect] = []
        self._last_look = 0.0
        self._forked = hub.loop.fork(ref=False)
        self._earlier: _Handler | int | None = None
        self.blocked = 0
        """How often something has kept the hub for `BLOCKED_SECONDS` or more."""
        self.off_because = "interrupt_signal is off" if number is None else ""
        """Why handlers that never wait are not interrupted; empty if they are."""

    def __repr__(self) -> str:
        return (
            f"<Watchdog {self.off_because or f'sends signal {self._number}'}, {self.watch!r}, {self.blocked} blocked>"
        )

    @property
    def lag(self) -> Any:
        """The histogram of how long the hub was busy in one go, in seconds."""
        return self.watch.lag

    def busy(self, now: float) -> float:
        """Return for how many seconds the hub has been busy altogether."""
        return self.watch.busy(now)

    # Whose it is.

    @classmethod
    def of(cls, number: int | None, block_timeout: float) -> Watchdog:
        """Return the watchdog of this thread's hub that uses this signal; start it if it is new.

        Where several balancers use it, the longest of their `block_timeout` seconds counts; 0 is for ever.
        """
        hub = get_hub()
        watchdog = cls._all.get((hub, number))
        if watchdog is None:
            watchdog = cls._all[hub, number] = cls(hub, number)
            watchdog._allow(block_timeout)
            watchdog._start()
        watchdog._users += 1
        watchdog._allow(block_timeout)
        return watchdog

    def _allow(self, block_timeout: float) -> None:
        self._block_timeout = max(self._block_timeout, block_timeout or math.inf)
        self._blocked_loop.timeout = self._block_timeout

    def release(self) -> None:
        """Say that one user is gone; the last one stops it."""
        self._users -= 1
        if not self._users:
            del self._all[self._key]
            self._stop()

    @classmethod
    def look_soon(cls) -> None:
        """Interrupt handlers that are late after a shorter time without a pause.

        One that waits only where it may not be aborted might never be found otherwise.
        """
        cls._soon_until = monotonic() + _SOON_SECONDS
        for watchdog in cls._all.values():
            if watchdog._starvation is not None:
                watchdog._starvation.look_soon()

    def _busy_seconds(self, now: float) -> float:
        return 0.0 if now < self._soon_until else BUSY_SECONDS

    def _start(self) -> None:
        if self._number is not None:
            self._handle_signal(self._number)
        if not self.off_because:
            self.watch.each_iteration = self._collector.in_hub
        self.watch.start()
        self._forked.start(self._begin_to_look)
        self._begin_to_look()

    def _handle_signal(self, number: int) -> None:
        try:
            self._earlier = signal.signal(number, self._on_signal)
        except ValueError:
            self.off_because = "signals are handled in the main thread only, and this is another"
            return
        # A system call that it ends is not begun again before the handler has run, which may raise.
        signal.siginterrupt(number, True)

    def _begin_to_look(self) -> None:
        """Start the thread: at the start, and in a forked process once its hub runs, for threads do not come along."""
        self._blocked_loop.begin()
        # Set before the first job runs, which may keep the thread from ever getting here.
        starvation = None if self._number is None or self.off_because else _Starvation(self._number)
        self._starvation = starvation
        if starvation is not None:
            starvation.set_back(self._block_timeout)
        _start_thread(self._look_again_and_again, (_ident(), starvation))

    def _stop(self) -> None:
        self._stopped = True
        self._forked.stop()
        self.watch.stop()
        self._collector.stop()
        if self._number is not None and not self.off_because and signal.getsignal(self._number) == self._on_signal:
            # What has been sent already must not end the process, which is what a signal without a handler does.
            signal.signal(self._number, self._earlier if callable(self._earlier) else signal.SIG_IGN)

    # In its own thread.

    def _look_again_and_again(self, thread: int, starvation: _Starvation | None) -> None:
        set_back_at = 0.0
        while not self._stopped:
            self._looked = now = monotonic()
            if starvation is not None and now >= set_back_at:
                starvation.set_back(self._block_timeout)
                set_back_at = now + SET_BACK_SECONDS
            since = self.watch.busy_since
            if since is not None and now - since >= self._busy_seconds(now):
                self._look(thread)
                self._blocked_loop.look(since)
                if now - since >= BLOCKED_SECONDS:
                    for function in _WHILE_BLOCKED:
                        function()
            _sleep(IDLE_LOOK_SECONDS if since is None else LOOK_SECONDS)
        self._starvation = None
        if starvation is not None:
            starvation.close()

    def _look(self, thread: int) -> None:
        if self.off_because or self._number is None:
            return
        frame = sys._current_frames().get(thread)
        if self._marked and self._in_c is None:
            # The handler has not been called since the last look, so code in C does not return.
            self._in_c = _stack_at(frame)
        if self._cramped:
            HEADROOM.take_beforehand()
            self._cramped = False
        self._marked = True
        slot = slot_at(frame)
        if slot is not None and slot.late:
            signal.pthread_kill(thread, self._number)
        else:
            _thread.interrupt_main(self._number)  # type: ignore[arg-type]  # its stubs allow no real-time signal

    # In the main thread, between two steps of whatever runs there.

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the handler that runs here if its time is over. Signals of others go to their earlier handler."""
        if frame is not None and frame.f_code in _HANDLING:
            # The signal has come once more while this handler was called, which goes on.
            return
        try:
            now = monotonic()
            ours = self._marked or now - self._looked >= STARVED_SECONDS / 2 or now < self._soon_until
            taken = ours and HEADROOM.take()
        except RecursionError:
            # It would come out of the application, which may still have as many calls as it needs.
            ours, taken, self._cramped = True, False, True
        if not ours:
            if callable(self._earlier):
                self._earlier(number, frame)
            return
        self._marked = False
        in_c, self._in_c = self._in_c, None
        if not taken:
            # The next look may find the handler at a lesser depth.
            return
        try:
            self._look_here(in_c, frame)
        finally:
            HEADROOM.give_back()

    def _look_here(self, in_c: traceback.StackSummary | None, frame: FrameType | None) -> None:
        busy_since = self.watch.busy_since
        if busy_since is None:
            return
        greenlet = getcurrent()
        slot: Slot | None = getattr(greenlet, "intralb_slot", None)
        since = self._note(greenlet, None if slot is None else slot.job, in_c or frame, busy_since)
        if greenlet is self._hub:
            return
        if in_application(frame) or outside(frame):
            # A finalizer may wait, and others run meanwhile; none of our own steps may be half done then.
            self._collector.in_greenlet()
        if (bound := getattr(greenlet, "intralb_bound", None)) is not None:
            bound.enforce(since, frame)
        # Another may have kept the hub until just now.
        now = monotonic()
        if slot is not None and now - since >= self._busy_seconds(now):
            self.end_if_late(slot, frame)

    @staticmethod
    def end_if_late(slot: Slot, frame: FrameType | None) -> None:
        """Raise in the application that runs at this frame if its time is over, here or where it may be raised.

        Otherwise it yields to the hub as soon as it calls us, and that is a place for an abort, too. Clean-up is paused
        here instead, whether it has begun before an abort or by it, so that it may take its time without holding up
        other requests. Whatever its time, responses that were deferred are sent now.
        """
        slot.turn_wanted = True
        if in_application(frame):
            slot.worker.pool.turns.turn_end.come()
        if not (slot.late or slot.cleaning_up):
            return
        if slot.late and frame is not None and (state := state_of_wait(frame)) is not None:
            if has_waited(frame, state, slot.patient):
                slot.interrupt()
            return
        place = landing_frame(frame, slot.patient)
        if place is not None and frame is not None:
            Watchdog._end_near(slot, frame, place)

    @staticmethod
    def _end_near(slot: Slot, frame: FrameType, place: FrameType) -> None:
        if slot.may_finish and (waiting := receiver(place)) is not None:
            Watchdog._let_finish(slot, place is frame, waiting)
        elif place is not frame or has_just_acquired(frame):
            land(place, slot)
        elif not slot.late:
            _pause()
        elif not Watchdog._finishes_step(slot, frame):
            slot.interrupt()

    @staticmethod
    def _finishes_step(slot: Slot, frame: FrameType) -> bool:
        """Say whether the application has to finish a step first, and will be ended then."""
        if not (slot.patient and is_within_step(frame.f_code, frame.f_lasti)) or is_stuck(frame):
            return False
        return land(frame, slot)

    @staticmethod
    def _let_finish(slot: Slot, may_pause: bool, waiting: FrameType) -> None:
        """Abort the application once it has given back what it is giving back; others have a turn before."""
        if may_pause:
            _pause()
        place = landing_frame(waiting, slot.patient)
        if place is not None and slot.late:
            land(place, slot, FINISH_STEPS)

    def _note(
        self, greenlet: Any, job: Job | None, place: FrameType | traceback.StackSummary | None, busy_since: float
    ) -> float:
        """Keep in mind who runs, and where, once it has run for long; return since when it has, without a pause.

        The place is a stack where code in C has just returned after it was called there.
        """
        now, suspect = monotonic(), self._suspect
        if suspect is None or suspect.greenlet != id(greenlet) or suspect.job is not job:
            # It may have run since the last look, at which it was another.
            suspect = self._suspect = _Suspect(greenlet, job, max(busy_since, self._last_look))
        self._last_look = suspect.until = now
        # The greenlet without a parent is the program itself, which may take its time to start and to stop.
        if now - suspect.since >= BLOCKED_SECONDS and suspect not in self._culprits and greenlet.parent is not None:
            suspect.stack = place if isinstance(place, traceback.StackSummary) else _stack_at(place)
            # Where nothing but ours runs, on a starved machine, nobody is to blame.
            if job is not None or suspect.stack:
                self._culprits.append(suspect)
        return suspect.since

    # In the hub.

    def _has_turn(self) -> None:
        """The hub has its turn again: count and tell who has kept it for long."""
        self._suspect = None
        cancel_landing()
        if not self.off_because:
            # One that has yielded for good inside the watchdog's handler has not given it back.
            HEADROOM.give_back()
            HEADROOM.give_back_beforehand()
        for culprit in self._culprits:
            self.blocked += 1
            self._log.record(logging.WARNING, culprit.told)
        self._culprits.clear()


_HANDLING: Final = {trace_no_other_frame.__code__, Watchdog._on_signal.__code__}


def _isolate() -> None:
    """Stop all watchdogs in a process that a handler has forked; a server that it starts gets another one."""
    for watchdog in Watchdog._all.values():
        watchdog._stop()
    Watchdog._all.clear()


when_isolated(_isolate)
