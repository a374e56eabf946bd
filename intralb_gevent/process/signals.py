"""The signals of a serving process: which of them shut it down, and what becomes of the others.

SIGTERM, SIGINT and SIGQUIT begin a shutdown, and force it when they arrive again. SIGUSR1 reopens log files. Others
that would end or stop the process by default, and that tools send to servers, are ignored with a line in the log.
Handlers of the application are kept: those for SIGTERM and SIGINT are called too, those for the others stay alone.

Each signal is reported twice, by Python's handler and by the wakeup pipe: the handler alone has not run while the main
thread is blocked in C, and the pipe alone sees a signal after code in C has replaced the handler.
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

from ..pool.forks import when_isolated
from ..pool.hublog import HubLog
from ..pool.loghandlers import LOGGER
from ..pool.watchdog import while_blocked
from .actions import Action
from .ending import END
from .held import HeldActions, action_of
from .logfiles import reopen_log_files
from .wakeup import Wakeup

__all__ = ["SIGNALS", "Signals", "Stoppable", "end_as_first_process"]

_Handler = Callable[[int, FrameType | None], object]

ALWAYS_SHUT_DOWN: Final = (signal.SIGTERM, signal.SIGINT)
IGNORED: Final = (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGALRM)
"""SIGALRM, as two requests with timeouts of their own can leave an armed timer without a handler."""

FORCED: Final = 2
"""The signal of this number gives running requests no more time, and every later one ends the process at once."""

_TERMINAL: Final = (signal.SIGTTIN, signal.SIGTTOU)
_ident: Callable[[], int] = get_original("_thread", "get_ident")
_rlock: Callable[[], Any] = get_original("_thread", "RLock")


class Stoppable(Protocol):
    """What signals shut down."""

    ends_process: bool
    """Whether the process ends with it."""

    @property
    def over(self) -> bool:
        """Whether it has been shut down."""

    def request(self) -> None:
        """Begin, or give no more time. Must not wait, and may be called in any thread."""


class Signals:
    """The handlers of this process, installed as long as there is something to shut down."""

    def __init__(self) -> None:
        self.log = HubLog(LOGGER.log)
        self.serving = 0
        """How many servers serve for ever."""
        self._stoppables: list[Stoppable] = []
        self._replaced: dict[int, Action] = {}
        self._in_c: dict[int, tuple[Action, ...]] = {}
        self._held = HeldActions()
        self._shown: _Handler = self._on_chained
        self._watchers: list[Any] = []
        self._shutting_down: frozenset[int] = frozenset()
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
        """Whether the handlers are ours."""
        return bool(self._replaced)

    def owns(self, number: int) -> bool:
        """Whether the present handler of this signal is ours."""
        return getattr(action_of(number), "__self__", None) is self

    # Installed, and undone.

    def shut_down(self, stoppable: Stoppable, taken: Collection[int | None] = ()) -> None:
        """Let signals shut this down; `taken` are numbers that have another meaning in this process.

        Raises `ValueError` when this is not the main thread.
        """
        self._stoppables = [each for each in self._stoppables if not each.over]
        self._stoppables.append(stoppable)
        self.watch()
        if not self._replaced:
            self._install(taken)

    def watch(self) -> None:
        """Let signals wake the event loop; a process that was forked before it serves begins anew."""
        if self._stoppables and self._wakeup is None:
            self._loop = gevent.get_hub().loop
            self._wakeup = Wakeup(self._loop, self._taken)

    def is_over(self) -> None:
        """Undo all when nothing is left to shut down, unless a signal has asked for the end of the process."""
        if self._acted == 0 and all(each.over for each in self._stoppables):
            self.restore()

    def restore(self) -> None:
        """Undo all: every signal does again what it did before, and the earlier wakeup descriptor is set."""
        if self._wakeup is not None:
            self._wakeup.close()
        self._forget()

    def restore_in_child(self) -> None:
        """Undo all in a process that has just been forked, and leave the pipe to the parent. May be called again."""
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

    def _is_ours(self, number: int) -> bool:
        return self.owns(number) or (number in _TERMINAL and signal.getsignal(number) == signal.SIG_IGN)

    def _block(self) -> None:
        """Block signals in this thread for the time of a fork: the handlers must not meet one in the child.

        Python drops in the child what its handlers have not taken up by then. A signal that a parent sends to a child
        at once would be lost.
        """
        self._masks[_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, self._replaced)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(_ident()))

    def _after_fork_in_child(self) -> None:
        """Keep the handlers only if the child was forked before the servers serve, to serve itself."""
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
                # System calls go on, as C libraries may take an interrupted one for a failure.
                signal.siginterrupt(number, False)

    def _replace(self, number: int, handler: _Handler) -> None:
        earlier = self._replaced[number] = Action(number)
        # The watcher does nothing. As there is one, gevent leaves the action alone when the application starts or stops
        # another, and what gevent would have installed for the first can be called for all of them.
        watcher = self._loop.signal(number, ref=False)
        watcher.start(int)
        self._watchers.append(watcher)
        gevents = Action(number)
        signal.signal(number, handler)
        pythons = Action(number).address
        in_c = {each.address: each for each in (gevents, earlier) if each.address not in (0, 1, pythons)}
        self._in_c[number] = tuple(in_c.values())

    # In the main thread, between two bytecodes of what it runs.

    def _on_shutdown(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handle(number, frame)
        except Exception:
            # Such as RecursionError, where the application has no frame left. The pipe reports the signal, too.
            return

    def _handle(self, number: int, frame: FrameType | None) -> None:
        with self._lock:
            self._handled += 1
            self._act(number)
        for action in self._in_c[number]:
            action.call()
        chosen = self._held.seen(number)
        self._call_in_greenlet(self._replaced[number].python if chosen is self._shown else chosen, number, frame)

    def _on_chained(self, number: int, frame: FrameType | None) -> None:
        """Stand for our handler towards the application, which may call it in a handler of its own."""
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
        if number in _TERMINAL:
            # The kernel would send another one at each attempt of a background process to use its terminal.
            signal.signal(number, signal.SIG_IGN)
        self.say(logging.WARNING, f"{_name(number)} is ignored; SIGTERM shuts down, SIGUSR1 reopens log files")

    def _reopen(self) -> None:
        self.say(logging.INFO, f"SIGUSR1: reopened {reopen_log_files()} log files")

    def _spawn(self, handler: _Handler, number: int, frame: FrameType | None) -> None:
        gevent.spawn(self._call, handler, number, frame)

    def _call(self, handler: _Handler, number: int, frame: FrameType | None) -> None:
        """Call a handler of the application in a greenlet, where it may wait; what it raises has no other effect."""
        try:
            handler(number, frame)
        except (SystemExit, KeyboardInterrupt):
            # It asks for the end of the process, which has begun.
            return
        except BaseException:
            text = traceback.format_exc()
            self.log.record(logging.ERROR, lambda: f"the application's handler of {_name(number)} failed:\n{text}")

    # In any thread.

    def notice(self) -> None:
        """Take note of signals that the main thread has not been able to handle; never waits.

        A native thread calls this while the main thread may be blocked in C. From the first signal on, this also makes
        sure that the process ends in time.
        """
        if self._wakeup is not None:
            self._wakeup.take()

    def _taken(self, numbers: bytes) -> None:
        with self._lock:
            for number in numbers:
                if number in self._shutting_down:
                    self._seen += 1
                    self._act(number)

    def _act(self, number: int) -> None:
        """Act on a signal that has been reported once more than before, by either way."""
        if self._acted >= max(self._handled, self._seen):
            return
        self._acted += 1
        END.look = self.notice
        running = [each for each in self._stoppables if not each.over]
        if not running or self._acted > FORCED:
            END.now()
        for each in running:
            each.ends_process = True
            each.request()
        again = "" if self._acted == 1 else " again: no more time for running requests"
        self.say(logging.INFO, f"{_name(number)}{again or ': shutting down'}")

    def say(self, level: int, text: str) -> None:
        """Log a text in the hub."""
        self._in_hub(self.log.record, level, lambda: text)

    def _in_hub(self, function: Callable[..., object], *arguments: object) -> None:
        # The loop may have been destroyed.
        with contextlib.suppress(Exception):
            self._loop.run_callback_threadsafe(function, *arguments)


def _name(number: int) -> str:
    return signal.Signals(number).name


SIGNALS: Final = Signals()
"""The signals of this process."""

while_blocked(SIGNALS.notice)
when_isolated(SIGNALS.restore_in_child)


def end_as_first_process() -> None:
    """Let SIGTERM end this process before it serves, also where it is the first one of a container.

    The kernel does not apply the default action of a signal to the first process.
    """
    if os.getpid() == 1 and Action(signal.SIGTERM).is_default:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    # An application that has wrapped this handler calls it while the servers shut down.
    if not SIGNALS.installed:
        os._exit(128 + number)
