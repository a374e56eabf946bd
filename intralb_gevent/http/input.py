"""The reading half of a connection, which receives the client's data and parses it in pieces of bounded cost.

While many requests are pending, or after parsing has taken too long, the connection buffers received bytes unparsed and
stops reading. This module also sets the read timeout.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ..policy.cannedresponses import CannedResponse
from ..policy.connectionstate import LAST, OPEN, Course
from ..policy.pace import Pace
from ..pool.socketends import has_hung_up
from ..stdlib import monotonic
from .context import RECEIVE_BYTES, SHORT_RECEIVE_BYTES
from .keptrequest import KeptRequest
from .owner import NO_OWNER, Owner
from .parser import RequestParser
from .parsingtime import PARSING_SECONDS, is_costly
from .proxy.protocol import ProxyHeader
from .refusals import TOO_SLOW
from .request import Refusal, Request
from .tcpinfo import seconds_since_data
from .tls import TLS_RECEIVE_BYTES, NotTls, TlsSocket

if TYPE_CHECKING:
    from .context import ServerContext
    from .peer import Peer

__all__ = ["Input"]

PIPELINED_REQUESTS: Final = 16
"""Number of pending requests, excluding the current one, at which the connection stops reading."""

READ_AHEAD_BYTES: Final = 32 * 1024
"""Maximum bytes of pipelined requests behind the current request; equal to the default of `max_header_bytes`."""

PARSED_BYTES: Final = 2048
"""Maximum bytes parsed before pending requests are counted again: a parsed request of 27 bytes occupies kilobytes."""


class Input:
    """The input from one client. The hub calls `_on_readable`, which never waits or raises."""

    __slots__ = (
        "_course",
        "_owner",
        "_pace",
        "_paused",
        "_peer",
        "_pending",
        "_shared",
        "_socket",
        "ahead",
        "ended",
        "expires",
        "from_buffer",
        "kept",
        "parser",
        "proxy_header",
        "reader",
        "skipping",
        "unparsed",
    )

    def __init__(
        self,
        shared: ServerContext,
        sock: Any,
        peer: Peer,
        course: Course,
        pending: deque[Request | Refusal],
        parser: RequestParser,
        owner: Owner,
    ) -> None:
        # This method is long because every attribute is declared here.
        self._shared = shared
        self._socket = sock
        self._peer = peer
        self._course = course
        self._pending = pending
        self.parser = parser
        self._owner = owner
        self.unparsed = b""
        """Received bytes that are not parsed yet, for example because too many requests are pending."""
        self.ahead = 0
        """Bytes received since a request began to wait for an earlier request of the client."""
        self._paused = False
        """True while reading is paused, because parsing this client's data took too long."""
        self.ended = False
        """True once the client has sent EOF."""
        self.skipping = False
        """True if the read timeout was last set while the body of an answered request was being skipped."""
        self.from_buffer = False
        """True while the connection processes requests that have waited in this process, not in the socket buffer."""
        self._pace = Pace()
        """The measured rate at which the client sends a body."""
        self.kept = KeptRequest()
        """The bytes of a request that may have to move to another process."""
        self.expires = monotonic() + shared.header_timeout_seconds
        """The end of the read timeout, in `time.monotonic()` seconds; infinity while the server must act next."""
        self.reader: Any = shared.loop.io(sock.fileno(), 1)
        self.proxy_header = ProxyHeader() if shared.options.proxy_protocol and peer.trusted else None
        """The parser of the PROXY header that must precede all other data; None if no header is expected."""

    def __repr__(self) -> str:
        return f"<Input of {self._peer!r}: {self.parser!r}, {len(self.unparsed)} bytes unparsed>"

    @property
    def idle(self) -> bool:
        """True if there is neither an incomplete request nor unparsed data."""
        return not (self.unparsed or self.parser.in_head or self.parser.in_body)

    @property
    def waits(self) -> bool:
        """True if a request or unparsed data is waiting to be processed."""
        return bool(self._pending or self.unparsed or self.parser.head_pending)

    @property
    def exhausted(self) -> bool:
        """True if the client has sent EOF, and no request or unparsed data is pending."""
        return self.ended and not (self._pending or self.unparsed)

    def socket_wait(self) -> float:
        """Return for how many seconds the most recently read data was in the socket buffer; 0 if unknown."""
        return 0.0 if self.from_buffer else seconds_since_data(self._socket)

    # Receiving.

    def begin(self) -> None:
        """Start reading; read the PROXY header first if one is expected."""
        if self.proxy_header is not None:
            self.reader.start(self._on_proxy_header, self.proxy_header)
            return
        if self._shared.tls is not None:
            self._peer.tls = self._socket = TlsSocket(self._socket, self._shared.tls, self._shared.budget)
            self._owner.use_socket(self._socket)
        self.reader.start(self._on_readable)

    def _on_proxy_header(self, header: ProxyHeader) -> None:
        complete = False
        try:
            complete = header.receive(self._socket)
        except (BlockingIOError, InterruptedError):
            return
        except ValueError as error:
            self._peer.report_bad_header(error)
            self._owner.close()
        except (OSError, EOFError):
            self._owner.close()
        if complete:
            if header.source is not None:
                self._peer.host, self._peer.port = header.source
            self.proxy_header = None
            self.reader.stop()
            self.begin()

    def _on_readable(self) -> None:
        # Keep the owner in a variable: closing replaces `_owner`, but a bug must be reported to the original owner.
        shared, owner = self._shared, self._owner
        data: bytes | memoryview
        broken = False
        try:
            if shared.tls is not None:
                data = self._socket.recv(TLS_RECEIVE_BYTES)
            else:
                # All connections can use one buffer, because the parser copies the data that it keeps.
                parser = self.parser
                much = parser.in_body and parser.body_left >= RECEIVE_BYTES
                buffer = shared.buffer if much else shared.short_buffer
                data = buffer[: self._socket.recv_into(buffer)]
            shared.stats.received_bytes += len(data)
        except (BlockingIOError, InterruptedError):
            return
        except NotTls:
            self._socket = self._socket.plain
            owner.use_socket(self._socket)
            owner.refuse_plain_http()
            return
        except OSError:
            data, broken = b"", True
        try:
            if data and not self._course.discards:
                if shared.rescuer is not None:
                    self.kept.add(data, self.idle and not owner.answering, shared)
                self.take(data)
                if len(data) == SHORT_RECEIVE_BYTES and self.parser.in_chunks and shared.tls is None:
                    self._read_chunks()
            elif broken:
                owner.input_failed()
            elif not data:
                self._on_end()
        except Exception:
            owner.give_up()

    def _read_chunks(self) -> None:
        """Read more of a chunked body, in total at most `RECEIVE_BYTES` per iteration of the event loop.

        Each read is short, because unparsed bytes stay in memory. The loop ends when parsing becomes too costly.
        """
        for _ in range(RECEIVE_BYTES // SHORT_RECEIVE_BYTES - 1):
            if self.unparsed or self._course.discards or not self.reader.active or not self.parser.in_chunks:
                break
            try:
                data = self._shared.short_buffer[: self._socket.recv_into(self._shared.short_buffer)]
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._owner.input_failed()
                break
            if not data:
                self._on_end()
                break
            self._shared.stats.received_bytes += len(data)
            self.kept.add(data, False, self._shared)
            self.take(data)

    def _on_end(self) -> None:
        self.ended = True
        self.update()
        if has_hung_up(self._socket):
            self._owner.input_failed()
        else:
            self._owner.input_ended()

    def look_once_more(self) -> None:
        """Read data that has arrived, even if the event loop has not reported yet that the socket is readable."""
        if self.proxy_header is not None:
            self._on_proxy_header(self.proxy_header)
        if self.proxy_header is None and not self._course.closed:
            self._on_readable()

    # Parsing.

    def take(self, data: bytes | memoryview) -> None:
        """Parse received bytes, and let the connection handle the complete requests."""
        parser = self.parser
        if parser.holds_back:
            self.unparsed += bytes(data)
            self.update()
            return
        was_in_head = parser.in_head
        short = len(data) <= PARSED_BYTES and not parser.in_body
        refused = parser.feed(data) if short else self._parse_some(data)
        if refused is not None:
            self._owner.reject(refused)
        elif parser.in_body or (parser.in_head and not was_in_head) or self.skipping:
            self.await_request()
            self._shared.reading.add(self)
            self.skipping = parser.skips_body
            if parser.far_ahead:
                self.update()
        if parser.held:
            self._hold_back()
        if self._pending:
            self._owner.start_next_request()
            if (self._pending or self.unparsed or parser.head_pending) and not self._course.closed:
                self._read_ahead(len(data))
        elif parser.head_pending:
            self._owner.admit_or_reject_early()

    def take_unparsed(self) -> None:
        """Parse the bytes kept in `unparsed`, unless parsing is still suspended or too many requests are pending."""
        parser = self.parser
        if not self._pending:
            self.ahead = 0
        if parser.head_pending:
            self._owner.admit_or_reject_early()
        held_back = self._course.state != OPEN or parser.holds_back or parser.head_pending or self._paused
        if self.unparsed and len(self._pending) < PIPELINED_REQUESTS and not held_back:
            data, self.unparsed = self.unparsed, b""
            self.take(data)

    def _read_ahead(self, count: int) -> None:
        """Add `count` to the bytes received while a request is pending, and stop reading above the limit."""
        self.ahead += count
        self.update()
        if self.unparsed and not self._owner.busy:
            self._shared.loop.run_callback(self._owner.resume)

    def _parse_some(self, data: bytes | memoryview) -> CannedResponse | None:
        """Parse until too many requests are pending or parsing takes too long; store further bytes in `unparsed`."""
        parser, course, refused, view, began = self.parser, self._course, None, memoryview(data), monotonic()
        seconds = 0.0
        while view and refused is None and len(self._pending) < PIPELINED_REQUESTS and course.state < LAST:
            if parser.holds_back:
                break
            end = parser.body_left or self._next_part(view)
            refused = parser.feed(view[:end])
            view = view[end:]
            if parser.head_pending and refused is None:
                self._owner.admit_or_reject_early()
            seconds = monotonic() - began
            if parser.head_pending or seconds > PARSING_SECONDS:
                break
        self.unparsed = bytes(view) if refused is None and course.state < LAST else b""
        waits = (seconds > PARSING_SECONDS and len(view) > 0) or is_costly(seconds, len(data) - len(view))
        if waits and refused is None and not self._pending and course.state < LAST:
            self._paused = True
            self._shared.parsing_turns.pause(self, self._shared.loop)
        if self.unparsed or self._paused:
            self.update()
        return refused

    def resume_parsing(self) -> None:
        """Resume parsing after a pause in which the hub could serve other clients."""
        self._paused = False
        self._owner.resume()

    def _hold_back(self) -> None:
        """Keep the bytes after an upgrade offer unparsed, and stop reading until the application has responded."""
        self.unparsed = self.parser.held + self.unparsed
        self.parser.held = b""
        self.update()

    def _next_part(self, view: memoryview) -> int:
        """Return how many bytes to parse next: up to the end of a head, so that its body is parsed in one piece."""
        if self.parser.in_body:
            return PARSED_BYTES
        end = bytes(view[:PARSED_BYTES]).find(b"\r\n\r\n")
        return PARSED_BYTES if end < 0 else end + 4

    # The read timeout.

    def await_request(self) -> None:
        """Set the current read timeout, unless a response is pending or unsent."""
        if not self._owner.answering:
            self._set_timeout()

    def await_next(self, unsent: int) -> bool:
        """Set the read timeout after a response if `unsent` is 0; return whether a request or unparsed data waits."""
        if not unsent:
            self._set_timeout()
        return self.waits

    def _set_timeout(self) -> None:
        """Set the read timeout: for a head, for the next bytes of a body, or for keep-alive."""
        parser, shared = self.parser, self._shared
        if parser.in_body:
            seconds = shared.body_timeout_seconds
            self.expires = self._pace.until(monotonic(), self.expires, parser.body_size, seconds, shared.kept_until)
            return
        self.expires = monotonic() + (shared.header_timeout_seconds if parser.in_head else shared.keep_alive_seconds)

    # A request body that the application reads as it arrives.

    @property
    def body_timeout_seconds(self) -> float:
        """Maximum seconds that the application waits for the next byte of a body."""
        return self._shared.body_timeout_seconds

    def ask_for_body(self) -> None:
        """Send `100 Continue`."""
        self._owner.ask_for_body()

    def resume_body(self) -> None:
        """Resume reading from the client, as the application has read enough of the body."""
        self.update()

    def body_late(self) -> None:
        """Reject a request whose body has stalled, unless its next bytes arrived while the event loop was blocked."""
        size = self.parser.body_size
        if self.reader.active:
            self.look_once_more()
        if self.parser.streams_body and self.parser.body_size == size:
            self._owner.reject(TOO_SLOW)

    # Starting and stopping.

    def update(self) -> None:
        """Start or stop watching the socket for input, as the state of the connection requires."""
        wanted = self._is_wanted()
        if wanted != bool(self.reader.active):
            if wanted:
                self.reader.start(self._on_readable)
            else:
                self.reader.stop()

    def _is_wanted(self) -> bool:
        if self.ended or self._course.closed:
            return False
        if self._course.state != OPEN:
            # Continue to read, and discard the data: EOF shows that the client has read its response.
            return self._course.state != LAST or bool(self.reader.active)
        parser = self.parser
        if self.unparsed or self._paused or parser.head_pending or parser.far_ahead:
            return False
        return self.ahead <= READ_AHEAD_BYTES and len(self._pending) < PIPELINED_REQUESTS

    def close(self) -> bytes:
        """Stop reading permanently; return the received bytes that were not parsed."""
        self._owner = NO_OWNER
        self._shared.reading.discard(self)
        self.reader.stop()
        self.reader.close()
        self.parser.close()
        unparsed, self.unparsed = self.unparsed, b""
        return unparsed
