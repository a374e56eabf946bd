"""Configure the log of a serving process.

Without `log_config`, only this package's loggers are configured, and not the application's loggers. The loggers are
configured before the application is imported, so that warnings and errors during the import also have the configured
format and destination. If the application itself configures this package's loggers, its configuration applies instead.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from ..config.logs import LogOptions
from ..errors import OptionError
from ..hub.log import STUCK_SECONDS, HubLog, all_dropped
from ..hub.loghandlers import JOBS, LOGGER
from ..logformats import JSONFormatter, TextFormatter
from ..process.logline import LINES
from .logconfig import configure_by_file, file_handler

__all__ = ["ServeLog"]

_LOGGERS = (LOGGER, JOBS)
_LOG = HubLog(LOGGER.log)


class ServeLog:
    """The configuration of one process's log."""

    def __init__(self, options: LogOptions, log_format: str) -> None:
        self._options = options
        self._format = log_format
        self._handlers: dict[logging.Logger, logging.Handler] = {}
        self._level = getattr(logging, options.log_level.upper())

    def __repr__(self) -> str:
        return f"<ServeLog {self._format}, {self._options}>"

    def begin(self, owner: tuple[int, int] = (-1, -1)) -> None:
        """Configure the loggers; raises `OptionError` if a file cannot be used.

        `owner` is the user id and group id of the log file, as for `os.chown`.
        """
        LINES.json = self._format == "json"
        LINES.ascii = not _is_utf8(sys.stderr)
        path, config = self._options.log_file, self._options.log_config
        if path is not None and config is not None:
            raise OptionError(
                f"log_file: {path!r} is not allowed beside log_config, which names the files; leave one out"
            )
        if config is not None:
            configure_by_file(config)
        else:
            self._choose_handlers()
            self._install()
            for handler in self._handlers.values():
                if isinstance(handler, logging.FileHandler) and owner != (-1, -1):
                    os.chown(handler.baseFilename, *owner)
        LINES.write = _write

    def settle(self) -> None:
        """After the import of the application, remove our handlers if the application has configured the loggers."""
        # An application's dictConfig() disables all existing loggers by default, so enable this package's loggers
        # again.
        LOGGER.disabled = JOBS.disabled = False
        if self._options.log_config is not None:
            return
        if any(handler not in self._handlers.values() for logger in _LOGGERS for handler in logger.handlers):
            self._remove()
        else:
            self._install()

    def _choose_handlers(self) -> None:
        path = self._options.log_file
        if path is None:
            self._handlers = {LOGGER: self._formatted(logging.StreamHandler())}
        elif self._format == "combined":
            # Write only requests to the file, because programs that parse the Combined Log Format expect only requests.
            stderr = logging.StreamHandler()
            self._handlers = {LOGGER: self._formatted(stderr), JOBS: self._formatted(file_handler(path))}
        else:
            self._handlers = {LOGGER: self._formatted(file_handler(path))}

    def _formatted(self, handler: logging.Handler) -> logging.Handler:
        escapes = LINES.ascii and not isinstance(handler, logging.FileHandler)
        handler.setFormatter(JSONFormatter(ascii=escapes) if self._format == "json" else TextFormatter())
        return handler

    def _install(self) -> None:
        for logger, handler in self._handlers.items():
            logger.addHandler(handler)
            # Do not propagate records, because the application's own handlers would write every line a second time.
            logger.propagate = False
        LOGGER.setLevel(self._level)

    def _remove(self) -> None:
        for logger, handler in self._handlers.items():
            if handler in logger.handlers:
                logger.removeHandler(handler)
                logger.propagate = True
        if LOGGER.level == self._level:
            LOGGER.setLevel(logging.NOTSET)


def _write(level: str, text: str) -> None:
    """Log a text, and wait until it is written; a handler that is stuck must not delay the start, so do not wait for
    it."""
    LOGGER.disabled = False
    lost = all_dropped()
    _LOG.record(getattr(logging, level), lambda: text)
    _LOG.flush(STUCK_SECONDS)
    if level == "ERROR" and all_dropped() > lost:
        # The disk of the log file may be full; the error, which ends the start, must be shown nevertheless.
        print(LINES.line(level, text), file=sys.stderr, flush=True)


def _is_utf8(stream: Any) -> bool:
    return str(getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
