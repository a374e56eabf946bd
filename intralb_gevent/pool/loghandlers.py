"""Keeps our log records from waiting for the files and pipes of the application's logging handlers.

A `StreamHandler` or `FileHandler` of `logging` waits until its descriptor has taken a record. For our records it is
given a filter, which formats them as the handler would, and has them written by an outlet. Its level, its own filters
and its formatter hold as ever. Records of the application, and handlers that write elsewhere, are left as they are.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from logging.handlers import WatchedFileHandler
from typing import Any, Final

from ..process.outlet import Outlet, outlet_of

__all__ = ["JOBS", "LOGGER"]

LOGGER: Final = logging.getLogger("intralb_gevent")
JOBS: Final = logging.getLogger("intralb_gevent.jobs")

_WRITERS: Final = (logging.StreamHandler.emit, logging.FileHandler.emit, WatchedFileHandler.emit)
"""What is replaced: a handler of another kind does more than to write."""

_NO_STREAM: Final = object
"""Returns what is no stream."""


class _Prepare(logging.Filter):
    """A filter of our loggers: it passes each record, and sees to the handlers that are about to get it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Give the handlers of this record their filter."""
        logger: logging.Logger | None = JOBS if record.name == JOBS.name else LOGGER
        while logger is not None:
            for handler in logger.handlers:
                if not (handler.filters and type(handler.filters[-1]) is _Take):
                    _prepare(handler)
            logger = logger.parent if logger.propagate else None
        return True


def _prepare(handler: logging.Handler) -> None:
    if isinstance(handler, logging.StreamHandler) and getattr(type(handler), "emit", None) in _WRITERS:
        # The last filter, as it takes the record.
        handler.filters[:] = [each for each in handler.filters if type(each) is not _Take]
        handler.addFilter(_Take(handler))


class _Take(logging.Filter):
    """A filter of one handler: it takes our records, so that the handler does not write them itself."""

    def __init__(self, handler: logging.StreamHandler[Any]) -> None:
        super().__init__()
        self._handler = handler
        self._stream: Callable[[], Any] = _NO_STREAM
        self._outlet: Outlet | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Write a record of ours; leave others, and other descriptors than a file's, to the handler."""
        if record.name not in (LOGGER.name, JOBS.name):
            return True
        if isinstance(self._handler, WatchedFileHandler):
            self._reopen_if_moved()
        stream = self._handler.stream
        if stream is None:
            # The handler opens its file for this record.
            return True
        if self._stream() is not stream:
            self._outlet = outlet_of(stream)
            self._stream = _NO_STREAM if self._outlet is None else weakref.ref(stream)
        if self._outlet is None:
            return True
        try:
            text = self._handler.format(record) + self._handler.terminator
            self._outlet.write(text.encode(stream.encoding, "backslashreplace"))
        except Exception:
            self._handler.handleError(record)
        return False

    def _reopen_if_moved(self) -> None:
        handler: Any = self._handler
        handler.acquire()
        try:
            handler.reopenIfNeeded()
        finally:
            handler.release()


for _logger in (LOGGER, JOBS):
    _logger.addFilter(_Prepare())
