"""The handling of signals in a serving process.

The first SIGTERM, SIGINT or SIGQUIT begins a shutdown, and further signals of these kinds force the shutdown. SIGUSR1
reopens log files. Some other signals that tools send to servers would end or stop the process by default; these signals
are ignored, with a line in the log. The application's handlers for SIGTERM and SIGINT are also called; its handlers for
other signals stay installed.

Each signal is reported twice, by Python's handler and by the wakeup pipe. Python's handler alone would not suffice: it
does not run while the main thread is blocked in C, and C code may have replaced it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import traceback
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any, Final, Protocol

import gevent
from gevent.monkey import get_original

from ..aborts.blockedloop import while_blocked
from ..hub.forks import when_isolated
from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..quoting import quoted
from .actions import Action
from .ending import END
from .held import HeldActions, action_of
from .logfiles import reopen_log_files
from .wakeup import Wakeup

__all__ = ["SIGNALS", "Signals", "Stoppable", "end_as_first_process"]

_Handler = Callable[[int, FrameType | None], object]

ALWAYS_SHUT_DOWN: Final = (signal.SIGTERM, signal.SIGINT)
IGNORED: Final = (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGALRM)
"""Signals that are ignored. The ignored signals include SIGALRM, because two requests that each use a SIGALRM timeout
can leave an armed timer without a handler."""

FORCED: Final = 2
"""Number of signals after which running requests get no more time; each further signal ends the process immediately."""

_TERMINAL: Final = (signal.SIGTTIN, signal.SIGTTOU)
_ident: Callable[[], int] = get_original("_thread", "get_ident")
_rlock: Callable[[], Any] = get_original("_thread", "RLock")


class Stoppable(Protocol):
    """An object that can be shut down by signals, such as a server."""

    ends_process: bool
    """True if the process ends after the shutdown."""

    @property
    def over(self) -> bool:
        """True once the object has been shut down."""

    def request(self) -> None:
        """Begin the shutdown, or force a shutdown that has begun. Must not wait; can be called in any thread."""

    def plan(self) -> str:
        """Return a text for the log about what a shutdown would finish if it began now, and within what time; '' for no
        text."""


class Signals:
    """The signal handlers of this process, which are installed while there is something to shut down."""

    def __init__(self) -> None:
        self.log = HubLog(LOGGER.log)
        self.serving = 0
        """Number of servers that are running in `serve_forever`."""
        self.on_hangup: Callable[[], object] | None = None
        """Function that is called in a greenlet after SIGHUP; None if SIGHUP is ignored."""
        self._stoppables: list[Stoppable] = []
        self._replaced: dict[int, Action] = {}
        self._in_c: dict[int, tuple[Action, ...]] = {}
        self._held = HeldActions()
        self._shown: _Handler = self._on_chained
        self._watchers: list[Any] = []
        self._shutting_down: frozenset[int] = frozenset()
        self._once: frozenset[int] = frozenset()
        """Signals whose repetitions are ignored after the first occurrence."""
        self._first_handled: set[int] = set()
        self._first_seen: set[int] = set()
        self._loop: Any = None
        self._wakeup: Wakeup | None = None
        self._lock = _rlock()
        self._handled = self._seen = self._acted = 0
        self._masks: dict[int, Any] = {}
        os.register_at_fork(before=self._block, after_in_parent=self._unblock, after_in_child=self._after_fork_in_child)

    def __repr__(self) -> str:
        return f"<Signals {'installed' if self._replaced else 'not installed'}, {self._acted} asked for the end>"

    @property
    def installed(self) -> bool:
        """True while the handlers of this package are installed."""
        return bool(self._replaced)

    def owns(self, number: int) -> bool:
        """Return whether the current handler of the signal is a method of this object."""
        return getattr(action_of(number), "__self__", None) is self

    # Installing and restoring.

    def shut_down(self, stoppable: Stoppable, taken: Collection[int | None] = (), once: Collection[int] = ()) -> None:
        """Let signals shut down `stoppable`; `taken` lists the signals that have another use in this process.

        `once` lists the signals that a supervisor repeats until the process ends; the repetitions of these signals are
        ignored. Raises `ValueError` if the current thread is not the main thread.
        """
        self._stoppables = [each for each in self._stoppables if not each.over]
        self._once = frozenset(once)
        self._stoppables.append(stoppable)
        self.watch()
        if not self._replaced:
            self._install(taken)

    def watch(self) -> None:
        """Let signals wake the event loop through a pipe; a process that was forked before serving needs a new pipe."""
        if self._stoppables and self._wakeup is None:
            self._loop = gevent.get_hub().loop
            self._wakeup = Wakeup(self._loop, self._drained)

    def is_over(self) -> None:
        """Restore all actions if nothing is left to shut down, unless a signal is ending the process."""
        if self._acted == 0 and all(each.over for each in self._stoppables):
            self.restore()

    def restore(self) -> None:
        """Restore the earlier action of every signal, and the earlier wakeup descriptor."""
        if self._wakeup is not None:
            self._wakeup.close()
        self._forget()

    def restore_in_child(self) -> None:
        """Restore all actions in a forked process; the parent keeps the pipe. This method can be called repeatedly."""
        if self._wakeup is not None:
            self._wakeup.close_in_child()
        self._forget()

    def _forget(self) -> None:
        self._stoppables = []
        self._wakeup = None
        for watcher in self._watchers:
            watcher.stop()
        chosen = self._held.release()
        for number, earlier in self._replaced.items():
            if self._is_ours(number):
                earlier.restore()
            if number in chosen:
                signal.signal(number, chosen[number])
        self._watchers, self._replaced, self._in_c = [], {}, {}
        self._handled = self._seen = self._acted = 0
        self._first_handled.clear()
        self._first_seen.clear()

    def _is_ours(self, number: int) -> bool:
        return self.owns(number) or (number in _TERMINAL and signal.getsignal(number) == signal.SIG_IGN)

    def _block(self) -> None:
        """Block signals in this thread during a fork, so that no signal is lost in the child.

        After a fork, Python in the child discards all signals that have arrived, but whose handlers have not run yet.
        Without blocking, a signal that the parent sends immediately after the fork would be lost.
        """
        self._masks[_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, self._replaced)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(_ident()))

    def _after_fork_in_child(self) -> None:
        """Keep the handlers only if the fork happened before serving; in that case, the child may become a server."""
        self._lock = _rlock()
        try:
            if self.serving:
                self.serving = 0
                self.restore_in_child()
            elif self._wakeup is not None:
                self._wakeup.close_in_child()
                self._wakeup = None
        finally:
            self._unblock()

    def _install(self, taken: Collection[int | None]) -> None:
        quit_is_free = Action(signal.SIGQUIT).is_default
        numbers = (*ALWAYS_SHUT_DOWN, signal.SIGQUIT) if quit_is_free else ALWAYS_SHUT_DOWN
        self._shutting_down = frozenset(numbers)
        for number in numbers:
            self._replace(number, self._on_shutdown)
        self._held.hold(dict.fromkeys(numbers, self._shown))
        for number, handler in ((signal.SIGUSR1, self._on_reopen), *((each, self._on_ignored) for each in IGNORED)):
            if number not in taken and Action(number).is_default:
                self._replaced[number] = Action(number)
                signal.signal(number, handler)
                # Let the kernel restart system calls, because C libraries may treat an interrupted call as a failure.
                signal.siginterrupt(number, False)

    def _replace(self, number: int, handler: _Handler) -> None:
        earlier = self._replaced[number] = Action(number)
        # Start a watcher that does nothing. While this watcher exists, gevent does not change the signal's action when
        # the application starts or stops another watcher. The watcher also reveals gevent's handler, which this object
        # calls for all watchers.
        watcher = self._loop.signal(number, ref=False)
        watcher.start(int)
        self._watchers.append(watcher)
        gevents = Action(number)
        signal.signal(number, handler)
        pythons = Action(number).address
        in_c = {each.address: each for each in (gevents, earlier) if each.address not in (0, 1, pythons)}
        self._in_c[number] = tuple(in_c.values())

    # The methods below run in the main thread, between two bytecodes.

    def _on_shutdown(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handle(number, frame)
        except Exception:
            # Ignore the exception, which may be a RecursionError at the recursion limit: the wakeup pipe also reports
            # the signal.
            return

    def _handle(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            if self._is_repeated(number, self._first_handled):
                return
            self._handled += 1
            self._act(number)
        for action in self._in_c[number]:
            action.call()
        chosen = self._held.seen(number)
        self._call_in_greenlet(self._replaced[number].python if chosen is self._shown else chosen, number, frame)

    def _on_chained(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal for the application, which sees this method as the current handler, and may call it."""
        if not self.installed:
            return
        with self._lock:
            if self._acted == 0:
                self._handled += 1
                self._act(number)
        self._call_in_greenlet(self._replaced[number].python, number, frame)

    def _call_in_greenlet(self, handler: Any, number: int, frame: FrameType | None) -> None:
        if callable(handler) and handler is not signal.default_int_handler:
            self._in_hub(self._spawn, handler, number, frame)

    def _on_reopen(self, number: int, frame: FrameType | None) -> None:
        self._in_hub(gevent.spawn, self._reopen)

    def _on_ignored(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.on_hangup is not None:
            self._in_hub(gevent.spawn, self.on_hangup)
            return
        if number in _TERMINAL:
            # Ignore further signals of this number, because the kernel sends one whenever a background process uses its
            # terminal.
            signal.signal(number, signal.SIG_IGN)
        self.say_ignored(number)

    def say_ignored(self, number: int) -> None:
        """Log that a signal has had no effect."""
        self.say(logging.WARNING, f"{_name(number)} is ignored; SIGTERM shuts down, SIGUSR1 reopens log files")

    def _reopen(self) -> None:
        self.say(logging.INFO, f"SIGUSR1: reopened {reopen_log_files()} log files")

    def _spawn(self, handler: _Handler, number: int, frame: FrameType | None) -> None:
        gevent.spawn(self._call, handler, number, frame)

    def _call(self, handler: _Handler, number: int, frame: FrameType | None) -> None:
        """Call a handler of the application in a greenlet, where it may wait; log any exception."""
        try:
            handler(number, frame)
        except (SystemExit, KeyboardInterrupt):
            # The application's handler requests the end of the process, but the shutdown has already begun.
            return
        except BaseException:
            text = quoted(traceback.format_exc())
            self.log.record(logging.ERROR, lambda: f"the application's handler of {_name(number)} failed:\n{text}")

    # The methods below run in any thread.

    def notice(self) -> None:
        """Process signals that the main thread has not been able to handle; never waits.

        A native thread calls this method while the main thread may be blocked in C. The first signal also sets the time
        limit at which the process is ended.
        """
        if self._wakeup is not None:
            self._wakeup.take()

    def _drained(self, numbers: bytes) -> None:
        with self._lock:
            for number in numbers:
                if number in self._shutting_down and not self._is_repeated(number, self._first_seen):
                    self._seen += 1
                    self._act(number)

    def _is_repeated(self, number: int, before: set[int]) -> bool:
        """Return whether to ignore a signal, because it repeats a signal in `before`; add the signal to `before`."""
        if number in before:
            return number in self._once
        before.add(number)
        return False

    def _act(self, number: int) -> None:
        """Act once on each signal, as soon as either the handler or the pipe reports it."""
        if self._acted >= max(self._handled, self._seen):
            return
        self._acted += 1
        END.look = self.notice
        running = [each for each in self._stoppables if not each.over]
        if not running or self._acted > FORCED:
            END.now()
        plan = _plan(running)
        for each in running:
            each.ends_process = True
            each.request()
        again = "" if self._acted == 1 else " again: no more time for running requests"
        self.say(logging.INFO, f"{_name(number)}{again or f': {plan}'}")

    def say(self, level: int, text: str) -> None:
        """Log a text; the hub queues the record, so any thread or signal handler can call this method."""
        self._in_hub(self.log.record, level, lambda: text)

    def _in_hub(self, function: Callable[..., object], *arguments: object) -> None:
        # The loop may have been destroyed, so suppress all errors.
        with contextlib.suppress(Exception):
            self._loop.run_callback_threadsafe(function, *arguments)


def _plan(running: Collection[Stoppable]) -> str:
    """Return a text for the log about what the shutdown will finish. Any thread may call this function, even while the
    pool of workers changes."""
    with contextlib.suppress(Exception):
        return "; ".join(filter(None, [each.plan() for each in running])) or "shutting down"
    return "shutting down"


def _name(number: int) -> str:
    return signal.Signals(number).name


SIGNALS: Final = Signals()
"""The only `Signals` of this process."""

while_blocked(SIGNALS.notice)
when_isolated(SIGNALS.restore_in_child)


def end_as_first_process() -> None:
    """Make SIGTERM end this process while it is still starting, even if it is process 1 of a container.

    The kernel does not apply the default action of a signal to process 1.
    """
    if os.getpid() == 1 and Action(signal.SIGTERM).is_default:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    # Do nothing during a shutdown: a handler of the application that wraps this function may then call the function.
    if not SIGNALS.installed:
        os._exit(128 + number)
