"""The body of a request that the application reads as it arrives: `wsgi.input` of a route that streams bodies.

Decides when the application waits, and when the client has to, as the application is too far behind. It must not know
sockets or HTTP. It is not compiled, as Python's own buffered files read from it, and expect a class of theirs.
"""

from __future__ import annotations

import io
from collections import deque
from typing import IO, TYPE_CHECKING, Any, Protocol

from gevent.event import Event

from ..errors import RequestBodyError
from ..pool.current import wait_for_client
from .limits import SKIPPED_BODY_BYTES, STREAMED_BODY_BYTES

if TYPE_CHECKING:
    from ..policy.answers import Answer

__all__ = ["BodySource", "StreamedBody"]

BUFFER_BYTES = 64 * 1024
"""Read by the application's buffered file at a time."""


class BodySource(Protocol):
    """The connection that receives a body; its methods never wait."""

    @property
    def body_timeout_seconds(self) -> float:
        """How long the application waits for a byte."""

    def ask_for_body(self) -> None:
        """Send `100 Continue` to a client that waits for it."""

    def resume_body(self) -> None:
        """Read on, as the application has caught up."""

    def body_late(self) -> None:
        """Fail the body: no byte arrived for `body_timeout_seconds`."""


class _Early(Protocol):
    """The part of a body that arrived while the connection was busy with an earlier request."""

    size: int

    def open(self) -> IO[bytes]: ...

    def release(self) -> None: ...


class StreamedBody(io.RawIOBase):
    """The hub calls `add`, `end` and `fail`; the application reads, and waits for what has not arrived."""

    def __init__(self, source: BodySource, length: int, early: _Early | None, awaits_continue: bool) -> None:
        self.size = 0 if early is None else early.size
        """Bytes that have arrived."""
        self.unread = 0
        """Bytes that have arrived, are in memory, and were not read yet."""
        self._length = length
        self._source: BodySource | None = source
        self._early = early
        self._early_file = None if early is None else early.open()
        self._awaits_continue = awaits_continue and not self.size
        self._parts: deque[bytes | memoryview] = deque()
        self._complete = False
        self._failure: tuple[str, Answer | None] | None = None
        self._arrived = Event()

    def __repr__(self) -> str:
        return f"<StreamedBody {self.size} bytes arrived, {self.unread} of them unread>"

    @property
    def far_ahead(self) -> bool:
        """Whether so much is unread that the client has to wait."""
        return self.unread > STREAMED_BODY_BYTES

    @property
    def can_be_skipped(self) -> bool:
        """Whether the connection can be used again though the rest is not read."""
        if self._complete:
            return True
        return not self._awaits_continue and self._length - self.size <= SKIPPED_BODY_BYTES

    def open(self) -> IO[bytes]:
        """Return the file that the application reads from."""
        return io.BufferedReader(self, BUFFER_BYTES)

    # The connection's side.

    def add(self, data: bytes) -> None:
        """Take a piece."""
        self.size += len(data)
        if self._source is None:
            return
        self.unread += len(data)
        self._awaits_continue = False
        self._parts.append(data)
        self._arrived.set()

    def end(self) -> None:
        """Note that the whole body has arrived."""
        self._complete = True
        self._arrived.set()

    def fail(self, message: str, answer: Answer | None) -> None:
        """Raise `RequestBodyError` in the application once it has read what has arrived."""
        self._failure = self._failure or (message, answer)
        self._arrived.set()

    def release(self) -> None:
        """Give back what it takes, as its request or its connection has ended; it cannot be read afterwards."""
        self.drop()
        self._arrived.set()

    def drop(self) -> None:
        """Do the same without waking an application that waits: its abort is on the way."""
        self._failure = self._failure or ("the request has been answered, or its connection has ended", None)
        self._parts.clear()
        self.unread = 0
        self._source = self._early_file = None
        if self._early is not None:
            self._early.release()
            self._early = None

    # The application's side.

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there, and wait while nothing is; return the number of bytes, 0 at the end."""
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
