"""What a connection has still to send, in the order in which it was said.

Decides where it is kept: in memory while the server's connections together keep little there, in a temporary file
beyond. So clients that do not read hold no slot, and many of them hold little memory. It must not know when a socket
can be written to.
"""

from __future__ import annotations

import _socket
import os
from collections import deque
from typing import Any, Final

from .limits import SPILL_FILE_BYTES
from .spill import temporary_file, write_all

__all__ = ["Outbox", "OutputBudget"]

TURN_BYTES: Final = 4 * 1024 * 1024
"""Sent to one client before others have their turn."""

READ_BYTES: Final = 256 * 1024
"""Read from a file at a time where the system cannot send it by itself (TLS)."""

SMALL_BYTES: Final = 4 * 1024
"""Up to this size bytes are copied behind each other: kept as they are, an answer of 100 bytes would take 500."""

JOINED_MOST_BYTES: Final = 64 * 1024
"""Copied behind each other before another piece is begun."""


class OutputBudget:
    """How much all connections of a server keep unsent, in memory and in files."""

    __slots__ = ("in_files", "in_memory", "memory_limit")

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.in_memory = 0
        self.in_files = 0

    def __repr__(self) -> str:
        return f"<OutputBudget {self.in_memory} of {self.memory_limit} bytes in memory, {self.in_files} in files>"


class _Spill:
    """A temporary file of unsent bytes: how far it is written, and how much of it is still to be sent."""

    __slots__ = ("end", "file", "left")

    def __init__(self) -> None:
        self.file = temporary_file()
        self.end = 0
        self.left = 0


class _FilePart:
    """A stretch of an open file, which is a temporary one of ours or a descriptor that is ours alone to close."""

    __slots__ = ("count", "descriptor", "offset", "spill")

    def __init__(self, descriptor: int, offset: int, count: int, spill: _Spill | None = None) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.count = count
        self.spill = spill


def _held(part: memoryview) -> int:
    """Return how many bytes are kept for the sake of a part: those of the object that it is a part of."""
    return memoryview(part.obj).nbytes


class Outbox:
    """A queue of bytes and stretches of files; `size` is how many bytes are in it."""

    __slots__ = ("_budget", "_parts", "_spill", "sent", "size")

    def __init__(self, budget: OutputBudget) -> None:
        self._budget = budget
        self._parts: deque[memoryview | bytearray | _FilePart] = deque()
        self._spill: _Spill | None = None
        """The file that is written to now."""
        self.size = 0
        self.sent = 0
        """How many bytes have been sent from it."""

    def __repr__(self) -> str:
        return f"<Outbox {self.size} bytes in {len(self._parts)} parts>"

    def add(self, data: memoryview) -> None:
        """Keep bytes, in memory if the budget allows; raises OSError when the temporary file cannot take them."""
        small = len(data) <= SMALL_BYTES
        held = len(data) if small else _held(data)
        self.size += len(data)
        if self._budget.in_memory + held > self._budget.memory_limit:
            self._keep_in_file(data)
            return
        self._budget.in_memory += held
        if small:
            self._join(data)
        else:
            self._parts.append(data)

    def _join(self, data: memoryview) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, bytearray) and len(last) < JOINED_MOST_BYTES:
            last += data
        else:
            self._parts.append(bytearray(data))

    def _keep_in_file(self, data: memoryview) -> None:
        spill = self._spill
        if spill is None or spill.end >= SPILL_FILE_BYTES:
            spill = self._spill = _Spill()
        write_all(spill.file, data)
        self._budget.in_files += len(data)
        last = self._parts[-1] if self._parts else None
        if isinstance(last, _FilePart) and last.spill is spill:
            last.count += len(data)
        else:
            self._parts.append(_FilePart(spill.file.fileno(), spill.end, len(data), spill))
        spill.end += len(data)
        spill.left += len(data)

    def add_file(self, descriptor: int, offset: int, count: int) -> None:
        """Keep a stretch of an open file; the descriptor is closed when it is sent."""
        self.size += count
        self._parts.append(_FilePart(descriptor, offset, count))

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
                self._send_part(sock, part)

    def _send_part(self, sock: Any, part: memoryview | bytearray) -> None:
        sent = sock.send(part)
        self.size -= sent
        self.sent += sent
        if isinstance(part, bytearray):
            self._budget.in_memory -= sent
            del part[:sent]
            if not part:
                self._parts.popleft()
        elif sent < len(part):
            self._parts[0] = part[sent:]
        else:
            self._budget.in_memory -= _held(part)
            self._parts.popleft()

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
        self.sent += sent
        self._forget(part, sent)
        if not part.count:
            self._parts.popleft()

    def _forget(self, part: _FilePart, count: int) -> None:
        """So much of a part needs no file any more; close the file with the last of it."""
        spill = part.spill
        if spill is None:
            if not part.count:
                os.close(part.descriptor)
            return
        self._budget.in_files -= count
        spill.left -= count
        if not spill.left:
            spill.file.close()
            if spill is self._spill:
                self._spill = None

    def clear(self) -> None:
        """Forget everything unsent."""
        for part in self._parts:
            if isinstance(part, _FilePart):
                unsent, part.count = part.count, 0
                self._forget(part, unsent)
            else:
                self._budget.in_memory -= len(part) if isinstance(part, bytearray) else _held(part)
        self._parts.clear()
        if self._spill is not None:
            # It was made, and could not be written.
            self._spill.file.close()
            self._spill = None
        self.size = 0
