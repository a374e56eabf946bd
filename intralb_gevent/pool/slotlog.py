"""Log records of an application's exceptions, written by the greenlet in which it has failed.

Nothing that happens meanwhile gets further: a logging handler may wait, and an application may have left a
`gevent.Timeout` that is due then, or a greenlet that kills the one it was started from.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Final

import gevent

from ..naming import type_name
from .errortext import error_text
from .forks import when_isolated
from .hublog import HubLog
from .loghandlers import LOGGER
from .repeats import Repeats

__all__ = ["FAILURES", "ONCE", "tell"]

TELL_SECONDS = 5.0
"""How long the logging handlers may take before the record is given up."""

SAME_SECONDS: Final = 60.0
"""How long equal failures count together."""

MOST: Final = 5
"""Tracebacks of equal failures that are written in this time; the others are counted."""

ONCE: Final = 1
"""The same for what fails for every request, such as the opening of a session during an outage."""

_MOST_FRAMES: Final = 1000

FAILURES: Final = Repeats(HubLog(LOGGER.log), SAME_SECONDS)
"""The failures of this process."""

when_isolated(FAILURES.forget)

_INCOMPLETE = "%s was raised while a record was written, which may be incomplete"


def tell(text: str, *args: object, exc_info: BaseException, most: int = MOST) -> None:
    """Log an error of the application's, with its traceback, or count it as one more of its kind.

    Raises nothing. `args` must not be the application's.
    """
    try:
        if LOGGER.isEnabledFor(logging.ERROR) and _is_new(text, args, exc_info, most):
            record = _record(text, args, exc_info)
            with gevent.Timeout(TELL_SECONDS):
                LOGGER.handle(record)
    except BaseException as error:
        # Of another greenlet, as this one may be disturbed again.
        gevent.spawn(LOGGER.warning, _INCOMPLETE, type_name(error))


def _is_new(text: str, args: tuple[object, ...], error: BaseException, most: int) -> bool:
    return FAILURES.admits((text, type_name(error), _raised_at(error)), most, logging.ERROR, lambda: text % args)


def _raised_at(error: BaseException) -> Hashable:
    """Return the place at which an exception was raised."""
    trace = error.__traceback__
    for _ in range(_MOST_FRAMES):
        if trace is None or trace.tb_next is None:
            break
        trace = trace.tb_next
    return trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _record(text: str, args: tuple[object, ...], error: BaseException) -> logging.LogRecord:
    """Return a record with the traceback as text, so that formatters need not call the exception's code again."""
    told = error_text(error)
    exc_info = (type(error), error, error.__traceback__) if told.harmless else None
    record = LOGGER.makeRecord(LOGGER.name, logging.ERROR, __file__, 0, text, args, exc_info)
    record.exc_text = told.text
    return record
