"""Writes this package's log records without waiting for the files and pipes of the application's logging handlers.

A `StreamHandler` or `FileHandler` of `logging` blocks until it has written a record. This module adds a filter to each
`StreamHandler` and `FileHandler` that receives records of this package. The filter formats a record of this package as
the handler would, and passes the text to a non-blocking outlet. The handler's level, filters and formatter still apply.
The application's records, and other handlers, are not affected. If a handler raises an exception, it is reported on
standard error, and the code that logs continues.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from logging.handlers import WatchedFileHandler
from typing import Any, Final

from ..process.outlet import Outlet, outlet_of
from .logfailures import FAILURES

__all__ = ["JOBS", "LOGGER"]

LOGGER: Final = logging.getLogger("intralb_gevent")
JOBS: Final = logging.getLogger("intralb_gevent.jobs")

_WRITERS: Final = (logging.StreamHandler.emit, logging.FileHandler.emit, WatchedFileHandler.emit)
"""`emit` methods that only write the record; a handler with another `emit` may do more, so it gets no filter."""

_NO_STREAM: Final = object
"""Placeholder for a weak reference to a stream: a call of `object` returns a new object, which is never the stream."""


class _Prepare(logging.Filter):
    """A filter for this package's loggers that accepts all records, and adds `_Take` to the handlers receiving them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add a `_Take` filter to each handler that receives this record and has no such filter."""
        logger: logging.Logger | None = JOBS if record.name == JOBS.name else LOGGER
        while logger is not None:
            for handler in logger.handlers:
                if not (handler.filters and type(handler.filters[-1]) is _Take):
                    _prepare(handler)
            logger = logger.parent if logger.propagate else None
        return True


def _prepare(handler: logging.Handler) -> None:
    if isinstance(handler, logging.StreamHandler) and getattr(type(handler), "emit", None) in _WRITERS:
        # Add this filter last, because a filter after this one would not see the record.
        handler.filters[:] = [each for each in handler.filters if type(each) is not _Take]
        handler.addFilter(_Take(handler))


class _Take(logging.Filter):
    """A filter for one handler: it writes this package's records itself, so that the handler does not write them."""

    def __init__(self, handler: logging.StreamHandler[Any]) -> None:
        super().__init__()
        self._handler = handler
        self._stream: Callable[[], Any] = _NO_STREAM
        self._outlet: Outlet | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Write a record of this package, and return False; return True if the handler itself must write the record."""
        if record.name not in (LOGGER.name, JOBS.name):
            return True
        if isinstance(self._handler, WatchedFileHandler):
            self._reopen_if_moved()
        stream: Any = self._handler.stream
        if stream is None and isinstance(self._handler, logging.FileHandler):
            # Let the handler write this record.
            self._open_file()
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

    def _open_file(self) -> None:
        """Open the handler's file; the caller receives an error, which the handler of Python 3.14 would not raise."""
        handler: Any = self._handler
        handler.acquire()
        try:
            # A closed handler with the mode "w" does not open its file again, which would delete the contents.
            if handler.stream is None and (handler.mode != "w" or not handler._closed):
                handler.stream = handler._open()
        finally:
            handler.release()

    def _reopen_if_moved(self) -> None:
        handler: Any = self._handler
        handler.acquire()
        try:
            handler.reopenIfNeeded()
        finally:
            handler.release()


for _logger in (LOGGER, JOBS):
    _logger.addFilter(_Prepare())
    vars(_logger)["handle"] = FAILURES.guard(_logger.handle)
