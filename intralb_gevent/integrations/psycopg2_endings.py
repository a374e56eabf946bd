"""End statements of closed psycopg2 connections by terminating their server processes from another connection.

A database that is overloaded makes many requests miss their deadlines at once, and is then slow to accept connections.
Therefore, one connection terminates all server processes that are due, and failures are repeated.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import monotonic
from typing import Any, Final, NamedTuple

import gevent
import psycopg2
from gevent.event import Event

from ..hub.forks import when_isolated
from ..process.ending import END
from .drivers import cancelling

__all__ = ["MOST_CANCELLING", "Backend", "Ending", "end_backend"]

logger = logging.getLogger("intralb_gevent")

CONNECT_SECONDS: Final = 10.0
"""Maximum number of seconds to connect to the server and terminate the server processes that are due."""

MOST_CANCELLING: Final = 4
"""Maximum number of connections, in addition to the slots' connections, that end statements at the same time."""

RETRY_SECONDS: Final = 60.0
"""Seconds for which the attempts to end a statement are repeated."""

LONGEST_PAUSE: Final = 2.0
"""Maximum number of seconds between two attempts; the first pause is a sixteenth of it."""

EXIT_SECONDS: Final = 5.0
"""Maximum number of seconds for which the exit of the process waits until statements are ended."""

REST_SECONDS: Final = 1.0
"""Seconds of the time limit of the exit that are left after this wait."""

# Exclude server processes that are younger than the connection, because they have reused the pid of another process.
_TERMINATE: Final = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where pid = %s and backend_start <= clock_timestamp() - %s * interval '1 second'
"""


class Backend(NamedTuple):
    """The server process of a connection, and the parameters to connect to its server."""

    pid: int
    known_at: float
    """Monotonic time at which the process was known to run."""
    parameters: dict[str, Any]

    def __repr__(self) -> str:
        # Leave out the parameters, because they include a password.
        return f"<Backend {self.pid}>"


class Ending:
    """The end of a server process that still runs a statement."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.retry_until = monotonic() + RETRY_SECONDS
        self.tried = Event()
        """Set after the first attempt."""
        self.error: Exception | None = None
        """The error of the last attempt; None if the process was terminated."""

    def __repr__(self) -> str:
        return f"<Ending of {self.backend!r}: {(self.error or 'done') if self.tried.is_set() else 'due'}>"

    @property
    def is_overdue(self) -> bool:
        """Whether not to try again after a failed attempt."""
        return monotonic() > self.retry_until

    def run(self, connection: Any) -> None:
        """Terminate the server process over a connection to its server."""
        with connection.cursor() as cursor:
            cursor.execute(_TERMINATE, (self.backend.pid, monotonic() - self.backend.known_at))
        self.error = None
        self.tried.set()

    def fail(self, error: Exception) -> None:
        """Record a failed attempt."""
        self.error = error
        self.tried.set()


_due: list[Ending] = []
_workers: set[gevent.Greenlet[..., None]] = set()


def end_backend(backend: Backend) -> Ending:
    """Terminate a server process in the background; failures are repeated, and the last one is logged."""
    ending = Ending(backend)
    _due.append(ending)
    if sum(not each.ready() for each in _workers) < MOST_CANCELLING:
        worker = gevent.spawn(_work)
        _workers.add(worker)
        worker.link(_workers.discard)
    return ending


def _late() -> psycopg2.OperationalError:
    """Return the error for a server that does not answer."""
    return psycopg2.OperationalError("the server does not answer")


def _work() -> None:
    pause = LONGEST_PAUSE / 16
    with cancelling():
        while _due:
            failed = _end_batch(_take_batch())
            if failed:
                _due.extend(failed)
                gevent.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)


def _take_batch() -> list[Ending]:
    """Take all endings that are due on the server of the first."""
    parameters = _due[0].backend.parameters
    batch = [each for each in _due if each.backend.parameters == parameters]
    _due[:] = [each for each in _due if each.backend.parameters != parameters]
    return batch


def _end_batch(batch: list[Ending]) -> list[Ending]:
    """Terminate the server processes of a batch; return those to try again."""
    left = list(batch)
    try:
        with gevent.Timeout(CONNECT_SECONDS, _late()), _connected(batch[0].backend.parameters) as connection:
            while left:
                left[0].run(connection)
                left.pop(0)
    except psycopg2.Error as error:
        for each in left:
            each.fail(error)
            if each.is_overdue:
                logger.warning("a statement could not be ended on the server, and may continue to run there: %s", error)
    return [each for each in left if not each.is_overdue]


@contextmanager
def _connected(parameters: dict[str, Any]) -> Iterator[Any]:
    with closing(psycopg2.connect(**parameters)) as connection:
        connection.autocommit = True
        yield connection


def _finish() -> None:
    """Wait until the statements of aborted requests are ended, because the exit would leave them running."""
    # Leave time to the other functions of `atexit`: once the time limit of the exit has passed, the exit is a failure.
    left = END.at - monotonic() - REST_SECONDS
    workers = list(_workers)
    if len(gevent.joinall(workers, timeout=max(0.0, min(EXIT_SECONDS, left)))) < len(workers):
        logger.warning("the process exits before it could end all statements of aborted requests on the server")


def _forget() -> None:
    """In a child process that a handler has forked, leave everything to the parent."""
    _due.clear()
    _workers.clear()


atexit.register(_finish)
when_isolated(_forget)
