"""The supervisor's log, which has the format of the processes' log, and is written without blocking.

If the reader of the log has stopped, a supervisor that waited for the reader would neither replace a process nor exit.
Therefore, lines that cannot be written immediately are dropped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import stat
from time import time
from typing import Final

from ..process.logline import LINES

__all__ = ["Log", "open_standard_descriptors"]

_ERROR: Final = 2
_LINE_BYTES: Final = 4096
"""Maximum size of a text line in bytes: a pipe accepts a line of this size as a whole or not at all (PIPE_BUF)."""


_MOST_TRACEBACK: Final = 64 * 1024
"""Maximum characters of a traceback that are passed to a writer, so that the socket accepts the line as a whole."""


class Log:
    """Writes log lines to a file, or to stderr if `path` is None. `level` is the lowest level to write.

    With `writer`, lines are passed to the program `cli/logwriter.py`; if this program has ended, lines go to stderr.
    """

    def __init__(self, path: str | None = None, level: str = "INFO", writer: socket.socket | None = None) -> None:
        self.path = path
        self.writer = writer
        self.level = level
        self._descriptor = _ERROR if path is not None else _nonblocking(_ERROR)
        self.reopen()

    def __repr__(self) -> str:
        return f"<Log to {self.path or f'descriptor {self._descriptor}'}>"

    def say(self, text: str, level: str = "INFO", traceback: str = "") -> None:
        """Write one line. A JSON line contains the traceback as a field; without JSON, the traceback is written before
        the line."""
        message = " ".join(text.split())
        if self._pass_on({"text": message, "level": level, "traceback": traceback[-_MOST_TRACEBACK:]}):
            return
        if getattr(logging, level) < getattr(logging, self.level):
            return
        if LINES.json:
            self._write(LINES.line(level, message, {"traceback": traceback} if traceback else None))
            return
        for line in traceback.splitlines():
            self._write(line)
        self._write(LINES.line(level, message))

    def reopen(self) -> None:
        """Open the file again, because it may have been rotated; if opening fails, continue with the old file."""
        self._pass_on({"reopen": True})
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if self._descriptor != _ERROR:
                os.close(self._descriptor)
            self._descriptor = opened

    def _pass_on(self, message: dict[str, object]) -> bool:
        """Pass a message to the writer, or drop the message if the socket is full; return False without a writer."""
        if self.writer is None:
            return False
        data = json.dumps({**message, "time": time(), "pid": os.getpid()}).encode()
        try:
            self.writer.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return True
        except OSError:
            self.writer = None
            return False
        return True

    def _write(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        # A JSON line must stay whole, so only text is shortened.
        data = (data if LINES.json else data[: _LINE_BYTES - 1]) + b"\n"
        poll = select.poll()
        with contextlib.suppress(OSError):
            poll.register(self._descriptor, select.POLLOUT)
            if poll.poll(0):
                os.write(self._descriptor, data)


def _nonblocking(descriptor: int) -> int:
    """Return a new, non-blocking descriptor for a pipe; `descriptor`, which other processes share, stays blocking."""
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return descriptor


def open_standard_descriptors() -> None:
    """Open standard descriptors that are closed; otherwise, a listener could get number 2, and so receive output."""
    for descriptor in range(_ERROR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            # The new descriptor gets the lowest free number, which is the number of the closed descriptor.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
