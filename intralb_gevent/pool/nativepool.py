"""Notices when gevent's pool of native threads is full, and says so in the log.

It has 10 threads by default, for DNS look-ups, file objects and what the application runs there. A request that is cut
does not end its call: ten of these, and every look-up of the process waits with nothing in the log.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..naming import function_name

if TYPE_CHECKING:
    from .hublog import HubLog

__all__ = ["NativePoolWatch"]

FULL_SECONDS: Final = 1.0
"""How long calls must have been waiting for a thread."""

REPEAT_SECONDS: Final = 60.0
"""How long after one warning the next may follow."""

_FULL: Final = (
    "all {} threads of gevent's native pool have been busy for {:.1f} s, and {} more call(s) wait for one; "
    "DNS look-ups and file objects use it too. Its threads run {}. Give calls that block for long a "
    "gevent.threadpool.ThreadPool of their own with a timeout, or raise gevent.get_hub().threadpool.maxsize"
)


class NativePoolWatch:
    """Looks at the native thread pool of one hub; `look` is called in the hub, every tenth of a second or so."""

    def __init__(self, hub: Any, log: HubLog) -> None:
        self._hub = hub
        self._log = log
        self._full_since: float | None = None
        self._quiet_until = 0.0

    def __repr__(self) -> str:
        return f"<NativePoolWatch {'not full' if self._full_since is None else f'full since {self._full_since}'}>"

    def look(self, now: float) -> None:
        """Log a warning if calls have been waiting for a thread for `FULL_SECONDS`."""
        # By the private name, as the public one makes the pool where there is none.
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


def _running(pool: Any) -> Iterator[str]:
    """Yield the name of the function that each thread runs, where the frames of gevent show it."""
    frames = sys._current_frames()
    for worker in list(getattr(pool, "_worker_greenlets", ())):
        frame = frames.get(getattr(worker, "_thread_ident", 0))
        while frame is not None and frame.f_globals.get("__name__") != "gevent.threadpool":
            frame = frame.f_back
        if frame is not None and callable(function := frame.f_locals.get("func")):
            yield function_name(function)


def _counted(names: Iterator[str]) -> str:
    return ", ".join(f"{name} ({count} times)" for name, count in Counter(names).most_common()) or "unknown functions"
