"""Quote text of the application in log records, because an exception's message may contain text from a client.

No line of quoted text can be mistaken for a log record. Each quoted line begins with spaces and a bar, as in Python's
exception groups. Because of the leading spaces, log collectors that join continuation lines append a quoted line to the
preceding record. Because of the bar, collectors that read JSON do not parse a quoted line as an object.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["escaped", "quoted"]

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""Matches characters that start a line or an escape sequence in a log viewer; tabs are harmless, and not matched."""

_BAR: Final = "  | "


def escaped(text: str) -> str:
    """Return a text as one line, with control characters escaped as in a Python literal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def quoted(text: str) -> str:
    """Return a text with a bar before each line, to be appended after the first line of a record."""
    return "\n".join(_BAR + escaped(line) for line in text.splitlines())
