"""Formatters for `logging` that write log lines as `serve` does, to be used in a `--log-config` file or in a program.

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
    """Formats a record as text, with the ISO time and its zone, the level, the process id, and the message.

    A request's line that is already in the Combined Log Format or JSON is returned unchanged.
    """

    def __init__(self, *unused: object, **others: object) -> None:
        """Create the formatter; it ignores the arguments that `logging.config.fileConfig` passes."""
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, including its traceback and stack."""
        if isinstance(record.msg, LogText) and record.msg.kind:
            return str(record.msg)
        text = record.getMessage()
        if record.exc_info or record.exc_text or record.stack_info:
            text = _with_trace(self, record, text)
        return text_line(record.created, record.levelname, text, record.process)


class JSONFormatter(TextFormatter):
    """Formats a record as a JSON object on one line; non-ASCII characters are not escaped."""

    def __init__(self, *unused: object, ascii: bool = False, **others: object) -> None:
        """Create the formatter; `ascii=True` escapes non-ASCII characters, for a log file that is not in UTF-8."""
        super().__init__()
        self._ascii = ascii

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
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
    """Return the JSON fields of a record of this package; return no fields for any other record."""
    known = record.msg.fields if isinstance(record.msg, LogText) else getattr(record, "intralb_fields", None)
    return known or {}


def _with_trace(formatter: logging.Formatter, record: logging.LogRecord, text: str) -> str:
    """Return a message, followed by the record's traceback and stack."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return "\n".join(filter(None, (text, record.exc_text, record.stack_info)))
