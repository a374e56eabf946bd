"""The exchange of a connection: what an application answers, framed as HTTP/1.1.

Decides framing: by length where one is known, in chunks where not, by closing for HTTP/1.0; and what a connection may
be used for afterwards. It must not know sockets: it hands bytes to its connection.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from io import FileIO
from typing import IO, TYPE_CHECKING, Any

from ..errors import ClientDisconnected
from ..policy.answers import Answer
from ..pool.exchange import Application, Exchange, Runner
from ..pool.safepoints import calls_application
from .framing import SERVER_LINE, ResponseHead, date_and_server_lines, date_line, response_head
from .parser import Request

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["FileWrapper", "Response"]


class FileWrapper:
    """`wsgi.file_wrapper`: a regular file is sent by the system, anything else is read in blocks; then it is closed."""

    def __init__(self, file: IO[Any], block_size: int = 64 * 1024) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        # The end of what only looks like a file may be '' or None.
        return iter(lambda: self.file.read(self.block_size) or b"", b"")

    def stretch(self) -> tuple[int, int, int] | None:
        """Return descriptor, offset and count of what is left of a regular file, or None if it is none."""
        if not isinstance(getattr(self.file, "raw", self.file), FileIO):
            # Others have a descriptor too, but reading them gives something else than what is in it (gzip).
            return None
        try:
            descriptor = self.file.fileno()
            offset = self.file.tell()
            status = os.fstat(descriptor)
        except OSError:
            # Of a pipe, nobody can tell where it stands.
            return None
        count = status.st_size - offset
        return (descriptor, offset, count) if stat.S_ISREG(status.st_mode) and count > 0 else None


def _as_bytes(data: Any) -> bytes:
    """Return a part of a body as bytes, which nobody changes while they wait to be sent."""
    if type(data) is bytes:
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a part of the body is {type(data).__name__}; it must be bytes")


class Response(Exchange):
    """One response on a connection, from `start_response` to its last byte."""

    __slots__ = ("_chunked", "_connection", "_head", "_left", "_started", "ended", "request", "status")

    def __init__(self, connection: Connection, request: Request) -> None:
        self.status = ""
        self._connection = connection
        self.request = request
        self._head: ResponseHead | None = None
        self._started = False
        self.ended = False
        """Whether nothing more is sent: all of it is, or has been given up."""
        self._chunked = False
        self._left: int | None = None
        """Bytes of body that may still be sent, where that is known; all others are dropped."""

    def __repr__(self) -> str:
        progress = "ended" if self.ended else "started" if self._started else "not started"
        return f"<Response {self.status or 'without status'}, {progress}>"

    @calls_application
    def run(self, application: Application, environ: dict[str, Any], runner: Runner) -> None:
        """Call the application and send all that it yields; raises what the application raises.

        A list of one part, which is what most frameworks return, goes out in one piece with its head.
        """
        self._runner = runner
        self._in_parts = False
        try:
            # Of any type, and so are its parts.
            result: Any = application(environ, self.start_response)
            try:
                if type(result) is list and len(result) == 1 and not self._started:
                    self._send_whole(result[0])
                elif type(result) is FileWrapper and not self._started and (stretch := result.stretch()):
                    self._send_file(*stretch)
                else:
                    self._in_parts = isinstance(result, (list, tuple))
                    for chunk in result:
                        if chunk:
                            self.write(chunk)
                self.finish()
            finally:
                # Looking for what a list has not would take longer than all else here.
                close = None if type(result) is list else getattr(result, "close", None)
                if close is not None:
                    close()
        finally:
            if self.request.has_body:
                self.request.release()

    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
        """Take status and headers as PEP 3333 says; return `write`."""
        if exc_info is not None:
            try:
                if self._started and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise RuntimeError("start_response was called twice; the second time needs exc_info")
        if self.ended:
            self._check_open()
        self._head = response_head(status, headers)
        self.status = status
        return self.write

    def write(self, data: Any) -> None:
        """Send a part of the body, headers first; waits while the client is too far behind."""
        if self._runner.turn_wanted:
            self._runner.take_turn()
        data = _as_bytes(data)
        self._check_open()
        connection = self._connection
        connection.wait_until_taken()
        self._check_open()
        head = b"" if self._started else self._start_parts()
        data = self._framed(data)
        if self._left == 0 and not self._chunked:
            connection.send_last(head, data)
        else:
            connection.send(head, data)

    def _start_parts(self) -> bytes:
        if not (self._in_parts or self._head is None or self._head.length is not None):
            self._runner.begin_stream()
        return self._start(None)

    def _send_whole(self, data: Any) -> None:
        """Send a body that is there as a whole together with its head."""
        data = _as_bytes(data)
        connection = self._connection
        if self.ended or connection.closed:
            self._check_open()
        head = self._start(len(data))
        if self._left == len(data):
            self._left = 0
        else:
            data = self._framed(data)
        connection.send_last(head, data)

    def _send_file(self, descriptor: int, offset: int, count: int) -> None:
        """Let the system send a stretch of a file; the slot need not wait for the client to take it."""
        self._check_open()
        head = self._start(count)
        count = min(count, self._left or 0)
        if self._left is not None:
            self._left -= count
        if count:
            self._connection.send_file(head, os.dup(descriptor), offset, count)
        else:
            self._connection.send(head, b"")

    @property
    def client_disconnected(self) -> Callable[[], bool]:
        """What says whether the client has left, as far as its socket tells."""
        return self._connection.has_left

    def unseen_seconds(self) -> float:
        """Return how long the request was here before it was read, as far as the system knows."""
        return self._connection.unseen_seconds()

    def _check_open(self) -> None:
        if self.ended or self._connection.closed:
            raise ClientDisconnected("nobody is there to read the response")

    def _start(self, length: int | None) -> bytes:
        """Return the bytes of the head, having decided how the body is framed; `length` is its size if known."""
        head = self._head
        if head is None:
            raise RuntimeError("the application sent a body without having called start_response")
        if head.has_date or head.has_server:
            lines = (b"" if head.has_date else date_line()) + (b"" if head.has_server else SERVER_LINE)
        else:
            lines = date_and_server_lines()
        # Only now: where this is compiled, an abort may still arrive in Python's code that writes the date.
        self._started = True
        framing, request = self._framing_line(head, length), self.request
        if request.keep_alive and request.http_1_1 and not self._connection.closing:
            return b"%b%b%b\r\n" % (head.data, lines, framing)
        return b"%b%b%b%b\r\n" % (head.data, lines, framing, self._connection_line())

    def _framing_line(self, head: ResponseHead, length: int | None) -> bytes:
        request = self.request
        if head.bodiless or request.head_only:
            # What an application sends for HEAD says the length of GET's body only if it is there.
            self._left = 0
            unsaid = length if head.length is None and not head.bodiless else None
            return b"Content-Length: %d\r\n" % unsaid if unsaid else b""
        self._left = length if head.length is None else head.length
        if head.length is not None:
            return b""
        if length is not None:
            return b"Content-Length: %d\r\n" % length
        if request.http_1_1:
            self._chunked = True
            return b"Transfer-Encoding: chunked\r\n"
        request.keep_alive = False
        return b""

    def _connection_line(self) -> bytes:
        request = self.request
        if self._connection.closing:
            request.keep_alive = False
        if not request.keep_alive:
            return b"Connection: close\r\n"
        return b"" if request.http_1_1 else b"Connection: keep-alive\r\n"

    def _framed(self, data: bytes) -> bytes:
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if self._left is not None:
            if len(data) > self._left:
                # More than was promised would be read as the beginning of the next response.
                data = data[: self._left]
            self._left -= len(data)
        return data

    def finish(self) -> None:
        """Send what is left after the last part of the body, and let the connection go on."""
        connection = self._connection
        if self.ended or connection.closed:
            self._check_open()
        if not self._started:
            connection.send_last(self._start(None if self.request.head_only else 0), b"")
        if self._chunked:
            connection.send_last(b"0\r\n\r\n", b"")
        if self._left:
            # Less than was promised: only a closed connection tells the client.
            self.request.keep_alive = False
        self.ended = True
        if connection.closed:
            raise ClientDisconnected("nobody is there to read the response")
        length = None if self._head is None else self._head.length
        connection.response_ended(self.request, self.request.keep_alive, self.status, length)

    def refuse(self, answer: Answer) -> None:
        """Answer in the place of an application that is not run."""
        self.request.release()
        self._answer(answer)

    def fail(self, answer: Answer) -> None:
        """End a response that cannot be finished: with `answer` before headers, by a cut after them."""
        if self.ended:
            return
        if self._started:
            self.ended = True
            self._connection.cut()
        else:
            self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        self.ended = True
        self.status = answer.status
        self._connection.answer(self.request, answer)
