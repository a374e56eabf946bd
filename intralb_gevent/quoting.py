"""Text of others in log records: what an exception of the application says, and clients through it.

Decides how such a text looks, so that no line of it can be taken for a record. Its lines begin with a bar, as those of
Python's exception groups do: programs that join lines take them for the rest of the record, since they begin with a
space, and programs that read JSON do not take any for an object.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["escaped", "quoted"]

_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""What starts a line or an escape sequence where the log is read; a tab does not."""

_BAR: Final = "  | "


def escaped(text: str) -> str:
    """Return a text in one line, with its control characters written as Python writes them."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def quoted(text: str) -> str:
    """Return the lines of a text behind bars, as what follows the first line of a record."""
    return "\n".join(_BAR + escaped(line) for line in text.splitlines())
