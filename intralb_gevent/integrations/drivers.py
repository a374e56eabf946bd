"""Cancel the statement that a connection is running, for every supported driver.

This module finds the adapter for a connection's driver, and protects the cancellation itself from interruptions. The
adapter module of a driver, such as `psycopg.py`, sends the cancellation to the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from time import monotonic
from typing import Any

import gevent
from gevent import Greenlet, getcurrent

from ..pool.guards import CLEANUP_SECONDS

__all__ = ["cancel_statement", "cancelling", "end_statement", "interrupts", "make_cooperative"]

logger = logging.getLogger("intralb_gevent")

PATIENCE_SECONDS = 0.5
"""Seconds for which an interrupted request waits for the cancellation. The wait must be short, because a slot whose
handler does not end within about a second is abandoned."""

_cancelling: set[object] = set()
"""Greenlets that are cancelling a statement."""


def make_cooperative(driver: str) -> None:
    """Make the named driver wait in gevent's hub; for all drivers except psycopg2, monkey-patching is sufficient."""
    if driver == "psycopg2":
        import_module(".psycopg2", __package__).install_wait_callback()


def cancel_statement(connection: Any) -> None:
    """Cancel the statement, if any, that a psycopg, psycopg2, PyMySQL or sqlite3 connection is running.

    This function does nothing for other drivers; their statements run until the server notices the closed connection.
    The function may wait, and may raise the driver's errors. The connection is unusable afterwards, and should be
    closed.
    """
    cancel = _cancel_of(type(connection))
    if cancel is not None:
        cancel(connection)


def end_statement(connection: Any) -> None:
    """Call `cancel_statement`, even if the caller is interrupted again; raises no exception.

    The cancellation runs in a separate greenlet for at most five seconds; the caller waits for at most half a second.
    Exceptions that are thrown into the caller during this wait are dropped, because the caller is already cleaning up
    after an interruption. Inside a `cancelling` block, this function does nothing.
    """
    if getcurrent() in _cancelling:
        return
    until = monotonic() + PATIENCE_SECONDS
    ending: Greenlet[..., None] | None = None
    while (ending is None or not ending.ready()) and (left := until - monotonic()) > 0:
        try:
            ending = gevent.spawn(_end, connection) if ending is None else ending
            ending.join(left)
        except BaseException as error:
            logger.debug("%r was raised while a statement was being cancelled", error)


@contextmanager
def cancelling() -> Iterator[None]:
    """Mark a block of code that cancels a statement over a second connection.

    If the block is interrupted, the statement on the second connection is not cancelled; the second connection is only
    closed.
    """
    current = getcurrent()
    if current in _cancelling:
        yield
        return
    _cancelling.add(current)
    try:
        yield
    finally:
        _cancelling.discard(current)


def interrupts(error: BaseException | None) -> bool:
    """Return True if an exception interrupts the code that it unwinds, as `Abort` and `gevent.Timeout` do."""
    # GeneratorExit only means that a generator's consumer has stopped; the connection is still usable.
    return error is not None and not isinstance(error, (Exception, GeneratorExit))


def _end(connection: Any) -> None:
    try:
        with gevent.Timeout(CLEANUP_SECONDS):
            cancel_statement(connection)
    except (Exception, gevent.Timeout) as error:
        logger.warning("a statement of %r could not be cancelled on the server: %r", type(connection), error)


def _cancel_of(kind: type) -> Callable[[Any], object] | None:
    # Search the base classes, too, because the connection's class may be derived from the driver's class.
    drivers = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((_CANCELS[driver] for driver in drivers if driver in _CANCELS), None)


def _cancel_by_adapter(driver: str) -> Callable[[Any], object]:
    def cancel(connection: Any) -> None:
        import_module(f".{driver}", __package__).cancel_statement(connection)

    return cancel


_CANCELS: dict[str, Callable[[Any], object]] = {
    **{driver: _cancel_by_adapter(driver) for driver in ("psycopg", "psycopg2", "pymysql")},
    "sqlite3": lambda connection: connection.interrupt(),
}
