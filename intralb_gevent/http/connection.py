"""A client's socket, looked after by the hub: no greenlet, no slot, no session of its own.

Decides when a socket is read and written, how long a client may take, and in what order pipelined requests are
answered. It must not know what a request says (`parser.py`) or how an answer is framed (`response.py`).
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from time import monotonic, strftime, time
from typing import Any

from gevent.event import Event

from ..policy.answers import Answer
from ..policy.deadline import time_told
from ..pool.job import Job
from ..priority import PRIORITIES
from .arrival import seconds_since_data
from .forwarded import forwarded
from .framing import whole_answer
from .limits import (
    JOINED_BYTES,
    LINGER_SECONDS,
    LOOPBACK_FILE_UNSENT_BYTES,
    PARSED_BYTES,
    PIPELINED_REQUESTS,
    PROXY_HEADER_BYTES,
    TLS_RECEIVE_BYTES,
    UNSENT_IN_FILES_BYTES,
    UNSENT_LEAST_BYTES,
    UNSENT_MOST_BYTES,
)
from .outbox import Outbox
from .parser import Request, RequestParser
from .proxy_protocol import ProxyHeader
from .response import Response
from .shared import Shared
from .tls import TlsSocket, tls_environ

__all__ = ["Connection"]

_LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})

_EXPLANATIONS = {
    "408": "The request did not arrive in time.",
    "413": "The request's body is larger than this server takes.",
    "414": "The request's target is longer than this server takes.",
    "417": "This server does not know what the request expects.",
    "431": "The request's header fields are more or larger than this server takes.",
    "501": "This server makes no tunnels and knows no transfer coding but chunked.",
    "507": "This server has no room for the request's body.",
    "505": "This server speaks HTTP/1.0 and HTTP/1.1.",
}


@lru_cache(maxsize=64)
def _rejection(status: str) -> Answer:
    return Answer(status, _EXPLANATIONS.get(status[:3], "The request is not well-formed HTTP."))


def _log_line(host: str, line: str, status: str, length: int | None) -> Callable[[], str]:
    """Return what writes the line of a response that has just ended, in the Common Log Format."""
    when, size = strftime("%d/%b/%Y:%H:%M:%S %z"), "-" if length is None else length
    return lambda: f'{host or "-"} - - [{when}] "{line}" {status[:3]} {size}\n'


class Connection:
    """One accepted socket: `_on_readable` and `_on_writable` are called by the hub and never wait or raise."""

    __slots__ = (
        "_current",
        "_host",
        "_input_ended",
        "_job",
        "_last",
        "_lingering",
        "_loopback",
        "_outbox",
        "_parser",
        "_pending",
        "_port",
        "_proxy_header",
        "_reader",
        "_resuming",
        "_shared",
        "_skipping",
        "_socket",
        "_taken",
        "_unparsed",
        "_unsent_bounded",
        "_whole",
        "_writer",
        "closed",
        "closing",
        "expires",
    )

    def __init__(self, shared: Shared, sock: Any, address: Any) -> None:
        self._shared = shared
        self._socket = sock
        self._host: str = address[0] if isinstance(address, tuple) else ""
        self._port: str = str(address[1]) if isinstance(address, tuple) else ""
        self._loopback = self._host in _LOOPBACK
        self._pending: deque[Request | Answer] = deque()
        plain = shared.request_log is None and not shared.trusts_proxies
        on_request = self._pending.append if plain else self._on_request
        self._parser = RequestParser(shared.environ, shared.options, self._on_head, on_request, shared.bodies)
        self._current: Response | None = None
        self._job: Job | None = None
        self._last = False
        """Whether the present response is the last."""
        self._unparsed = b""
        """What has been read and has to wait, because many requests do."""
        self._input_ended = False
        self._skipping = False
        """Whether a request has been answered whose body was still to come when its client's time was counted last."""
        self._lingering = False
        self._resuming = False
        """Whether what is parsed or submitted was read some time ago."""
        self._outbox = Outbox(shared.budget)
        self._whole = b""
        """A response that is sent at the end of the hub's turn."""
        self._taken: Event | None = None
        self._unsent_bounded = False
        self.closed = False
        self.closing = shared.closing
        """Whether the server wants it closed after its present response."""
        self.expires = monotonic() + shared.header_timeout_seconds
        """When, in `time.monotonic()` seconds, the client has taken too long for what it is at."""
        self._writer: Any = None
        self._reader: Any = shared.loop.io(sock.fileno(), 1)
        told = shared.options.proxy_protocol and self._host in shared.trusted_proxies
        self._proxy_header = ProxyHeader() if told else None
        """What still has to come before anything else."""
        self._begin()

    def __repr__(self) -> str:
        doing = "closed" if self.closed else repr(self._current or self._parser)
        return f"<Connection of {self._host or 'a local client'}: {doing}, {self.unsent} bytes unsent>"

    @property
    def idle(self) -> bool:
        """Whether nothing has been asked and nothing is left to answer."""
        parser = self._parser
        asked = self._current or self._pending or self._unparsed or parser.in_head or parser.in_body
        return not (asked or self._outbox.size or self._whole)

    @property
    def unsent(self) -> int:
        """Bytes of responses that the client has not taken yet."""
        return self._outbox.size + len(self._whole)

    def has_left(self) -> bool:
        """Say whether the client has left, or at least will send no more."""
        return self.closed or self._input_ended

    def unseen_seconds(self) -> float:
        """Return how long what has just been read had been here before, as far as the system knows.

        That a request had to wait behind another one of its client does not count.
        """
        return 0.0 if self._resuming else seconds_since_data(self._socket)

    # Reading.

    def _begin(self) -> None:
        if self._proxy_header is not None:
            self._reader.start(self._on_proxy_header, self._proxy_header)
            return
        if self._shared.tls is not None:
            self._socket = TlsSocket(self._socket, self._shared.tls)
        self._reader.start(self._on_readable)

    def _on_proxy_header(self, header: ProxyHeader) -> None:
        """Read a PROXY header, and not one byte of what is behind it: that may be a TLS handshake."""
        try:
            data = self._socket.recv(PROXY_HEADER_BYTES, socket.MSG_PEEK)
            complete = bool(data) and header.feed(data)
            self._socket.recv(len(data) - len(header.rest) if complete else len(data))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        except ValueError as error:
            self._shared.report(f"refused a connection from {self._host or 'a local proxy'}: {error}")
            data = b""
        if not data:
            self.close()
        elif complete:
            self._host, self._port = header.source or (self._host, self._port)
            self._proxy_header = None
            self._reader.stop()
            self._begin()

    def _on_readable(self) -> None:
        shared = self._shared
        data: bytes | memoryview
        try:
            if shared.tls is not None:
                data = self._socket.recv(TLS_RECEIVE_BYTES)
            else:
                # One buffer for all connections: the parser copies what it keeps.
                data = shared.buffer[: self._socket.recv_into(shared.buffer)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        try:
            if data and not self._lingering:
                self._take(data)
            elif not data:
                self._on_end_of_input()
        except Exception:
            self._give_up()

    def _give_up(self) -> None:
        """A bug of ours costs one connection, and nothing is raised in the hub."""
        self._shared.report_bug(self)
        self.close()

    def _take(self, data: bytes | memoryview) -> None:
        parser = self._parser
        was_in_head = parser.in_head
        refused = parser.feed(data) if len(data) <= PARSED_BYTES else self._parse_some(data)
        if refused is not None:
            self._reject(refused)
        elif parser.in_body or (parser.in_head and not was_in_head) or self._skipping:
            self._await_request()
            self._skipping = parser.skips_body
        if self._pending:
            if self._unparsed or len(self._pending) >= PIPELINED_REQUESTS:
                self._reader.stop()
            self._advance()
            if self._unparsed and self._current is None and not self.closed:
                self._shared.loop.run_callback(self._resume)
        elif parser.head_waits:
            self._judge_head()

    def _parse_some(self, data: bytes | memoryview) -> str | None:
        """Parse until so many requests wait that the rest has to wait, too."""
        parser, refused, view = self._parser, None, memoryview(data)
        while view and refused is None and len(self._pending) < PIPELINED_REQUESTS and not self._last:
            end = parser.body_left or self._next_part(view)
            refused = parser.feed(view[:end])
            view = view[end:]
            if parser.head_waits and refused is None:
                self._judge_head()
        self._unparsed = bytes(view) if refused is None and not self._last else b""
        return refused

    def _next_part(self, view: memoryview) -> int:
        """Return where a head ends, so that a body comes in one piece behind it; where none does, a bounded length."""
        if self._parser.in_body:
            return PARSED_BYTES
        end = bytes(view[:PARSED_BYTES]).find(b"\r\n\r\n")
        return PARSED_BYTES if end < 0 else end + 4

    def _await_request(self) -> None:
        """Give the client the time it has for what it is at: a head, the next bytes of a body, or being idle.

        As long as it has an answer to read, that is what it must be at.
        """
        if self._current is not None or self._outbox.size or self._last:
            return
        parser, shared = self._parser, self._shared
        if parser.in_body:
            seconds = shared.body_timeout_seconds
        elif parser.in_head:
            seconds = shared.header_timeout_seconds
        else:
            seconds = shared.keep_alive_seconds
        self.expires = monotonic() + seconds

    def _on_head(self, environ: dict[str, Any]) -> None:
        """Put into the environ what is known of the client, and the class that a trusted peer tells."""
        environ["REMOTE_ADDR"] = self._host
        environ["REMOTE_PORT"] = self._port
        shared = self._shared
        if shared.tls is not None:
            environ.update(tls_environ(self._socket))
        if shared.trusts_proxies:
            priority = environ.get("HTTP_X_INTRALB_PRIORITY")
            if priority in PRIORITIES and self._host in shared.trusted_proxies:
                environ["intralb.priority"] = priority
            forwarded(environ, self._host, shared.trusted_proxies)

    def _on_request(self, request: Request) -> None:
        self._describe(request)
        self._pending.append(request)

    def _describe(self, request: Request) -> None:
        """Note what the log will say of a request, and what a trusted peer tells of its time."""
        environ, shared = request.environ, self._shared
        if shared.request_log is not None:
            target = environ["RAW_URI"].encode("unicode_escape").decode("ascii").replace('"', "%22")
            request.line = f"{environ['REQUEST_METHOD']} {target} {environ['SERVER_PROTOCOL']}"
        if shared.trusts_proxies and self._host in shared.trusted_proxies:
            told = time_told(environ, time())
            if told is not None:
                environ["intralb.time_told"] = told

    def _judge_head(self) -> None:
        """Refuse a request by its head, if it would be refused now; else let its body come.

        Only where it is next to be answered, so that nothing is answered out of order; otherwise it waits.
        """
        if self._current is not None or self._pending or self._last or self.closed or self._far_behind:
            return
        parser = self._parser
        parser.head_waits = False
        shared = self._shared
        answer = None if shared.in_front else shared.balancer.turn_away(parser.environ)
        if answer is not None:
            self._refuse_head(answer)
        elif parser.awaits_continue:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n", b"")

    def _refuse_head(self, answer: Answer) -> None:
        """Answer a request without its body, which is skipped as it comes; or read nothing more, and close."""
        request = self._parser.skip_body()
        self._skipping = True
        self._describe(request)
        self.answer(request, answer)

    def _on_end_of_input(self) -> None:
        """The client has left, or will send no more, which looks the same: answer what is running, drop what waits."""
        self._reader.stop()
        self._input_ended = True
        if self._abandoned():
            self.cut()
        elif not (self._current or self._pending or self._outbox.size):
            self.close()

    def _abandoned(self) -> bool:
        """Drop the present job if it waits, or end it if that is wanted; say whether it has ended so."""
        if self._job is None or self._current is None:
            return False
        self._shared.balancer.abandon(self._job)
        if self._job.state != "disconnected":
            return False
        self._current.request.release()
        return True

    def _reject(self, status: str) -> None:
        """Refuse what was sent, after the answers to all that came before it; then close."""
        client = self._host or "a local client"
        if self._parser.skips_body:
            self._shared.report(f"closed a connection from {client} in the body of a refused request: {status}")
            self._end_skipping()
            return
        self._shared.report(f"refused a request from {client}: {status}")
        self.refuse(_rejection(status))

    def refuse(self, answer: Answer) -> None:
        """Give an answer to whatever comes next, and nothing more."""
        self._pending.append(answer)
        self._lingering = True
        if self._current is None:
            self._advance()

    def _end_skipping(self) -> None:
        """Close without another word: the request whose body was to come has its answer."""
        self._last = self._lingering = True
        self._end_output()

    # Answering, in order.

    def _advance(self) -> None:
        """Take up what waits until something is under way; a loop, as refusals end at once and are many.

        Nothing is taken up for a client that only asks, and does not read what it is answered.
        """
        pending, shared = self._pending, self._shared
        while pending and self._current is None and not (self.closed or self._last or self._far_behind):
            item = pending.popleft()
            if isinstance(item, Answer):
                self._last = True
                self.send(whole_answer(item, keep_alive=False), b"")
                self._end_output()
                return
            if not (shared.in_front or shared.balancer.calm):
                answer = shared.balancer.turn_away(item.environ)
                if answer is not None:
                    item.release()
                    self.answer(item, answer)
                    continue
            if not self._outbox.size:
                self.expires = math.inf
            response = self._current = Response(self, item)
            job = shared.submit(item.environ, response)
            if not response.ended:
                self._job = job

    def answer(self, request: Request, answer: Answer) -> None:
        """Send an answer that is not the application's, and go on; what is to become of its job is known already."""
        # If it cannot be sent, the connection is closed, and the job must not be given a second end by that.
        self._job = None
        keep_alive = request.keep_alive and request.http_1_1 and not self.closing
        self.send(whole_answer(answer, keep_alive=keep_alive, head_only=request.head_only), b"")
        self.response_ended(request, keep_alive, answer.status, len(answer.body))

    def response_ended(self, request: Request, keep_alive: bool, status: str, length: int | None) -> None:
        """A response is complete, though parts of it may be unsent; go on with the next, or close."""
        if self._shared.request_log is not None:
            self._shared.request_log.record(logging.INFO, _log_line(self._host, request.line, status, length))
        self._current = self._job = None
        if not keep_alive or self._last or (self._input_ended and not self._pending):
            self._last = True
            # What is still being sent is not answered, and must not reset the connection before the answer is read.
            self._lingering = self._lingering or (self._parser.in_body and not self._input_ended)
            self._end_output()
            return
        self._await_request()
        if self._pending or self._unparsed or self._parser.head_waits:
            # From the hub, not from here: `_advance` may be what called us, or a slot that still has to clean up.
            self._shared.loop.run_callback(self._resume)
        elif self.closing:
            self.close_if_idle()

    def _resume(self) -> None:
        self._resuming = True
        try:
            if not self.closed:
                self._go_on()
        except Exception:
            self._give_up()
        finally:
            self._resuming = False

    def _go_on(self) -> None:
        self._advance()
        if self._unparsed and len(self._pending) < PIPELINED_REQUESTS and not self._lingering:
            data, self._unparsed = self._unparsed, b""
            self._take(data)
        if self._parser.head_waits:
            self._judge_head()
        if not (self._unparsed or self._input_ended or self._last or self.closed or self._reader.active):
            self._reader.start(self._on_readable)

    def _end_output(self) -> None:
        """Close once all is sent; a refused client may still be sending, so it is given time to read the refusal."""
        if self._outbox.size or self._whole or self.closed:
            return
        if not self._lingering:
            self.close()
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        else:
            self.expires = monotonic() + LINGER_SECONDS

    # Writing.

    def send(self, head: bytes, body: bytes) -> None:
        """Send both, as much as the socket takes now; the hub sends the rest. Never waits or raises."""
        if self._whole:
            self._send_whole()
        if len(body) > JOINED_BYTES or self._outbox.size or self.closed:
            self._send_parts([head, body])
        else:
            self._send_now(head + body)

    def send_last(self, head: bytes, body: bytes) -> None:
        """Send what makes a response whole, at the end of the hub's turn if there is one."""
        turn_end = self._shared.turn_end
        if not turn_end.in_turn or len(body) > JOINED_BYTES or self._outbox.size or self.closed or self._whole:
            self.send(head, body)
        else:
            # Nearly every response: one piece.
            self._whole = head + body
            turn_end.put_off(self)

    def end_of_turn(self) -> None:
        """Send the response that is whole."""
        try:
            self._send_whole()
            if self._last:
                self._end_output()
            elif self.closing:
                self.close_if_idle()
        except Exception:
            self._give_up()

    def _send_whole(self) -> None:
        data, self._whole = self._whole, b""
        if data and not self.closed:
            self._send_now(data)

    def _send_now(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.close()
            return
        if sent != len(data):
            self._keep(memoryview(data)[sent:])

    def _send_parts(self, parts: list[bytes]) -> None:
        sent = 0 if self._outbox.size or self.closed else self._sent_now(parts)
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
            elif not self.closed:
                self._keep(memoryview(part)[sent:])
                sent = 0

    def send_file(self, head: bytes, descriptor: int, offset: int, count: int) -> None:
        """Send a stretch of a file behind its head, by the system; takes over the descriptor."""
        if self.closed:
            os.close(descriptor)
            return
        try:
            self._outbox.add(memoryview(head))
        except OSError as error:
            os.close(descriptor)
            self._cannot_keep(error)
            return
        self._outbox.add_file(descriptor, offset, count)
        if count > LOOPBACK_FILE_UNSENT_BYTES and self._loopback and self._shared.tls is None:
            self._leave_to_the_system(LOOPBACK_FILE_UNSENT_BYTES)
        self._on_writable()

    def _leave_to_the_system(self, most: int) -> None:
        """Bound what the system keeps that is not sent yet; 0 is as usual.

        On loopback the receiver's processor sends what the sender's has left: with as much of a file as the system
        takes, the client spent more than twice the time on reading it (docs/performance.md).
        """
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, most)
        self._unsent_bounded = most > 0

    def _sent_now(self, parts: list[bytes]) -> int:
        try:
            return int(self._socket.sendmsg(parts))
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.close()
            return 0

    def _keep(self, data: memoryview) -> None:
        try:
            self._outbox.add(data)
        except OSError as error:
            self._cannot_keep(error)
        else:
            self._watch_writing()

    def _cannot_keep(self, error: OSError) -> None:
        """The disk is full: this client's answer cannot be kept."""
        self._shared.report(f"cut a response: its temporary file cannot be written: {error}")
        self.close()

    def _watch_writing(self) -> None:
        if self._writer is None:
            self._writer = self._shared.loop.io(self._socket.fileno(), 2)
        if not self._writer.active:
            self._writer.start(self._on_writable)
            self.expires = monotonic() + self._shared.write_timeout_seconds

    def _on_writable(self) -> None:
        try:
            self._outbox.send_to(self._socket)
        except (BlockingIOError, InterruptedError):
            self.expires = monotonic() + self._shared.write_timeout_seconds
        except OSError:
            self.close()
        if not self._far_behind:
            self._no_longer_far_behind()
        if self.closed:
            return
        if self._outbox.size:
            self._watch_writing()
        else:
            self._all_sent()

    def _no_longer_far_behind(self) -> None:
        """Go on with what waited for the client to take what was there for it: a slot, or its next request."""
        if self._taken is not None:
            self._taken.set()
        if self._current is None and (self._pending or self._unparsed or self._parser.head_waits):
            self._shared.loop.run_callback(self._resume)

    def _all_sent(self) -> None:
        if self._writer is not None:
            self._writer.stop()
        if self._unsent_bounded:
            self._leave_to_the_system(0)
        if self._current is not None:
            self.expires = math.inf
        elif self._last or (self._input_ended and not self._pending):
            self._end_output()
        else:
            self._await_request()
            if self.closing:
                self.close_if_idle()

    @property
    def _far_behind(self) -> bool:
        """Whether the client has left so much unread that who writes has to wait, and so has its next request."""
        unsent = self._outbox.size
        if unsent <= UNSENT_LEAST_BYTES:
            return False
        return unsent > UNSENT_MOST_BYTES or self._shared.budget.in_files > UNSENT_IN_FILES_BYTES

    def wait_until_taken(self) -> None:
        """Let a slot wait while the client is far behind."""
        while self._far_behind and not self.closed:
            self._taken = Event()
            self._taken.wait()

    # Ending.

    def expire(self) -> None:
        """The client has taken too long: for its request 408, for reading the answer or for being idle the end."""
        waits_for_request = self._current is None and not self._outbox.size and not self._lingering
        if waits_for_request and not self.idle:
            self._reject("408 Request Timeout")
        else:
            self.close()

    def close_if_idle(self) -> None:
        """Close a connection on which nothing has been asked; a request that has just come is still answered."""
        if self._parser.skips_body and not self._last:
            self._end_skipping()
        elif self.idle and not self.closed:
            self._look_once_more()
            if self.idle:
                self.close()

    def _look_once_more(self) -> None:
        """Read what has come and was not told of yet."""
        if self._proxy_header is not None:
            self._on_proxy_header(self._proxy_header)
        if self._proxy_header is None and not self.closed:
            self._on_readable()

    def cut(self) -> None:
        """Close because the present response cannot be finished; what is to become of its job is known already.

        Earlier responses are not to suffer from that: what is unsent of them is sent first.
        """
        self._current = self._job = None
        self._send_whole()
        if self._outbox.size:
            self._last, self._lingering = True, not self._input_ended
        else:
            self.close()

    def close(self) -> None:
        """Close the socket now; a job that waits is dropped, one that runs finds nobody to answer."""
        if self._whole:
            # An earlier response, which is not to suffer from what has become of this one.
            self._send_whole()
        if self.closed:
            return
        self.closed = True
        self._reader.stop()
        self._reader.close()
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
        self._socket.close()
        self._parser.close()
        self._outbox.clear()
        if self._taken is not None:
            self._taken.set()
        self._abandoned()
        for item in self._pending:
            if isinstance(item, Request):
                item.release()
        self._pending.clear()
        self._current = self._job = None
        self._shared.closed(self)
