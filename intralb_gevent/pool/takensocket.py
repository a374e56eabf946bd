"""Sockets for an application that takes over a connection.

The first reads from such a socket return the bytes that the server has already received after the request.
"""

from __future__ import annotations

import os
from contextlib import suppress
from io import DEFAULT_BUFFER_SIZE, BufferedReader, RawIOBase
from typing import Any, Final

import gevent
from gevent import socket
from gevent.lock import Semaphore

from ..hub.forks import FORKS
from ..hub.reserved import ReservedDescriptor, never_ready

__all__ = ["ReadFirst", "TakenSocket", "input_file"]

_PEEK: Final = socket.MSG_PEEK


class TakenSocket(socket.socket):
    """A gevent socket that first returns the bytes that the server has already received.

    Without a timeout, `send` sends all bytes, as a blocking socket of the system does. simple-websocket relies on this;
    otherwise, it would send incomplete frames. Greenlets that send at the same time wait for each other.
    """

    def __init__(self, family: int, kind: int, proto: int, descriptor: int, held: bytes) -> None:
        super().__init__(family, kind, proto, fileno=descriptor)
        self.setblocking(True)
        self._held = held
        self._sending = Semaphore()
        self._shows_number = False
        self._duplicated = False
        self._reserved: ReservedDescriptor | None = None

    def fileno(self) -> int:
        """Return the descriptor, or -1 if the socket is closed. The caller may watch the descriptor from now on."""
        never_ready()
        self._shows_number = True
        return super().fileno()

    def send(self, data: Any, flags: int = 0, **timeout: Any) -> int:
        """Send all bytes or, with a timeout, as many as the kernel accepts at once; return the number of bytes."""
        if timeout or self.timeout is not None:
            return int(super().send(data, flags, **timeout))
        view = memoryview(data).cast("B")
        sent = 0
        with self._sending:
            while sent < len(view):
                sent += super().send(view[sent:], flags)
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all bytes."""
        if self.timeout is None:
            self.send(data, flags)
        else:
            super().sendall(data, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return up to `size` bytes, as soon as there are any."""
        if not self._held:
            return super().recv(size, flags)
        data = self._held[:size]
        if not flags & _PEEK:
            self._held = self._held[len(data) :]
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """Read up to `size` bytes into a buffer, or as many as fit if `size` is 0; return the number of bytes read."""
        if not self._held:
            return super().recv_into(buffer, size, flags)
        view = memoryview(buffer).cast("B")
        data = self.recv(size or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def dup(self) -> TakenSocket:
        """Return a duplicate of the socket, and move the held bytes to it."""
        descriptor = os.dup(super().fileno())
        self._duplicated = True
        held, self._held = self._held, b""
        duplicate = TakenSocket(self.family, self.type, self.proto, descriptor, held)
        duplicate.settimeout(self.gettimeout())
        return duplicate

    def close(self) -> None:
        """End the output, even if a forked process holds a copy of the socket, and close the socket.

        The output of a duplicate does not end. The input stays open, because the client may still be sending while it
        reads the last data.
        """
        if FORKS.made and not self._duplicated and super().fileno() >= 0:
            with suppress(OSError):
                self.shutdown(socket.SHUT_WR)
        super().close()

    def _drop_ref_on_close(self, sock: Any) -> None:
        """Close the descriptor, but reserve its number if the application may still watch it. Called by gevent."""
        # In a process that the application has forked, the descriptor is closed already.
        if self._shows_number and sock.fileno() >= 0:
            gevent.get_hub().loop.closing_fd(sock.fileno())
            self._reserved = ReservedDescriptor(sock.detach())
        else:
            super()._drop_ref_on_close(sock)  # type: ignore[misc]  # the type stubs leave this method out


class _Input(RawIOBase):
    """The input of a socket as a raw binary file."""

    def __init__(self, sock: Any) -> None:
        self._drained = sock

    def readable(self) -> bool:
        """Return True, because the file can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return the number of bytes, 0 at the end of the input."""
        return int(self._drained.recv_into(buffer))


def input_file(sock: Any, buffering: int) -> Any:
    """Return the input of a socket as a binary file; `buffering` is the size of its buffer, 0 for none, -1 for any."""
    return _Input(sock) if buffering == 0 else BufferedReader(_Input(sock), max(buffering, DEFAULT_BUFFER_SIZE))


class ReadFirst:
    """A TLS socket of an outer server, but the first reads return the bytes that the server has already received."""

    def __init__(self, sock: Any, held: bytes) -> None:
        self._outer = sock
        self._held = held

    def __repr__(self) -> str:
        return f"<ReadFirst {len(self._held)} bytes, then {self._outer!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outer, name)

    def __enter__(self) -> ReadFirst:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._outer.close()

    def recv(self, size: int = DEFAULT_BUFFER_SIZE, flags: int = 0) -> bytes:
        """Return up to `size` bytes, as soon as there are any."""
        if not self._held:
            return bytes(self._outer.recv(size, flags))
        data, self._held = self._held[:size], self._held[size:]
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """Read up to `size` bytes into a buffer, or as many as fit if `size` is 0; return the number of bytes read."""
        view = memoryview(buffer).cast("B")
        data = self.recv(size or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def read(self, size: int = DEFAULT_BUFFER_SIZE, buffer: Any = None) -> bytes | int:
        """Read as `SSLSocket.read` does."""
        return self.recv(size) if buffer is None else self.recv_into(buffer, min(size, len(buffer)))

    def pending(self) -> int:
        """Return the number of bytes that can be read without waiting."""
        return len(self._held) + int(self._outer.pending())

    def makefile(self, mode: str = "rb", buffering: int = -1, **more: Any) -> Any:
        """Return the input as a binary file; once all held bytes are read, as the socket does."""
        if not self._held or mode not in ("r", "rb") or more:
            return self._outer.makefile(mode, buffering, **more)
        return input_file(self, buffering)
