"""The lines of a log, as text or as JSON: the time with its zone, the level, the process id, and the message.

This module uses neither `logging` nor gevent. Therefore, the supervisor can write lines in the same format as the
handlers of `logging`. Lines can also be written while the event loop is blocked or the process exits.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from time import localtime, strftime, time
from typing import Any, Final, Literal

__all__ = ["LINES", "Lines", "LogText", "complain", "iso_time", "json_line", "text_line"]

Kind = Literal["", "json", "combined"]
Fields = Mapping[str, Any] | Callable[[], Mapping[str, Any]]

_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Matches characters that JSON allows unescaped, but that end a line, control a terminal, or cannot be encoded."""

_PREFIX: Final = "intralb-gevent: error: "

_second: tuple[int, str, str] = (-1, "", "")
"""The last second that was formatted (Unix time), its text, and the text of its time zone."""


class LogText(str):
    """The text of a log record, with the fields that a JSON line of this record contains."""

    __slots__ = ("_fields", "kind")

    _fields: Fields
    kind: Kind
    """Name of the format if the text is a complete line of that format, and needs no prefix such as the time; '' for a
    plain message."""

    def __new__(cls, text: str, fields: Fields, kind: Kind = "") -> LogText:
        """Create the text of a record; `fields` can be a function, which is called only if a format needs the
        fields."""
        made = super().__new__(cls, text)
        made._fields, made.kind = fields, kind
        return made

    @property
    def fields(self) -> Mapping[str, Any]:
        """Names and values of the fields that a JSON line of this record contains. A field `message` replaces the text
        in the line."""
        return self._fields() if callable(self._fields) else self._fields


def iso_time(now: float) -> str:
    """Return a Unix time in seconds as local time with milliseconds and zone (ISO 8601)."""
    global _second
    second = int(now)
    known, text, zone = _second
    if known != second:
        local = localtime(second)
        zone = strftime("%z", local)
        text, zone = strftime("%Y-%m-%dT%H:%M:%S", local), f"{zone[:3]}:{zone[3:5]}"
        _second = (second, text, zone)
    return f"{text}.{int((now - second) * 1000):03}{zone}"


def text_line(now: float, level: str, message: str, pid: int | None = None) -> str:
    """Return a log line as text, without a line end; a message of several lines results in several lines."""
    return f"{iso_time(now)} {level} {pid or os.getpid()} {message}"


def json_line(
    now: float,
    level: str,
    logger: str,
    message: str,
    fields: Mapping[str, Any],
    ascii: bool = False,
    pid: int | None = None,
) -> str:
    """Return a log line as a JSON object, without a line end; `pid` is by default the id of this process."""
    known = {"time": iso_time(now), "level": level, "pid": pid or os.getpid(), "logger": logger, "message": message}
    text = json.dumps({**known, **fields}, ensure_ascii=ascii, default=str)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class Lines:
    """The format of the lines that this process writes without `logging`."""

    def __init__(self) -> None:
        self.json = False
        """True if each line is a JSON object."""
        self.ascii = False
        """True if JSON must escape characters beyond ASCII, because the encoding of standard error is not UTF-8."""
        self.write: Callable[[str, str], object] | None = None
        """Function that logs a text with a level, such as "ERROR"; None until the program has configured its log."""

    def __repr__(self) -> str:
        return f"<Lines of {'JSON' if self.json else 'text'}>"

    def line(self, level: str, message: str, fields: Mapping[str, Any] | None = None) -> str:
        """Return a log line in this format, without a line end."""
        if self.json:
            return json_line(time(), level, "intralb_gevent", message, fields or {}, self.ascii)
        return text_line(time(), level, message)


LINES: Final = Lines()
"""The format of this process's log lines."""


def complain(text: str) -> None:
    """Report an error that ends the program: in the log, or on standard error if the log is not configured yet.

    A message on standard error begins with the program's name; the log omits this prefix.
    """
    if LINES.write is not None:
        LINES.write("ERROR", text.removeprefix(_PREFIX))
    else:
        print(text, file=sys.stderr, flush=True)
