"""Log records from places that must not wait, such as callbacks of the hub.

A logging handler may wait for a lock or a pipe; so records are kept here, and a greenlet writes them. Decides how
many are kept; it must not know what they say.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

import gevent

from ..process.outlet import records_dropped
from .loghandlers import LOGGER

__all__ = ["HubLog", "all_dropped"]

_DROPPED: Final = "%d log records were dropped, as logging handlers were too slow for them"
_dropped: Final = [0]


class HubLog:
    """Records in the order they came; those beyond `LIMIT` unwritten ones are dropped and counted."""

    LIMIT = 10_000
    BATCH = 100
    """Records written before other greenlets have a turn."""

    def __init__(self, write: Callable[[int, str], object]) -> None:
        self._log = write
        """Called in a greenlet with the level and the text of each record, such as a logger's `log`."""
        self.dropped = self._reported = 0
        self._records: deque[tuple[int, Callable[[], str]]] = deque()
        self._writer: gevent.Greenlet[..., None] | None = None

    def __repr__(self) -> str:
        return f"<HubLog {len(self._records)} to write, {self.dropped} dropped>"

    def record(self, level: int, message: Callable[[], str]) -> None:
        """Keep a record; `message` is called for its text when it is written."""
        if len(self._records) >= self.LIMIT:
            self.dropped += 1
            _dropped[0] += 1
            return
        self._records.append((level, message))
        if self._writer is None:
            self._writer = gevent.spawn(self._write)

    def flush(self, timeout: float) -> None:
        """Wait until all records are written, `timeout` seconds at most."""
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
            # What a handler of the application has raised costs one record.
            self._writer = gevent.spawn(self._write) if self._records else None

    def _report_dropped(self) -> None:
        if self._reported < self.dropped and len(self._records) < self.LIMIT / 2:
            dropped, self._reported = self.dropped - self._reported, self.dropped
            LOGGER.log(logging.WARNING, _DROPPED, dropped)


def all_dropped() -> int:
    """Return how many log records of this process were dropped, as they could not be written, or not in time."""
    return _dropped[0] + records_dropped()
