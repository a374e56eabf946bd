"""Logging for code that must not wait, such as callbacks of the hub.

A logging handler may wait for a lock or a pipe. Therefore, this module queues the records, and a greenlet passes them
to the handlers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import gevent

from ..process.outlet import records_dropped
from .logfailures import FAILURES
from .loghandlers import LOGGER

__all__ = ["HubLog", "all_dropped"]

_DROPPED: Final = "%d log records were dropped because the logging handlers were too slow"
_dropped: Final = [0]


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
        """Wait until all records are written, but at most `timeout` seconds."""
        if self._writer is not None:
            self._writer.join(timeout)

    def _write(self) -> None:
        try:
            while self._records:
                for _ in range(min(self.BATCH, len(self._records))):
                    level, message = self._records.popleft()
                    self._log(level, message())
                self._report_dropped()
                gevent.sleep(0)
        finally:
            # Start another greenlet if records are left: an exception of a `message` function ends this greenlet, and
            # loses one record.
            self._writer = gevent.spawn(self._write) if self._records else None

    def _report_dropped(self) -> None:
        if self._reported < self.dropped and len(self._records) < self.LIMIT / 2:
            dropped, self._reported = self.dropped - self._reported, self.dropped
            LOGGER.log(logging.WARNING, _DROPPED, dropped)


def all_dropped() -> int:
    """Return the number of this process's log records that were dropped because writing failed or was too slow."""
    return _dropped[0] + records_dropped() + FAILURES.count
