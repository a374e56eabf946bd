"""Provide blocking sockets for applications that take over a connection, and the head of a 101 response.

The first reads from the socket return the bytes that the hub has already received after the request.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from io import DEFAULT_BUFFER_SIZE
from typing import Any, Final

import gevent
from gevent import socket
from gevent.lock import Semaphore

from ..hub.reserved import ReservedDescriptor, never_ready
from ..pool.takensocket import TakenSocket, input_file
from .responsehead import has_controls
from .tls import TLS_RECEIVE_BYTES, TlsSocket

__all__ = ["TakenTlsSocket", "switching_head", "taken"]

_READ: Final = 1
_WRITE: Final = 2
_PEEK: Final = socket.MSG_PEEK


def taken(sock: Any, held: bytes) -> Any:
    """Return a blocking socket that replaces the socket of a connection; its first reads return `held`."""
    if isinstance(sock, TlsSocket):
        return TakenTlsSocket(sock, held)
    family, kind, proto = sock.family, sock.type, sock.proto
    return TakenSocket(family, kind, proto, sock.detach(), held)


class TakenTlsSocket:
    """A TLS connection with the methods of a blocking socket; only the calling greenlet waits."""

    def __init__(self, sock: TlsSocket, held: bytes) -> None:
        self._tls = sock
        self._held = held
        self._sending = Semaphore()
        self._timeout: float | None = None
        self._closed = False
        self._shows_number = False
        self._reserved: ReservedDescriptor | None = None
        self.input_ended = False
        """True once the end of the client's data has been read, or the application has closed the connection."""

    def __repr__(self) -> str:
        return f"<TakenTlsSocket {self._tls!r}>"

    @property
    def _sock(self) -> Any:
        """The plain socket; the attribute has the same name as in gevent's sockets."""
        return self._tls._sock

    def _wait(self, event: int, step: Callable[[], Any]) -> Any:
        """Call `step` until it succeeds, and wait for the socket before each new attempt."""
        while True:
            try:
                return step()
            except BlockingIOError:
                if self._timeout == 0.0:
                    raise ssl.SSLWantReadError("the operation did not complete") from None
            wait = socket.wait_read if event == _READ else socket.wait_write
            wait(self._tls.fileno(), self._timeout, TimeoutError("timed out"))

    # Reading.

    def recv(self, size: int = DEFAULT_BUFFER_SIZE, flags: int = 0) -> bytes:
        """Return up to `size` bytes, as soon as there are any; b"" at the end of the input."""
        if not self._held:
            self._wait(_READ, self._receive)
            self.input_ended = not self._held
        data = self._held[:size]
        if not flags & _PEEK:
            self._held = self._held[len(data) :]
            if not self._held:
                self._tls.take_left_byte()
        return data

    read = recv

    def _receive(self) -> None:
        """Read plaintext into `_held`; until all of it has been read, `select()` reports the socket as readable."""
        # Another greenlet may have received data while the present greenlet was waiting.
        if not self._held:
            self._held = self._tls.recv(TLS_RECEIVE_BYTES, stays_readable=True)

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """Read up to `size` bytes into a buffer, or as many as fit if `size` is 0; return the number of bytes read."""
        view = memoryview(buffer).cast("B")
        data = self.recv(size or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def pending(self) -> int:
        """Return the number of bytes that can be read without waiting."""
        return len(self._held)

    def makefile(self, mode: str = "rb", buffering: int = -1, **more: Any) -> Any:
        """Return the input as a binary file; no other mode is supported."""
        if mode not in ("r", "rb") or more:
            raise ValueError(f"mode {mode!r} is not allowed; it must be 'rb'")
        return input_file(self, buffering)

    # Writing.

    def _send_some(self, data: Any) -> int:
        return int(self._wait(_WRITE, lambda: self._tls.send(data)))

    def send(self, data: Any, flags: int = 0) -> int:
        """Send all bytes or, with a timeout, as many as are accepted at once; return the number of bytes sent."""
        if self._timeout is not None:
            return self._send_some(data)
        self.sendall(data)
        return memoryview(data).nbytes

    write = send

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all bytes. Greenlets that send at the same time wait for each other."""
        view = memoryview(data).cast("B")
        with self._sending:
            while view:
                view = view[self._send_some(view) :]

    def sendmsg(self, parts: Iterable[Any]) -> int:
        """Send the parts in order; return the number of bytes sent."""
        return int(self._wait(_WRITE, lambda: self._tls.sendmsg(list(parts))))

    # The remaining methods of a socket.

    def fileno(self) -> int:
        """Return the descriptor, or -1 if the socket is closed."""
        never_ready()
        self._shows_number = True
        return -1 if self._closed else self._tls.fileno()

    def getpeername(self) -> Any:
        """Return the address of the client."""
        return self._sock.getpeername()

    def getsockname(self) -> Any:
        """Return the address of the server."""
        return self._sock.getsockname()

    def getsockopt(self, *option: Any) -> Any:
        """Return an option of the socket."""
        return self._sock.getsockopt(*option)

    def setsockopt(self, *option: Any) -> None:
        """Set an option of the socket."""
        self._sock.setsockopt(*option)

    def version(self) -> str | None:
        """Return the protocol, such as `TLSv1.3`."""
        return self._tls.version()

    def gettimeout(self) -> float | None:
        """Return the timeout of each call in seconds; None means no timeout."""
        return self._timeout

    def settimeout(self, seconds: float | None) -> None:
        """Set the timeout of each call in seconds; None means no timeout."""
        self._timeout = seconds

    timeout = property(gettimeout, settimeout)

    def setblocking(self, blocking: bool) -> None:
        """Let methods wait without a limit if `blocking` is true; otherwise, let them never wait."""
        self._timeout = None if blocking else 0.0

    def shutdown(self, how: int) -> None:
        """End the input, the output, or both; the output ends with a close_notify."""
        self._tls.shutdown(how)

    def close(self) -> None:
        """Close the connection; greenlets that wait for its socket are woken."""
        if self._closed:
            return
        self._closed = self.input_ended = True
        loop = gevent.get_hub().loop
        watched = loop.closing_fd(self._tls.fileno())
        # In a process that the application has forked, the descriptor is closed already.
        if self._shows_number and self._tls.fileno() >= 0:
            self._reserved = ReservedDescriptor(self._tls.detach())
        elif watched:
            # Close only after waiting greenlets are woken: libev cannot handle a watcher of a closed descriptor.
            check = loop.check()
            check.start(self._close_after, check)
        else:
            self._tls.close()

    def _close_after(self, check: Any) -> None:
        check.stop()
        check.close()
        self._tls.close()


def switching_head(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of a 101 response exactly as the application has set it, with nothing added."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    for line in lines:
        if has_controls(line):
            raise ValueError(f"{line!r} cannot be sent; a status or header must not contain a control character")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
