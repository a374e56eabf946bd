"""A client connection, which answers the requests from its socket in the order in which they arrive.

This module submits requests to the balancer, or rejects them, if possible before their bodies have arrived.
`lifetime.py` decides when the connection ends, `input.py` reads the socket and parses the data, `response.py` frames
responses, and `output.py` writes them.
"""

from __future__ import annotations

import logging
import math

from ..policy.cannedresponses import CannedResponse
from ..policy.connectionstate import LAST
from ..pool.job import ENDED, shown
from ..pool.requestid import new_request_id
from ..pool.socketends import is_tcp
from ..stdlib import monotonic
from .lifetime import ConnectionLifetime
from .refusals import BODY_TOO_SHORT, PLAIN_HTTP
from .request import Refusal, Request
from .response import Response
from .responsehead import whole_answer

__all__ = ["Connection"]


class Connection(ConnectionLifetime):
    """A connection that submits its requests to the balancer, and sends their responses in order."""

    __slots__ = ()

    # Incomplete requests.

    def admit_or_reject_early(self) -> None:
        """Reject a request with a complete head if the balancer would reject it now; otherwise receive its body.

        While an earlier request is unanswered, the head stays pending, so that responses are sent in order.
        """
        if self._course.state >= LAST:
            return
        if self._current is not None or self._pending or self.output.far_behind:
            self.input.update()
            return
        parser = self.input.parser
        parser.head_pending = False
        shared = self._shared
        decides_later = shared.has_middleware or self.input.kept.may_move(parser)
        answer = None if decides_later else shared.intake.shed_early(parser.environ, self.input.reader.fd)
        if answer is not None:
            self._refuse_head(answer)
        elif shared.streams_bodies and shared.intake.streams_body(parser.environ):
            self._stream_body()
        elif parser.awaits_continue:
            self.ask_for_body()

    def _refuse_head(self, answer: CannedResponse) -> None:
        """Reject a request before its body has arrived; the body is skipped, or the connection closes."""
        # Discard the kept bytes: a request that is answered here does not move to another process.
        self.input.kept.take()
        request = self.input.parser.skip_body()
        self.input.skipping = True
        self.peer.describe(request)
        self.answer(request, answer)

    def ask_for_body(self) -> None:
        """Send `100 Continue`, unless the response has begun."""
        if self._current is None or not self._current.begun:
            self.output.send(b"HTTP/1.1 100 Continue\r\n\r\n", b"")

    def _stream_body(self) -> None:
        """Submit a request before its body has arrived."""
        request = self.input.parser.stream_body(self.input)
        self.peer.describe(request)
        self._pending.append(request)
        self.start_next_request()

    def _end_body(self, answer: CannedResponse) -> None:
        """Make the application's reads of the streamed body fail, and close the connection after the response."""
        if self._current is not None:
            self._current.request.keep_alive = False
        if not self.input.ended:
            self._discard_input()
        self.input.parser.fail_body(
            f"the rest of the request's body cannot be read: {answer.status}: {answer.explanation}", answer
        )

    def _skip_rest(self) -> None:
        """Skip the unread rest of a streamed body after its request has been answered."""
        self.input.parser.skip_rest()
        self.input.skipping = True
        self.input.update()

    def input_failed(self) -> None:
        """Close the connection, because the client has closed or reset it; log a request with an incomplete body."""
        if self._awaits_body:
            self._count_refused(BODY_TOO_SHORT, self._id_of_arriving())
        self.close()

    @property
    def _awaits_body(self) -> bool:
        """True while the body of a request that is not answered is arriving."""
        parser = self.input.parser
        return parser.in_body and not (parser.skips_body or self._course.discards)

    def _id_of_arriving(self) -> str:
        """Return the id of the request whose streamed body is arriving; a new id for any other request."""
        current = self._current if self.input.parser.streams_body else None
        return new_request_id() if current is None else current.request.id

    def input_ended(self) -> None:
        """Finish the pending requests of a client that has sent EOF but may still read; close if no request is pending.

        With `cancel_on_disconnect`, EOF on a TCP connection is treated as a disconnect.
        """
        if self._shared.options.cancel_on_disconnect and is_tcp(self._socket) and self._abandoned():
            self.cut()
        elif self._awaits_body:
            self.reject(BODY_TOO_SHORT)
        elif not (self._current or self._pending or self.output.outbox.size):
            self.close()

    def reject(self, answer: CannedResponse) -> None:
        """After all earlier requests are answered, reject the request that is being received, and close."""
        request_id = self._id_of_arriving()
        self._count_refused(answer, request_id)
        if self.input.parser.skips_body:
            # The request has already been answered.
            self._end(lingers=True)
        elif self.input.parser.streams_body:
            self._end_body(answer)
        else:
            self.refuse(answer, request_id)

    def _count_refused(self, answer: CannedResponse, request_id: str) -> None:
        """Log and count a rejected request."""
        if not answer.reason:
            # A response with a `reason`, such as a shutdown, does not mean that the request is invalid.
            self._shared.stats.add_invalid(answer.status)
        parser, job_log = self.input.parser, self._shared.intake.context.job_log
        self.peer.report_refused(answer, parser.skips_body, request_id=request_id)
        if job_log is not None and not (parser.skips_body or parser.streams_body):
            environ = parser.environ if parser.in_head or parser.in_body else {}
            job_log.malformed(environ, answer, self.peer.host, request_id)

    def refuse(self, answer: CannedResponse, request_id: str = "") -> None:
        """Send a response after all pending responses, then close the connection."""
        self._pending.append(Refusal(answer, request_id or new_request_id()))
        if not self.input.ended:
            self._discard_input()
        if self._current is None:
            self.start_next_request()

    def refuse_plain_http(self) -> None:
        """Send a response in plain HTTP to a client that does not use TLS."""
        self._discard_input()
        # Log a warning, because a client is probably configured with the wrong port. Log before the response is sent.
        self.peer.report_refused(PLAIN_HTTP, False, logging.WARNING)
        self._shared.stats.add_invalid(PLAIN_HTTP.status)
        self._shared.loop.run_callback(self._answer_plain_http)

    def _answer_plain_http(self) -> None:
        try:
            self.refuse(PLAIN_HTTP)
        except Exception:
            self.give_up()

    # Responses, in the order of the requests.

    def start_next_request(self) -> None:
        """Start the next pending request; if that request is rejected, continue with the following request.

        No request is started while the client's unsent responses are above the high-water mark.
        """
        pending, shared = self._pending, self._shared
        while pending and self._current is None and self._course.state < LAST:
            if self.output.outbox.size and self.output.far_behind:
                return
            item = pending.popleft()
            if isinstance(item, Refusal):
                self._course.end(lingers=not self.input.ended)
                data = whole_answer(item.answer, keep_alive=False, load_line=self.load_line, request_id=item.request_id)
                self.output.send(data, b"")
                self.end_output()
                return
            if self.input.kept.data and self._moved(item):
                return
            if shared.contended and not shared.has_middleware:
                answer = shared.intake.shed_early(item.environ, self.input.reader.fd)
                if answer is not None:
                    item.release()
                    self.answer(item, answer)
                    continue
            self.input.expires = math.inf
            if shared.has_middleware:
                item.arrived = monotonic()
                item.line = item.line or f"{item.environ['REQUEST_METHOD']} {shown(item.environ['PATH_INFO'])}"
            response = self._current = Response(self, item)
            # Let only the slot refer to the environ: otherwise, the environ's objects could be finalized in the hub,
            # where finalizers must not wait.
            environ, item.environ = item.environ, ENDED
            job = shared.submit(environ, response)
            if not response.ended:
                self._job = job

    @property
    def load_line(self) -> bytes:
        """The header line that reports the load of the server; b"" without the option `orca`."""
        return b"" if self.load_header is None else self.load_header.line

    def _moved(self, request: Request) -> bool:
        """Move this connection and its request to a process with a free slot; return False if both stay here."""
        data, rescuer, environ = self.input.kept.take(), self._shared.rescuer, request.environ
        if rescuer is None or self.closing or request.offers_upgrade or "HTTP_EXPECT" in environ or not self.can_move:
            return False
        if not rescuer.move(self, environ, data):
            return False
        request.release()
        return True

    def answer(self, request: Request, answer: CannedResponse) -> None:
        """Send one of the server's own responses, and start the next request; the job has its outcome already."""
        # If sending fails, the connection closes, and must not end the job a second time.
        self._job = None
        if request.has_body:
            request.settle()
        keep_alive = request.keep_alive and request.http_1_1 and not self.must_close
        whole = whole_answer(
            answer,
            keep_alive=keep_alive,
            head_only=request.head_only,
            load_line=self.load_line,
            request_id=request.id,
        )
        self.output.send(whole, b"")
        self.response_ended(request, keep_alive, answer.status, len(answer.body))

    def response_ended(self, request: Request, keep_alive: bool, status: str, length: int | None) -> None:
        """Continue with the next request, or close, after a response is complete; part of it may still be unsent."""
        if self._shared.request_log is not None:
            self.peer.log_response(request, status, length)
        behind = self._current if self.output.outbox.size else None
        if behind is not None and (self._job is not None or self._shared.has_middleware):
            self._behind = self._described(behind)
        self._current = self._job = None
        if request.has_body and self.input.parser.streams_body:
            self._skip_rest()
        if request.offers_upgrade:
            self.input.parser.go_on()
        if not keep_alive or self._course.state >= LAST or (self.input.ended and self.input.exhausted):
            # The client may still be sending a body. Closing with unread data would reset the connection, possibly
            # before the client has read the response.
            self._end(lingers=self.input.parser.in_body and not self.input.ended)
            return
        if self.input.await_next(self.output.outbox.size):
            # Resume from the hub: the caller may be `start_next_request` itself, or a slot that still has to clean up.
            self._shared.loop.run_callback(self.resume)
        elif self.closing:
            self.close_if_idle()

    def resume(self) -> None:
        """Continue with requests and data that have already been received. Never raises."""
        self.input.from_buffer = True
        try:
            if not self.closed:
                self._go_on()
        except Exception:
            self.give_up()
        finally:
            self.input.from_buffer = False

    def _go_on(self) -> None:
        self.start_next_request()
        self.input.take_unparsed()
        if self.input.exhausted and self._current is None and self._course.state < LAST:
            # The client has sent EOF in the middle of a request.
            self._end(lingers=False)
        else:
            self.input.update()

    # Methods for the response.

    def socket_wait(self) -> float:
        """Return how many seconds the last data read had waited in the socket buffer; 0 if unknown."""
        return self.input.socket_wait()

    def report_dropped(self, names: tuple[str, ...]) -> None:
        """Log that these headers of the application are not sent."""
        self._shared.report_dropped(names)

    def report_length(self, response: Response, left: int) -> None:
        """Log that a body is `left` bytes shorter than its Content-Length or, if `left` is negative, longer."""
        why = f"{left} bytes are missing" if left > 0 else f"the last {-left} bytes were not sent"
        name, _, _, request_id = self._described(response)
        self._warn("length", f"{name}: the body's size differs from its Content-Length: {why}", request_id)
