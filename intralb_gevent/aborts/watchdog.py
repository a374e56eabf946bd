"""Aborts requests that are past their deadline and do not yield to the event loop, and logs requests that block the
loop.

While a handler is CPU-bound, the event loop does not run, so no timer of the loop can abort the handler. Every few
milliseconds, a native thread checks whether the loop has been busy without a pause. If the loop has been busy for too
long, the thread makes Python call a signal handler in the main thread, between two bytecode instructions of the running
code.

The watchdog's checks must not disturb the application. A real signal interrupts system calls, and C libraries may
mistake the interruption for the end of a wait or for an error. Therefore, the thread only marks the signal as pending,
with `_thread.interrupt_main`. The thread sends a real signal only if a call of C code has not returned since the last
check, and the running job is past its deadline. A real signal also interrupts a system call that blocks the process,
such as `flock()`. C code that holds the GIL is aborted at the deadline if the code checks for signals, as regular
expressions do. C code that does not check for signals is aborted as soon as it returns.
"""

from __future__ import annotations

import _thread
import math
import signal
import traceback
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from gevent import get_hub, getcurrent
from gevent.monkey import get_original

from ..hub.busy import HubWatch
from ..hub.collector import Collector
from ..hub.forks import when_isolated
from ..process.threadframes import ThreadFrames
from .blockedloop import WHILE_BLOCKED, BlockedLoop
from .blocks import is_within_step
from .breaks import take_break
from .headroom import HEADROOM
from .heldlocks import lock_holder
from .landing import FINISH_STEPS, cancel_landing, is_stuck, land, trace_no_other_frame
from .processlocks import has_waited, is_waiting, state_of_wait
from .safepoints import (
    has_just_acquired,
    in_application,
    landing_frame,
    outside,
)
from .slotgreenlet import slot_at, slot_of
from .starvation import STARVED_SECONDS, Starvation
from .suspects import BLOCKED_SECONDS, BlockLog, Culprits, stack_at
from .waits import receiver

if TYPE_CHECKING:
    from ..pool.slot import Slot

__all__ = ["BLOCKED_SECONDS", "Watchdog"]

LOOK_SECONDS: Final = 0.005
"""Seconds between two checks by the watchdog's thread while the hub is busy."""

IDLE_LOOK_SECONDS: Final = 0.02
"""Seconds between two checks while the hub waits for events. A job may have run for this long before its first check,
so only deadlines shorter than this are enforced late."""

BUSY_SECONDS: Final = 0.01
"""Seconds for which the hub must be busy without a pause before the running handler is checked."""

SET_BACK_SECONDS: Final = 0.05
"""Seconds between two resets of the kernel timers; each reset costs some microseconds."""

_SOON_SECONDS: Final = 0.05
"""Seconds after a postponed abort during which checks are more frequent."""

_sleep: Callable[[float], None] = get_original("time", "sleep")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = get_original("_thread", "get_ident")

_Handler = Callable[[int, FrameType | None], Any]


def _pause() -> None:
    if HEADROOM.is_spare():
        # Restore the recursion limit, because other greenlets must not run with the raised limit.
        HEADROOM.give_back()
        take_break()


class Watchdog:
    """Watches one hub, for all balancers that use it; `Watchdog.of` adds a user, and `release` removes a user."""

    _all: Final[dict[tuple[Any, int | None], Watchdog]] = {}
    _soon_until: ClassVar[float] = 0.0

    def __init__(self, hub: Any, number: int | None) -> None:
        self._key = (hub, number)
        self._hub = hub
        self._number = number
        self._users = 0
        self.watch = HubWatch(hub.loop, BUSY_SECONDS, self._has_turn)
        self._blocked_loop = BlockedLoop()
        self._block_timeout = 0.0
        self._collector = Collector()
        self._stopped = False
        self._marked = False
        """True if the watchdog's thread has marked or sent the signal, and the signal handler has not been called
        since."""
        self._waits = False
        """True if the signal handler was last called during a wait for a lock or pipe of multiprocessing."""
        self._in_c: traceback.StackSummary | None = None
        """Stack at a call of C code that had not returned at the last check; None if there was no such call."""
        self._starvation: Starvation | None = None
        self._cramped = False
        """True if, at the last signal, the stack was too deep to raise the recursion limit."""
        self._looked = monotonic()
        """Time of the last check by the watchdog's thread, in `time.monotonic()` seconds."""
        self._log = BlockLog()
        self.culprits = Culprits()
        """The greenlets that have blocked the hub."""
        self.sampler: Callable[[FrameType | None, traceback.StackSummary | None], object] | None = None
        """Function that is called while code blocks the hub. Its arguments are the current frame, and the stack of a
        call of C code that has just returned (None without such a call). The status page sets this function while a
        viewer watches the flame graphs. The function must be quick, and must not raise an exception.
        """
        self._forked = hub.loop.fork(ref=False)
        self._earlier: _Handler | int | None = None
        self.off_because = "interrupt_signal is off" if number is None else ""
        """Reason why CPU-bound handlers are not interrupted; empty if they are interrupted."""

    def __repr__(self) -> str:
        return (
            f"<Watchdog {self.off_because or f'sends signal {self._number}'}, {self.watch!r}, {self.blocked} blocked>"
        )

    @property
    def blocked(self) -> int:
        """Number of times that code has blocked the hub for at least `BLOCKED_SECONDS`."""
        return self.culprits.count

    @property
    def lag(self) -> Any:
        """The histogram of the times, in seconds, for which the hub was busy without a pause."""
        return self.watch.lag

    def busy(self, now: float) -> float:
        """Return the total number of seconds that the hub has been busy."""
        return self.watch.busy(now)

    # The methods below add and remove users of the watchdog.

    @classmethod
    def of(cls, number: int | None, block_timeout: float) -> Watchdog:
        """Return the watchdog of this thread's hub for the signal `number`; create and start it if there is none.

        If several balancers use a watchdog, the longest of their timeouts applies. `block_timeout` is in seconds; 0
        means no timeout.
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
        """Remove one user; the watchdog stops when its last user is removed."""
        self._users -= 1
        if not self._users:
            del self._all[self._key]
            # The hub may still be in the busy period of a blockage.
            self._record_blocks()
            self._log.flush()
            self._stop()

    @classmethod
    def look_soon(cls) -> None:
        """For a short time, check handlers even if they have run for less than `BUSY_SECONDS` without a pause.

        Without these checks, a late handler might never be aborted if it runs only briefly between waits in which an
        abort is not allowed.
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
            self.off_because = "signals are handled in the main thread only, and the server is in another thread"
            return
        # Let the signal interrupt system calls, so that the signal handler can raise an abort before a call is
        # restarted.
        signal.siginterrupt(number, True)

    def _begin_to_look(self) -> None:
        """Start the watchdog's thread; also called in a forked process once its hub runs, because a fork copies no
        threads."""
        self._blocked_loop.begin()
        self.culprits.cpu_wait.begin()
        # Set the kernel timers here and not in the thread, because the first job may prevent the thread from running.
        starvation = None if self._number is None or self.off_because else Starvation(self._number)
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
            # Ignore the signal if it had no handler before; otherwise, a pending signal would end the process.
            signal.signal(self._number, self._earlier if callable(self._earlier) else signal.SIG_IGN)

    # The methods below run in the watchdog's own thread.

    def _look_again_and_again(self, thread: int, starvation: Starvation | None) -> None:
        set_back_at = 0.0
        while not self._stopped:
            self._looked = now = monotonic()
            if starvation is not None and now >= set_back_at:
                starvation.set_back(self._block_timeout)
                set_back_at = now + SET_BACK_SECONDS
            since = self.watch.busy_since
            if since is None or now - since < BUSY_SECONDS:
                self.culprits.cpu_wait.mark()
            if since is not None and now - since >= self._busy_seconds(now):
                self._look(thread)
                self._blocked_loop.look(since)
                if now - since >= BLOCKED_SECONDS:
                    for function in WHILE_BLOCKED:
                        function()
            _sleep(IDLE_LOOK_SECONDS if since is None else LOOK_SECONDS)
        self._starvation = None
        if starvation is not None:
            starvation.close()

    def _look(self, thread: int) -> None:
        if self.off_because or self._number is None:
            return
        if self._cramped:
            HEADROOM.take_beforehand()
            self._cramped = False
        # If the signal handler has not been called since the last check, a call of C code has not returned.
        # A wait for a lock of multiprocessing may be aborted at its second signal. Send it without delay, because other
        # processes may hold the lock for only a few milliseconds at a time.
        in_c, self._marked = self._marked or self._waits, True
        if in_c and self._is_late_in_c(thread):
            signal.pthread_kill(thread, self._number)
        else:
            _thread.interrupt_main(self._number)  # type: ignore[arg-type]  # typeshed excludes real-time signals

    def _is_late_in_c(self, thread: int) -> bool:
        """Return whether the thread runs a job that is past its deadline; record the stack at the call of C code."""
        with ThreadFrames() as frames:
            frame = frames.get(thread)
            if self._in_c is None:
                self._in_c = stack_at(frame)
            slot = slot_at(frame)
        return slot is not None and slot.late

    # The methods below run in the main thread, between two bytecode instructions of the running code.

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Abort the running handler if it is past its deadline; pass other senders' signals to the previous handler."""
        if frame is not None and frame.f_code in _HANDLING:
            # The signal has arrived again while it was being handled; the outer call of this method continues.
            return
        try:
            now = monotonic()
            ours = self._marked or now - self._looked >= STARVED_SECONDS / 2 or now < self._soon_until
            taken = ours and HEADROOM.take()
        except RecursionError:
            # Do not raise the RecursionError: the application would receive it, although the application's own calls
            # may not need a deeper stack.
            ours, taken, self._cramped = True, False, True
        if not ours:
            if callable(self._earlier):
                self._earlier(number, frame)
            return
        self._marked = self._waits = False
        in_c, self._in_c = self._in_c, None
        if not taken:
            # Wait for the next check, at which the stack may be less deep.
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
        slot = slot_of(greenlet)
        since = self.culprits.note(greenlet, None if slot is None else slot.job, in_c or frame, busy_since)
        if greenlet is self._hub:
            return
        if self.sampler is not None:
            self.sampler(frame, in_c)
        if (in_application(frame) or outside(frame)) and HEADROOM.is_spare():
            # Collect garbage only outside of this package's code: if a finalizer waits, other greenlets run in the
            # meantime.
            self._collector.in_greenlet()
        if (bound := getattr(greenlet, "intralb_bound", None)) is not None:
            bound.enforce(since, frame)
        # Check how long this greenlet has run, because a different greenlet may have blocked the hub until just now.
        now = monotonic()
        if slot is not None and now - since >= self._busy_seconds(now):
            self.end_if_late(slot, frame)
            self._waits = is_waiting(frame)

    @staticmethod
    def end_if_late(slot: Slot, frame: FrameType | None) -> None:
        """If the slot's request is past its deadline, abort the application at this frame, or at its next safe point.

        Any request yields to the hub at its next call into the server, where a late request can also be aborted.
        Clean-up code is only paused, so that it does not delay other requests. While code of the application is
        running, deferred responses are flushed.
        """
        slot.yield_requested = True
        if in_application(frame):
            slot.flush_responses()
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
        elif slot.may_release and (holder := lock_holder(place)) is not None:
            land(holder, slot)
        elif place is not frame or has_just_acquired(frame):
            land(place, slot)
        elif not slot.late:
            _pause()
        elif not Watchdog._finishes_step(slot, frame):
            slot.interrupt()

    @staticmethod
    def _finishes_step(slot: Slot, frame: FrameType) -> bool:
        """Return whether the application must finish a statement before the abort; if so, schedule the abort."""
        if not (slot.patient and is_within_step(frame.f_code, frame.f_lasti)) or is_stuck(frame):
            return False
        return land(frame, slot)

    @staticmethod
    def _let_finish(slot: Slot, may_pause: bool, waiting: FrameType) -> None:
        """Abort the application once it has released a resource; other greenlets may run before the abort."""
        if may_pause:
            _pause()
        place = landing_frame(waiting, slot.patient)
        if place is not None and slot.late:
            land(place, slot, FINISH_STEPS)

    # The methods below run in the hub.

    def _has_turn(self) -> None:
        """End the search for a safe point, and record blockages; called as soon as the hub runs again."""
        cancel_landing()
        if not self.off_because:
            # Restore the recursion limit here, too, because a greenlet that never returns from the signal handler does
            # not restore it.
            HEADROOM.give_back()
            HEADROOM.give_back_beforehand()
        self._record_blocks()

    def _record_blocks(self) -> None:
        for culprit in self.culprits.take():
            if culprit.job is not None:
                culprit.job.route.lane.stats.hub_blocked += 1
            self._log.record(culprit)


_HANDLING: Final = {trace_no_other_frame.__code__, Watchdog._on_signal.__code__}


def _isolate() -> None:
    """Stop all watchdogs in a process that a handler has forked; a server that starts in this process creates a new
    watchdog."""
    for watchdog in Watchdog._all.values():
        watchdog._stop()
    Watchdog._all.clear()


when_isolated(_isolate)
