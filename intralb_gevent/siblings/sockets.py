"""The Unix sockets through which processes pass connections to each other. No function of this module waits.

Each process listens on an abstract address, which leaves no file behind. The address contains the inode number of the
client listener, and the process id. Therefore, processes find each other only if they accept from the same listener, no
matter which process has started them. Both sides check the user id of the peer; the kernel guarantees that this id is
correct.
"""

from __future__ import annotations

import _socket
import array
import os
import struct
from pathlib import Path
from typing import Any, Final

from .transfer import MAX_MESSAGE_BYTES

__all__ = ["accept", "bound_pids", "connect", "listen", "listener_number", "receive", "send"]

_PREFIX: Final = "intralb-gevent"
_BACKLOG: Final = 64
_CREDENTIALS: Final = struct.Struct("3i")
"""Format of the peer's process, user and group ids (struct ucred)."""

_SO_PEERCRED: Final = int(getattr(_socket, "SO_PEERCRED", 17))
_DESCRIPTORS_SPACE: Final = _socket.CMSG_SPACE(array.array("i", [0]).itemsize)
_CLOSE_ON_EXEC: Final = int(getattr(_socket, "MSG_CMSG_CLOEXEC", 0))
_BOUND_SOCKETS: Final = Path("/proc/net/unix")


def listener_number(listener: Any) -> int:
    """Return the inode number of the listener, which is the same in all processes that have inherited the listener."""
    return os.fstat(listener.fileno()).st_ino


def _address(listener: int, pid: int) -> str:
    return f"\0{_PREFIX}/{listener}/{pid}"


def _socket_of(descriptor: int | None = None) -> _socket.socket:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)
    sock.setblocking(False)
    return sock


def listen(listener: int) -> _socket.socket:
    """Return the socket on which this process receives connections of the listener; raises OSError if binding fails."""
    sock = _socket_of()
    try:
        sock.bind(_address(listener, os.getpid()))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def connect(listener: int, pid: int) -> _socket.socket:
    """Return a socket to a process that accepts from the listener; raises OSError if the process receives no
    connections."""
    sock = _socket_of()
    try:
        sock.connect(_address(listener, pid))
        if _peer(sock) != (pid, os.geteuid()):
            raise PermissionError(f"another process has the address of process {pid}")
    except OSError:
        sock.close()
        raise
    return sock


def accept(sock: _socket.socket) -> _socket.socket | None:
    """Accept a connection from another process, and return its socket; None if no process of the same user has
    connected."""
    try:
        descriptor = sock._accept()[0]  # type: ignore[attr-defined]  # no public method returns a plain socket
    except OSError:
        return None
    accepted = _socket_of(descriptor)
    if _peer(accepted)[1] != os.geteuid():
        accepted.close()
        return None
    return accepted


def _peer(sock: _socket.socket) -> tuple[int, int]:
    """Return the process id and the user id of the peer."""
    pid, user, _ = _CREDENTIALS.unpack(sock.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, _CREDENTIALS.size))
    return pid, user


def send(sock: _socket.socket, packet: bytes, descriptor: int | None = None) -> None:
    """Send a packet with an optional descriptor; raises BlockingIOError if the socket's buffer is full, or another
    OSError."""
    ancillary = [] if descriptor is None else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    sock.sendmsg([packet], ancillary, _socket.MSG_NOSIGNAL)


def receive(sock: _socket.socket) -> tuple[bytes, int | None]:
    """Return a packet, which is empty at the end of the connection, and the descriptor that was sent with the packet.

    Raises BlockingIOError if no packet has arrived, or another OSError.
    """
    try:
        packet, ancillary, _, _ = _received(sock)
    except ConnectionResetError:
        # The kernel reports ECONNRESET once if the peer has ended without reading everything. Packets that the peer has
        # sent can still be read; one of them may confirm that the peer has taken a connection.
        packet, ancillary, _, _ = _received(sock)
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return packet, found[0] if found else None


def _received(sock: _socket.socket) -> Any:
    return sock.recvmsg(MAX_MESSAGE_BYTES, _DESCRIPTORS_SPACE, _CLOSE_ON_EXEC)


def bound_pids(listener: int) -> list[int]:
    """Return the ids of the processes that receive connections of the listener."""
    # While sockets are opened and closed, the kernel's list can lack an entry, so read it twice.
    return sorted(_listed(f"@{_PREFIX}/{listener}/") | _listed(f"@{_PREFIX}/{listener}/"))


def _listed(start: str) -> set[int]:
    try:
        lines = _BOUND_SOCKETS.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    pids = (line.partition(start)[2] for line in lines if start in line)
    return {int(pid) for pid in pids if pid.isdecimal()}
