"""Ends the process at a given moment, whatever it waits for.

At its end Python waits without a limit for non-daemon threads, executors, `atexit` functions and child processes. A
native thread keeps the limit: neither a loop in Python, nor a wait in C that has released the interpreter, holds it up.
A thread inside `faulthandler` stands behind it, which needs no interpreter at all, for C code that does not release it
and for the finalization of Python.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import select
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, NoReturn

from gevent.monkey import get_original
from greenlet import getcurrent

from .children import end_children
from .leftovers import describe
from .outlet import drain

__all__ = ["END", "LEAST_SECONDS", "ProcessEnd"]

LEAST_SECONDS: Final = 3.0
"""How long Python may take to end at least, also where graceful_timeout_seconds is shorter. Some `atexit` functions,
such as Sentry's, wait 2 seconds for a server that does not answer."""

_POLL_SECONDS: Final = 0.05
_BACKSTOP_SECONDS: Final = 2.0
"""How much later `faulthandler` ends the process if the native thread has not."""

_WRITE_SECONDS: Final = 1.0
"""How long the last line waits for a standard error that takes nothing."""

_DRAIN_SECONDS: Final = 0.5
"""How long the log waits for it before."""

_LINE_BYTES: Final = 4096
"""As much as a pipe takes in one piece."""

_sleep: Callable[[float], None] = get_original("time", "sleep")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = get_original("_thread", "get_ident")
_poll: Callable[[], Any] = get_original("select", "poll")


class ProcessEnd:
    """The latest moment at which this process ends, and the exit code that it has then."""

    def __init__(self) -> None:
        self.at = math.inf
        """In `time.monotonic()` seconds."""
        self.look: Callable[[], object] = int
        """Called by the native thread several times a second."""
        self._code = 1
        self._pid = 0
        self._main: Any = None
        self._main_ident = 0
        self._stage = ""
        os.register_at_fork(before=self._disarm, after_in_parent=self._arm, after_in_child=self._forget)

    def __repr__(self) -> str:
        return "<ProcessEnd not in sight>" if self.at == math.inf else f"<ProcessEnd in {self.at - monotonic():.1f} s>"

    @property
    def in_sight(self) -> bool:
        """Whether the process has such a moment."""
        return self.at < math.inf

    def by(self, at: float, stage: str, code: int = 1) -> None:
        """End the process at this moment, in `time.monotonic()` seconds, with this code; a later call counts instead.

        `stage` says for the last line what was not over by then. Never waits, and may be called in any thread and in
        signal handlers.
        """
        self._stage, self._code = stage, code
        self.move(at)

    def move(self, at: float) -> None:
        """Change the moment only."""
        self.at = at
        if self._pid != os.getpid():
            # Where the system allows no more threads, this is tried again with the next call.
            with contextlib.suppress(RuntimeError):
                _start_thread(self._keep, ())
                self._pid = os.getpid()
        self._arm()

    def _arm(self) -> None:
        descriptor = _standard_error()
        if descriptor is not None and self.in_sight:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                left = max(0.0, self.at - monotonic()) + _BACKSTOP_SECONDS
                faulthandler.dump_traceback_later(left, exit=True, file=descriptor)

    def _disarm(self) -> None:
        """Stop the thread inside `faulthandler` before a fork: the child would wait for it for ever at its own end."""
        if self.in_sight:
            faulthandler.cancel_dump_traceback_later()

    def remember_main(self) -> None:
        """Remember this thread, which must be the main one, and its main greenlet: the last line tells their place."""
        self._main_ident = _ident()
        self._main = getcurrent()
        while self._main.parent is not None:
            self._main = self._main.parent

    def left(self) -> str:
        """Return what is still there, for the last line."""
        try:
            return f"still there: {describe(self._main, self._main_ident)}"
        except Exception as error:
            return repr(error)

    def now(self, left: str = "") -> NoReturn:
        """Write what is (or was) left as one line on the standard error, and end the process."""
        line = f"intralb-gevent: {self._stage}; {left or self.left()}; exits with code {self._code}"
        end_children()
        drain(_DRAIN_SECONDS)
        _write(line)
        os._exit(self._code)

    def _keep(self) -> None:
        while (left := self.at - monotonic()) > 0:
            self.look()
            _sleep(min(left, _POLL_SECONDS))
        self.now()

    def _forget(self) -> None:
        # The thread is the parent's.
        self.at, self._pid, self.look = math.inf, 0, int


def _standard_error() -> int | None:
    """Return the descriptor of the standard error, None if the process was started without one or has closed it."""
    try:
        return sys.__stderr__.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):
        return None


def _write(line: str) -> None:
    descriptor = _standard_error()
    if descriptor is None:
        return
    poll = _poll()
    poll.register(descriptor, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(_WRITE_SECONDS * 1000):
            os.write(descriptor, line.encode(errors="replace")[: _LINE_BYTES - 1] + b"\n")


END: Final = ProcessEnd()
"""The end of this process."""
