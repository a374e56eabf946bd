"""How much of its core a server uses, and how much others use there.

Decides when it is looked: at the beginning and the end of the time that counts. It must not know which server it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from ..side_by_side.processes import Process, core_busy_seconds

__all__ = ["BUSY_OTHERS", "Meter", "Usage", "usage"]

BUSY_OTHERS: Final = 0.1
"""How much of the server's core others may use before its figures are spoilt."""


@dataclass(frozen=True)
class Usage:
    """Shares of a core: 1 is all of it."""

    server: float
    others: float


class Meter:
    """Measures from its making on."""

    def __init__(self, server: Process, core: int) -> None:
        self._server = server
        self._core = core
        self._began = time.monotonic(), server.busy_seconds(), core_busy_seconds(core)

    def used(self) -> Usage:
        """Return what has been used so far."""
        instant, server, core = self._began
        seconds = time.monotonic() - instant
        share = (self._server.busy_seconds() - server) / seconds
        return Usage(share, max(0.0, (core_busy_seconds(self._core) - core) / seconds - share))


def usage(server: Process, core: int, begins: float, ends: float) -> Usage:
    """Return what was used between two instants of the system's monotonic clock; waits for both."""
    time.sleep(max(0.0, begins - time.monotonic()))
    meter = Meter(server, core)
    time.sleep(max(0.0, ends - time.monotonic()))
    return meter.used()
