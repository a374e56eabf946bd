"""Takes the steps of Python's own end, each in bounded time, before the command line returns.

Python waits first for non-daemon threads and executors, then runs the `atexit` functions. Where threads are left when
their time is over, the `atexit` functions run all the same, so that what they log and flush is not lost. The workers of
a busy ProcessPoolExecutor are ended before, for one of these functions waits for them.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Final, NoReturn

import gevent

from .children import end_children
from .ending import END, LEAST_SECONDS

__all__ = ["leave", "run_and_leave"]

_ATEXIT_SECONDS: Final = 2.0
"""How long `atexit` functions may take after threads that have used up their time."""

_STAGE: Final = f"Python did not end within {LEAST_SECONDS:g} s"


def run_and_leave(run: Callable[[], int]) -> int:
    """Run the program and return its exit code; from its end on the process ends in bounded time."""
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
    print(ending.code, file=sys.stderr)
    return 1


def leave(code: int) -> None:
    """Wait for what Python waits for, within the time that is left; end the process if that is not enough."""
    if not END.in_sight:
        # No shutdown has set one: a command has failed, or was `check`.
        END.by(monotonic() + LEAST_SECONDS, _STAGE, code)
    until = END.at
    END.move(until + _ATEXIT_SECONDS)
    if not _threads_have_ended(until):
        _leave_threads_behind()
    END.move(max(until, monotonic() + _ATEXIT_SECONDS))


def _threads_have_ended(until: float) -> bool:
    # Without a reference: gevent still notices when only threads are left that nothing can wake, and goes on.
    timeout = gevent.Timeout.start_new(max(0.0, until - monotonic()), ref=False)
    try:
        # Python calls the same when this program has returned, and it does nothing then.
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
