"""Store request bodies in memory or in temporary files as they arrive, or skip bodies that are not needed."""

from __future__ import annotations

from io import BufferedReader, FileIO
from typing import IO, Final

from ..stdlib import BytesIO
from .refusals import BODY_TOO_LARGE, Refused
from .spill import temporary_file, write_all

__all__ = ["SKIPPED_BODY_BYTES", "Body", "BodyBudget", "SkippedBody"]

BODY_SMALL_BYTES: Final = 64 * 1024
"""Maximum size in bytes of a request body that always stays in memory."""

BODY_IN_MEMORY_BYTES: Final = 1024 * 1024
"""Maximum size in bytes of a request body that stays in memory if the budget allows it; larger bodies go to files."""

SKIPPED_BODY_BYTES: Final = 1024 * 1024
"""Maximum bytes of a body that are skipped to keep the connection open after its request was rejected.

Reading a larger body would cost both sides more than a new connection."""

SMALL_PIECE_BYTES: Final = 1024
"""Size in bytes below which pieces of a body in memory are joined."""

PIECE_OBJECT_BYTES: Final = 80
"""Bytes of memory that a piece occupies besides its data: its object, and its place in a list."""


class BodyBudget:
    """The bytes of memory that the large request bodies of all connections of a server occupy, and their limit."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def __repr__(self) -> str:
        return f"<BodyBudget {self.taken} of {self.limit} bytes>"


class Body:
    """A request body as it arrives, in memory if it is small or the budget allows it, else in a temporary file."""

    __slots__ = ("_budget", "_file", "_joined", "_parts", "_reserved", "size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._parts: list[bytes | bytearray] = []
        self._file: FileIO | None = None
        self._joined = 0
        """Number of bytes in buffers of joined pieces."""
        self._reserved = 0
        self.size = 0

    def __repr__(self) -> str:
        return f"<Body {self.size} bytes {'in a file' if self._file else 'in memory'}>"

    def add(self, data: bytes) -> None:
        """Append a piece of the body. Raises OSError if the temporary file cannot be written."""
        self.size += len(data)
        if self._file is not None:
            write_all(self._file, data)
            return
        self._keep(data)
        if self.size > BODY_SMALL_BYTES and not self._reserve():
            self._file = temporary_file()
            for part in self._parts:
                write_all(self._file, part)
            self._parts.clear()

    def _keep(self, data: bytes) -> None:
        """Keep a piece in memory. Join small pieces, because a separate object would need more memory than its data."""
        parts = self._parts
        if len(data) >= SMALL_PIECE_BYTES:
            parts.append(data)
            return
        self._joined += len(data)
        if parts and type(parts[-1]) is bytearray:
            parts[-1] += data
        else:
            parts.append(bytearray(data))

    @property
    def _most_allocated(self) -> int:
        """Maximum bytes of memory that the parts occupy; a buffer that grows is allocated an eighth larger."""
        return self.size + self._joined // 8 + PIECE_OBJECT_BYTES * len(self._parts)

    def _reserve(self) -> bool:
        budget, more = self._budget, self._most_allocated - self._reserved
        if self.size > BODY_IN_MEMORY_BYTES or budget.taken + more > budget.limit:
            return False
        budget.taken += more
        self._reserved += more
        return True

    def open(self) -> IO[bytes]:
        """Return a file to read the whole body from. Call this once, after the last piece."""
        if self._file is None:
            data = b"".join(self._parts)
            # Keep only one copy of the body in memory while its request is queued and running.
            self._parts.clear()
            return BytesIO(data)
        self._file.seek(0)
        return BufferedReader(self._file)

    def release(self) -> None:
        """Release the memory and the file of this body; a body in a file cannot be read afterwards."""
        self._parts.clear()
        self._budget.taken -= self._reserved
        self._reserved = 0
        if self._file is not None:
            self._file.close()


class SkippedBody:
    """The body of a request that was answered before the body arrived; its bytes are counted and discarded."""

    __slots__ = ("_most", "size")

    def __init__(self, size: int, most: int = SKIPPED_BODY_BYTES) -> None:
        self.size = size
        self._most = most
        """Maximum size in bytes of a skipped body; a larger body is rejected."""

    def __repr__(self) -> str:
        return f"<SkippedBody {self.size} bytes>"

    def add(self, data: bytes) -> None:
        """Count a piece of the body; raise `Refused` once the body is larger than the limit."""
        self.size += len(data)
        if self.size > self._most:
            raise Refused(BODY_TOO_LARGE)

    def release(self) -> None:
        """Do nothing, because a skipped body is not stored."""
