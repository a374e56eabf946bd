"""Performs the steps of Python's own exit, each in bounded time, before the command line returns.

Python first waits for non-daemon threads and executors, and then runs the `atexit` functions. If threads are still
running at their time limit, this module runs the `atexit` functions nevertheless, because these functions may flush
data that would be lost otherwise. One of the `atexit` functions waits for the workers of a busy ProcessPoolExecutor, so
these workers are ended first.
"""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Final, NoReturn

import gevent

from .children import end_children
from .ending import END, LEAST_SECONDS
from .logline import complain

__all__ = ["leave", "run_and_leave"]

_ATEXIT_SECONDS: Final = 2.0
"""Maximum number of seconds for the `atexit` functions, even if threads have used up the time limit of the process."""

_STAGE: Final = f"Python did not end within {LEAST_SECONDS:g} s"


def run_and_leave(run: Callable[[], int]) -> int:
    """Run the program and return its exit code; after this function returns, the process ends in bounded time."""
    END.remember_main()
    try:
        code = run()
    except SystemExit as ending:
        code = _exit_code(ending)
    except BaseException:
        # Python writes the traceback and exits with 1.
        END.by(monotonic() + LEAST_SECONDS, _STAGE)
        raise
    leave(code)
    return code


def _exit_code(ending: SystemExit) -> int:
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or 0
    complain(str(ending.code))
    return 1


def leave(code: int) -> None:
    """Wait for everything for which Python waits at its exit; end the process if the remaining time does not
    suffice."""
    if not END.in_sight:
        # Set a time limit, because no shutdown has set it: a command has failed, or the command was `check`.
        END.by(monotonic() + LEAST_SECONDS, _STAGE, code)
    until = END.at
    END.move(until + _ATEXIT_SECONDS)
    if not _threads_have_ended(until):
        _leave_threads_behind()
    END.move(max(until, monotonic() + _ATEXIT_SECONDS))


def _threads_have_ended(until: float) -> bool:
    # Pass ref=False, so that gevent ends the wait if only this timer could end it.
    timeout = gevent.Timeout.start_new(max(0.0, until - monotonic()), ref=False)
    try:
        # Python calls this function again after the program has returned; the second call does nothing.
        vars(threading)["_shutdown"]()
    except gevent.Timeout as error:
        return error is not timeout
    except Exception:
        traceback.print_exc()
    finally:
        timeout.close()
    return True


def _leave_threads_behind() -> NoReturn:
    left = END.left()
    end_children()
    with contextlib.suppress(Exception):
        vars(atexit)["_run_exitfuncs"]()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    END.now(left)


def _stop_timers() -> None:
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)


# At its exit, Python restores the default actions of signals. A timer that still runs, such as that of a profiler,
# would then kill the process. Register the function before the application registers its functions, so that it runs
# last.
atexit.register(_stop_timers)
