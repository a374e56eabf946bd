"""Protect the application's own sqlite3 connections: end statements at the deadline, and close orphaned connections.

A sqlite3 connection is part of a reference cycle, so a connection in a thread-local is not closed when its greenlet
ends. After an abort, the connection's transaction and locks would last until the next full garbage collection.
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

from ..aborts.landing import trace_no_other_frame
from ..aborts.safepoints import called_by_library
from ..pool.guards import Guard, register

__all__ = ["protect"]

_OPENED = "intralb_sqlite3_connections"
"""Attribute of a slot's greenlet that lists the connections opened in it."""

_FACTORY_POSITION = 5
"""Position of `factory` among the parameters of `sqlite3.connect`, counted from 0."""

_connect_of_sqlite3: Callable[..., sqlite3.Connection] = sqlite3.connect


INSTRUCTIONS = 1000
"""SQLite calls the progress handler after this number of virtual machine instructions, about every ten microseconds."""


class Connection(sqlite3.Connection):
    """A connection that supports weak references, and starts no more statements once its request is being aborted.

    `interrupt()` alone would not suffice, because `executemany` would still start the next short statement. The
    progress handler, which SQLite calls repeatedly during a statement, also lets the watchdog abort the request.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.set_progress_handler(_ends_statement, INSTRUCTIONS)


@called_by_library
def _ends_statement() -> bool:
    # Do not call a Python function here: a signal that arrives during the call would find a frame of this package on
    # top of the stack. Make the statement fail only if the abort waits for the frame that executes the statement. If
    # the abort waits for an outer frame, such as an `__exit__`, the statement must succeed.
    return sys.gettrace() is trace_no_other_frame and sys._getframe(1).f_trace is not None


def protect() -> None:
    """From now on, end the statements of aborted requests, and close connections to which no other code refers."""
    for module in (sqlite3, sqlite3.dbapi2):
        setattr(module, "connect", _connect)  # noqa: B010  # its type is a set of overloads
    register(_GUARD)


@functools.wraps(_connect_of_sqlite3)
def _connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
    if len(args) <= _FACTORY_POSITION:
        kwargs.setdefault("factory", Connection)
    connection = _connect_of_sqlite3(*args, **kwargs)
    current = getcurrent()
    # Suppress the TypeError that occurs if the application's `factory` makes connections without weak reference
    # support.
    if hasattr(current, "intralb_slot"):
        with suppress(TypeError):
            opened = vars(current).setdefault(_OPENED, [])
            opened[:] = [other for other in opened if other() is not None]
            opened.append(ref(connection))
    return connection


class _SQLite3Guard(Guard):
    """Closes the connections of an aborted request to which no other code refers."""

    def __repr__(self) -> str:
        return "sqlite3's guard"

    def abandon(self) -> None:
        """Close this greenlet's connections once the greenlet and its thread-locals no longer exist."""
        opened = vars(getcurrent()).pop(_OPENED, [])
        if opened:
            gevent.spawn(_close_orphans, opened)


_GUARD = _SQLite3Guard()


def _close_orphans(opened: list[ref[sqlite3.Connection]]) -> None:
    for reference in opened:
        connection = reference()
        # Keep a connection to which other code refers, because other requests may share this connection.
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
