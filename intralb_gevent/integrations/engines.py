"""SQLAlchemy's engines, whoever opens sessions on them: what becomes of connections that an interrupted request used.

Decides which connections are given up. It must not know drivers: `drivers.py` finds out how a statement of theirs is
ended. It uses only what SQLAlchemy 1.4 has, too; `sqlalchemy.py` has the sessions, for which 2.0 is needed.
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
"""The attribute of a slot's greenlet that lists the connections which pools have lent it."""

_MOST_LENT = 16
"""From this length on the list is freed of connections that were given back."""

_ENDED = "intralb_gevent.ended"


def protect(engine: Engine | type[Engine] = Engine) -> None:
    """End on the server what a connection was doing when its request was interrupted; without a SessionSource.

    SQLAlchemy closes a connection that was interrupted, but its statement may go on in the server. It does not notice
    an interruption between two statements, after which a session in a thread-local keeps its transaction open; such a
    connection is closed, too. This is for sessions that are not opened by `SQLAlchemySessions`, such as those of
    Flask-SQLAlchemy and `scoped_session`. One call covers all engines, present and future.
    """
    if not event.contains(engine, "invalidate", _on_invalidate):
        event.listen(engine, "invalidate", _on_invalidate)
        event.listen(engine, "checkout", _on_checkout)
        register(_GUARD)


class _EngineGuard(Guard):
    """Gives up what an aborted request has not given back to its pools."""

    def __repr__(self) -> str:
        return "SQLAlchemy's guard"

    def abandon(self) -> None:
        """Invalidate the connections that are still lent to this greenlet; their pools open others when needed."""
        for reference in vars(getcurrent()).pop(_LENT, ()):
            lent = reference()
            if lent is not None and lent.is_valid:
                lent.invalidate()


_GUARD = _EngineGuard()


def _on_checkout(connection: object, record: object, lent: Any) -> None:
    current = getcurrent()
    # The one connection of a StaticPool is everybody's.
    if not hasattr(current, "intralb_slot") or isinstance(lent._pool, StaticPool):
        return
    known = vars(current).setdefault(_LENT, [])
    if len(known) >= _MOST_LENT:
        known[:] = [reference for reference in known if (other := reference()) is not None and other.is_valid]
    known.append(ref(lent))


def _on_invalidate(connection: Any, record: Any, error: BaseException | None) -> None:
    # Without an error it was asked for, perhaps after an abort. An Exception is a server that is not there any more.
    if (error is None or interrupts(error)) and _ENDED not in record.info:
        # The engine and all engines may be protected each.
        record.info[_ENDED] = True
        end_statement(connection)
