"""The exchange of a connection, which runs the application and frames its response as HTTP/1.1.

A body of known length gets a Content-Length. Any other body is chunked or, for HTTP/1.0, ended by closing the
connection. This module also decides whether the connection can be reused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..aborts.safepoints import calls_application
from ..errors import ClientDisconnected
from ..policy.cannedresponses import CannedResponse
from ..pool.exchange import Application, Runner, as_bytes, require_room
from .filewrapper import FileWrapper
from .request import Request
from .responsehead import SERVER_LINE, ResponseHead, date_and_server_lines, date_line, hints, response_head
from .takeover import UpgradableExchange

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Response"]


class Response(UpgradableExchange):
    """One response on a connection, from `start_response` to its last byte."""

    __slots__ = (
        "_chunked",
        "_head",
        "_head_size",
        "_left",
        "_passed",
        "client_disconnected",
    )

    def __init__(self, connection: Connection, request: Request) -> None:
        # The attributes of the base classes are set here, too, because a call of their constructors would take longer.
        self.status = ""
        self._connection = connection
        self._output = connection.output
        self.request = request
        self.client_disconnected: Callable[[], bool] = connection.has_left
        self._started = False
        self.ended = False
        self._diverted = False
        self._switching = b""
        self.upgrade = None
        self._held: list[bytes] | None = None
        self._head: ResponseHead | None = None
        self._chunked = False
        self._left: int | None = None
        """Bytes of the body that may still be sent; None if the length is unknown, negative if bytes were dropped."""
        self._head_size = 0
        """Bytes of the response's head."""
        self._passed = 0
        """Bytes of the response passed to the connection, including the head."""

    def __repr__(self) -> str:
        progress = "ended" if self.ended else "started" if self._started else "not started"
        return f"<Response {self.status or 'without status'}, {progress}>"

    @calls_application
    def run(self, application: Application, environ: dict[str, Any], runner: Runner) -> None:
        """Call the application and send all parts of its response. Raises any exception of the application.

        Most frameworks return a list of one part; such a part is sent together with the head.
        """
        self._runner = runner
        self._in_parts = False
        self._pace = None
        if self.request.offers_upgrade:
            self._offer(application, environ)
        try:
            # The result of the application and its parts may be of any type.
            result: Any = application(environ, self.start_response)
            try:
                if type(result) is list and len(result) == 1 and not self._started:
                    self._send_whole(result[0])
                elif not (self._may_send_file(result) and self._send_file(result)):
                    self._in_parts = isinstance(result, (list, tuple))
                    for chunk in result:
                        if chunk:
                            self.write(chunk)
                    if type(result) is FileWrapper and (self._left or 0) < 0:
                        # A Content-Length may limit how much of a file is sent, so a longer file is no mistake.
                        self._left = 0
                self.finish()
            finally:
                # A list has no `close`. Skip the lookup, which would take longer than the rest of this method.
                close = None if type(result) is list else getattr(result, "close", None)
                if close is not None:
                    close()
        finally:
            if self.request.has_body:
                self.request.release()
            elif self.upgrade is not None:
                self.upgrade.close()

    def _may_send_file(self, result: Any) -> bool:
        return type(result) is FileWrapper and not (self._started or self._diverted)

    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
        """Set status and headers as PEP 3333 specifies, and return `write`."""
        if exc_info is not None:
            try:
                if self._started and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._head is not None:
            raise RuntimeError("start_response was called twice; the second time needs exc_info")
        if self.ended:
            if self._diverted:
                return self.write
            self._check_open()
        if self.request.offers_upgrade and str(status)[:3] == "101":
            return self._switch(status, headers)
        if self._diverted:
            # By calling `start_response` with `exc_info`, the application withdraws its status 101.
            self._diverted, self._switching = False, b""
        self._head = head = response_head(status, headers)
        self.status = status
        if head.closes:
            self.request.keep_alive = False
        if head.dropped:
            self._connection.report_dropped(head.dropped)
        return self.write

    def early_hints(self, headers: Any) -> None:
        """Send early hints (`wsgi.early_hints`); wait while unsent data is above the high-water mark."""
        if self._runner.yield_requested:
            self._runner.yield_to_hub()
        data = hints(headers)
        self._check_open()
        if self._started:
            raise RuntimeError("early hints cannot be sent after the headers of the response; send them before")
        if self.request.http_1_1:
            if self._output.far_behind:
                self._runner.wait_for_client(self._output.wait_drained)
                self._check_open()
            self._output.send(data, b"")

    def write(self, data: Any) -> None:
        """Send the head, if unsent, and a part of the body; wait while unsent data is above the high-water mark."""
        if self._runner.yield_requested:
            self._runner.yield_to_hub()
        data = as_bytes(data)
        if self._diverted:
            self._divert(data)
            return
        self._check_open()
        if not self._started and self._keeps_back(data):
            return
        output = self._output
        if output.far_behind:
            self._runner.wait_for_client(output.wait_drained)
            self._check_open()
        head = b"" if self._started else self._start(None)
        data = self._framed(data)
        self._passed += len(head) + len(data)
        left = self._left
        if output.blocks(data):
            self._send_in_pieces(head, data)
        elif left is not None and left <= 0:
            output.send_final(head, data)
        else:
            output.send(head, data)
        if data and self._pace is not None:
            self._pace.part_sent()

    def _keeps_back(self, data: bytes) -> bool:
        """Begin a stream if `data` is its first part; return whether the part is held back until `release`."""
        if self._pace is None and self._is_stream(len(data)):
            self._pace = self._runner.begin_stream()
        held = self._held
        if held is None:
            return False
        held.append(data)
        require_room(sum(map(len, held)))
        return True

    def _is_stream(self, size: int) -> bool:
        """Return whether a first part of `size` bytes may be followed by parts that are not available yet."""
        head = self._head
        if self._in_parts or head is None or head.bodiless or self.request.head_only:
            return False
        return head.length is None or size < head.length

    def hold(self) -> None:
        """Hold back all parts of the body that are written from now on, until `release` is called."""
        self._held = []

    def release(self) -> None:
        """Send the parts that were held back."""
        held, self._held = self._held, None
        if not held or self.ended or self._output.closed:
            return
        head = self._start(None)
        data = b"".join([self._framed(part) for part in held])
        self._passed += len(head) + len(data)
        self._output.send(head, data)

    def _send_whole(self, data: Any) -> None:
        """Send a complete body together with its head."""
        if type(data) is not bytes:
            data = as_bytes(data)
        if self._diverted:
            self._divert(data)
            return
        output = self._output
        if self.ended or output.closed:
            self._check_open()
        head = self._start(len(data))
        if self._left == len(data):
            self._left = 0
        else:
            data = self._framed(data)
        self._passed = len(head) + len(data)
        if output.blocks(data):
            self._send_in_pieces(head, data)
        else:
            output.send_final(head, data)

    def _send_in_pieces(self, head: bytes, data: bytes) -> None:
        def send(_: float) -> bool:
            self._output.send_in_pieces(head, data)
            return True

        # The response is complete, so its deadline must not cut it.
        self._runner.wait_for_client(send)

    def _send_file(self, file: FileWrapper) -> bool:
        """Let the connection send the rest of a regular file; return False if the file must be read instead.

        The slot does not wait until the file is sent.
        """
        stretch = file.stretch()
        if stretch is None:
            return False
        try:
            copy = os.dup(stretch[0])
        except OSError:
            # The process can open no more files.
            return False
        try:
            self._check_open()
            head = self._start(stretch[2])
        except BaseException:
            os.close(copy)
            raise
        self._send_range(head, copy, stretch[1], stretch[2])
        return True

    def _send_range(self, head: bytes, descriptor: int, offset: int, count: int) -> None:
        count = min(count, self._left or 0)
        if self._left is not None:
            self._left -= count
        self._passed = len(head) + count
        if count:
            self._output.send_file(head, descriptor, offset, count)
        else:
            os.close(descriptor)
            self._output.send(head, b"")

    def socket_wait(self) -> float:
        """Return the seconds that the request waited in the kernel before it was read, or 0 if unknown."""
        return self._connection.socket_wait()

    @property
    def passed(self) -> int:
        """Bytes of the response passed to the connection."""
        return self._passed

    @property
    def sent(self) -> int | None:
        """Bytes of the response that the kernel has accepted; None if the response has not started."""
        return max(0, self._passed - self._output.unsent) if self._started else None

    @property
    def body_size(self) -> int:
        """Bytes of the body that were passed to the connection, including the framing of chunks, for the log."""
        return max(0, self._passed - self._head_size)

    @property
    def begun(self) -> bool:
        """True if the response has started and is not complete."""
        return self._started and not self.ended

    @property
    def lost(self) -> bool:
        """True if the connection is closed."""
        return self._output.closed

    def _start(self, length: int | None) -> bytes:
        """Decide the framing of a body of `length` bytes (None if unknown), and return the bytes of the head."""
        head = self._head
        if head is None:
            raise RuntimeError("the application sent a body without having called start_response")
        if head.has_date or head.has_server:
            lines = (b"" if head.has_date else date_line()) + (b"" if head.has_server else SERVER_LINE)
        else:
            lines = date_and_server_lines()
        if (load := self._connection.load_header) is not None:
            lines += load.line
        # Set `_started` only now: an abort may be raised in the interpreted code that formats the date, when the head
        # is still unsent.
        self._started = True
        framing, request = self._framing_line(head, length), self.request
        if request.has_body:
            request.settle()
        if request.keep_alive and request.http_1_1 and not (self._connection.closing and self._connection.must_close):
            data = b"%b%b%b\r\n" % (head.data, lines, framing)
        else:
            data = b"%b%b%b%b\r\n" % (head.data, lines, framing, self._connection_line())
        self._head_size = len(data)
        return data

    def _framing_line(self, head: ResponseHead, length: int | None) -> bytes:
        request = self.request
        if head.bodiless or request.head_only:
            # For HEAD, declare no length if the application has returned no body: the response to GET may have a body.
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
        self._output.end_body_by_close()
        return b""

    def _connection_line(self) -> bytes:
        request = self.request
        if self._connection.must_close:
            request.keep_alive = False
        if not request.keep_alive:
            return b"Connection: close\r\n"
        return b"" if request.http_1_1 else b"Connection: keep-alive\r\n"

    def _framed(self, data: bytes) -> bytes:
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        left = self._left
        if left is not None:
            self._left = left - len(data)
            if len(data) > left:
                # Drop bytes beyond the declared length, which the client would parse as the next response.
                data = data[: max(left, 0)]
        return data

    def finish(self) -> None:
        """Send the end of the response, and let the connection continue with the next request."""
        if self._diverted:
            self._divert(b"")
            if self.upgrade is not None:
                self.upgrade.complete = True
            return
        output = self._output
        if self.ended or output.closed:
            self._check_open()
        if self._held is not None:
            self._runner.stream_is_whole()
            self.release()
        if not self._started:
            output.send_final(self._start(None if self.request.head_only else 0), b"")
        if self._chunked:
            output.send_final(b"0\r\n\r\n", b"")
        if self._left:
            self._settle_length(self._left)
        self.ended = True
        if output.closed:
            raise ClientDisconnected("the client has disconnected")
        length = None if self._head is None else self._head.length
        self._connection.response_ended(self.request, self.request.keep_alive, self.status, length)

    def _settle_length(self, left: int) -> None:
        """Report a body whose size differs from its Content-Length."""
        if left > 0:
            # Only closing the connection shows this to the client.
            self.request.keep_alive = False
        elif self.request.head_only or self._head is None or self._head.bodiless:
            return
        self._connection.report_length(self, left)

    def reject(self, answer: CannedResponse) -> None:
        """Send `answer` without running the application."""
        self.request.release()
        self._answer(answer)

    def fail(self, answer: CannedResponse) -> None:
        """End a response that cannot be finished: send `answer` if the head is unsent, else cut the connection."""
        if self.ended:
            return
        if self._started:
            self.ended = True
            self._connection.cut()
        else:
            self._answer(answer)

    def _answer(self, answer: CannedResponse) -> None:
        self.ended = True
        self.status = answer.status
        self._passed = 0 if self.request.head_only else len(answer.body)
        self._connection.answer(self.request, answer)
