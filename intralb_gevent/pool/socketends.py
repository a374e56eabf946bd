"""Detects whether a peer has closed its connection, and resets a TCP connection instead of closing it normally.

Over TCP, a peer that has closed the connection looks like a peer that has only finished sending: both send a FIN. Only
data sent after the FIN makes a closed peer answer with a reset. A unix socket shows whether its peer has closed the
connection (POLLHUP). But a unix socket cannot be reset, so its close always looks normal to the peer.
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

__all__ = ["end_when_closed", "has_hung_up", "is_tcp", "reset_now", "reset_when_closed", "unacknowledged"]

_poll: Final[Callable[[], Any]] = get_original("select", "poll")
_NO_LINGERING: Final = struct.pack("ii", 1, 0)
_DEFAULT_LINGERING: Final = struct.pack("ii", 0, 0)


def has_hung_up(sock: Any) -> bool:
    """Return whether the peer is known to have closed the connection, and not just its sending half. Never waits."""
    poll = _poll()
    poll.register(sock.fileno(), 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


def is_tcp(sock: Any) -> bool:
    """Return whether a socket is a TCP socket."""
    try:
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    except OSError:
        return False
    return True


def unacknowledged(sock: Any) -> int:
    """Return how many sent bytes the peer's kernel has not acknowledged; 0 if the number is unknown."""
    try:
        answer: bytes = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    count: int = struct.unpack("i", answer)[0]
    return count


def reset_when_closed(sock: Any) -> None:
    """Configure a TCP socket so that closing it resets the connection and discards unacknowledged bytes.

    Raises nothing.
    """
    _set_lingering(sock, _NO_LINGERING)


def end_when_closed(sock: Any) -> None:
    """Configure a TCP socket so that closing it ends the connection normally, after all sent bytes; raises nothing."""
    _set_lingering(sock, _DEFAULT_LINGERING)


def _set_lingering(sock: Any, lingering: bytes) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
    except OSError:
        return


def reset_now(sock: Any) -> None:
    """Reset an outer server's connection, because a normal close would look like the end of the response."""
    reset_when_closed(sock)
    # Close the socket now, because gunicorn would first shut it down normally. pywsgi's socket stays open until
    # pywsgi closes it.
    sock.close()
