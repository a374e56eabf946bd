"""Protect all SQLAlchemy engines by invalidating the connections that an interrupted request has used.

`drivers.py` cancels the statements of interrupted requests on the server. This module also works with SQLAlchemy 1.4,
while the sessions in `sqlalchemy.py` need 2.0.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

from gevent import getcurrent
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import StaticPool

from ..pool.guards import Guard, register
from .drivers import end_statement, interrupts

__all__ = ["protect"]

_LENT = "intralb_lent_connections"
"""Attribute of a slot's greenlet that lists the connections that the greenlet has checked out."""

_MOST_LENT = 16
"""Length of the `_LENT` list at which entries for returned connections are removed."""

_ENDED = "intralb_gevent.ended"


def protect(engine: Engine | type[Engine] = Engine) -> None:
    """Cancel the statements of interrupted requests on the server, for engines that are used without a SessionSource.

    SQLAlchemy closes a connection whose statement was interrupted, but the statement may continue to run on the server.
    SQLAlchemy does not notice an interruption between two statements, so a session in a thread-local would keep its
    transaction open. Therefore, a connection that an interrupted request has not returned to its pool is closed, too.
    This function is meant for sessions that `SQLAlchemySessions` has not opened, such as those of Flask-SQLAlchemy and
    `scoped_session`. By default, one call covers all existing and future engines.
    """
    if not event.contains(engine, "invalidate", _on_invalidate):
        event.listen(engine, "invalidate", _on_invalidate)
        event.listen(engine, "checkout", _on_checkout)
        register(_GUARD)


class _EngineGuard(Guard):
    """Invalidates connections that an aborted request has not returned to their pools."""

    def __repr__(self) -> str:
        return "SQLAlchemy's guard"

    def abandon(self) -> None:
        """Invalidate the connections that this greenlet has not returned; their pools open new ones when needed."""
        for reference in vars(getcurrent()).pop(_LENT, ()):
            lent = reference()
            if lent is not None and lent.is_valid:
                lent.invalidate()


_GUARD = _EngineGuard()


def _on_checkout(connection: object, record: object, lent: Any) -> None:
    current = getcurrent()
    # Do not list the connection of a StaticPool, because all greenlets share it.
    if not hasattr(current, "intralb_slot") or isinstance(lent._pool, StaticPool):
        return
    known = vars(current).setdefault(_LENT, [])
    if len(known) >= _MOST_LENT:
        known[:] = [reference for reference in known if (other := reference()) is not None and other.is_valid]
    known.append(ref(lent))


def _on_invalidate(connection: Any, record: Any, error: BaseException | None) -> None:
    # Without an error, the invalidation was explicit, perhaps after an abort. An error derived from Exception means
    # that the connection to the server is lost, so the server has no statement to cancel.
    if (error is None or interrupts(error)) and _ENDED not in record.info:
        # Mark the connection: if listeners are registered on both the engine and the class Engine, cancel only once.
        record.info[_ENDED] = True
        end_statement(connection)
