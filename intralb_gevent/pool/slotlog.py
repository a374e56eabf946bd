"""Log records of an application's exceptions, written by the greenlet in which it has failed.

Nothing that happens meanwhile gets further: a logging handler may wait, and an application may have left a
`gevent.Timeout` that is due then, or a greenlet that kills the one it was started from.
"""

from __future__ import annotations

import logging

import gevent

from ..naming import type_name
from ..quoting import quoted
from .errortext import error_text

__all__ = ["tell"]

logger = logging.getLogger("intralb_gevent")

TELL_SECONDS = 5.0
"""How long the logging handlers may take before the record is given up."""

_INCOMPLETE = "%s was raised while a record was written, which may be incomplete"


def tell(text: str, *args: object, exc_info: BaseException) -> None:
    """Log an error of the application's, with its traceback. Raises nothing. `args` must not be the application's."""
    try:
        if logger.isEnabledFor(logging.ERROR):
            record = _record(text, args, exc_info)
            with gevent.Timeout(TELL_SECONDS):
                logger.handle(record)
    except BaseException as error:
        # Of another greenlet, as this one may be disturbed again.
        gevent.spawn(logger.warning, _INCOMPLETE, type_name(error))


def _record(text: str, args: tuple[object, ...], error: BaseException) -> logging.LogRecord:
    """Return a record with the traceback as text, so that formatters need not call the exception's code again."""
    told = error_text(error)
    exc_info = (type(error), error, error.__traceback__) if told.harmless else None
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, text, args, exc_info)
    record.exc_text = quoted(told.text)
    return record
