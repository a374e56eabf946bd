"""How a socket ends: whether the peer has closed it, and a reset in the place of a regular end.

Decides how the system is asked and told. It must not know what was sent.

TCP does not tell a peer that has closed from one that has only finished sending: both send a FIN, and only bytes that
are sent to it afterwards are answered by a reset. A unix socket tells (POLLHUP). It cannot be reset, though: its end
always looks regular.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any, Final

from gevent.monkey import get_original

__all__ = ["has_hung_up", "is_tcp", "reset_when_closed", "unacknowledged"]

_poll: Final[Callable[[], Any]] = get_original("select", "poll")
_NO_LINGERING: Final = struct.pack("ii", 1, 0)


def has_hung_up(sock: Any) -> bool:
    """Say whether the peer is known to have closed the connection, and not just its sending half. Never waits."""
    poll = _poll()
    poll.register(sock.fileno(), 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


def is_tcp(sock: Any) -> bool:
    """Say whether a socket is one of TCP."""
    try:
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    except OSError:
        return False
    return True


def unacknowledged(sock: Any) -> int:
    """Return how many bytes were sent that the peer's system has not acknowledged; 0 where that is not known."""
    try:
        answer: bytes = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    count: int = struct.unpack("i", answer)[0]
    return count


def reset_when_closed(sock: Any) -> None:
    """Have the close of a TCP socket reset the connection, which drops what was not acknowledged. Raises nothing."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
    except OSError:
        return
