"""How long bytes have been here when they are read: what the system knows, and nobody else could.

Decides how it is asked, and how much of its answer is certain. It must not know whether anybody was late.

Linux keeps for every TCP socket when data last came (`tcpi_last_data_recv` of `struct tcp_info`, tcp(7) and
linux/tcp.h), in milliseconds, but it counts in ticks of its timer: so up to one tick may not have passed yet, which is
taken off. Elsewhere, and on unix sockets, nothing is known.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import Any, Final

__all__ = ["seconds_since_data"]

_LAST_DATA_RECEIVED: Final = struct.Struct("=52xI")
"""The part of `struct tcp_info` up to that field: eight bytes, and eleven numbers before it."""

_MONOTONIC_COARSE: Final = 6
"""The clock that moves with the ticks (linux/time.h); its resolution is their length."""

_LONGEST_TICK_SECONDS: Final = 0.01


def _tick() -> float:
    try:
        return time.clock_getres(_MONOTONIC_COARSE)
    except OSError:
        return _LONGEST_TICK_SECONDS


_TICK_SECONDS: Final = _tick() if sys.platform == "linux" else 0.0


def seconds_since_data(sock: Any) -> float:
    """Return how long ago data last came to a socket: never more than it was, and 0 where that is not known."""
    if sys.platform != "linux":
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.size)
        (milliseconds,) = _LAST_DATA_RECEIVED.unpack(info)
    except (OSError, struct.error):
        # No TCP socket, or a system that tells less.
        return 0.0
    return max(0.0, float(milliseconds) / 1000 - _TICK_SECONDS)
