"""Buffer the unsent data of a connection, in order.

Unsent data is kept in memory while the server's budget lasts, then in temporary files. So clients that do not read
occupy no slots and little memory.
"""

from __future__ import annotations

import _socket
import os
from collections import deque
from sys import getsizeof
from typing import Any, Final

from .spill import FileShorter, temporary_file, write_all

__all__ = ["Outbox", "OutputBudget"]

MAX_BYTES_PER_CALL: Final = 4 * 1024 * 1024
"""Maximum bytes sent to one client before the hub serves other clients."""

SPILL_FILE_BYTES: Final = 32 * 1024 * 1024
"""Size in bytes at which a temporary file is full, and a new file is created; a file is deleted once it is sent."""

READ_BYTES: Final = 256 * 1024
"""Bytes per read from a file that the kernel cannot send directly, as with TLS."""

SMALL_BYTES: Final = 4 * 1024
"""Maximum size in bytes of data that is copied into a shared buffer: a separate object of 100 bytes occupies 500."""

JOINED_MOST_BYTES: Final = 64 * 1024
"""Size in bytes at which a shared buffer is full; the next data goes to a new buffer."""


VIEW_BYTES: Final = 384
"""Bytes of memory that a part that is not copied occupies besides its data: a memoryview, and headers of objects."""


class OutputBudget:
    """The memory and the bytes in files that all connections of a server use for unsent data, and the memory's limit.

    `in_memory` counts the allocated memory, because a buffer that grows is allocated larger than its data.
    """

    __slots__ = ("in_files", "in_memory", "memory_limit")

    def __init__(self, memory_limit: int) -> None:
        self.memory_limit = memory_limit
        self.in_memory = 0
        self.in_files = 0

    def __repr__(self) -> str:
        return f"<OutputBudget {self.in_memory} of {self.memory_limit} bytes in memory, {self.in_files} in files>"


class _Spill:
    """A temporary file of unsent data, with the number of bytes written to it and the number still to be sent."""

    __slots__ = ("end", "file", "left")

    def __init__(self) -> None:
        self.file = temporary_file()
        self.end = 0
        self.left = 0


class _FilePart:
    """A range of an open file: a temporary file of this module, or another file that must be closed once it is sent."""

    __slots__ = ("count", "descriptor", "offset", "spill")

    def __init__(self, descriptor: int, offset: int, count: int, spill: _Spill | None = None) -> None:
        self.descriptor = descriptor
        self.offset = offset
        self.count = count
        self.spill = spill


def _allocated(part: memoryview | bytearray) -> int:
    """Return the bytes of memory that a part keeps allocated; for a view, this includes the whole object behind it."""
    if isinstance(part, bytearray):
        return getsizeof(part)
    return memoryview(part.obj).nbytes + VIEW_BYTES


class Outbox:
    """A queue of bytes and ranges of files; `size` is the number of bytes in the queue."""

    __slots__ = ("_budget", "_parts", "_spill", "sent", "size")

    def __init__(self, budget: OutputBudget) -> None:
        self._budget = budget
        self._parts: deque[memoryview | bytearray | _FilePart] = deque()
        self._spill: _Spill | None = None
        """The temporary file to which new data is added; None if there is none."""
        self.size = 0
        self.sent = 0
        """Total number of bytes sent from the queue."""

    def __repr__(self) -> str:
        return f"<Outbox {self.size} bytes in {len(self._parts)} parts>"

    def add(self, data: memoryview) -> None:
        """Append bytes, in memory if the budget allows it. Raises OSError if the temporary file cannot be written."""
        small = len(data) <= SMALL_BYTES
        wanted = len(data) if small else _allocated(data)
        self.size += len(data)
        if self.spills(wanted):
            self._keep_in_file(data)
        elif small:
            self._join(data)
        else:
            self._budget.in_memory += wanted
            self._parts.append(data)

    def spills(self, count: int) -> bool:
        """Return whether the budget does not allow `count` more bytes in memory."""
        return self._budget.in_memory + count > self._budget.memory_limit

    def _join(self, data: memoryview) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, bytearray) and len(last) < JOINED_MOST_BYTES:
            self._budget.in_memory -= _allocated(last)
            last += data
        else:
            last = bytearray(data)
            self._parts.append(last)
        self._budget.in_memory += _allocated(last)

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
        """Append a range of an open file; the descriptor is closed once the range is sent."""
        self.size += count
        self._parts.append(_FilePart(descriptor, offset, count))

    def send_to(self, sock: Any) -> None:
        """Send as much as the socket accepts now, up to about `MAX_BYTES_PER_CALL`.

        Raises BlockingIOError if the socket is full, `FileShorter` if a file ends too early, and another OSError if the
        connection is broken.
        """
        enough = self.size - MAX_BYTES_PER_CALL
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
        if sent == len(part):
            self._parts.popleft()
            self._budget.in_memory -= _allocated(part)
        elif isinstance(part, bytearray):
            # Copy the other bytes: deleting the sent bytes in place could leave a bytearray of twice the needed size.
            self._parts[0] = left = part[sent:]
            self._budget.in_memory -= _allocated(part) - _allocated(left)
        else:
            self._parts[0] = part[sent:]

    def _send_file(self, sock: Any, part: _FilePart) -> None:
        if isinstance(sock, _socket.socket):
            sent = os.sendfile(sock.fileno(), part.descriptor, part.offset, min(part.count, MAX_BYTES_PER_CALL))
        else:
            sent = sock.send(os.pread(part.descriptor, min(part.count, READ_BYTES), part.offset))
        if not sent:
            raise FileShorter("its file became shorter while it was sent")
        part.offset += sent
        part.count -= sent
        self.size -= sent
        self.sent += sent
        self._forget(part, sent)
        if not part.count:
            self._parts.popleft()

    def _forget(self, part: _FilePart, count: int) -> None:
        """Release `count` sent bytes of a file, and close the file after its last byte."""
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
        """Discard all unsent data."""
        for part in self._parts:
            if isinstance(part, _FilePart):
                unsent, part.count = part.count, 0
                self._forget(part, unsent)
            else:
                self._budget.in_memory -= _allocated(part)
        self._parts.clear()
        if self._spill is not None:
            # The temporary file was created, but could not be written.
            self._spill.file.close()
            self._spill = None
        self.size = 0
