"""sqlite3 connections of the application's own: their statements end at the deadline, and aborted requests leave none.

A connection of sqlite3 refers to itself, so one in a thread-local is not closed when its greenlet ends. Its transaction
and its locks would last until the next full collection. Decides which connections are left so.
"""

from __future__ import annotations

import functools
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import ref

import gevent
from gevent import getcurrent

from ..pool.guards import Guard, register
from ..pool.landing import trace_no_other_frame
from ..pool.safepoints import called_by_library

__all__ = ["protect"]

_OPENED = "intralb_sqlite3_connections"
"""The attribute of a slot's greenlet that lists the connections which were opened in it."""

_FACTORY_POSITION = 5
"""The position of `factory` among the parameters of `sqlite3.connect`."""

_connect_of_sqlite3: Callable[..., sqlite3.Connection] = sqlite3.connect


INSTRUCTIONS = 1000
"""After how many instructions of SQLite's machine it is asked whether to go on: some ten microseconds."""


class Connection(sqlite3.Connection):
    """A connection that can be referred to weakly, and that begins no more statements when a request is to end.

    `interrupt()` alone would not do: `executemany` begins the next short statement all the same. A function that is
    called again and again during a statement also gives the watchdog a place to look at.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_progress_handler(_ends_statement, INSTRUCTIONS)


@called_by_library
def _ends_statement() -> bool:
    # Nothing is called here that is written in Python: a signal that arrives there would find code of ours. Where the
    # abort waits for something else, such as an `__exit__` that has begun the statement, that must not fail.
    return sys.gettrace() is trace_no_other_frame and sys._getframe(1).f_trace is not None


def protect() -> None:
    """Close sqlite3 connections that only a slot's greenlet has used, when a request in it has been aborted."""
    for module in (sqlite3, sqlite3.dbapi2):
        setattr(module, "connect", _connect)  # noqa: B010  # its type is a set of overloads
    register(_GUARD)


@functools.wraps(_connect_of_sqlite3)
def _connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
    if len(args) <= _FACTORY_POSITION:
        kwargs.setdefault("factory", Connection)
    connection = _connect_of_sqlite3(*args, **kwargs)
    current = getcurrent()
    # A factory of the application's may make what has no weak references.
    if hasattr(current, "intralb_slot"):
        with suppress(TypeError):
            opened = vars(current).setdefault(_OPENED, [])
            opened[:] = [other for other in opened if other() is not None]
            opened.append(ref(connection))
    return connection


class _SQLite3Guard(Guard):
    """Closes the connections that nothing but an ended greenlet used."""

    def __repr__(self) -> str:
        return "sqlite3's guard"

    def abandon(self) -> None:
        """Close them once this greenlet has ended, with its thread-locals."""
        opened = vars(getcurrent()).pop(_OPENED, [])
        if opened:
            gevent.spawn(_close_orphans, opened)


_GUARD = _SQLite3Guard()


def _close_orphans(opened: list[ref[sqlite3.Connection]]) -> None:
    for reference in opened:
        connection = reference()
        # One with more references is shared with other requests, perhaps.
        if connection is not None and sys.getrefcount(connection) <= _references_of_an_orphan():
            with suppress(sqlite3.Error):
                connection.rollback()
            connection.close()


@functools.cache
def _references_of_an_orphan() -> int:
    connection = Connection(":memory:")
    references = sys.getrefcount(connection)
    connection.close()
    return references
