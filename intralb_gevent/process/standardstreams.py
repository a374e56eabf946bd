"""Replacements for standard output and standard error in a serving process; writing to them never blocks.

The command line replaces `sys.stdout` and `sys.stderr` with these streams before the application is imported. `print`,
`warnings`, handlers of `logging`, and gevent's reports of failed greenlets all write to these streams. Each stream has
one outlet, so its output stays in order.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from gevent.monkey import get_original

from .outlet import Outlet

__all__ = ["protect_standard_streams"]

_LONGEST_PART: Final = 8192
"""Maximum length, in characters, of an incomplete line that is kept; a longer line is written before it is complete."""

_OUTPUT: Final = 1
_ERROR: Final = 2
_rlock: Callable[[], Any] = get_original("_thread", "RLock")


def protect_standard_streams() -> None:
    """Ensure that writing to a standard stream neither blocks the process nor fails because the stream is closed."""
    _open_if_closed()
    if not isinstance(sys.stdout, _StandardStream):
        sys.stdout = _StandardStream(_OUTPUT, sys.stdout)
    if not isinstance(sys.stderr, _StandardStream):
        sys.stderr = _StandardStream(_ERROR, sys.stderr)


def _open_if_closed() -> None:
    """Open closed standard descriptors; otherwise, a socket could get descriptor 2, and receive error messages of C
    code."""
    for descriptor in (0, _OUTPUT, _ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


class _StandardStream(io.TextIOBase):
    """A text file that writes each line as soon as the line is complete or flushed."""

    def __init__(self, descriptor: int, earlier: Any) -> None:
        self._descriptor = descriptor
        self._encoding: str = getattr(earlier, "encoding", None) or "utf-8"
        self.intralb_outlet = Outlet(descriptor)
        self._part = ""
        self._lock = _rlock()
        self.buffer = _Bytes(descriptor, self.intralb_outlet)
        with contextlib.suppress(Exception):
            earlier.flush()
        os.register_at_fork(after_in_child=self._forget)

    def __repr__(self) -> str:
        name = "output" if self._descriptor == _OUTPUT else "error"
        return f"<the standard {name}, through {self.intralb_outlet}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the text."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """The error handler for characters that cannot be encoded."""
        return "backslashreplace"

    @property
    def line_buffering(self) -> bool:
        """Always True, because lines are written as soon as they are complete."""
        return True

    def write(self, text: str) -> int:
        """Write the complete lines of the text, and keep an incomplete last line until it is complete; never waits."""
        with self._lock:
            whole, newline, part = (self._part + text).rpartition("\n")
            if len(part) > _LONGEST_PART:
                whole, newline, part = whole + newline + part, "", ""
            self._part = part
            self._send(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Write the incomplete line."""
        with self._lock:
            part, self._part = self._part, ""
            self._send(part)

    def _send(self, text: str) -> None:
        if text:
            self.intralb_outlet.write(text.encode(self._encoding, self.errors))

    def reconfigure(self, *, encoding: str | None = None, **others: object) -> None:
        """Change the encoding; the error handler and the buffering do not change."""
        self._encoding = encoding or self._encoding

    def close(self) -> None:
        """Flush, but stay open, because text can be written until the process ends."""
        self.flush()

    def writable(self) -> bool:
        """Return True, because a standard stream is always writable."""
        return True

    def fileno(self) -> int:
        """Return the descriptor to which this file writes."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor refers to a terminal."""
        return os.isatty(self._descriptor)

    def _forget(self) -> None:
        self._lock, self._part = _rlock(), ""


class _Bytes(io.RawIOBase):
    """The binary file that the attribute `buffer` of a standard stream returns."""

    def __init__(self, descriptor: int, outlet: Outlet) -> None:
        self._descriptor, self._outlet = descriptor, outlet

    def write(self, data: Any) -> int:
        """Write bytes; never waits."""
        self._outlet.write(bytes(data))
        return len(data)

    def writable(self) -> bool:
        """Return True, because a standard stream is always writable."""
        return True

    def fileno(self) -> int:
        """Return the descriptor to which this file writes."""
        return self._descriptor
