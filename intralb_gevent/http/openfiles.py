"""Divide the limit on open files between clients and all other uses: handlers, probes and logs.

The kernel gives each new file the lowest free descriptor. So if a connection gets the descriptor `clients_end` or a
higher one, all lower descriptors are in use, and the connection is rejected. Descriptors from `refused_end` on are
reserved for other uses.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from typing import Final

from ..config.options import Options
from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER

__all__ = ["OPEN_FILES", "REFUSED_CONNECTIONS"]

REFUSED_CONNECTIONS: Final = 256
"""Maximum connections beyond `max_connections` that are answered with 503; others are closed without a response."""

_FILES_OF_A_HANDLER: Final = 2
"""Open files per slot: a database session and one more file or socket."""

_OWN_FILES: Final = 128
"""Open files for listeners, logs, connections to the admin address, Python and gevent."""

_LEAST_RESERVE: Final = 96
"""Minimum number of files to reserve for other uses if the limit is low; but at most half of the limit is reserved."""

_LEAST_OPERATORS: Final = 4
"""Minimum number of connections to the admin address, however low the limit is."""

_OPENED_LATER: Final = 8
"""Maximum number of files that this package opens after the first server has started, such as the admin listener."""

_RAISED: Final = "raised the limit of open files from {} to {}, which max_connections={} and the handlers need"
_TOO_FEW: Final = (
    "the limit of {} open files allows {} client connections, not max_connections={}; "
    "raise it to {} (ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of docker), or lower max_connections"
)


class _OpenFiles:
    """The process's limit on open files, divided between clients and all other uses when a server starts."""

    def __init__(self) -> None:
        self.clients_end = sys.maxsize
        """The lowest descriptor with which a connection is rejected."""
        self.refused = REFUSED_CONNECTIONS
        """Maximum number of rejected connections that are answered with 503; others are closed without a response."""
        self.operators = sys.maxsize
        """Maximum number of connections to the admin address; they use reserved descriptors."""
        self._reported = ""

    def __repr__(self) -> str:
        return f"<_OpenFiles: clients below {self.clients_end}, then {self.refused} rejected ones>"

    @property
    def refused_end(self) -> int:
        """The lowest descriptor that no file of a client may have."""
        return self.clients_end + self.refused

    def raise_limit(self, options: Options, addresses: int) -> None:
        """Raise the soft limit to what servers on `addresses` addresses need, but at most to the hard limit."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _needed(options, addresses)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        if soft == resource.RLIM_INFINITY or soft >= most:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            # macOS enforces a lower limit than `getrlimit` reports; `share_out` logs what the current limit allows.
            return
        _report(logging.INFO, _RAISED.format(soft, most, options.max_connections))

    def share_out(self, options: Options) -> None:
        """Compute how many connections the current limit allows; warn if it allows fewer than `max_connections`."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            limit = sys.maxsize
        kept = min(_reserve(options), max(limit // 4, _LEAST_RESERVE), limit // 2)
        self.refused = min(REFUSED_CONNECTIONS, (limit - kept) // 8)
        opened = _opened() + _OPENED_LATER
        # The open files occupy the lowest descriptors, and most of them belong to the uses for which files are kept.
        self.clients_end = limit - kept - self.refused + min(opened, kept // 2)
        self.operators = max(_LEAST_OPERATORS, (limit - self.refused_end) // 2)
        allowed = max(0, self.clients_end - opened)
        if allowed < options.max_connections:
            self._warn(_TOO_FEW.format(limit, allowed, options.max_connections, _needed(options, 1)))

    def _warn(self, text: str) -> None:
        # Warn once, not for each address.
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


def _opened() -> int:
    """Return how many files this process has open; 0 if the number is unknown."""
    try:
        # The listing itself needs one open file.
        return len(os.listdir("/dev/fd")) - 1
    except OSError:
        return 0


_LOG: Final = HubLog(LOGGER.log)


def _report(level: int, text: str) -> None:
    # Queue the record, because a logging handler that is stuck must not delay the start.
    _LOG.record(level, lambda: text)


OPEN_FILES: Final = _OpenFiles()
"""The only instance, because the limit applies to the process."""
