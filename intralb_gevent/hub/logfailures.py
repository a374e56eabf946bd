"""Keeps an exception of a logging handler from the code that logs, and reports it on standard error.

Handlers should catch their own errors (`logging.Handler.handleError`), but some raise them: a `FileHandler` whose
directory has been removed, or a handler whose server does not answer. Such an error must neither end the server nor
fail a request.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from time import monotonic
from typing import Final

from ..process.logline import LINES
from ..process.outlet import outlet_of

__all__ = ["FAILURES", "LogFailures"]

REPORT_SECONDS: Final = 60.0
"""Minimum seconds between two reports."""


class LogFailures:
    """The number of records that logging handlers could not write, and their reports."""

    def __init__(self) -> None:
        self.count = 0
        self._due = 0.0

    def __repr__(self) -> str:
        return f"<LogFailures {self.count}>"

    def guard(self, handle: Callable[[logging.LogRecord], None]) -> Callable[[logging.LogRecord], None]:
        """Return a logger's `handle` that reports an exception of a handler or filter, and does not raise it."""

        def guarded(record: logging.LogRecord) -> None:
            try:
                handle(record)
            except Exception as error:
                self.report(error)

        return guarded

    def report_lost(self, count: int, cause: str) -> None:
        """Report records that a handler has not written by the exit of the process."""
        self.count += count
        self._due = 0.0
        self._say(lambda: cause)

    def report(self, error: BaseException) -> None:
        """Count a record that a handler has not written because of an exception, and report the exception."""
        self.count += 1
        self._say(lambda: _described(error))

    def _say(self, cause: Callable[[], str]) -> None:
        now = monotonic()
        if not logging.raiseExceptions or now < self._due:
            return
        self._due = now + REPORT_SECONDS
        with contextlib.suppress(Exception):
            _write(f"a logging handler failed, so {self.count} log records were lost in all: {cause()}")


def _described(error: BaseException) -> str:
    """Return the error's type and text, and the line of code that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join("".join(traceback.format_exception_only(error)).split())[:300]
    return f"{text} ({frame.filename}, line {frame.lineno})"


def _write(text: str) -> None:
    line, outlet = f"{LINES.line('ERROR', text)}\n", outlet_of(sys.stderr)
    if outlet is not None:
        outlet.write(line.encode("utf-8", "backslashreplace"))
    elif sys.stderr is not None:
        sys.stderr.write(line)


FAILURES: Final = LogFailures()
