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
from time import strftime
from typing import Any

from gevent.event import Event

from ..policy.answers import Answer
from ..policy.deadline import time_told
from ..policy.pace import Pace
from ..pool.cutlog import cut_line
from ..pool.forks import FORKS, close_copy
from ..pool.job import ENDED, Job, shown
from ..pool.mounts import enter_root
from ..pool.socketends import has_hung_up, is_tcp, reset_when_closed, unacknowledged
from ..pool.upgrades import SWITCHING, Upgrade
from ..priority import PRIORITIES
from ..stdlib import monotonic, time_of_day
from .arrival import seconds_since_data
from .authority import set_server_name
from .forwarded import forwarded
from .framing import whole_answer
from .limits import (
    JOINED_BYTES,
    LINGER_SECONDS,
    LOOPBACK_FILE_UNSENT_BYTES,
    PARSED_BYTES,
    PIPELINED_REQUESTS,
    PROXY_HEADER_BYTES,
    READ_AHEAD_BYTES,
    RECEIVE_BYTES,
    TLS_RECEIVE_BYTES,
    UNSENT_IN_FILES_BYTES,
    UNSENT_LEAST_BYTES,
    UNSENT_MOST_BYTES,
)
from .outbox import Outbox
from .parser import Request, RequestParser
from .parsingturns import PARSING_SECONDS, is_costly
from .proxy_protocol import ProxyHeader
from .refusals import BODY_TOO_SHORT, PLAIN_HTTP, TOO_SLOW
from .response import Response
from .shared import Shared
from .tls import NotTls, TlsSocket
from .upgrade import taken

__all__ = ["Connection"]

_LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})


def _log_line(host: str, line: str, status: str, length: int | None) -> Callable[[], str]:
    """Return what writes the line of a response that has just ended, in the Common Log Format."""
    when, size = strftime("%d/%b/%Y:%H:%M:%S %z"), "-" if length is None else length
    return lambda: f'{host or "-"} - - [{when}] "{line}" {status[:3]} {size}\n'


_ACKNOWLEDGED_LOOK_SECONDS = 0.01
"""Between two looks whether a client has all of a response that is about to be reset."""


class Connection:
    """One accepted socket: `_on_readable` and `_on_writable` are called by the hub and never wait or raise."""

    __slots__ = (
        "_acknowledging",
        "_ahead",
        "_behind",
        "_current",
        "_cut",
        "_host",
        "_input_ended",
        "_job",
        "_last",
        "_lingering",
        "_loopback",
        "_outbox",
        "_pace",
        "_parser",
        "_paused",
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
        "_upgrade",
        "_whole",
        "_writer",
        "close_ends_body",
        "closed",
        "closing",
        "expires",
    )

    def __init__(self, shared: Shared, sock: Any, address: Any) -> None:
        # Long, as every attribute is declared here.
        self._shared = shared
        self._socket = sock
        self._host: str = address[0] if isinstance(address, tuple) else ""
        self._port: str = str(address[1]) if isinstance(address, tuple) else ""
        self._loopback = self._host in _LOOPBACK
        self._pending: deque[Request | Answer] = deque()
        plain = shared.request_log is None and not shared.trusts_proxies
        on_request = self._pending.append if plain else self._on_request
        on_head = self._on_placed_head if shared.nameless or shared.root_path else self._on_head
        self._parser = RequestParser(shared.environ, shared.options, on_head, on_request, shared.bodies)
        self._current: Response | None = None
        self._job: Job | None = None
        self._last = False
        """Whether the present response is the last."""
        self._unparsed = b""
        """What has been read and has to wait, because many requests do."""
        self._ahead = 0
        """Bytes that were read while a request waited for an earlier one."""
        self._paused = False
        """Whether the client waits, as parsing what it sends has taken long."""
        self._input_ended = False
        self._skipping = False
        """Whether a request has been answered whose body was still to come when its client's time was counted last."""
        self._lingering = False
        self._resuming = False
        """Whether what is parsed or submitted was read some time ago."""
        self._outbox = Outbox(shared.budget)
        self._pace = Pace()
        """Of a body that arrives, or of the answers that the client takes."""
        self._whole = b""
        """A response that is sent at the end of the hub's turn."""
        self._taken: Event | None = None
        self._behind = ("a refused request", monotonic(), 0)
        """The name, arrival and size of the last request that is answered and whose response was not all sent then."""
        self.close_ends_body = False
        """Whether only the close of the connection tells where the body of its last response ends."""
        self._cut = False
        """Whether the last response cannot be finished, so that the end of the connection must not look regular."""
        self._acknowledging: Any = None
        """The timer that waits until the client has what was sent before a reset."""
        self._unsent_bounded = False
        self._upgrade: Upgrade | None = None
        """What the application has made of this connection by taking it over."""
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
    def new(self) -> bool:
        """Whether nothing has been asked yet."""
        return not self._parser.begun

    @property
    def unsent(self) -> int:
        """Bytes of responses that the client has not taken yet."""
        return self._outbox.size + len(self._whole)

    def has_left(self) -> bool:
        """Say whether the client has left, or at least will send no more, which over TCP looks the same."""
        if self._upgrade is not None:
            return self._upgrade.has_ended()
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
            self._shared.report("proxy", f"refused a connection from {self._host or 'a local proxy'}: {error}")
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
        broken = False
        try:
            if shared.tls is not None:
                data = self._socket.recv(TLS_RECEIVE_BYTES)
            else:
                # One buffer for all connections: the parser copies what it keeps.
                parser = self._parser
                much = parser.in_body and parser.body_left >= RECEIVE_BYTES
                buffer = shared.buffer if much else shared.short_buffer
                data = buffer[: self._socket.recv_into(buffer)]
        except (BlockingIOError, InterruptedError):
            return
        except NotTls:
            self._refuse_plain_http()
            return
        except OSError:
            data, broken = b"", True
        try:
            if data and not self._lingering:
                self._take(data)
            elif broken:
                self.close()
            elif not data:
                self._on_end_of_input()
        except Exception:
            self._give_up()

    def _refuse_plain_http(self) -> None:
        """Answer a client that does not encrypt in the only way that it understands."""
        self._socket, self._lingering = self._socket.plain, True
        # A warning, for somebody has configured the wrong port; it is in the log before the client knows.
        self._report_refused(PLAIN_HTTP, logging.WARNING)
        self._shared.loop.run_callback(self._answer_plain_http)

    def _answer_plain_http(self) -> None:
        try:
            self.refuse(PLAIN_HTTP)
        except Exception:
            self._give_up()

    def _give_up(self) -> None:
        """A bug of ours costs one connection, and nothing is raised in the hub."""
        self._shared.report_bug(self)
        self.close()

    def _take(self, data: bytes | memoryview) -> None:
        parser = self._parser
        if parser.holds_back:
            self._unparsed += bytes(data)
            self._reader.stop()
            return
        was_in_head = parser.in_head
        short = len(data) <= PARSED_BYTES and not parser.in_body
        refused = parser.feed(data) if short else self._parse_some(data)
        if refused is not None:
            self._reject(refused)
        elif parser.in_body or (parser.in_head and not was_in_head) or self._skipping:
            self._await_request()
            self._skipping = parser.skips_body
            if parser.far_ahead:
                self._reader.stop()
        if parser.held:
            self._hold_back()
        if self._pending:
            self._advance()
            if (self._pending or self._unparsed or parser.head_waits) and not self.closed:
                self._read_ahead(len(data))
        elif parser.head_waits:
            self._judge_head()

    def _read_ahead(self, count: int) -> None:
        """Read no further than a bounded number of bytes and requests, and no body, ahead of the one being answered."""
        self._ahead += count
        many = len(self._pending) >= PIPELINED_REQUESTS or self._ahead > READ_AHEAD_BYTES
        if many or self._unparsed or self._parser.head_waits:
            self._reader.stop()
        if self._unparsed and self._current is None:
            self._shared.loop.run_callback(self._resume)

    def _parse_some(self, data: bytes | memoryview) -> Answer | None:
        """Parse until so many requests wait, or it has taken so long, that the rest has to wait, too."""
        parser, refused, view, began = self._parser, None, memoryview(data), monotonic()
        seconds = 0.0
        while view and refused is None and len(self._pending) < PIPELINED_REQUESTS and not self._last:
            if parser.holds_back:
                self._reader.stop()
                break
            end = parser.body_left or self._next_part(view)
            refused = parser.feed(view[:end])
            view = view[end:]
            if parser.head_waits and refused is None:
                self._judge_head()
            seconds = monotonic() - began
            if parser.head_waits or seconds > PARSING_SECONDS:
                break
        self._unparsed = bytes(view) if refused is None and not self._last else b""
        waits = (seconds > PARSING_SECONDS and len(view) > 0) or is_costly(seconds, len(data) - len(view))
        if waits and refused is None and not (self._pending or self._last or self.closed):
            self._reader.stop()
            self._paused = True
            self._shared.parsing_turns.pause(self, self._shared.loop)
        return refused

    def resume_parsing(self) -> None:
        """Go on, as others have had their time."""
        self._paused = False
        self._resume()

    def _hold_back(self) -> None:
        """Keep what came behind an offer to upgrade, and read no more, until the application has decided."""
        self._unparsed = self._parser.held + self._unparsed
        self._parser.held = b""
        self._reader.stop()

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
            self.expires = self._until(parser.body_size, shared.body_timeout_seconds)
            return
        seconds = shared.header_timeout_seconds if parser.in_head else shared.keep_alive_seconds
        self.expires = monotonic() + seconds

    def _until(self, count: int, seconds: float) -> float:
        return self._pace.until(monotonic(), self.expires, count, seconds, self._shared.kept_until)

    def _on_head(self, environ: dict[str, Any]) -> None:
        """Put into the environ what is known of the client, and the class that a trusted peer tells."""
        environ["REMOTE_ADDR"] = self._host
        environ["REMOTE_PORT"] = self._port
        shared = self._shared
        if shared.tls is not None:
            environ.update(self._socket.environ)
        if shared.trusts_proxies:
            priority = None if shared.priority_key is None else environ.get(shared.priority_key)
            if priority in PRIORITIES and self._host in shared.trusted_proxies:
                environ["intralb.priority"] = priority
            forwarded(environ, self._host, shared.trusted_proxies)
        elif shared.strangers.watching and "HTTP_X_FORWARDED_FOR" in environ:
            shared.strangers.see(self._host)

    def _on_placed_head(self, environ: dict[str, Any]) -> None:
        """Do the same for a server whose name the client knows, or that is below a path."""
        shared = self._shared
        if shared.nameless:
            set_server_name(environ)
        self._on_head(environ)
        if shared.root_path:
            enter_root(environ, shared.root_path)

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
            told = time_told(environ, time_of_day())
            if told is not None:
                environ["intralb.time_told"] = told

    def _judge_head(self) -> None:
        """Refuse a request by its head, if it would be refused now; else let its body come.

        Only where it is next to be answered, so that nothing is answered out of order; otherwise it waits.
        """
        if self._last or self.closed:
            return
        if self._current is not None or self._pending or self.far_behind:
            self._reader.stop()
            return
        parser = self._parser
        parser.head_waits = False
        shared = self._shared
        answer = None if shared.in_front else shared.balancer.turn_away(parser.environ, self._reader.fd)
        if answer is not None:
            self._refuse_head(answer)
        elif shared.streams_bodies and shared.balancer.streams_body(parser.environ):
            self._stream_body()
        elif parser.awaits_continue:
            self.ask_for_body()

    def _refuse_head(self, answer: Answer) -> None:
        """Answer a request without its body, which is skipped as it comes; or read nothing more, and close."""
        request = self._parser.skip_body()
        self._skipping = True
        self._describe(request)
        self.answer(request, answer)

    def ask_for_body(self) -> None:
        """Send `100 Continue`, unless the response has begun."""
        if self._current is None or not self._current.begun:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n", b"")

    # Streamed request bodies.

    def _stream_body(self) -> None:
        """Submit a request before its body has arrived."""
        request = self._parser.stream_body(self)
        self._describe(request)
        self._pending.append(request)
        self._advance()

    @property
    def body_timeout_seconds(self) -> float:
        """How long the application waits for a byte of it."""
        return self._shared.body_timeout_seconds

    def resume_body(self) -> None:
        """Read on, as the application has caught up."""
        if not (self._reader.active or self._input_ended or self._unparsed or self._paused or self.closed):
            self._reader.start(self._on_readable)

    def body_late(self) -> None:
        """Fail a body: no byte arrived for `body_timeout_seconds`, nor has a kept loop left any unread."""
        size = self._parser.body_size
        if self._reader.active:
            self._look_once_more()
        if self._parser.streams_body and self._parser.body_size == size:
            self._reject(TOO_SLOW)

    def _end_body(self, answer: Answer) -> None:
        """Fail the body in the application, and close the connection after the response."""
        if self._current is not None:
            self._current.request.keep_alive = False
        self._lingering = not self._input_ended
        self._parser.fail_body(
            f"the rest of the request's body cannot be read: {answer.status}: {answer.explanation}", answer
        )

    def _skip_rest(self) -> None:
        """Skip the unread rest of the body of a request that has been answered."""
        self._parser.skip_rest()
        self._skipping = True
        self.resume_body()

    def _on_end_of_input(self) -> None:
        """Answer what was asked, as a client that sends no more may still read; drop all if it is known to have left.

        With `cancel_on_disconnect` one that may have left is taken to have done so.
        """
        self._reader.stop()
        self._input_ended = True
        if has_hung_up(self._socket):
            self.close()
        elif self._shared.options.cancel_on_disconnect and is_tcp(self._socket) and self._abandoned():
            self.cut()
        elif self._parser.streams_body:
            self._end_body(BODY_TOO_SHORT)
        elif not (self._current or self._pending or self._outbox.size):
            self.close()

    def _abandoned(self, gone: bool = False) -> bool:
        """Drop the present job if it waits, or end it if that is wanted; say whether it has ended so."""
        if self._job is None or self._current is None:
            return False
        self._shared.balancer.abandon(self._job, gone)
        if self._job.state != "disconnected":
            return False
        self._current.request.release()
        return True

    def _reject(self, answer: Answer) -> None:
        """Refuse what was sent, after the answers to all that came before it; then close."""
        self._report_refused(answer, logging.INFO)
        if self._parser.skips_body:
            self._end_skipping()
        elif self._parser.streams_body:
            self._end_body(answer)
        else:
            self.refuse(answer)

    def _report_refused(self, answer: Answer, level: int) -> None:
        client = self._host or "a local client"
        what = f"refused a request from {client}"
        if self._parser.skips_body:
            what = f"closed a connection from {client} in the body of a request that was answered"
        self._shared.report(answer.explanation, f"{what}: {answer.status}: {answer.explanation}", level)

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
        while pending and self._current is None and not (self.closed or self._last or self.far_behind):
            item = pending.popleft()
            if isinstance(item, Answer):
                self._last = True
                self.send(whole_answer(item, keep_alive=False), b"")
                self._end_output()
                return
            if not (shared.in_front or shared.balancer.calm):
                answer = shared.balancer.turn_away(item.environ, self._reader.fd)
                if answer is not None:
                    item.release()
                    self.answer(item, answer)
                    continue
            if not self._outbox.size:
                self.expires = math.inf
            if shared.in_front:
                item.arrived = monotonic()
                item.line = item.line or f"{item.environ['REQUEST_METHOD']} {shown(item.environ['PATH_INFO'])}"
            response = self._current = Response(self, item)
            # The slot has the last reference, for finalizers of what the application adds could not wait here.
            environ, item.environ = item.environ, ENDED
            job = shared.submit(environ, response)
            if not response.ended:
                self._job = job

    def answer(self, request: Request, answer: Answer) -> None:
        """Send an answer that is not the application's, and go on; what is to become of its job is known already."""
        # If it cannot be sent, the connection is closed, and the job must not be given a second end by that.
        self._job = None
        if request.has_body:
            request.settle()
        keep_alive = request.keep_alive and request.http_1_1 and not self.closing
        self.send(whole_answer(answer, keep_alive=keep_alive, head_only=request.head_only), b"")
        self.response_ended(request, keep_alive, answer.status, len(answer.body))

    def response_ended(self, request: Request, keep_alive: bool, status: str, length: int | None) -> None:
        """A response is complete, though parts of it may be unsent; go on with the next, or close."""
        if self._shared.request_log is not None:
            self._shared.request_log.record(logging.INFO, _log_line(self._host, request.line, status, length))
        if self._outbox.size and self._current is not None and (self._job is not None or self._shared.in_front):
            self._behind = self._described(self._current)
        self._current = self._job = None
        if request.has_body and self._parser.streams_body:
            self._skip_rest()
        if request.offers_upgrade:
            self._parser.go_on()
        if not keep_alive or self._last or (self._input_ended and not (self._pending or self._unparsed)):
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
        parser = self._parser
        self._advance()
        if not self._pending:
            self._ahead = 0
        if parser.head_waits:
            self._judge_head()
        held_back = self._lingering or parser.holds_back or parser.head_waits or self._paused
        if self._unparsed and len(self._pending) < PIPELINED_REQUESTS and not held_back:
            data, self._unparsed = self._unparsed, b""
            self._take(data)
        waits = self._unparsed or parser.head_waits or parser.far_ahead or self._ahead > READ_AHEAD_BYTES
        if not (waits or self._paused or self._input_ended or self._last or self.closed or self._reader.active):
            self._reader.start(self._on_readable)
        elif self._input_ended and self._current is None and not (self._pending or self._unparsed or self._last):
            # What was left was no whole request.
            self._last = True
            self._end_output()

    def _end_output(self) -> None:
        """Close once all is sent; a refused client may still be sending, so it is given time to read the refusal."""
        if self._outbox.size or self._whole or self.closed:
            return
        if self._cut and self._resets and unacknowledged(self._socket):
            # A reset would take away what the client has not got of this response and of earlier ones.
            self._await_acknowledgement()
            return
        if self._cut and self._shared.tls is not None:
            self._socket.leave_unfinished()
        if not self._lingering or self._resets:
            self.close()
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        else:
            self.expires = monotonic() + LINGER_SECONDS

    def report_dropped(self, names: tuple[str, ...]) -> None:
        """Log that headers of the application are not sent."""
        self._shared.report_dropped(names)

    @property
    def _resets(self) -> bool:
        """Whether the end of a response that is cut is a reset: nothing else tells a client of plain TCP then."""
        return self.close_ends_body and self._shared.tls is None

    def _await_acknowledgement(self) -> None:
        if self._acknowledging is None:
            self._lingering = True
            self.expires = monotonic() + self._shared.write_timeout_seconds
            self._acknowledging = self._shared.loop.timer(_ACKNOWLEDGED_LOOK_SECONDS, _ACKNOWLEDGED_LOOK_SECONDS)
            self._acknowledging.start(self._end_output)

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
        self._shared.report("disk", f"cut a response: its temporary file cannot be written: {error}")
        self.close()

    def _watch_writing(self) -> None:
        if self._writer is None:
            self._writer = self._shared.loop.io(self._socket.fileno(), 2)
        if not self._writer.active:
            self._writer.start(self._on_writable)
            self._await_taking()

    @property
    def _taken_count(self) -> int:
        """Bytes of what has been sent late that the client's system has; all of it where that is not known."""
        return self._outbox.sent - unacknowledged(self._socket)

    def _await_taking(self) -> None:
        self.expires = self._until(self._taken_count, self._shared.write_timeout_seconds)

    def _on_writable(self) -> None:
        sent = self._outbox.sent
        try:
            self._outbox.send_to(self._socket)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.close()
        if self._outbox.size and self._outbox.sent > sent:
            self._await_taking()
        if not self.far_behind:
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
        elif self._last or (self._input_ended and not (self._pending or self._unparsed)):
            self._end_output()
        else:
            self._await_request()
            if self.closing:
                self.close_if_idle()

    @property
    def far_behind(self) -> bool:
        """Whether the client has left so much unread that who writes has to wait, and so has its next request."""
        unsent = self._outbox.size
        if unsent <= UNSENT_LEAST_BYTES:
            return False
        return unsent > UNSENT_MOST_BYTES or self._shared.budget.in_files > UNSENT_IN_FILES_BYTES

    def wait_until_taken(self, seconds: float) -> bool:
        """Let a slot wait while the client is far behind; one that takes nothing for too long is cut by `expire`."""
        while self.far_behind and not self.closed:
            self._wait_for_taking()
        return True

    def _wait_for_taking(self) -> None:
        """Wait until the client has taken something; several greenlets of a handler may do so."""
        if self._taken is None or self._taken.is_set():
            self._taken = Event()
        self._taken.wait()

    # Taken over by the application.

    def wait_until_all_taken(self, seconds: float) -> bool:
        """Let a slot wait until the client has taken all earlier responses; see `wait_until_taken`."""
        self._send_whole()
        while self._outbox.size and not self.closed:
            self._wait_for_taking()
        return True

    def hand_over(self, request: Request) -> Upgrade:
        """Release the socket to the application, with what came behind its request: from here on it is not ours."""
        if self._shared.request_log is not None:
            self._shared.request_log.record(logging.INFO, _log_line(self._host, request.line, SWITCHING, None))
        self._stop_watching()
        self._parser.close()
        self._upgrade = Upgrade(taken(self._socket, self._unparsed))
        self._unparsed = b""
        self._current = self._job = None
        self._shared.closed(self)
        return self._upgrade

    # Ending.

    def expire(self) -> None:
        """The client has taken too long: for its request 408, for reading the answer or for being idle the end."""
        if self._was_in_time() or self.refuse_unfinished(TOO_SLOW):
            return
        self.report_cut(f"its client took nothing for write_timeout_seconds={self._shared.write_timeout_seconds:g}")
        self.close()

    def _was_in_time(self) -> bool:
        """Read and send what a kept loop has not; say whether the client has not taken too long after all."""
        if self._reader.active:
            self._look_once_more()
        if self._outbox.size and not self.closed:
            self._on_writable()
            # The system takes more only when much of what it has is gone; a client may be slower and keep up.
            if self._outbox.size and self._pace.keeps_up(self._taken_count, self._shared.write_timeout_seconds):
                self._await_taking()
        return self.closed or self.expires > monotonic()

    def refuse_unfinished(self, answer: Answer) -> bool:
        """Refuse the request that is arriving, if one is and nothing else is under way; say whether it was so."""
        if self._current is not None or self._outbox.size or self._lingering or self.idle or self.closed:
            return False
        self._reject(answer)
        return True

    def report_cut(self, why: str) -> None:
        """Log that the response that is being sent is cut, if one is."""
        if not self._outbox.size:
            return
        name, arrived, passed = self._behind if self._current is None else self._described(self._current)
        self._shared.warn(why, cut_line(name, monotonic() - arrived, max(0, passed - self._outbox.size), why))

    def _described(self, response: Response) -> tuple[str, float, int]:
        """Return the name and the arrival of a request, and how many bytes of its response there were to send."""
        job, request = self._job, response.request
        if job is None:
            return request.line, request.arrived, response.passed
        return job.name, job.arrived, response.passed

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
        self._last = self._cut = True
        self._lingering = self._outbox.size > 0 and not self._input_ended
        self._end_output()

    def close(self) -> None:
        """Close the socket now; a job that waits is dropped, one that runs finds nobody to answer."""
        if self._whole:
            # An earlier response, which is not to suffer from what has become of this one.
            self._send_whole()
        if self.closed:
            return
        cut = self._cut or self._outbox.size > 0 or (self._current is not None and self._current.begun)
        self._stop_watching()
        self._close_socket(cut)
        self._parser.close()
        self._outbox.clear()
        if self._taken is not None:
            self._taken.set()
        self._abandoned(gone=True)
        for item in self._pending:
            if isinstance(item, Request):
                item.release()
        self._pending.clear()
        self._current = self._job = None
        self._shared.closed(self)

    def _stop_watching(self) -> None:
        """Have the hub look after the socket no more."""
        self.closed = True
        for watcher in (self._reader, self._writer, self._acknowledging):
            if watcher is not None:
                watcher.stop()
                watcher.close()

    def _close_socket(self, cut: bool) -> None:
        if cut and isinstance(self._socket, TlsSocket):
            self._socket.leave_unfinished()
        elif cut and self._resets:
            reset_when_closed(self._socket)
        elif FORKS.made and not isinstance(self._socket, TlsSocket):
            # Another process may have a copy of the socket, and close() alone would not end the connection.
            _shut_down(self._socket)
        self._socket.close()

    def isolate(self) -> None:
        """Close this process's copy of the socket, after a handler has forked it: the client belongs to the parent."""
        self.closed = True
        close_copy(self._socket)


def _shut_down(plain: Any) -> None:
    # Not by contextlib.suppress(), which is Python code: an abort could land there and leave the socket open.
    try:
        plain.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
