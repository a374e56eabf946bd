"""How many files the process may open, and how many of them are kept from clients, for handlers, probes and logs.

The system gives each new file the lowest number that is free. So a connection whose number is `clients_end` or more
shows that all lower ones are taken, by whatever; it is refused, and the numbers from there on are left to others.
"""

from __future__ import annotations

import logging
import resource
import sys
from typing import Final

from ..options import Options
from .limits import REFUSED_CONNECTIONS

__all__ = ["OPEN_FILES"]

_FILES_OF_A_HANDLER: Final = 2
"""A database session, and one more file or socket, for each slot."""

_OWN_FILES: Final = 128
"""Listeners, logs, the connections to the admin address, and what Python and gevent have open."""

_LEAST_RESERVE: Final = 96
"""Kept from clients where the limit is low, though never more than half of it."""

_RAISED: Final = "raised the limit of open files from {} to {}, which max_connections={} and the handlers need"
_TOO_FEW: Final = (
    "the limit of {} open files allows {} client connections, not max_connections={}; "
    "raise it to {} (ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of docker), or lower max_connections"
)


class _OpenFiles:
    """The limit of this process, shared out between clients and everything else when a server starts."""

    def __init__(self) -> None:
        self.clients_end = sys.maxsize
        """The first number of an open file with which a connection is refused."""
        self.refused = REFUSED_CONNECTIONS
        """Connections beyond that which are answered 503, and not just closed."""
        self._reported = ""

    def __repr__(self) -> str:
        return f"<_OpenFiles: clients below {self.clients_end}, then {self.refused} refused ones>"

    @property
    def refused_end(self) -> int:
        """The first number of an open file that nothing of a client's may have."""
        return self.clients_end + self.refused

    def raise_limit(self, options: Options, addresses: int) -> None:
        """Raise the soft limit to what the servers on so many addresses need, as far as the hard one allows."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _needed(options, addresses)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        if soft == resource.RLIM_INFINITY or soft >= most:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            # macOS has a lower limit that it does not tell; `share_out` says what the present one allows.
            return
        _report(logging.INFO, _RAISED.format(soft, most, options.max_connections))

    def share_out(self, options: Options) -> None:
        """Find out what the present limit allows clients to have, and warn if that is less than `max_connections`."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            limit = sys.maxsize
        kept = min(_reserve(options), max(limit // 4, _LEAST_RESERVE), limit // 2)
        self.refused = min(REFUSED_CONNECTIONS, (limit - kept) // 8)
        self.clients_end = limit - kept - self.refused
        if self.clients_end < options.max_connections:
            self._warn(_TOO_FEW.format(limit, self.clients_end, options.max_connections, _needed(options, 1)))

    def _warn(self, text: str) -> None:
        # Once, not for each address.
        if text != self._reported:
            self._reported = text
            _report(logging.WARNING, text)


def _reserve(options: Options) -> int:
    slots = options.max_workers * options.max_concurrent_per_router
    for route in options.routes:
        slots += (route.max_workers or 0) * (route.max_concurrent_per_router or options.max_concurrent_per_router)
    return _OWN_FILES + _FILES_OF_A_HANDLER * slots


def _needed(options: Options, addresses: int) -> int:
    connections = addresses * (options.max_connections + REFUSED_CONNECTIONS)
    return connections + (options.max_upgraded or 0) + _reserve(options)


def _report(level: int, text: str) -> None:
    logging.getLogger("intralb_gevent").log(level, "%s", text)


OPEN_FILES: Final = _OpenFiles()
"""The limit is the process's, so there is one of these."""
