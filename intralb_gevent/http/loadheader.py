"""The header line in which each response reports the load of this server to Envoy, gRPC and other ORCA clients.

ORCA (Open Request Cost Aggregation) defines the header `endpoint-load-metrics`. Envoy's client-side weighted round
robin gives each endpoint the weight `rps_fractional / (application_utilization + penalty * eps / rps_fractional)`.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from ..pool.loadmeter import LoadMeter

__all__ = ["LoadHeader"]

_LINE: Final = "endpoint-load-metrics: TEXT application_utilization={:.4f},rps_fractional={:.3f},eps={:.3f}\r\n"


class LoadHeader:
    """The header line, which is cached for `KEPT_SECONDS`."""

    KEPT_SECONDS: Final = 0.1
    """Seconds for which the line is cached: the load is measured once in this interval."""

    __slots__ = ("_expires", "_line", "_load")

    def __init__(self, load: LoadMeter) -> None:
        self._load = load
        self._line = b""
        self._expires = 0.0

    def __repr__(self) -> str:
        return f"<LoadHeader {self._line!r}>"

    @property
    def line(self) -> bytes:
        """The header line with its line end."""
        now = monotonic()
        if now >= self._expires:
            self._line = _LINE.format(*self._load.whole).encode()
            self._expires = now + self.KEPT_SECONDS
        return self._line
