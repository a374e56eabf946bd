"""The lifetime of a client connection: its state, its timeouts, and its end.

The hub runs this code in callbacks: a connection has no greenlet, slot or session.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final

from ..hub.polling import forget
from ..policy.cannedresponses import CannedResponse
from ..policy.connectionstate import LAST, LINGERING, OPEN, Course
from ..policy.rescue import SETTLED_SECONDS
from ..pool.cutlog import cut_line
from ..pool.job import Job
from ..pool.upgrades import SWITCHING, Upgrade
from ..process.logline import LogText
from ..siblings.transfer import IDLE, REQUEST, Transfer
from ..stdlib import monotonic
from .context import ServerContext
from .input import Input
from .output import Output
from .owner import Owner
from .parser import RequestParser
from .peer import Peer
from .refusals import TOO_SLOW
from .request import Refusal, Request
from .response import Response
from .upgrade import taken

__all__ = ["ConnectionLifetime"]

LINGER_SECONDS: Final = 2.0
"""Seconds for which data from a rejected client is still read, so that no reset destroys the unread response."""


class ConnectionLifetime(Owner):
    """One accepted socket: `input` reads the requests, and `output` writes the responses. No method waits or raises."""

    __slots__ = (
        "_behind",
        "_course",
        "_current",
        "_job",
        "_pending",
        "_shared",
        "_socket",
        "_upgrade",
        "closing",
        "end_cause",
        "input",
        "load_header",
        "output",
        "peer",
    )

    def __init__(self, shared: ServerContext, sock: Any, address: Any, moved: Transfer | None = None) -> None:
        """Begin to read from an accepted socket or, with `moved`, from the socket of an earlier connection object."""
        self._shared = shared
        self._socket = sock
        self.peer = peer = Peer(shared, address)
        self._course = Course()
        self._pending: deque[Request | Refusal] = deque()
        self._current: Response | None = None
        self._job: Job | None = None
        self._behind = ("a rejected request", monotonic(), 0, "")
        """Name, arrival time, response size in bytes, and id of the last request whose response is still being sent."""
        self._upgrade: Upgrade | None = None
        """The upgraded connection; None until the application has taken over the socket."""
        self.end_cause = ""
        """The reason for which the server closes this connection early, as a label of the metrics; else empty."""
        self.load_header = shared.load_header
        """The header line that reports the load of the server; None without the option `orca`."""
        self.closing = shared.closing
        """True once this connection must close after its current response."""
        plain = shared.request_log is None and not shared.trusts_proxies
        on_request = self._pending.append if plain else self._on_request
        on_head = peer.describe_placed_head if shared.nameless or shared.root_path else peer.describe_head
        parser = RequestParser(shared.environ, shared.options, on_head, on_request, shared.bodies)
        self.output = Output(shared, sock, self._course, self)
        self.input = Input(shared, sock, peer, self._course, self._pending, parser, self)
        if moved is not None:
            self._resume(moved)
        self.input.begin()

    def __repr__(self) -> str:
        doing = "closed" if self.closed else repr(self._current or self.input.parser)
        return f"<Connection of {self.peer.host or 'a local client'}: {doing}, {self.unsent} bytes unsent>"

    @property
    def idle(self) -> bool:
        """True if no request has begun to arrive, and every response is finished and sent."""
        arriving = self.peer.tls is not None and self.peer.tls.in_record
        return not (self._current or self._pending or self.output.unsent or arriving) and self.input.idle

    @property
    def busy(self) -> bool:
        """True while a request is being answered."""
        return self._current is not None

    @property
    def answering(self) -> bool:
        """True while a response is pending or unsent, so that no read timeout applies."""
        return self._current is not None or self.output.outbox.size > 0 or self._course.state >= LAST

    @property
    def closed(self) -> bool:
        """True once the socket is closed or belongs to the application."""
        return self._course.closed

    @property
    def expires(self) -> float:
        """The time, in `time.monotonic()` seconds, at which the client's current timeout ends."""
        return self.output.expires if self.output.outbox.size else self.input.expires

    @property
    def new(self) -> bool:
        """True until the first request begins to arrive."""
        return not self.input.parser.begun

    @property
    def must_close(self) -> bool:
        """True if the connection must close after its current response, because it cannot move to another process."""
        mover = self._shared.mover
        return self.closing and (mover is None or not mover.hopeful or self._shared.tls is not None)

    @property
    def unsent(self) -> int:
        """Bytes of responses that the kernel has not accepted yet."""
        return self.output.unsent

    def has_left(self) -> bool:
        """Return whether the client has disconnected or half-closed; TCP does not distinguish these two cases."""
        if self._upgrade is not None:
            return self._upgrade.has_ended()
        return self.closed or self.input.ended

    @property
    def plain_socket(self) -> Any:
        """The plain socket, even if the connection uses TLS."""
        return getattr(self._socket, "_sock", self._socket)

    def use_socket(self, sock: Any) -> None:
        """Replace the connection's socket object by another object, with or without TLS."""
        self._socket = sock
        self.output.use(sock)

    def give_up(self) -> None:
        """Close this connection after a bug in this package, so that nothing is raised in the hub."""
        self._shared.report_bug(self)
        self.end_cause = "bug"
        self.close()

    def _on_request(self, request: Request) -> None:
        self.peer.describe(request)
        self._pending.append(request)

    # The state of the connection.

    def _discard_input(self) -> None:
        """Discard all further input from the client."""
        self._course.discard()
        self.input.update()

    def _end(self, lingers: bool) -> None:
        """Answer no more requests; close once all data is sent. `lingers`: true if the client may still be sending."""
        self._course.end(lingers)
        self.end_output()

    def end_output(self) -> None:
        """If all data is sent, close the connection, or first half-close it if the client may still be sending."""
        output = self.output
        if output.unsent or self.closed:
            return
        if output.awaits_acknowledgement:
            self._course.end(lingers=True)
            self.input.expires = monotonic() + self._shared.write_timeout_seconds
            output.poll_acknowledgement(self.end_output)
            return
        held = output.held_by_kernel and not self.input.ended
        if held:
            self._course.end(lingers=True)
            self.input.update()
        if self._course.state == LINGERING and not (output.cut and output.resets) and output.half_close():
            self.input.expires = monotonic() + (self._shared.write_timeout_seconds if held else LINGER_SECONDS)
        else:
            self.close()

    def caught_up(self) -> None:
        """Start the next request, which has waited for the client to read more, or close after the last response."""
        if self._current is None and self.input.waits:
            self._shared.loop.run_callback(self.resume)
        if not self.output.outbox.size:
            self._all_sent()

    def _all_sent(self) -> None:
        self.input.expires = math.inf
        if self._current is not None:
            return
        if self._course.state >= LAST or self.input.exhausted:
            self.end_output()
            return
        self.input.await_request()
        if self.closing:
            self.close_if_idle()

    # Ending.

    def expire(self) -> None:
        """Handle a timeout: reject an incomplete request with 408; in all other cases, close the connection."""
        if self._was_in_time():
            return
        self.end_cause = self.end_cause or self._timeout
        if self.refuse_unfinished(TOO_SLOW):
            return
        self.report_cut(f"its client read nothing for write_timeout_seconds={self._shared.write_timeout_seconds:g}")
        self.close()

    @property
    def _timeout(self) -> str:
        """The timeout that has just ended, as a label of the metrics."""
        if self.output.outbox.size:
            return "write_timeout"
        if self._course.state >= LAST:
            return "linger"
        if self.input.parser.in_body:
            return "body_timeout"
        return "header_timeout" if self.new or self.input.parser.in_head else "keep_alive"

    def _was_in_time(self) -> bool:
        """Perform reads and writes that a blocked event loop has delayed; return whether the client was in time."""
        if self.input.reader.active:
            self.input.look_once_more()
        self.output.look_once_more()
        return self.closed or self.expires > monotonic()

    def refuse_unfinished(self, answer: CannedResponse) -> bool:
        """Reject a request that is still arriving, unless a response is unsent; return whether it was rejected."""
        if self._current is not None or self.output.outbox.size or self._course.discards or self.idle:
            return False
        self.reject(answer)
        return True

    def report_cut(self, why: str) -> None:
        """If a response has not been sent completely, log that it is cut."""
        if self.output.outbox.size:
            self._report_cut(why, self.output.unsent)

    def fail_output(self, why: str, lost: int) -> None:
        """Log that a response is cut, because `lost` bytes cannot be buffered, or a file ends; close the connection."""
        self._report_cut(why, self.output.unsent + lost)
        self.close()

    def _report_cut(self, why: str, unsent: int) -> None:
        name, arrived, passed, id_ = self._behind if self._current is None else self._described(self._current)
        self._warn(why, cut_line(name, monotonic() - arrived, max(0, passed - unsent), why), id_)

    def _warn(self, kind: str, line: str, request_id: str) -> None:
        """Log a warning about a request, whose id is empty if it is unknown."""
        if request_id:
            line = LogText(f"{line}, request {request_id}", {"message": line, "request_id": request_id})
        self._shared.warn(kind, line)

    def _described(self, response: Response) -> tuple[str, float, int, str]:
        """Return the name and arrival time of a request, the size of its response in bytes, and the request's id."""
        job, request = self._job, response.request
        if job is None:
            return request.line, request.arrived, response.passed, request.id
        return job.name, job.arrived, response.passed, request.id

    def close_if_idle(self) -> None:
        """Close or move the connection if it is idle; a request that has just arrived is still answered."""
        self.output.flush()
        if self.input.parser.skips_body and self._course.state < LAST:
            # The request with the skipped body has already been answered.
            self._end(lingers=True)
        elif self.idle and not self.closed:
            self.input.look_once_more()
            if self.idle:
                self._move_or_close()

    def _move_or_close(self) -> None:
        mover = self._shared.mover
        if mover is None or not self.closing or not mover.offer(self):
            self.close()

    def cut(self) -> None:
        """Close the connection, because the current response cannot be finished; the job has its outcome already.

        The connection first sends the data that is already in the outbox.
        """
        self._current = self._job = None
        self.output.flush()
        self.output.cut = True
        self._course.cut(lingers=self.output.outbox.size > 0 and not self.input.ended)
        self.end_output()

    def close(self) -> None:
        """Close the socket now. Drop a queued job; discard the response of a running job."""
        # Send a deferred earlier response, even if the current response is cut.
        self.output.flush()
        if self.closed:
            return
        self._course.close()
        if self.peer.report_failed_handshake():
            self.end_cause = "tls"
        unfinished = self._current is not None and self._current.begun
        self.input.close()
        self.output.close(incomplete=unfinished)
        self._abandoned(gone=True)
        for item in self._pending:
            if isinstance(item, Request):
                item.release()
        self._pending.clear()
        self._current = self._job = None
        self._shared.stats.add_closed(self.end_cause or ("shutdown" if self.closing else ""))
        self._shared.closed(self)

    def _abandoned(self, gone: bool = False) -> bool:
        """Drop a queued job; abort a running job if `cancel_on_disconnect` is set. Return whether the job has ended."""
        if self._job is None or self._current is None:
            return False
        self._job.abandon(gone)
        if self._job.state != "disconnected":
            return False
        self._current.request.release()
        return True

    def hand_over(self, request: Request) -> Upgrade:
        """Pass the socket and the bytes received after the request to the application; close this object."""
        self.peer.log_response(request, SWITCHING, None)
        self._course.close()
        self.output.release()
        self._upgrade = Upgrade(taken(self._socket, self.input.close()))
        self._current = self._job = None
        self._shared.stats.add_closed("upgraded")
        self._shared.closed(self)
        return self._upgrade

    # Moving between processes.

    def _resume(self, moved: Transfer) -> None:
        """Restore the state of a connection that another process, or another object, has served before."""
        received = self.input
        if moved.identified:
            received.proxy_header = None
        if moved.kind == REQUEST:
            received.kept.settled_until = monotonic() + SETTLED_SECONDS
        if moved.begun:
            received.parser.resume()
            received.expires = min(moved.expires, monotonic() + self._shared.keep_alive_seconds)

    @property
    def obstacle(self) -> str:
        """Reason why this connection can never move (`tls`, `proxy_header` or `ended`); '' if it can move when idle."""
        if self._shared.tls is not None:
            return "tls"
        if self.input.ended or self._course.state != OPEN:
            return "ended"
        header = self.input.proxy_header
        return "" if header is None or header.untouched else "proxy_header"

    @property
    def can_move(self) -> bool:
        """True if the connection could move to another process now: it is idle, and there is no obstacle."""
        return self.idle and not self.obstacle

    def transfer(self) -> Transfer:
        """Return the data with which another process can continue this connection; `can_move` must be true."""
        peer, received = self.peer, self.input
        return Transfer(
            self._socket,
            peer.host,
            peer.port,
            IDLE,
            not self.new,
            received.proxy_header is None,
            received.expires,
        )

    def detach(self) -> None:
        """Close this object, but not its socket, because another process continues with the connection."""
        self._course.close()
        self.input.close()
        self.output.release()
        forget(self._shared.loop, self._socket.fileno())
        self._shared.closed(self)

    def isolate(self) -> None:
        """Close the inherited copy of the socket in a forked child process; the parent serves the client."""
        self._course.close()
        self.output.isolate()
