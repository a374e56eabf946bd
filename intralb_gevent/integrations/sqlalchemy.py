"""SQLAlchemy 2: a `Session` for each slot over one engine, whose pool is as large as there are slots.

Decides when a session's connection goes back to the engine's pool, and what becomes of one that was interrupted. It
must not know drivers: `drivers.py` finds out how a statement of theirs is ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from traceback import clear_frames
from typing import Any
from weakref import WeakSet

from gevent import getcurrent
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool, QueuePool

from ..errors import OptionError
from ..pool.forks import FORKS, detach
from ..sessionsource import SessionSource
from .drivers import interrupts, make_cooperative
from .engines import protect

__all__ = ["SQLAlchemySessions", "protect"]

logger = logging.getLogger("intralb_gevent")

LONGEST_TIMEOUT = 2_000_000.0
"""Seconds that every server takes for a timeout."""

_DEADLINE = "intralb_gevent.deadline"


class SQLAlchemySessions(SessionSource):
    """Opens a `Session` for each slot that uses one: `Options(db_init_func=SQLAlchemySessions(url))`.

    Given a URL, it makes the engine once the number of slots is known: a `QueuePool` with a connection for each of
    them, opened when first needed and checked before each transaction. `engine_options` are arguments of
    `create_engine`, in addition or instead. Given an engine, it uses that as it is, and logs a warning when its pool is
    smaller.

    After each request a session is closed: it forgets its objects, and its connection goes back to the pool. A slot
    keeps no connection, for a pool needs fewer, replaces those of a restarted server, and lends one only while a
    transaction lasts. So it is the pool that limits their age: `engine_options={"pool_recycle": 3600}`. When no slot
    has a session any more, an engine that was made here closes its connections.

    `session_class` makes the sessions, which may be a `sessionmaker`; `session_options` are its arguments. With
    `statement_timeout` each transaction on PostgreSQL, MariaDB and MySQL begins with telling the server how much time
    the request has left, which is one more round trip; `OptionError` for other databases.
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
        """The driver's connections of the engine."""
        if self._engine is not None:
            self._prepare(self._engine)

    def __repr__(self) -> str:
        pool = "no engine yet" if self._engine is None else self._engine.pool.status()
        return f"<SQLAlchemySessions {self._url!r} sessions={self._sessions}, {pool}>"

    @property
    def engine(self) -> Engine:
        """The engine; RuntimeError where it is to be made from a URL and no balancer has been given these sessions."""
        if self._engine is None:
            raise RuntimeError(
                "there is no engine before a balancer is given these sessions and says how many there will be; "
                "to use it earlier, give SQLAlchemySessions an engine of yours instead of a URL"
            )
        return self._engine

    def sized_for(self, sessions: int) -> None:
        """Make the engine, or see whether the one that is there lends enough connections."""
        if self._engine is None:
            sizes = {"poolclass": QueuePool, "pool_size": sessions, "max_overflow": 0}
            # The connection that was used last is taken first, so that few are open.
            habits = {"pool_use_lifo": True, "pool_pre_ping": True}
            self._engine = create_engine(self._url, **{**sizes, **habits, **self._engine_options})
            self._prepare(self._engine)
        elif (most := _most_connections(self._engine.pool)) < sessions:
            logger.warning(
                "the pool of %r lends %d connections, and there are %d slots: requests will wait for one; "
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
        # Python's own for SQLite, which has no socket, cannot be referred to weakly.
        with suppress(TypeError):
            self._connections.add(connection)

    def open(self, worker_id: int) -> Session:
        """Return a new session, whose `info["worker"]` is the worker's number; it connects when it is used."""
        session = self._session_class(bind=self.engine, info={"worker": worker_id}, **self._session_options)
        if self._statement_timeout:
            event.listen(session, "after_begin", _limit_statements)
        self._sessions += 1
        return session

    def begin(self, session: Session, seconds: float) -> None:
        """Remember when the request has to be done."""
        session.info[_DEADLINE] = monotonic() + seconds

    def isolate(self) -> None:
        """Give the engine an empty pool, as the connections in the present one belong to the parent."""
        for connection in self._connections:
            detach(connection)
        if self._engine is not None:
            FORKS.keep(self._engine.pool)
            self._engine.dispose(close=False)
        self._sessions = 0

    def reset(self, session: Session) -> None:
        """Roll back, forget all objects, and give the connection back to the pool."""
        session.close()

    def discard(self, session: Session) -> None:
        """End what the session's connection does on the server, and close both."""
        self._end(session.invalidate)

    def close(self, session: Session) -> None:
        """Close the session; its connection goes back to the pool."""
        self._end(session.close)

    def _end(self, end: Callable[[], None]) -> None:
        self._sessions -= 1
        try:
            end()
        finally:
            if self._is_own and not self._sessions:
                self.engine.dispose()


def _leaving_nothing(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Have an interrupted `connect` of a driver let go of what it had opened by then, which the server sees."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return connect(*args, **kwargs)
        except BaseException as error:
            if interrupts(error):
                # SQLAlchemy leaves its traceback, with all that is in it, to the garbage collector.
                clear_frames(error.__traceback__)
            raise

    return call


def _most_connections(pool: Pool) -> float:
    """Return how many connections a pool lends at the same time at most."""
    if not isinstance(pool, QueuePool):
        return float("inf")
    size, overflow = pool.size(), pool._max_overflow
    return size + overflow if size > 0 and overflow >= 0 else float("inf")


def _limit_statements(session: Session, transaction: object, connection: Connection) -> None:
    """Tell the server how long the statements of a new transaction may take."""
    # The request may have been given more time since it began.
    slot = getattr(getcurrent(), "intralb_slot", None)
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
