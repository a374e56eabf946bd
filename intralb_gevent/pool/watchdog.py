"""Ends requests that never wait, and tells which ones keep the hub from its work.

While a handler computes, the hub has no turn, so no timer of its can end that. A thread of the system looks every few
milliseconds whether the hub has been busy in one go; if so, it sends a signal to the main thread, and Python runs the
handler of that signal between two steps of whatever computes there. Code in C that holds the interpreter is interrupted
as soon as it returns.

Decides when to send, who is to blame, and that an abort is raised only where the application has control. It must not
know what becomes of a job that is ended: the keeper of the jobs does.
"""

from __future__ import annotations

import logging
import signal
import traceback
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from gevent import get_hub, getcurrent
from gevent.monkey import get_original

from .hublog import HubLog
from .hubwatch import HubWatch
from .safepoints import application_frames, in_application

if TYPE_CHECKING:
    from .job import Job
    from .slot import Slot

__all__ = ["BLOCKED_SECONDS", "Watchdog"]

LOOK_SECONDS: Final = 0.005
"""Between two looks of the thread while the hub is busy."""

IDLE_LOOK_SECONDS: Final = 0.02
"""The same while the hub waits for events; no deadline that is longer than this is kept less well for it."""

BUSY_SECONDS: Final = 0.01
"""A hub that was busy for so long without a pause may hold a handler that does not wait."""

BLOCKED_SECONDS: Final = 0.1
"""Who keeps the hub for so long is told of in the log: at that every other client has been waiting for as long."""

_STACK_FRAMES: Final = 30

_sleep: Callable[[float], None] = get_original("time", "sleep")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = get_original("_thread", "get_ident")

_Handler = Callable[[int, FrameType | None], Any]


class _Suspect:
    """The greenlet that was found running when the hub was busy, since when it had been, and when it was seen last."""

    __slots__ = ("greenlet", "job", "since", "stack", "until")

    def __init__(self, greenlet: Any, job: Job | None, since: float) -> None:
        self.greenlet = greenlet
        self.job = job
        self.since = self.until = since
        self.stack = traceback.StackSummary()
        """Where it was once it had taken too long."""

    def __repr__(self) -> str:
        return f"<_Suspect {self.name} since {self.since}>"

    @property
    def name(self) -> str:
        """What it does, for the log."""
        return "code outside of requests" if self.job is None else self.job.name

    def told(self) -> str:
        """Return the text of the log record."""
        lines = "".join(self.stack.format()).rstrip()
        seconds = self.until - self.since
        return f"{self.name} kept the event loop from all other work for {seconds:.3f} s; it was at:\n{lines}"


class Watchdog:
    """Watches one hub for all balancers that use it: get it by `Watchdog.of`, and give it back by `release`."""

    _all: Final[dict[tuple[Any, int | None], Watchdog]] = {}

    def __init__(self, hub: Any, number: int | None) -> None:
        self._key = (hub, number)
        self._hub = hub
        self._number = number
        self._users = 0
        self._log = HubLog(logging.getLogger("intralb_gevent").log)
        self.watch = HubWatch(hub.loop, BUSY_SECONDS, self._has_turn)
        self._stopped = False
        self._sent = False
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
    def of(cls, number: int | None) -> Watchdog:
        """Return the watchdog of this thread's hub that sends this signal; start it if it is new."""
        hub = get_hub()
        watchdog = cls._all.get((hub, number))
        if watchdog is None:
            watchdog = cls._all[hub, number] = cls(hub, number)
            watchdog._start()
        watchdog._users += 1
        return watchdog

    def release(self) -> None:
        """Say that one user is gone; the last one stops it."""
        self._users -= 1
        if not self._users:
            del self._all[self._key]
            self._stop()

    def _start(self) -> None:
        self.watch.start()
        if self._number is None:
            return
        try:
            self._earlier = signal.signal(self._number, self._on_signal)
        except ValueError:
            self.off_because = "signals are handled in the main thread only, and this is another"
            return
        # System calls that it meets go on by themselves, as code in C may not do that for them.
        signal.siginterrupt(self._number, False)
        self._forked.start(self._begin_to_look)
        self._begin_to_look()

    def _begin_to_look(self) -> None:
        """Start the thread: at the start, and in a forked process once its hub runs, for threads do not come along."""
        _start_thread(self._look_again_and_again, (_ident(), self._number))

    def _stop(self) -> None:
        self._stopped = True
        self._forked.stop()
        self.watch.stop()
        if self._number is not None and not self.off_because and signal.getsignal(self._number) == self._on_signal:
            # What has been sent already must not end the process, which is what a signal without a handler does.
            signal.signal(self._number, self._earlier if callable(self._earlier) else signal.SIG_IGN)

    # In its own thread.

    def _look_again_and_again(self, main: int, number: int) -> None:
        while not self._stopped:
            since = self.watch.busy_since
            if since is not None and monotonic() - since >= BUSY_SECONDS:
                self._sent = True
                signal.pthread_kill(main, number)
            _sleep(IDLE_LOOK_SECONDS if since is None else LOOK_SECONDS)

    # In the main thread, between two steps of whatever runs there.

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Raise in a handler whose time is over; nobody else is harmed. Signals of others go where they always went."""
        if not self._sent:
            if callable(self._earlier):
                self._earlier(number, frame)
            return
        self._sent = False
        busy_since = self.watch.busy_since
        if busy_since is None:
            return
        greenlet = getcurrent()
        slot: Slot | None = getattr(greenlet, "intralb_slot", None)
        since = self._note(greenlet, None if slot is None else slot.job, frame, busy_since)
        # Another may have kept the hub until just now.
        if slot is not None and monotonic() - since >= BUSY_SECONDS:
            self.end_if_late(slot, frame)

    @staticmethod
    def end_if_late(slot: Slot, frame: FrameType | None) -> None:
        """Raise in the application that runs at this frame if its time is over and an abort may land here.

        Else it is asked to give the hub a turn as soon as it calls us, and that is a place for an abort, too. Whatever
        its time, what was put off until the end of the turn is not put off any longer.
        """
        slot.turn_wanted = True
        if in_application(frame):
            slot.worker.pool.turns.turn_end.come()
            slot.interrupt()

    def _note(self, greenlet: Any, job: Job | None, frame: FrameType | None, busy_since: float) -> float:
        """Keep in mind who runs, and where, once it has run for long; return since when it has, without a pause."""
        now, suspect = monotonic(), self._suspect
        if suspect is None or suspect.greenlet is not greenlet or suspect.job is not job:
            # It may have run since the last look, at which it was another.
            suspect = self._suspect = _Suspect(greenlet, job, max(busy_since, self._last_look))
        self._last_look = suspect.until = now
        # The greenlet without a parent is the program itself, which may take its time to start and to stop.
        if now - suspect.since >= BLOCKED_SECONDS and suspect not in self._culprits and greenlet.parent is not None:
            # Source lines are read when the record is written, not here.
            frames = application_frames(frame)
            suspect.stack = traceback.StackSummary.extract(frames, limit=_STACK_FRAMES, lookup_lines=False)
            suspect.stack.reverse()
            # Where nothing but ours runs, on a starved machine, nobody is to blame.
            if job is not None or suspect.stack:
                self._culprits.append(suspect)
        return suspect.since

    # In the hub.

    def _has_turn(self) -> None:
        """The hub has its turn again: count and tell who has kept it for long."""
        self._suspect = None
        for culprit in self._culprits:
            self.blocked += 1
            self._log.record(logging.WARNING, culprit.told)
        self._culprits.clear()
