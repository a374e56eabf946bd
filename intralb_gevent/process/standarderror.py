"""A standard error that never makes its writer wait, for a process that serves.

The command line puts it in the place of `sys.stderr` before the application is imported. So handlers of `logging`,
`print`, `warnings`, and what gevent writes of failed greenlets all go through one outlet, in their order.
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

__all__ = ["protect_standard_error"]

_LONGEST_PART: Final = 8192
"""Characters of a line that is kept until it is whole."""

_DESCRIPTOR: Final = 2
_rlock: Callable[[], Any] = get_original("_thread", "RLock")


def protect_standard_error() -> None:
    """Let nobody in this process wait for the reader of the standard error, or fail because there is none."""
    _open_if_closed()
    if not isinstance(sys.stderr, _StandardError):
        sys.stderr = _StandardError(sys.stderr)


def _open_if_closed() -> None:
    """Occupy the standard descriptors: a socket that gets the number 2 would receive what C code writes there."""
    for descriptor in (0, 1, _DESCRIPTOR):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)


class _StandardError(io.TextIOBase):
    """A text file whose lines are written whole, as soon as they are complete or flushed."""

    def __init__(self, earlier: Any) -> None:
        self._encoding: str = getattr(earlier, "encoding", None) or "utf-8"
        self.intralb_outlet = Outlet(_DESCRIPTOR)
        self._part = ""
        self._lock = _rlock()
        self.buffer = _Bytes(self.intralb_outlet)
        with contextlib.suppress(Exception):
            earlier.flush()
        os.register_at_fork(after_in_child=self._forget)

    def __repr__(self) -> str:
        return f"<the standard error, through {self.intralb_outlet}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the text."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What becomes of characters that it cannot encode."""
        return "backslashreplace"

    @property
    def line_buffering(self) -> bool:
        """Whether lines are written as soon as they are complete."""
        return True

    def write(self, text: str) -> int:
        """Write text, or keep it until its line is complete. Never waits."""
        with self._lock:
            whole, newline, part = (self._part + text).rpartition("\n")
            if len(part) > _LONGEST_PART:
                whole, newline, part = whole + newline + part, "", ""
            self._part = part
            self._send(whole + newline)
        return len(text)

    def flush(self) -> None:
        """Write the line that is not complete."""
        with self._lock:
            part, self._part = self._part, ""
            self._send(part)

    def _send(self, text: str) -> None:
        if text:
            self.intralb_outlet.write(text.encode(self._encoding, self.errors))

    def reconfigure(self, *, encoding: str | None = None, **others: object) -> None:
        """Change the encoding; errors and buffering stay what they are."""
        self._encoding = encoding or self._encoding

    def close(self) -> None:
        """Stay open: what is written at the end of the process still has to go somewhere."""
        self.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return _DESCRIPTOR

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(_DESCRIPTOR)

    def _forget(self) -> None:
        self._lock, self._part = _rlock(), ""


class _Bytes(io.RawIOBase):
    """The same as a file of bytes."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def write(self, data: Any) -> int:
        """Write bytes. Never waits."""
        self._outlet.write(bytes(data))
        return len(data)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return _DESCRIPTOR
