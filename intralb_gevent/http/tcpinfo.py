"""Measure how long received data had waited in the kernel before it was read.

Linux reports, in milliseconds, the age of the data that a TCP socket has received last (`tcpi_last_data_recv` of
`struct tcp_info`, tcp(7) and linux/tcp.h). The kernel measures the age in timer ticks, so the age may be up to one tick
too high. Therefore, one tick is subtracted. On other platforms and on unix sockets, the age is unknown.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import Any, Final

__all__ = ["seconds_since_data"]

_LAST_DATA_RECEIVED: Final = struct.Struct("=52xI")
"""The part of `struct tcp_info` up to `tcpi_last_data_recv`, which follows 8 single bytes and 11 32-bit numbers."""

_MONOTONIC_COARSE: Final = 6
"""The id of the clock that advances once per tick (linux/time.h); the resolution of this clock is one tick."""

_LONGEST_TICK_SECONDS: Final = 0.01


def _tick() -> float:
    try:
        return time.clock_getres(_MONOTONIC_COARSE)
    except OSError:
        return _LONGEST_TICK_SECONDS


_TICK_SECONDS: Final = _tick() if sys.platform == "linux" else 0.0


def seconds_since_data(sock: Any) -> float:
    """Return a lower bound for the seconds since data last arrived at a socket; 0 if the time is unknown."""
    if sys.platform != "linux":
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.size)
        (milliseconds,) = _LAST_DATA_RECEIVED.unpack(info)
    except (OSError, struct.error):
        # The socket is not a TCP socket, or the kernel does not report the field.
        return 0.0
    return max(0.0, float(milliseconds) / 1000 - _TICK_SECONDS)
