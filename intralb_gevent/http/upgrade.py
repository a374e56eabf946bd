"""Blocking sockets for applications that take over a connection, and the head of an answer that says 101.

The hub has read from the connection before, so what it had read behind the request comes first.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import DEFAULT_BUFFER_SIZE, BufferedReader, RawIOBase
from typing import Any, Final

import gevent
from gevent import socket

from ..pool.forks import FORKS
from .framing import has_controls
from .limits import TLS_RECEIVE_BYTES
from .tls import TlsSocket

__all__ = ["TakenSocket", "TakenTlsSocket", "switching_head", "taken"]

_READ: Final = 1
_WRITE: Final = 2
_PEEK: Final = socket.MSG_PEEK


def taken(sock: Any, held: bytes) -> Any:
    """Return a blocking socket in the place of a connection's own; `held` are the bytes that it gives first."""
    if isinstance(sock, TlsSocket):
        return TakenTlsSocket(sock, held)
    family, kind, proto = sock.family, sock.type, sock.proto
    return TakenSocket(family, kind, proto, sock.detach(), held)


class TakenSocket(socket.socket):
    """A socket of gevent's that first returns what the server has read from the connection."""

    def __init__(self, family: int, kind: int, proto: int, descriptor: int, held: bytes) -> None:
        super().__init__(family, kind, proto, fileno=descriptor)
        self.setblocking(True)
        self._held = held

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return up to `size` bytes, as soon as there are any."""
        if not self._held:
            return super().recv(size, flags)
        data = self._held[:size]
        if not flags & _PEEK:
            self._held = self._held[len(data) :]
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """Read into a buffer, up to `size` bytes, or as many as it has room for; return how many."""
        if not self._held:
            return super().recv_into(buffer, size, flags)
        view = memoryview(buffer).cast("B")
        data = self.recv(size or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def dup(self) -> TakenSocket:
        """Return a duplicate, which takes along what was held."""
        copy = super().dup()
        descriptor = copy.detach()
        held, self._held = self._held, b""
        return TakenSocket(self.family, self.type, self.proto, descriptor, held)

    def close(self) -> None:
        """Close it, also where a forked process has a copy."""
        if FORKS.made and self.fileno() >= 0:
            with suppress(OSError):
                self.shutdown(socket.SHUT_RDWR)
        super().close()


class _Input(RawIOBase):
    """The input of a `TakenTlsSocket` as a raw file."""

    def __init__(self, sock: TakenTlsSocket) -> None:
        self._taken = sock

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return how many bytes, 0 at the end."""
        return self._taken.recv_into(buffer)


class TakenTlsSocket:
    """A TLS connection with the methods of a blocking socket; only the greenlet that calls one waits."""

    def __init__(self, sock: TlsSocket, held: bytes) -> None:
        self._tls = sock
        self._held = held
        self._timeout: float | None = None
        self._closed = False
        self.input_ended = False
        """Whether the end of what the client sends has been read."""

    def __repr__(self) -> str:
        return f"<TakenTlsSocket {self._tls!r}>"

    @property
    def _sock(self) -> Any:
        """The plain socket, under the name that it has in gevent's sockets."""
        return self._tls._sock

    def _wait(self, event: int, step: Callable[[], Any]) -> Any:
        """Try a step until it need not wait for the socket."""
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
        """Return up to `size` bytes, as soon as there are any; b"" at the end."""
        if not self._held:
            self._held = self._wait(_READ, lambda: self._tls.recv(TLS_RECEIVE_BYTES))
            self.input_ended = not self._held
        data = self._held[:size]
        if not flags & _PEEK:
            self._held = self._held[len(data) :]
        return data

    read = recv

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """Read into a buffer, up to `size` bytes, or as many as it has room for; return how many."""
        view = memoryview(buffer).cast("B")
        data = self.recv(size or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def pending(self) -> int:
        """Return how many bytes can be read without waiting."""
        return len(self._held)

    def makefile(self, mode: str = "rb", buffering: int = -1, **more: Any) -> Any:
        """Return the input as a binary file; no other mode is there."""
        if mode not in ("r", "rb") or more:
            raise ValueError(f"mode {mode!r} is not allowed; it must be 'rb'")
        return _Input(self) if buffering == 0 else BufferedReader(_Input(self), max(buffering, DEFAULT_BUFFER_SIZE))

    # Writing.

    def send(self, data: Any, flags: int = 0) -> int:
        """Send bytes; return how many."""
        return int(self._wait(_WRITE, lambda: self._tls.send(data)))

    write = send

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all bytes."""
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view) :]

    def sendmsg(self, parts: Iterable[Any]) -> int:
        """Send the parts one after the other; return how many bytes."""
        return int(self._wait(_WRITE, lambda: self._tls.sendmsg(list(parts))))

    # The rest of a socket.

    def fileno(self) -> int:
        """Return the descriptor; -1 when closed."""
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
        """Return how long a method waits, in seconds; None is for ever."""
        return self._timeout

    def settimeout(self, seconds: float | None) -> None:
        """Set how long a method waits, in seconds; None is for ever."""
        self._timeout = seconds

    timeout = property(gettimeout, settimeout)

    def setblocking(self, blocking: bool) -> None:
        """Let methods wait for ever, or not at all."""
        self._timeout = None if blocking else 0.0

    def shutdown(self, how: int) -> None:
        """End the output, with a close_notify, the input, or both."""
        self._tls.shutdown(how)

    def close(self) -> None:
        """Close the connection; greenlets that wait for it see the end."""
        if self._closed:
            return
        self._closed = True
        loop = gevent.get_hub().loop
        if loop.closing_fd(self._tls.fileno()):
            # Those that wait must have been woken first; libev does not bear a watcher of a closed descriptor.
            check = loop.check()
            check.start(self._close_after, check)
        else:
            self._tls.close()

    def _close_after(self, check: Any) -> None:
        check.stop()
        check.close()
        self._tls.close()


def switching_head(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of an answer that switches protocols: as the application has given it, and nothing added."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    for line in lines:
        if has_controls(line):
            raise ValueError(f"{line!r} cannot be sent; a status or header must not contain a control character")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
