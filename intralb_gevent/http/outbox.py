"""What a connection has still to send, in the order in which it was said.

Decides where it is kept: in memory while the server's connections together keep little there, in a temporary file
beyond. So clients that do not read hold no slot, and many of them hold little memory. It must not know when a socket
can be written to.
"""

from __future__ import annotations

import _socket
import os
from collections import deque
from io import FileIO
from typing import Any, Final

from .spill import temporary_file, write_all

__all__ = ["Outbox", "OutputBudget"]

TURN_BYTES: Final = 4 * 1024 * 1024
"""Sent to one client before others have their turn."""

READ_BYTES: Final = 256 * 1024
"""Read from a file at a time where the system cannot send it by itself (TLS)."""


class OutputBudget:
    """How much all connections of a server keep unsent, in memory and in files."""

    __slots__ = ("in_files", "in_memory", "memory_limit")

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.in_memory = 0
        self.in_files = 0

    def __repr__(self) -> str:
        return f"<OutputBudget {self.in_memory} of {self.memory_limit} bytes in memory, {self.in_files} in files>"


class _FilePart:
    """A stretch of an open file; `own` says that the descriptor is ours alone to close."""

    __slots__ = ("count", "descriptor", "offset", "own")

    def __init__(self, descriptor: int, offset: int, count: int, *, own: bool) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.count = count
        self.own = own


class Outbox:
    """A queue of bytes and stretches of files; `size` is how many bytes are in it."""

    __slots__ = ("_budget", "_parts", "_spill", "_spill_end", "_spill_left", "size")

    def __init__(self, budget: OutputBudget) -> None:
        self._budget = budget
        self._parts: deque[memoryview | _FilePart] = deque()
        self._spill: FileIO | None = None
        self._spill_end = 0
        self._spill_left = 0
        self.size = 0

    def __repr__(self) -> str:
        return f"<Outbox {self.size} bytes in {len(self._parts)} parts>"

    def add(self, data: memoryview) -> None:
        """Keep bytes, in memory if the budget allows; raises OSError when the temporary file cannot take them."""
        self.size += len(data)
        if self._budget.in_memory + len(data) <= self._budget.memory_limit:
            self._budget.in_memory += len(data)
            self._parts.append(data)
        else:
            self._keep_in_file(data)

    def _keep_in_file(self, data: memoryview) -> None:
        if self._spill is None:
            self._spill = temporary_file()
            self._spill_end = 0
        write_all(self._spill, data)
        self._budget.in_files += len(data)
        last = self._parts[-1] if self._parts else None
        descriptor = self._spill.fileno()
        if isinstance(last, _FilePart) and last.descriptor == descriptor:
            last.count += len(data)
        else:
            self._parts.append(_FilePart(descriptor, self._spill_end, len(data), own=False))
        self._spill_end += len(data)
        self._spill_left += len(data)

    def add_file(self, descriptor: int, offset: int, count: int) -> None:
        """Keep a stretch of an open file; the descriptor is closed when it is sent."""
        self.size += count
        self._parts.append(_FilePart(descriptor, offset, count, own=True))

    def send_to(self, sock: Any) -> None:
        """Send as much as the socket takes now, `TURN_BYTES` at most.

        Raises BlockingIOError at the socket's limit, another OSError when it is broken.
        """
        enough = self.size - TURN_BYTES
        while self._parts and self.size > enough:
            part = self._parts[0]
            if isinstance(part, _FilePart):
                self._send_file(sock, part)
            else:
                sent = sock.send(part)
                self.size -= sent
                self._budget.in_memory -= sent
                if sent == len(part):
                    self._parts.popleft()
                else:
                    self._parts[0] = part[sent:]

    def _send_file(self, sock: Any, part: _FilePart) -> None:
        if isinstance(sock, _socket.socket):
            sent = os.sendfile(sock.fileno(), part.descriptor, part.offset, min(part.count, TURN_BYTES))
        else:
            sent = sock.send(os.pread(part.descriptor, min(part.count, READ_BYTES), part.offset))
        if not sent:
            raise OSError("a file became shorter while it was sent")
        part.offset += sent
        part.count -= sent
        self.size -= sent
        if not part.own:
            self._forget_spilled(sent)
        if not part.count:
            self._parts.popleft()
            if part.own:
                os.close(part.descriptor)

    def _forget_spilled(self, count: int) -> None:
        self._budget.in_files -= count
        self._spill_left -= count
        if self._spill is not None and not self._spill_left:
            self._spill.close()
            self._spill = None

    def clear(self) -> None:
        """Forget everything unsent."""
        for part in self._parts:
            if not isinstance(part, _FilePart):
                self._budget.in_memory -= len(part)
            elif part.own:
                os.close(part.descriptor)
        self._parts.clear()
        self._forget_spilled(self._spill_left)
        self.size = 0
