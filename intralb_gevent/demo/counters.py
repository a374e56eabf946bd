"""Counts the requests of the application, in the manner of threads: a lock and a thread-local.

Decides what is counted and keeps it bounded; it must not know what a page is or who serves it.
"""

from __future__ import annotations

import collections
import threading
import time
from typing import NamedTuple

__all__ = ["Counts", "RequestCounters"]

WORKERS_SHOWN = 24
"""A balancer replaces workers in time, so only the newest are remembered."""


class Counts(NamedTuple):
    """One consistent picture: requests per page and per worker, and seconds since the start."""

    ended: dict[str, int]
    running: dict[str, int]
    workers: dict[int, int]
    """How many requests each worker has begun."""
    uptime: float


class RequestCounters:
    """Counts requests as they begin and end, from any number of threads."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._lock = threading.Lock()
        self._local = threading.local()
        self._started = time.monotonic()
        self._ended: collections.Counter[str] = collections.Counter()
        self._running: collections.Counter[str] = collections.Counter()
        self._workers: collections.Counter[int] = collections.Counter()

    def begin(self, page: str, worker: int | None) -> None:
        """Count a request for `page` as running, in the calling thread."""
        self._local.requests = self.requests_of_thread + 1
        with self._lock:
            self._running[page] += 1
            if worker is not None:
                self._count_worker(worker)

    def end(self, page: str) -> None:
        """Count a request for `page` as ended."""
        with self._lock:
            self._running[page] -= 1
            self._ended[page] += 1

    @property
    def requests_of_thread(self) -> int:
        """How many requests the calling thread has begun, this one included."""
        return getattr(self._local, "requests", 0)

    @property
    def answered(self) -> int:
        """How many requests have ended, of all pages."""
        with self._lock:
            return sum(self._ended.values())

    def counts(self) -> Counts:
        """Return the picture of this moment."""
        with self._lock:
            return Counts(
                dict(self._ended), dict(+self._running), dict(self._workers), time.monotonic() - self._started
            )

    def _count_worker(self, worker: int) -> None:
        self._workers[worker] += 1
        if len(self._workers) > WORKERS_SHOWN:
            del self._workers[min(self._workers)]
