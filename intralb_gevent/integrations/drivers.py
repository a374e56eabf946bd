"""What to do with a connection whose driver is not known beforehand, as SQLAlchemy and Django hand them out.

Decides which adapter knows how a driver's statement is ended on its server, and sees to it that the ending itself is
not interrupted. It must not know how a driver does that: the driver's own module here does.
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
"""How long an interrupted request waits for that; a slot that will not end after about a second is given up."""

_cancelling: set[object] = set()
"""The greenlets that are cancelling a statement."""


def make_cooperative(driver: str) -> None:
    """Have a driver, of which this is the name, wait in gevent's hub; most do when the process is patched."""
    if driver == "psycopg2":
        import_module(".psycopg2", __package__).install_wait_callback()


def cancel_statement(connection: Any) -> None:
    """End on its server what a connection of psycopg, psycopg2, PyMySQL or sqlite3 is doing, if anything.

    For other drivers nothing is done: a statement of theirs goes on until its server notices that nobody waits for it.
    May wait, and may raise what the driver raises. The connection is of no use afterwards, and should be closed.
    """
    cancel = _cancel_of(type(connection))
    if cancel is not None:
        cancel(connection)


def end_statement(connection: Any) -> None:
    """Call `cancel_statement` where the caller may be interrupted again; raises nothing.

    It runs in a greenlet of its own for five seconds at most, and is waited for during the first half of one. What
    interrupts the caller meanwhile is dropped: the caller is cleaning up after an interruption already. Does nothing
    within `cancelling`.
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
            logger.debug("%r came while a statement was being cancelled", error)


@contextmanager
def cancelling() -> Iterator[None]:
    """Run a block that cancels a statement over another connection; if that one is interrupted, it is only closed."""
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
    """Say whether an exception interrupts what it passes through, as an `Abort` or a `gevent.Timeout` does."""
    # GeneratorExit tells a generator that nobody wants more of it; the connection is in order.
    return error is not None and not isinstance(error, (Exception, GeneratorExit))


def _end(connection: Any) -> None:
    try:
        with gevent.Timeout(CLEANUP_SECONDS):
            cancel_statement(connection)
    except (Exception, gevent.Timeout) as error:
        logger.warning("a statement of %r could not be cancelled on the server: %r", type(connection), error)


def _cancel_of(kind: type) -> Callable[[Any], object] | None:
    # A driver may be used through a class derived from its own.
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
