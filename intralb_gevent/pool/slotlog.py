"""Logs exceptions that an application raises, in the greenlet in which the application failed.

While a logging handler waits, a `gevent.Timeout` that the application has left behind may expire, or a greenlet of the
application may kill the current greenlet. Therefore, `tell` catches all exceptions.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any, Final

import gevent

from ..hub.forks import when_isolated
from ..hub.log import HubLog, handlers_are_stuck
from ..hub.loghandlers import LOGGER
from ..hub.repeats import Repeats
from ..naming import type_name
from ..quoting import quoted
from .errortext import error_text

__all__ = ["FAILURES", "ONCE", "tell"]

TELL_SECONDS = 5.0
"""Seconds after which a call to the logging handlers is interrupted."""

SAME_SECONDS: Final = 60.0
"""Seconds for which failures of the same kind are counted together."""

MOST: Final = 5
"""Number of tracebacks logged in `SAME_SECONDS` for failures of the same kind; further failures are only counted."""

ONCE: Final = 1
"""Value of `most` for failures that affect every request, such as failures to open a session during an outage."""

_MOST_FRAMES: Final = 1000

_LOG: Final = HubLog(LOGGER.log)
FAILURES: Final = Repeats(_LOG, SAME_SECONDS)
"""Counts of the repeated failures in this process."""

when_isolated(FAILURES.forget)

_INCOMPLETE = "%s was raised while a log record was written; the record may be incomplete"


def tell(
    text: str,
    *args: object,
    exc_info: BaseException,
    most: int = MOST,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Log an exception of the application with its traceback; after `most` exceptions of one kind, only count them.

    Raises nothing. `args` must not contain the application's objects. `fields` are added if the line is logged as JSON.
    """
    try:
        if LOGGER.isEnabledFor(logging.ERROR) and _is_new(text, args, exc_info, most):
            _handle(_record(text, args, exc_info, fields or {}))
    except BaseException as error:
        # Log from another greenlet, because the current greenlet may be interrupted again.
        name = type_name(error)
        _LOG.record(logging.WARNING, lambda: _INCOMPLETE % name)


def _handle(record: logging.LogRecord) -> None:
    """Pass a record to the handlers; if they are stuck, queue its text instead, so that the request can end."""
    if handlers_are_stuck():
        _LOG.record(record.levelno, lambda: f"{record.getMessage()}\n{record.exc_text}")
        return
    with gevent.Timeout(TELL_SECONDS):
        LOGGER.handle(record)


def _is_new(text: str, args: tuple[object, ...], error: BaseException, most: int) -> bool:
    return FAILURES.admits((text, type_name(error), _raised_at(error)), most, logging.ERROR, lambda: text % args)


def _raised_at(error: BaseException) -> Hashable:
    """Return the file and line at which an exception was raised."""
    trace = error.__traceback__
    for _ in range(_MOST_FRAMES):
        if trace is None or trace.tb_next is None:
            break
        trace = trace.tb_next
    return trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _record(text: str, args: tuple[object, ...], error: BaseException, fields: Mapping[str, Any]) -> logging.LogRecord:
    """Return a record with the formatted traceback, so that formatters do not call the exception's code again."""
    described = error_text(error)
    exc_info = (type(error), error, error.__traceback__) if described.harmless else None
    record = LOGGER.makeRecord(LOGGER.name, logging.ERROR, __file__, 0, text, args, exc_info)
    record.exc_text = quoted(described.text)
    record.intralb_fields = {**fields, "traceback": described.text}
    return record
