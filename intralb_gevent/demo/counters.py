"""Count the application's requests as threaded code does, with a lock and a thread-local."""

from __future__ import annotations

import collections
import threading
import time
from typing import NamedTuple

__all__ = ["Counts", "RequestCounters"]

WORKERS_SHOWN = 24
"""Maximum number of workers with a counter; a balancer replaces workers, so counters of old workers are removed."""


class Counts(NamedTuple):
    """A consistent snapshot of the counters: requests per page and per worker, and seconds since the start."""

    ended: dict[str, int]
    running: dict[str, int]
    workers: dict[int, int]
    """Number of requests that each worker has begun, by the worker's id."""
    uptime: float


class RequestCounters:
    """Counts requests as they begin and end, from any number of threads."""

    def __init__(self) -> None:
        """Set all counts to zero."""
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
        """Number of requests that the calling thread has begun, including the current one."""
        return getattr(self._local, "requests", 0)

    @property
    def answered(self) -> int:
        """Number of requests that have ended, on all pages."""
        with self._lock:
            return sum(self._ended.values())

    def counts(self) -> Counts:
        """Return a snapshot of the counts."""
        with self._lock:
            return Counts(
                dict(self._ended), dict(+self._running), dict(self._workers), time.monotonic() - self._started
            )

    def _count_worker(self, worker: int) -> None:
        self._workers[worker] += 1
        if len(self._workers) > WORKERS_SHOWN:
            del self._workers[min(self._workers)]
