"""The kinds of handlers that are measured, and how late each may be ended.

Decides the goals, what a client must see at the deadline, and what each kind needs. It must not know how one is
measured.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ..side_by_side.servers import missing_package

__all__ = ["ANSWERED", "CUT", "HEADINGS", "KINDS", "LATEST_COMPUTING", "LATEST_WAITING", "Kind", "missing"]

ANSWERED: Final = "504"
CUT: Final = "cut"
"""What a client sees at the deadline: an answer, or after headers the end of the connection."""
LATEST_WAITING: Final = 0.025
LATEST_COMPUTING: Final = 0.05
"""Goals: how late the 99th percentile may be, in seconds."""
HEADINGS: Final = ("Handlers that wait", "Handlers that compute", "Bodies that do not end")

_WAITING, _COMPUTING, _BODIES = HEADINGS
_APPLICATIONS: Final = "loadtests.deadline_accuracy.applications"
_LOOK_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Service:
    """A database server that a kind waits for, where the tests of drivers find it too."""

    name: str
    variable: str
    default: str

    @property
    def address(self) -> str:
        """The URL of it."""
        return os.environ.get(self.variable, self.default)

    def missing(self) -> str | None:
        """Return where it was looked for if it does not answer, or None."""
        url = urlsplit(self.address)
        try:
            socket.create_connection((url.hostname or "127.0.0.1", url.port or 0), _LOOK_SECONDS).close()
        except OSError:
            return f"{self.name} at {url.hostname}:{url.port} (set {self.variable} to another URL)"
        return None


@dataclass(frozen=True)
class Kind:
    """A handler that does not end by itself."""

    name: str
    title: str
    heading: str
    application: str
    """Where it is in `applications/`, as MODULE:NAME."""
    latest: float = LATEST_WAITING
    end: str = ANSWERED
    alone: bool = False
    """Whether it takes all of the processor, so that only one at a time can be measured."""
    package: str = ""
    service: Service | None = None

    @property
    def reference(self) -> str:
        """Where the application is, as the server is told."""
        return f"{_APPLICATIONS}.{self.application}"


_POSTGRESQL: Final = Service("PostgreSQL", "INTRALB_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test")
_MARIADB: Final = Service("MariaDB", "INTRALB_TEST_MARIADB", "mysql://root@127.0.0.1:3306/test")


def _computing(name: str, title: str, application: str) -> Kind:
    return Kind(name, title, _COMPUTING, f"computing:{application}", LATEST_COMPUTING, alone=True)


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("socket", "socket, `recv`", _WAITING, "waiting:receive"),
        Kind("sleep", "`time.sleep`", _WAITING, "waiting:sleep"),
        Kind("lock", "`threading.Lock`", _WAITING, "waiting:lock"),
        Kind("queue", "`queue.Queue.get`", _WAITING, "waiting:take"),
        Kind("subprocess", "`subprocess.run`", _WAITING, "waiting:process"),
        Kind("requests", "`requests.get`", _WAITING, "requests:get", package="requests"),
        Kind(
            "psycopg",
            "psycopg, `pg_sleep`",
            _WAITING,
            "psycopg:select",
            package="psycopg",
            service=_POSTGRESQL,
        ),
        Kind(
            "pymysql",
            "PyMySQL, `sleep`",
            _WAITING,
            "pymysql:select",
            package="pymysql",
            service=_MARIADB,
        ),
        _computing("loop", "a loop", "loop"),
        _computing("except-exception", "a loop in `except Exception`", "except_exception"),
        _computing("swallow", "a bare `except`, twice", "swallow_twice"),
        Kind("stalled", "a generator that waits", _BODIES, "bodies:stalled", end=CUT),
        Kind(
            "endless",
            "a generator without an end",
            _BODIES,
            "bodies:endless",
            LATEST_COMPUTING,
            CUT,
            True,
        ),
    )
}
"""The kinds, in the order in which they are measured."""


def missing(kind: Kind) -> str | None:
    """Return what has to be there before the kind can be measured, or None."""
    return missing_package(kind.package) or (kind.service.missing() if kind.service else None)
