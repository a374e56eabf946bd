"""A request body that the application reads as it arrives, as the `wsgi.input` of a route that streams bodies.

Reading a streamed body blocks the application while no data is available. The connection stops reading while the
unread data exceeds a limit. This module is not compiled, because `io.BufferedReader` can read only from an interpreted
class.
"""

from __future__ import annotations

import io
from collections import deque
from typing import IO, TYPE_CHECKING, Any, Protocol

from gevent.event import Event

from ..errors import RequestBodyError
from ..pool.requestcontext import wait_for_client
from .body import SKIPPED_BODY_BYTES, SMALL_PIECE_BYTES

if TYPE_CHECKING:
    from ..policy.cannedresponses import CannedResponse

__all__ = ["BodySource", "StreamedBody"]

STREAMED_BODY_BYTES = 256 * 1024
"""High-water mark of a streamed request body: unread bytes above which the connection stops reading its socket."""

BUFFER_BYTES = 64 * 1024
"""Size in bytes of the buffer through which the application reads a streamed body."""


class BodySource(Protocol):
    """The methods of a connection that a streamed body calls. No method waits."""

    @property
    def body_timeout_seconds(self) -> float:
        """Maximum seconds that the application waits for the next byte of the body."""

    def ask_for_body(self) -> None:
        """Send `100 Continue` to a client that waits for this response."""

    def resume_body(self) -> None:
        """Resume reading from the client, because the application has read enough of the body."""

    def body_late(self) -> None:
        """Fail the body, because no byte has arrived for `body_timeout_seconds`."""


class _Early(Protocol):
    """The part of a body that arrived while the connection was answering an earlier request."""

    size: int

    def open(self) -> IO[bytes]:
        """Return a file with the data received so far."""

    def release(self) -> None:
        """Release the memory and the file that hold the data."""


class StreamedBody(io.RawIOBase):
    """A streamed body. The hub calls `add`, `end` and `fail`; the application reads, and waits for missing data."""

    def __init__(self, source: BodySource, length: int, early: _Early | None, awaits_continue: bool) -> None:
        self.size = 0 if early is None else early.size
        """Bytes of the body that have arrived."""
        self.unread = 0
        """Unread bytes of the body in memory."""
        self._length = length
        self._source: BodySource | None = source
        self._early = early
        self._early_file = None if early is None else early.open()
        self._awaits_continue = awaits_continue and not self.size
        self._parts: deque[bytes | memoryview] = deque()
        self._complete = False
        self._failure: tuple[str, CannedResponse | None] | None = None
        self._arrived = Event()

    def __repr__(self) -> str:
        return f"<StreamedBody {self.size} bytes arrived, {self.unread} of them unread>"

    @property
    def far_ahead(self) -> bool:
        """True while the unread bytes exceed the high-water mark."""
        return self.unread > STREAMED_BODY_BYTES

    @property
    def can_be_skipped(self) -> bool:
        """True if the connection can be reused even if the rest of the body is not read."""
        if self._complete:
            return True
        return not self._awaits_continue and self._length - self.size <= SKIPPED_BODY_BYTES

    def open(self) -> IO[bytes]:
        """Return the file that the application reads from."""
        return io.BufferedReader(self, BUFFER_BYTES)

    # Methods for the connection.

    def add(self, data: bytes) -> None:
        """Append a piece of the body."""
        self.size += len(data)
        if self._source is None:
            return
        self.unread += len(data)
        self._awaits_continue = False
        self._keep(data)
        self._arrived.set()

    def _keep(self, data: bytes) -> None:
        """Append a piece. Join small pieces, because a separate object would need more memory than its data."""
        parts = self._parts
        if parts and len(parts[-1]) + len(data) <= SMALL_PIECE_BYTES:
            parts[-1] = b"".join((parts[-1], data))
        else:
            parts.append(data)

    def end(self) -> None:
        """Mark the body as complete."""
        self._complete = True
        self._arrived.set()

    def fail(self, message: str, answer: CannedResponse | None) -> None:
        """Make reads raise `RequestBodyError` once the application has read the bytes that have arrived."""
        self._failure = self._failure or (message, answer)
        self._arrived.set()

    def release(self) -> None:
        """Release the memory when the request or the connection has ended; the body cannot be read afterwards."""
        self.drop()
        self._arrived.set()

    def drop(self) -> None:
        """Release the memory. Do not wake an application that waits for data: its abort is imminent."""
        self._failure = self._failure or ("the request has been answered, or its connection has ended", None)
        self._parts.clear()
        self.unread = 0
        self._source = self._early_file = None
        if self._early is not None:
            self._early.release()
            self._early = None

    # Methods for the application.

    def readable(self) -> bool:
        """Return True, because the body can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the available data, or wait for data; return the number of bytes, 0 at the end of the body."""
        if self._early_file is not None:
            count: int = self._early_file.readinto(buffer)  # type: ignore[attr-defined]  # it is a binary file
            if count:
                return count
            self._early_file = None
        self._await_part()
        return self._read_part(memoryview(buffer).cast("B")) if self._parts else 0

    def _await_part(self) -> None:
        while not (self._parts or self._complete or self._failure):
            if self._awaits_continue and self._source is not None:
                self._awaits_continue = False
                self._source.ask_for_body()
            self._await_arrival()
        if self._failure is not None and not self._parts:
            raise RequestBodyError(*self._failure)

    def _await_arrival(self) -> None:
        source = self._source
        if source is None:
            return
        self._arrived.clear()
        if not wait_for_client(self._arrived.wait, source.body_timeout_seconds) and self._failure is None:
            source.body_late()

    def _read_part(self, buffer: memoryview) -> int:
        part = self._parts.popleft()
        count = min(len(part), len(buffer))
        buffer[:count] = part[:count]
        if count < len(part):
            self._parts.appendleft(memoryview(part)[count:])
        self.unread -= count
        if self._source is not None and self.unread <= STREAMED_BODY_BYTES // 2:
            self._source.resume_body()
        return count
