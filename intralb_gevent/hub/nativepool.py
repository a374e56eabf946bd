"""Logs a warning when gevent's pool of native threads is full.

By default, the pool has 10 threads. The threads run DNS look-ups, operations on files, and functions that the
application passes to the pool. Aborting a request does not end a call that the request has made in the pool. If ten
calls never end, every DNS look-up in the process waits forever; without this warning, the log would not show the cause.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..framevariables import variables
from ..naming import function_name
from ..process.threadframes import ThreadFrames

if TYPE_CHECKING:
    from .log import HubLog

__all__ = ["NativePoolWatch"]

FULL_SECONDS: Final = 1.0
"""Seconds for which calls must have been waiting for a thread before a warning is logged."""

REPEAT_SECONDS: Final = 60.0
"""Minimum number of seconds between two warnings."""

_FULL: Final = (
    "all {} threads of gevent's native pool have been busy for {:.1f} s, and {} more call(s) wait for a thread; "
    "DNS look-ups and file objects also use this pool. Its threads run {}. Make calls that block for long in a "
    "separate gevent.threadpool.ThreadPool with a timeout, or raise gevent.get_hub().threadpool.maxsize"
)


class NativePoolWatch:
    """Checks the native thread pool of one hub; `look` is called in the hub, about every 100 ms."""

    def __init__(self, hub: Any, log: HubLog) -> None:
        self._hub = hub
        self._log = log
        self._full_since: float | None = None
        self._quiet_until = 0.0

    def __repr__(self) -> str:
        return f"<NativePoolWatch {'not full' if self._full_since is None else f'full since {self._full_since}'}>"

    def look(self, now: float) -> None:
        """Log a warning if calls have been waiting for a thread for `FULL_SECONDS`."""
        # Read the private attribute, because the public property would create the pool.
        pool: Any = getattr(self._hub, "_threadpool", None)
        waiting = 0 if pool is None else _waiting(pool)
        if waiting == 0:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        elif now - self._full_since >= FULL_SECONDS and now >= self._quiet_until:
            self._quiet_until = now + REPEAT_SECONDS
            running = _counted(_running(pool))
            text = partial(_FULL.format, pool.maxsize, now - self._full_since, waiting, running)
            self._log.record(logging.WARNING, text)


def _waiting(pool: Any) -> int:
    """Return how many calls wait for a thread: the pool queues one of them, and the others wait to be queued."""
    queued: int = len(pool) - pool.maxsize
    if queued <= 0:
        return 0
    places = getattr(pool, "_available_worker_threads_greenlet_sem", None)
    return queued + (0 if places is None else places.linkcount())


def _running(pool: Any) -> list[str]:
    """Return the name of the function that each thread runs, if gevent's frames show the name."""
    names = []
    with ThreadFrames() as frames:
        for worker in list(getattr(pool, "_worker_greenlets", ())):
            frame = frames.get(getattr(worker, "_thread_ident", 0))
            while frame is not None and frame.f_globals.get("__name__") != "gevent.threadpool":
                frame = frame.f_back
            if frame is not None and callable(function := variables(frame).get("func")):
                names.append(function_name(function))
    return names


def _counted(names: list[str]) -> str:
    return ", ".join(f"{name} ({count} times)" for name, count in Counter(names).most_common()) or "unknown functions"
