"""Support for SQLAlchemy 2: a `Session` for each slot, and one engine with as many pooled connections as slots.

`drivers.py` cancels the statements of interrupted sessions on the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from traceback import clear_frames
from typing import Any
from weakref import WeakSet

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool, QueuePool

from ..aborts.slotgreenlet import current_slot
from ..errors import OptionError
from ..hub.forks import FORKS, detach
from ..sessionsource import SessionSource
from .drivers import interrupts, make_cooperative
from .engines import protect

__all__ = ["SQLAlchemySessions", "protect"]

logger = logging.getLogger("intralb_gevent")

LONGEST_TIMEOUT = 2_000_000.0
"""Largest timeout, in seconds, that all supported servers accept."""

_DEADLINE = "intralb_gevent.deadline"


class SQLAlchemySessions(SessionSource):
    """A source that opens a `Session` for each slot: `Options(db_init_func=SQLAlchemySessions(url))`.

    If `database` is a URL, the engine is created once the number of slots is known. The engine's pool is a `QueuePool`
    with one connection for each slot; a connection is opened when it is first needed, and checked before each
    transaction. `engine_options` are arguments of `create_engine` that override these defaults or add to them. If
    `database` is an engine, the engine is used unchanged; a warning is logged if the engine's pool has fewer
    connections than there are slots.

    After each request, the session drops its objects, and returns its connection to the pool. A slot keeps no
    connection between requests, because the pool lends a connection only for the duration of a transaction. Therefore,
    the pool usually has fewer open connections than there are slots. If the database server was restarted, the pool
    replaces its connections. To limit the age of connections in the pool, pass
    `engine_options=dict(pool_recycle=3600)`. When the last slot has closed its session, an engine that this class has
    created closes its connections.

    `session_class` creates the sessions and may be a `sessionmaker`; `session_options` are its arguments. With
    `statement_timeout`, each transaction first sets the server's timeout to the request's remaining time, which costs
    one more round trip. `statement_timeout` works with PostgreSQL, MariaDB and MySQL; with other databases, it causes
    an `OptionError`.
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        statement_timeout: bool = False,
        engine_options: Mapping[str, Any] | None = None,
        session_class: Callable[..., Session] = Session,
        **session_options: Any,
    ) -> None:
        self._engine = database if isinstance(database, Engine) else None
        self._url = database.url if isinstance(database, Engine) else make_url(database)
        self._is_own = self._engine is None
        self._engine_options = engine_options or {}
        self._session_class = session_class
        self._session_options = session_options
        self._statement_timeout = statement_timeout
        self._sessions = 0
        self._connections: WeakSet[Any] = WeakSet()
        """The driver connections that the engine has opened."""
        if self._engine is not None:
            self._prepare(self._engine)

    def __repr__(self) -> str:
        pool = "no engine yet" if self._engine is None else self._engine.pool.status()
        return f"<SQLAlchemySessions {self._url!r} sessions={self._sessions}, {pool}>"

    @property
    def engine(self) -> Engine:
        """The engine; raises RuntimeError before a balancer has created the engine by calling `sized_for`."""
        if self._engine is None:
            raise RuntimeError(
                "there is no engine until these sessions are passed to a balancer, which determines their number; "
                "to use an engine earlier, pass your own engine to SQLAlchemySessions instead of a URL"
            )
        return self._engine

    def sized_for(self, sessions: int) -> None:
        """Create the engine, or check that the existing engine lends enough connections."""
        if self._engine is None:
            sizes = {"poolclass": QueuePool, "pool_size": sessions, "max_overflow": 0}
            # Reuse the most recently used connection first, so that few connections are open.
            habits = {"pool_use_lifo": True, "pool_pre_ping": True}
            self._engine = create_engine(self._url, **{**sizes, **habits, **self._engine_options})
            self._prepare(self._engine)
        elif (most := _most_connections(self._engine.pool)) < sessions:
            logger.warning(
                "the pool of %r lends %d connections, and there are %d slots: requests will wait for a connection; "
                "raise its pool_size, or lower max_concurrent_per_router",
                *(self._engine, most, sessions),
            )

    def _prepare(self, engine: Engine) -> None:
        if self._statement_timeout:
            _timeout_statement(engine.dialect, 1.0)
        make_cooperative(engine.dialect.driver)
        event.listen(engine, "connect", self._on_connect)
        engine.dialect.connect = _leaving_nothing(engine.dialect.connect)  # type: ignore[method-assign]
        protect(engine)

    def _on_connect(self, connection: Any, record: object) -> None:
        # Suppress the TypeError for connections of Python's sqlite3: they do not support weak references, and have no
        # socket to detach.
        with suppress(TypeError):
            self._connections.add(connection)

    def open(self, worker_id: int) -> Session:
        """Return a new session with the worker's number in `info["worker"]`; it connects at its first use."""
        session = self._session_class(bind=self.engine, info={"worker": worker_id}, **self._session_options)
        if self._statement_timeout:
            event.listen(session, "after_begin", _limit_statements)
        self._sessions += 1
        return session

    def begin(self, session: Session, seconds: float) -> None:
        """Record the request's deadline in the session."""
        session.info[_DEADLINE] = monotonic() + seconds

    def isolate(self) -> None:
        """Give the engine an empty pool, because the connections in the current pool belong to the parent process."""
        for connection in self._connections:
            detach(connection)
        if self._engine is not None:
            FORKS.keep(self._engine.pool)
            self._engine.dispose(close=False)
        self._sessions = 0

    def reset(self, session: Session) -> None:
        """Roll back the transaction, drop all objects, and return the connection to the pool."""
        session.close()

    def discard(self, session: Session) -> None:
        """Cancel the statement of the session's connection on the server, and close the connection and the session."""
        self._end(session.invalidate)

    def close(self, session: Session) -> None:
        """Close the session; its connection returns to the pool."""
        self._end(session.close)

    def _end(self, end: Callable[[], None]) -> None:
        self._sessions -= 1
        try:
            end()
        finally:
            if self._is_own and not self._sessions:
                self.engine.dispose()


def _leaving_nothing(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a driver's `connect` function so that an interrupted call releases its half-open connection."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return connect(*args, **kwargs)
        except BaseException as error:
            if interrupts(error):
                # Clear the frames now; otherwise, the connection in them would live until a garbage collection.
                clear_frames(error.__traceback__)
            raise

    return call


def _most_connections(pool: Pool) -> float:
    """Return the maximum number of connections that a pool lends at the same time."""
    if not isinstance(pool, QueuePool):
        return float("inf")
    size, overflow = pool.size(), pool._max_overflow
    return size + overflow if size > 0 and overflow >= 0 else float("inf")


def _limit_statements(session: Session, transaction: object, connection: Connection) -> None:
    """Set the server's statement timeout for a new transaction."""
    # Read the current deadline, because the handler may have extended the deadline since the session was prepared.
    slot = current_slot()
    extended = slot.job.deadline.at if slot is not None and slot.job is not None else 0.0
    left = max(session.info[_DEADLINE], extended) - monotonic()
    statement = _timeout_statement(connection.dialect, min(max(0.001, left), LONGEST_TIMEOUT))
    connection.exec_driver_sql(statement)


def _timeout_statement(dialect: Dialect, seconds: float) -> str:
    if dialect.name == "postgresql":
        return f"SET LOCAL statement_timeout = {seconds * 1000:.0f}"
    if dialect.name == "mariadb" or getattr(dialect, "is_mariadb", False):
        return f"SET SESSION max_statement_time = {seconds:.3f}"
    if dialect.name == "mysql":
        return f"SET SESSION max_execution_time = {seconds * 1000:.0f}"
    raise OptionError(f"statement_timeout: cannot be set for {dialect.name}; leave it out")
