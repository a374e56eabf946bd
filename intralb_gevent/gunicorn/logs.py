"""Writes this package's records to gunicorn's error log.

gunicorn's settings determine the files, the level and the format. There is one exception: a request's line in JSON or
the Combined Log Format is already complete, so gunicorn's formatter must not change this line.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from ..cli.logs import ServeLog
from ..config.sources import Settings
from ..hub.loghandlers import JOBS, LOGGER
from ..logformats import JSONFormatter
from ..process.logline import LogText

__all__ = ["configure_logging"]

_ONLY_REQUESTS: Final = (
    "log_format: 'json' applies to the lines of requests only; for all lines, name "
    "intralb_gevent.logformats.JSONFormatter in gunicorn's logconfig_dict (docs/guides/gunicorn.md)"
)


def configure_logging(log: Any, settings: Settings) -> None:
    """Give this package's loggers the handlers of gunicorn's error log, unless the application has configured them."""
    if LOGGER.handlers or JOBS.handlers:
        return
    errors = getattr(log, "error_log", None)
    if not isinstance(errors, logging.Logger) or not errors.handlers:
        own = ServeLog(settings.logs, settings.options.log_format)
        own.begin()
        own.settle()
        return
    LOGGER.disabled = JOBS.disabled = False
    for handler in errors.handlers:
        _keep_whole_lines(handler)
        LOGGER.addHandler(handler)
    LOGGER.setLevel(errors.level)
    LOGGER.propagate = False
    json = settings.options.log_format == "json"
    if json and not all(isinstance(_formatter(handler), JSONFormatter) for handler in errors.handlers):
        log.warning("%s", _ONLY_REQUESTS)


class _WholeLines(logging.Formatter):
    """Returns a request's complete line unchanged, and passes every other record to another formatter."""

    def __init__(self, others: logging.Formatter) -> None:
        super().__init__()
        self.others = others

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, LogText) and record.msg.kind:
            return str(record.msg)
        return self.others.format(record)


def _keep_whole_lines(handler: logging.Handler) -> None:
    # Leave other handlers unchanged: a syslog handler, for example, needs the prefix that its formatter adds.
    if isinstance(handler, logging.StreamHandler) and handler.formatter is not None:
        handler.setFormatter(_WholeLines(handler.formatter))


def _formatter(handler: logging.Handler) -> logging.Formatter | None:
    formatter = handler.formatter
    return formatter.others if isinstance(formatter, _WholeLines) else formatter
