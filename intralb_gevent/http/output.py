"""The writing half of a connection, which sends responses without waiting and bounds each client's unsent data.

Data that the kernel does not accept immediately is kept in an `Outbox`, and the hub sends this data as the client
reads. A slot waits only while its client's unsent data is above the high-water mark. A client can detect an incomplete
response: by its framing, by a reset of the connection, or by a missing TLS close_notify.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gevent.event import Event

from ..aborts.breaks import take_break
from ..hub.forks import FORKS, close_copy
from ..policy.connectionstate import LAST, Course
from ..policy.pace import Pace
from ..pool.socketends import end_when_closed, reset_when_closed, unacknowledged
from ..stdlib import monotonic
from .outbox import Outbox
from .owner import NO_OWNER, Owner
from .spill import FileShorter
from .tls import TlsSocket

if TYPE_CHECKING:
    from .context import ServerContext

__all__ = ["Output"]

JOINED_BYTES: Final = 16 * 1024
"""Maximum size in bytes of a body that is joined with its head and sent in one piece; a larger body is not copied."""

PIECE_BYTES: Final = 4 * 1024 * 1024
"""Maximum bytes that are written to a temporary file before the hub serves other clients."""

UNSENT_MOST_BYTES: Final = 16 * 1024 * 1024
"""High-water mark: unsent bytes of one connection above which a slot blocks when it writes."""

UNSENT_LEAST_BYTES: Final = 256 * 1024
"""High-water mark that replaces `UNSENT_MOST_BYTES` while temporary files hold more than `UNSENT_IN_FILES_BYTES`."""

KERNEL_BYTES: Final = 64 * 1024
"""Unacknowledged bytes above which part of the data may still be in the kernel's send buffer."""

UNSENT_IN_FILES_BYTES: Final = 4 * 1024**3
"""Bytes in the temporary files of all connections above which `UNSENT_LEAST_BYTES` limits each connection."""

_ACKNOWLEDGED_LOOK_SECONDS: Final = 0.01
"""Seconds between checks whether the client has acknowledged all data; only then may the connection be reset."""


class Output:
    """The output to one client. No method waits or raises, except those that only slots call: `wait...` and
    `send_in_pieces`."""

    __slots__ = (
        "_acknowledging",
        "_course",
        "_deferred",
        "_drained",
        "_owner",
        "_pace",
        "_shared",
        "_socket",
        "_to_come",
        "_writer",
        "close_ends_body",
        "closed",
        "copied",
        "cut",
        "expires",
        "outbox",
    )

    def __init__(self, shared: ServerContext, sock: Any, course: Course, owner: Owner) -> None:
        self._shared = shared
        self._socket = sock
        self._course = course
        self._owner = owner
        self.outbox = Outbox(shared.budget)
        """The response bytes that the kernel has not accepted yet, because the client must read first."""
        self._pace = Pace()
        """The measured rate at which the client receives data from the outbox."""
        self._deferred = b""
        """A complete response that will be sent at the end of the current dispatch batch; empty if there is none."""
        self._drained: Event | None = None
        self._to_come = 0
        """Bytes of a body sent in pieces that are not in the outbox yet; other greenlets of the application wait."""
        self._writer: Any = None
        self._acknowledging: Any = None
        """The timer that polls until the client has acknowledged all sent data, so that the connection can be reset."""
        self.close_ends_body = False
        """True if the last response has neither a length nor chunks, so that closing the connection ends its body."""
        self.cut = False
        """True if the last response is incomplete; the close of the connection must then show that data is missing."""
        self.copied = False
        """True if a failed move may have left a copy of the socket in another process."""
        self.closed = False
        self.expires = math.inf
        """The end of the write timeout, in `time.monotonic()` seconds; infinity if the outbox is empty."""

    def __repr__(self) -> str:
        return f"<Output {'closed' if self.closed else 'open'}, {self.unsent} bytes unsent>"

    @property
    def unsent(self) -> int:
        """Bytes of responses that the kernel has not accepted yet, including those that are not in the outbox."""
        return self.outbox.size + len(self._deferred) + self._to_come

    def use(self, sock: Any) -> None:
        """Set the socket object, with or without TLS, to which later data of the connection is written."""
        self._socket = sock

    # Sending.

    def send(self, head: bytes, body: bytes) -> None:
        """Send as much of head and body as the socket accepts now; the hub sends the rest. Never waits or raises."""
        if self._deferred:
            self.flush()
        if len(body) > JOINED_BYTES or self.outbox.size or self.closed:
            self._send_parts([head, body])
        else:
            self._send_now(head + body)

    def send_final(self, head: bytes, body: bytes) -> None:
        """Send the last part of a response, at the end of the current dispatch batch if there is one."""
        flush_queue = self._shared.flush_queue
        if not flush_queue.batching or len(body) > JOINED_BYTES or self.outbox.size or self.closed or self._deferred:
            self.send(head, body)
        else:
            # The common case: the whole response in one piece.
            self._deferred = head + body
            flush_queue.deferred.append(self)

    def flush(self) -> None:
        """Send the deferred response, if there is one."""
        data, self._deferred = self._deferred, b""
        if data and not self.closed:
            self._send_now(data)

    def flush_deferred(self) -> None:
        """Send the deferred response at the end of a dispatch batch, and end the connection if it is the last one."""
        try:
            self.flush()
            if self._course.state >= LAST:
                self._owner.end_output()
        except Exception:
            self._owner.give_up()

    def blocks(self, body: bytes) -> bool:
        """Return whether `send` would block the hub noticeably, while it writes a large body to a temporary file."""
        return len(body) > PIECE_BYTES and self.outbox.spills(len(body))

    def send_in_pieces(self, head: bytes, body: bytes) -> None:
        """Send like `send`, but let the hub run after each piece of the body; only slots may call this method."""
        self._to_come = len(body)
        try:
            while self._to_come and not self.closed:
                self._send_piece(head, body)
                take_break()
        finally:
            # The application may catch what the break raises, such as its own timeout, and continue its response. So
            # the rest of the body must not be missing.
            while self._to_come and not self.closed:
                self._send_piece(head, body)
            self._report_taken()

    def _send_piece(self, head: bytes, body: bytes) -> None:
        start = len(body) - self._to_come
        piece = body[start : start + PIECE_BYTES]
        self._to_come -= len(piece)
        self.send(b"" if start else head, piece)

    def _send_now(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._owner.close()
            return
        self._shared.stats.sent_bytes += sent
        if sent != len(data):
            self._keep(memoryview(data)[sent:])

    def _send_parts(self, parts: list[bytes]) -> None:
        sent = 0 if self.outbox.size or self.closed else self._sent_now(parts)
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
            elif not self.closed:
                self._keep(memoryview(part)[sent:])
                sent = 0

    def _sent_now(self, parts: list[bytes]) -> int:
        try:
            sent = int(self._socket.sendmsg(parts))
            self._shared.stats.sent_bytes += sent
            return sent
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._owner.close()
            return 0

    def send_file(self, head: bytes, descriptor: int, offset: int, count: int) -> None:
        """Send a head and a range of a file, with `sendfile` if possible; the descriptor is closed afterwards."""
        if self.closed:
            os.close(descriptor)
            return
        try:
            self.outbox.add(memoryview(head))
        except OSError as error:
            os.close(descriptor)
            self._cannot_keep(error, count)
            return
        self.outbox.add_file(descriptor, offset, count)
        self._on_writable()

    def _keep(self, data: memoryview) -> None:
        try:
            self.outbox.add(data)
        except OSError as error:
            self._cannot_keep(error)
        else:
            self._watch_writing()

    def _cannot_keep(self, error: OSError, lost: int = 0) -> None:
        """Close this connection, because its response cannot be buffered in a temporary file.

        `lost` is the number of bytes that `unsent` does not include.
        """
        self._owner.fail_output(f"its temporary file cannot be written: {error}", lost)

    # Sending buffered data, as the client reads.

    def _watch_writing(self) -> None:
        if self._writer is None:
            self._writer = self._shared.loop.io(self._socket.fileno(), 2)
        if not self._writer.active:
            self._writer.start(self._on_writable)
            self._shared.sending.add(self)
            self._await_taking()

    @property
    def _taken_count(self) -> int:
        """Bytes from the outbox that the client's kernel has acknowledged; all sent bytes if this number is unknown."""
        return self.outbox.sent - unacknowledged(self._socket)

    def _await_taking(self) -> None:
        shared = self._shared
        seconds = shared.write_timeout_seconds
        self.expires = self._pace.until(monotonic(), self.expires, self._taken_count, seconds, shared.kept_until)

    def _on_writable(self) -> None:
        sent = self.outbox.sent
        try:
            self.outbox.send_to(self._socket)
        except (BlockingIOError, InterruptedError):
            pass
        except FileShorter as error:
            self._owner.fail_output(str(error), 0)
        except OSError:
            self._owner.close()
        self._shared.stats.sent_bytes += self.outbox.sent - sent
        if self.closed:
            return
        if self.outbox.size:
            if self.outbox.sent > sent:
                self._await_taking()
            self._watch_writing()
        else:
            self._stop_writing()
        self._report_taken()

    def _report_taken(self) -> None:
        """Let waiting greenlets and the next request continue, unless unsent data is above the high-water mark."""
        if not self.far_behind:
            if self._drained is not None:
                self._drained.set()
            self._owner.caught_up()

    def _stop_writing(self) -> None:
        self.expires = math.inf
        if self._writer is not None:
            self._writer.stop()
            self._shared.sending.discard(self)

    def look_once_more(self) -> None:
        """Send data that a blocked event loop has delayed; extend the timeout of a client that reads fast enough."""
        if not self.outbox.size:
            return
        self._on_writable()
        # The client may be reading fast enough although there was no write event: a full socket buffer becomes
        # writable only after the client has acknowledged much of it.
        if self.outbox.size and self._pace.keeps_up(self._taken_count, self._shared.write_timeout_seconds):
            self._await_taking()

    # Flow control.

    @property
    def far_behind(self) -> bool:
        """True while unsent data is above the high-water mark, or a body is sent in pieces, so that other greenlets and
        the next request wait."""
        if self._to_come:
            return True
        unsent = self.outbox.size
        if unsent <= UNSENT_LEAST_BYTES:
            return False
        return unsent > UNSENT_MOST_BYTES or self._shared.budget.in_files > UNSENT_IN_FILES_BYTES

    def wait_drained(self, seconds: float) -> bool:
        """Block the slot until unsent data is no longer above the high-water mark, or the connection is closed."""
        while self.far_behind and not self.closed:
            self._wait_for_taking()
        return True

    def wait_until_all_taken(self, seconds: float) -> bool:
        """Block the slot until all earlier responses are sent, or the connection is closed."""
        self.flush()
        while self.outbox.size and not self.closed:
            self._wait_for_taking()
        return True

    def _wait_for_taking(self) -> None:
        """Wait for a write that leaves unsent data at or below the high-water mark, or until the connection is closed.

        Several greenlets may wait at the same time."""
        if self._drained is None or self._drained.is_set():
            self._drained = Event()
        self._drained.wait()

    # Ending.

    def end_body_by_close(self) -> None:
        """Let the close of the connection end the body of the current response.

        Until the response is complete, any close resets the connection, even if the kernel closes it because this
        process was killed.
        """
        self.close_ends_body = True
        if self.resets:
            reset_when_closed(self._socket)

    @property
    def resets(self) -> bool:
        """True if only a reset can show that a response is incomplete: it has no length, no chunks and no TLS."""
        return self.close_ends_body and self._shared.tls is None

    @property
    def awaits_acknowledgement(self) -> bool:
        """True while a reset would discard data of responses that the client has not acknowledged."""
        return self.cut and self.resets and unacknowledged(self._socket) > 0

    @property
    def held_by_kernel(self) -> bool:
        """True while the kernel may hold unsent data.

        After a close, data from the client causes a reset, which discards the unsent data.
        """
        return not self.cut and unacknowledged(self._socket) > KERNEL_BYTES

    def poll_acknowledgement(self, look: Callable[[], object]) -> None:
        """Call `look` at short intervals until the connection is closed."""
        if self._acknowledging is None:
            self._acknowledging = self._shared.loop.timer(_ACKNOWLEDGED_LOOK_SECONDS, _ACKNOWLEDGED_LOOK_SECONDS)
            self._acknowledging.start(look)

    def half_close(self) -> bool:
        """End the output, but keep the input open; return False if the connection is broken."""
        if self.cut and self._shared.tls is not None:
            self._socket.leave_unfinished()
        elif self.resets:
            end_when_closed(self._socket)
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def close(self, incomplete: bool) -> None:
        """Discard unsent data and close the socket; `incomplete` is true if the current response is not complete."""
        cut = self.cut or incomplete or self.outbox.size > 0
        self.release()
        self._close_socket(cut)
        self.outbox.clear()
        if self._drained is not None:
            self._drained.set()

    def release(self) -> None:
        """Stop using the socket, but leave it open. Clear the reference to the owner, to break a reference cycle."""
        self.closed = True
        self._owner = NO_OWNER
        self._shared.sending.discard(self)
        for watcher in (self._writer, self._acknowledging):
            if watcher is not None:
                watcher.stop()
                watcher.close()

    def _close_socket(self, cut: bool) -> None:
        if cut and isinstance(self._socket, TlsSocket):
            self._socket.leave_unfinished()
        elif not (cut and self.resets):
            self._end_socket()
        self._socket.close()

    def _end_socket(self) -> None:
        """Let the close of the socket, which follows, end the connection normally."""
        if self.resets:
            end_when_closed(self._socket)
        if (FORKS.made or self.copied) and not isinstance(self._socket, TlsSocket):
            # Another process may hold a copy of the socket, so close() alone would not end the connection.
            _shut_down(self._socket)

    def isolate(self) -> None:
        """Close the inherited copy of the socket in a forked child process; the parent serves the client."""
        self.closed = True
        close_copy(self._socket)


def _shut_down(plain: Any) -> None:
    # Do not use contextlib.suppress(): an abort could be raised in its Python code and leave the socket open.
    try:
        plain.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
