"""Starts ready jobs in batches, and flushes their responses together.

A batch ends after about a millisecond, and the loop polls its sockets before the next batch. If one batch ran all ready
jobs, which may be CPU-bound, the server could not even reject new requests during the batch.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from gevent import get_hub

from ..stdlib import monotonic

__all__ = ["DispatchQueue"]


class Dispatcher(Protocol):
    """An object that starts jobs, that is, a worker."""

    def dispatch(self) -> None:
        """Start the next job; return when the job waits or has ended."""


class Finisher(Protocol):
    """An object that defers output to the end of a batch, that is, the writing half of a connection."""

    def flush_deferred(self) -> None:
        """Send the deferred output; never waits or raises an exception."""


class FlushQueue:
    """Defers complete responses to the end of the current batch, and sends them together.

    Each separate send wakes the process that reads it, such as a proxy on the same machine, and waking costs more than
    the send itself (docs/measurements/performance.md). Responses are deferred only if the watchdog runs, because the
    watchdog flushes them while a job is CPU-bound.
    """

    __slots__ = ("batching", "deferred", "watched")

    def __init__(self) -> None:
        self.watched = False
        """True if the watchdog runs, and flushes deferred responses while a job is CPU-bound."""
        self.batching = False
        """True during a batch while the watchdog runs; responses may then be deferred to the end of the batch."""
        self.deferred: list[Finisher] = []
        """The objects whose `flush_deferred` is called at the end of the current batch."""

    def __repr__(self) -> str:
        return f"<FlushQueue with {len(self.deferred)} deferred responses>"

    def flush(self) -> None:
        """Flush all deferred responses now."""
        if self.deferred:
            finishers, self.deferred = self.deferred, []
            for finisher in finishers:
                finisher.flush_deferred()


class DispatchQueue:
    """Starts queued jobs in batches; each batch is one callback of the event loop, which calls the queued
    dispatchers."""

    MOST_SECONDS: Final = 0.001
    """Seconds after which a batch starts no further job, so that the loop can poll its sockets."""

    LEAST_PRIORITY: Final = -2
    """Lowest priority of a watcher (libev's EV_MINPRI)."""

    def __init__(self, flush_queue: FlushQueue) -> None:
        self.flush_queue = flush_queue
        self.number = 0
        """Number of batches so far, including the current one."""
        self.waiting: deque[Dispatcher] = deque()
        """One dispatcher for each job that has not been started."""
        self._scheduled = False
        self._timer: Any = None
        self._begins_by = 0.0
        """Time at which the next batch begins even if other callbacks wait, in `time.monotonic()` seconds."""

    def __repr__(self) -> str:
        return f"<DispatchQueue with {len(self.waiting)} jobs>"

    def schedule(self, dispatcher: Dispatcher) -> None:
        """Queue a call of `dispatcher.dispatch` for the next batch, or for a later batch if the next batch takes too
        long."""
        self.waiting.append(dispatcher)
        if not self._scheduled:
            self._scheduled = True
            get_hub().loop.run_callback(self._go_on)

    def _go_on(self) -> None:
        waiting, began, flush_queue = self.waiting, monotonic(), self.flush_queue
        flush_queue.batching = flush_queue.watched
        self.number += 1
        try:
            # Jobs that become ready during this batch run in the next one, after the loop has polled its sockets.
            for _ in range(len(waiting)):
                waiting.popleft().dispatch()
                if monotonic() - began > self.MOST_SECONDS:
                    break
        finally:
            flush_queue.batching = False
            flush_queue.flush()
            # Schedule the remaining jobs in `finally`, because an exception raised by one dispatcher must not stop all
            # other jobs.
            self._schedule_rest()

    def _schedule_rest(self) -> None:
        if self.waiting:
            # Use a timer, because a callback would run before the loop polls its sockets. A due timer with the lowest
            # priority runs after all other due events.
            self._timer = get_hub().loop.timer(0.0, priority=self.LEAST_PRIORITY)
            self._timer.start(self._let_others_go_on)
        else:
            self._scheduled = False

    def _let_others_go_on(self) -> None:
        self._begins_by = monotonic() + self.MOST_SECONDS
        get_hub().loop.run_callback(self._go_on_after_others)

    def _go_on_after_others(self) -> None:
        """Begin the next batch once no other callback waits, but after at most `MOST_SECONDS`.

        So a job that has begun continues before the next job starts. A job whose database has responded often needs
        several callbacks: gevent passes the lock of a connection pool from one greenlet to the next by a callback.
        """
        loop: Any = get_hub().loop
        if loop._callbacks and monotonic() < self._begins_by:
            loop.run_callback(self._go_on_after_others)
        else:
            self._go_on()
