"""Formatters of `logging` for the lines that `serve` writes, for use in a file of `--log-config` or in a program.

`TextFormatter` writes text, and `JSONFormatter` one JSON object for each record. Both formatters can format the records
of any logger.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from .process.logline import LogText, json_line, text_line

__all__ = ["JSONFormatter", "TextFormatter"]


class TextFormatter(logging.Formatter):
    """Formats a record as text: ISO time with zone, level, process id, message.

    A request in the Combined Log Format, or in JSON, stays as it is.
    """

    def __init__(self, *unused: object, **others: object) -> None:
        """Create the formatter; it ignores the arguments that `logging.config.fileConfig` passes."""
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        if isinstance(record.msg, LogText) and record.msg.kind:
            return str(record.msg)
        text = record.getMessage()
        if record.exc_info or record.exc_text or record.stack_info:
            text = _with_trace(self, record, text)
        return text_line(record.created, record.levelname, text, record.process)


class JSONFormatter(TextFormatter):
    """Formats a record as one JSON object in one line; characters beyond ASCII are written as they are (UTF-8)."""

    def __init__(self, *unused: object, ascii: bool = False, **others: object) -> None:
        """Create the formatter; `ascii` escapes characters beyond ASCII, for a file with another encoding."""
        super().__init__()
        self._ascii = ascii

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        message: Any = record.msg
        if isinstance(message, LogText) and message.kind == "json":
            return str(message)
        fields = dict(_fields(record))
        text = fields.pop("message", None) or record.getMessage()
        if record.exc_info and "traceback" not in fields:
            fields["traceback"] = record.exc_text or self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        return json_line(record.created, record.levelname, record.name, text, fields, self._ascii, record.process)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the fields of one of this package's records; other records have none."""
    known = record.msg.fields if isinstance(record.msg, LogText) else getattr(record, "intralb_fields", None)
    return known or {}


def _with_trace(formatter: logging.Formatter, record: logging.LogRecord, text: str) -> str:
    """Return a message, followed by the record's traceback and stack."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return "\n".join(filter(None, (text, record.exc_text, record.stack_info)))
