"""Ends the process at a given time, even if the process is still waiting for something.

At exit, Python waits without a limit for non-daemon threads, executors, `atexit` functions and child processes. This
module uses a native thread to enforce a time limit for the exit. The native thread runs even while Python code loops,
or while C code waits without the global interpreter lock (GIL). If the native thread cannot run, a thread of
`faulthandler` ends the process. The thread of `faulthandler` does not need the interpreter: it also works while C code
holds the GIL, and while Python is being finalized.
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
from .logline import LINES
from .outlet import drain

__all__ = ["END", "LEAST_SECONDS", "ProcessEnd"]

LEAST_SECONDS: Final = 3.0
"""Minimum number of seconds that Python is given to exit, even if graceful_timeout_seconds is shorter. Some `atexit`
functions, such as Sentry's, wait 2 seconds for a server that does not respond."""

_POLL_SECONDS: Final = 0.05
_BACKSTOP_SECONDS: Final = 2.0
"""Seconds from the time limit until `faulthandler` ends the process, if the native thread has not ended it."""

_WRITE_SECONDS: Final = 1.0
"""Maximum number of seconds to wait until standard error accepts the final message."""

_DRAIN_SECONDS: Final = 0.5
"""Maximum number of seconds to wait for queued log records before writing the final message."""

_LINE_BYTES: Final = 4096
"""Maximum size in bytes of a line that a pipe accepts either completely or not at all."""

_sleep: Callable[[float], None] = get_original("time", "sleep")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = get_original("_thread", "get_ident")
_poll: Callable[[], Any] = get_original("select", "poll")


class ProcessEnd:
    """The time at which this process is ended, and its exit code in that case."""

    def __init__(self) -> None:
        self.at = math.inf
        """Time at which the process is ended if it is still running, in `time.monotonic()` seconds; infinity if no time
        is set."""
        self.look: Callable[[], object] = int
        """Function that the native thread calls several times a second."""
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
        """True if a time for the end of the process is set."""
        return self.at < math.inf

    def by(self, at: float, stage: str, code: int = 1) -> None:
        """End the process at the time `at`, in `time.monotonic()` seconds, with the exit code `code`.

        A later call replaces the time and the code. `stage` is the first part of the final message, and describes what
        has not finished in time. This method never waits, and can be called in any thread and in signal handlers.
        """
        self._stage, self._code = stage, code
        self.move(at)

    def move(self, at: float) -> None:
        """Change only the time at which the process ends."""
        self.at = at
        if self._pid != os.getpid():
            # If no more threads can be started, the next call of this method tries again.
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
        """Stop the thread of `faulthandler` before a fork; otherwise, the child would wait for this thread forever at
        exit."""
        if self.in_sight:
            faulthandler.cancel_dump_traceback_later()

    def remember_main(self) -> None:
        """Record the current thread as the main thread, and its main greenlet, for the final message."""
        self._main_ident = _ident()
        self._main = getcurrent()
        while self._main.parent is not None:
            self._main = self._main.parent

    def left(self) -> str:
        """Return a description of what is still running, for the final message."""
        try:
            return f"still there: {describe(self._main, self._main_ident)}"
        except Exception as error:
            return repr(error)

    def now(self, left: str = "") -> NoReturn:
        """Write one line about what is still running to standard error, and end the process.

        `left` describes what is still running; by default, the method `left` creates this description.
        """
        line = LINES.line("CRITICAL", f"{self._stage}; {left or self.left()}; exits with code {self._code}")
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
        # Forget the native thread, because it exists only in the parent.
        self.at, self._pid, self.look = math.inf, 0, int


def _standard_error() -> int | None:
    """Return the file descriptor of standard error; None if standard error is closed."""
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
"""The only `ProcessEnd` of this process."""
