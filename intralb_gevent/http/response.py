"""The exchange of a connection: what an application answers, framed as HTTP/1.1.

Decides framing: by length where one is known, in chunks where not, by closing for HTTP/1.0; and what a connection may
be used for afterwards. It must not know sockets: it hands bytes to its connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ClientDisconnected
from ..integrations.geventwebsocket import WEBSOCKET_KEY, open_websocket, wants_websocket
from ..policy.answers import Answer
from ..pool.exchange import Application, Exchange, Runner, as_bytes, require_room
from ..pool.safepoints import calls_application
from ..pool.upgrades import SOCKET_KEY, SWITCHING, FirstUse, Upgrade
from .filewrapper import FileWrapper
from .framing import SERVER_LINE, ResponseHead, date_and_server_lines, date_line, hints, response_head
from .parser import Request
from .upgrade import switching_head

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Response"]


class Response(Exchange):
    """One response on a connection, from `start_response` to its last byte."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_diverted",
        "_head",
        "_held",
        "_left",
        "_passed",
        "_started",
        "_switching",
        "ended",
        "request",
        "status",
    )

    def __init__(self, connection: Connection, request: Request) -> None:
        self.status = ""
        self._connection = connection
        self.request = request
        self._head: ResponseHead | None = None
        self._started = False
        self.ended = False
        """Whether nothing more is sent: all of it is, or has been given up."""
        self._diverted = False
        """Whether the application has switched protocols, so that what it returns is no response."""
        self._switching = b""
        """The head of an answer with status 101, after which what the application returns is sent as it is."""
        self.upgrade = None
        self._chunked = False
        self._left: int | None = None
        """Bytes of body that may still be sent, where that is known; all others are dropped."""
        self._passed = 0
        """Bytes given to the connection."""
        self._held: list[bytes] | None = None
        """The parts of a stream that is kept back."""

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
        self._pace = None
        if self.request.offers_upgrade:
            self._offer(application, environ)
        try:
            # Of any type, and so are its parts.
            result: Any = application(environ, self.start_response)
            try:
                if type(result) is list and len(result) == 1 and not self._started:
                    self._send_whole(result[0])
                elif self._may_send_file(result) and (stretch := result.stretch()):
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
            elif self.upgrade is not None:
                self.upgrade.close()

    def _may_send_file(self, result: Any) -> bool:
        return type(result) is FileWrapper and not (self._started or self._diverted)

    # An offer to upgrade.

    def _offer(self, application: Application, environ: dict[str, Any]) -> None:
        """Let the application take the connection over by using what it finds in the environ."""
        environ[SOCKET_KEY] = FirstUse(self._taken_socket)
        if wants_websocket(environ):
            environ[WEBSOCKET_KEY] = FirstUse(lambda: self._taken_websocket(application, environ))

    def _taken_socket(self) -> Any:
        return self._take_over().sock

    def _taken_websocket(self, application: Application, environ: dict[str, Any]) -> Any:
        upgrade = self._take_over()
        websocket, upgrade.at_end = open_websocket(upgrade.sock, environ, application)
        return websocket

    def _take_over(self) -> Upgrade:
        """Return the connection, which is the application's from now on; waits until earlier responses are sent."""
        if self.upgrade is None:
            self._runner.wait_for_client(self._connection.wait_until_all_taken)
        # It may have been taken over meanwhile, in another greenlet of the application's.
        return self._take_over_now() if self.upgrade is None else self.upgrade

    def _take_over_now(self) -> Upgrade:
        self._check_open()
        if self._started or self._held is not None:
            raise RuntimeError("the response has begun, so its connection cannot be taken over any more")
        self.status = self.status if self._switching else SWITCHING
        self._runner.begin_upgrade()
        self._diverted = self.ended = True
        self.upgrade = upgrade = self._connection.hand_over(self.request)
        if self._switching:
            upgrade.sock.sendall(self._switching)
        return upgrade

    def _divert(self, data: Any) -> None:
        """Send bytes as they are if the application has answered 101; otherwise what it returns is no response."""
        if self._switching:
            self._take_over().sock.sendall(data)

    def _switch(self, status: str, headers: Any) -> Callable[[Any], object]:
        """Take the status 101 and its headers; the connection is taken over with the first bytes behind them."""
        self._switching = switching_head(status, headers)
        self.status = status
        self._diverted = True
        return self.write

    # The response.

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
            if self._diverted:
                return self.write
            self._check_open()
        if self.request.offers_upgrade and str(status)[:3] == "101":
            return self._switch(status, headers)
        if self._diverted:
            # By `exc_info` the application takes the status 101 back.
            self._diverted, self._switching = False, b""
        self._head = head = response_head(status, headers)
        self.status = status
        if head.closes:
            self.request.keep_alive = False
        if head.dropped:
            self._connection.report_dropped(head.dropped)
        return self.write

    def early_hints(self, headers: Any) -> None:
        """Send header fields ahead of the response, as `wsgi.early_hints`; waits while the client is too far behind."""
        data = hints(headers)
        self._check_open()
        if self._started:
            raise RuntimeError("early hints cannot be sent behind the headers of the response; send them before")
        if self.request.http_1_1:
            if self._connection.far_behind:
                self._runner.wait_for_client(self._connection.wait_until_taken)
                self._check_open()
            self._connection.send(data, b"")

    def write(self, data: Any) -> None:
        """Send a part of the body, headers first; waits while the client is too far behind."""
        if self._runner.turn_wanted:
            self._runner.take_turn()
        data = as_bytes(data)
        if self._diverted:
            self._divert(data)
            return
        self._check_open()
        if not self._started and self._keeps_back(data):
            return
        connection = self._connection
        if connection.far_behind:
            self._runner.wait_for_client(connection.wait_until_taken)
            self._check_open()
        head = b"" if self._started else self._start(None)
        data = self._framed(data)
        self._passed += len(head) + len(data)
        if self._left == 0 and not self._chunked:
            connection.send_last(head, data)
        else:
            connection.send(head, data)
        if data and self._pace is not None:
            self._pace.part_sent()

    def _keeps_back(self, data: bytes) -> bool:
        """Begin a stream with its first part; say whether that, or one after it, is kept back."""
        if self._pace is None and self._is_stream(len(data)):
            self._pace = self._runner.begin_stream()
        held = self._held
        if held is None:
            return False
        held.append(data)
        require_room(sum(map(len, held)))
        return True

    def _is_stream(self, size: int) -> bool:
        """Say whether more may come behind the first part, which has so many bytes, and is not there yet."""
        head = self._head
        if self._in_parts or head is None or head.bodiless or self.request.head_only:
            return False
        return head.length is None or size < head.length

    def hold(self) -> None:
        """Keep the parts back that come from now on."""
        self._held = []

    def release(self) -> None:
        """Send what has been kept back."""
        held, self._held = self._held, None
        if not held or self.ended or self._connection.closed:
            return
        head = self._start(None)
        data = b"".join([self._framed(part) for part in held])
        self._passed += len(head) + len(data)
        self._connection.send(head, data)

    def _send_whole(self, data: Any) -> None:
        """Send a body that is there as a whole together with its head."""
        data = as_bytes(data)
        if self._diverted:
            self._divert(data)
            return
        connection = self._connection
        if self.ended or connection.closed:
            self._check_open()
        head = self._start(len(data))
        if self._left == len(data):
            self._left = 0
        else:
            data = self._framed(data)
        self._passed = len(head) + len(data)
        connection.send_last(head, data)

    def _send_file(self, descriptor: int, offset: int, count: int) -> None:
        """Let the system send a stretch of a file; the slot need not wait for the client to take it."""
        self._check_open()
        head = self._start(count)
        count = min(count, self._left or 0)
        if self._left is not None:
            self._left -= count
        self._passed = len(head) + count
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

    @property
    def passed(self) -> int:
        """Bytes of the response that the connection has been given."""
        return self._passed

    @property
    def sent(self) -> int | None:
        """Bytes of the response that the system has taken; None if not even its head was given to the connection."""
        return max(0, self._passed - self._connection.unsent) if self._started else None

    @property
    def begun(self) -> bool:
        """Whether a part of it was sent, and more is to come."""
        return self._started and not self.ended

    @property
    def lost(self) -> bool:
        """Whether its connection is closed."""
        return self._connection.closed

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
        if request.has_body:
            request.settle()
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
        self._connection.close_ends_body = True
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
        if self._diverted:
            self._divert(b"")
            return
        connection = self._connection
        if self.ended or connection.closed:
            self._check_open()
        if self._held is not None:
            self._runner.stream_is_whole()
            self.release()
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
