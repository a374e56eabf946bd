"""Logging for code that must not wait, such as callbacks of the hub.

A logging handler may wait for a lock or a pipe. Therefore, this module queues the records, and a greenlet passes them
to the handlers.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final
from weakref import WeakSet

import gevent

from ..process.outlet import records_dropped
from .logfailures import FAILURES
from .loghandlers import LOGGER

__all__ = ["HubLog", "all_dropped", "end_writers", "handlers_are_stuck"]

STUCK_SECONDS: Final = 2.0
"""Seconds that a logging handler may take for one record; an exit does not wait longer for the handler."""

_LEAST_SECONDS: Final = 0.05
"""Minimum seconds for which `flush` waits, because the event loop may not have run the writer greenlet for long."""

_DROPPED: Final = "%d log records were dropped because the logging handlers were too slow"
_dropped: Final = [0]
_logs: Final[WeakSet[HubLog]] = WeakSet()


class HubLog:
    """A queue of log records; while `LIMIT` records are queued, further records are dropped and counted."""

    LIMIT = 10_000
    BATCH = 100
    """Maximum number of records that the writer greenlet writes before it yields to other greenlets."""

    def __init__(self, write: Callable[[int, str], object]) -> None:
        self._log = write
        """Function called in a greenlet with the level and the text of each record, such as a logger's `log`."""
        self.dropped = self._reported = 0
        self._records: deque[tuple[int, Callable[[], str]]] = deque()
        self._writer: gevent.Greenlet[..., None] | None = None
        self._passed_at = math.inf
        """Time at which the present record was passed to the handlers; infinity while no handler runs."""
        self._ending = False
        _logs.add(self)

    def __repr__(self) -> str:
        return f"<HubLog {len(self._records)} to write, {self.dropped} dropped>"

    def record(self, level: int, message: Callable[[], str]) -> None:
        """Queue a record; `message` returns its text, and is called when the record is written."""
        if len(self._records) >= self.LIMIT:
            self.dropped += 1
            _dropped[0] += 1
            return
        self._records.append((level, message))
        if self._writer is None:
            self._writer = gevent.spawn(self._write)

    def flush(self, timeout: float) -> None:
        """Wait until all records are written, but at most `timeout` seconds, and not for a handler that is stuck."""
        end, least = monotonic() + timeout, _LEAST_SECONDS
        while self._writer is not None:
            left = max(least, min(end, self._passed_at + STUCK_SECONDS) - monotonic())
            if left <= 0:
                return
            self._writer.join(left)
            least = 0.0

    def writes_in(self, hub: object) -> bool:
        """Return whether records are queued or being written in this hub; another thread has another hub."""
        return self._writer is not None and self._writer.parent is hub

    def is_stuck(self) -> bool:
        """Return whether a handler has not returned within `STUCK_SECONDS`."""
        return monotonic() - self._passed_at >= STUCK_SECONDS

    def end(self) -> int:
        """Drop the queued records, and end the writer greenlet; return the number of lost records."""
        writer, lost = self._writer, len(self._records) + (self._passed_at < math.inf)
        self._records.clear()
        self._ending = True
        if writer is not None:
            writer.kill(timeout=_LEAST_SECONDS)
        return lost

    def _write(self) -> None:
        try:
            while self._records:
                for _ in range(min(self.BATCH, len(self._records))):
                    level, message = self._records.popleft()
                    self._pass(level, message())
                self._report_dropped()
                gevent.sleep(0)
        finally:
            self._passed_at = math.inf
            # Start another greenlet if records are left: an exception of a `message` function ends this greenlet, and
            # loses one record.
            self._writer = gevent.spawn(self._write) if self._records else None

    def _pass(self, level: int, text: str) -> None:
        """Pass a record to the handlers. An exception of a handler must not end this greenlet, not even `SystemExit`:
        gevent would report the end in a further record, for which the handler would raise the exception again."""
        self._passed_at = monotonic()
        try:
            self._log(level, text)
        except BaseException as error:
            if self._ending:
                raise
            FAILURES.report(error)
        self._passed_at = math.inf

    def _report_dropped(self) -> None:
        if self._reported < self.dropped and len(self._records) < self.LIMIT / 2:
            dropped, self._reported = self.dropped - self._reported, self.dropped
            LOGGER.log(logging.WARNING, _DROPPED, dropped)


def handlers_are_stuck() -> bool:
    """Return whether a logging handler of this process has not returned within `STUCK_SECONDS`."""
    return any(log.is_stuck() for log in list(_logs))


def end_writers() -> None:
    """At the exit, write all queued records, but end the writers whose handlers are stuck.

    A handler holds its lock while it writes a record, and `logging.shutdown` would wait for the lock.
    """
    hub = gevent.get_hub()
    logs = [log for log in list(_logs) if log.writes_in(hub)]
    for log in logs:
        log.flush(STUCK_SECONDS)
    lost = sum(log.end() for log in logs)
    if lost:
        FAILURES.report_lost(lost, f"the handler has not returned within {STUCK_SECONDS:g} s")


def all_dropped() -> int:
    """Return the number of this process's log records that were dropped because writing failed or was too slow."""
    return _dropped[0] + records_dropped() + FAILURES.count
