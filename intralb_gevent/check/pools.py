"""Finds database connections that are fewer than the slots that ask for one, or that do not last.

Decides which pools are known and how many connections each lends at most. It must not open or use a connection.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .findings import Finding

__all__ = ["connections_for_each_request", "short_pools"]


@dataclass(frozen=True)
class _Pool:
    """A class of objects that lend connections."""

    module: str
    class_name: str
    most: Callable[[Any], int | None]
    """Takes an instance, returns how many connections it lends at most; None when there is no limit."""
    setting: str
    """What to raise, in that library's words."""


def short_pools(slots: int) -> list[Finding]:
    """Return a warning for each pool that lends fewer connections than there are slots."""
    limits = [*_limits_of_living_pools(), *_limits_of_django()]
    # Several objects may share one pool and look the same; once is enough.
    return list(dict.fromkeys(_finding(*limit, slots) for limit in limits if limit[1] < slots))


def _finding(name: str, most: int, setting: str, slots: int) -> Finding:
    return Finding(
        "warning",
        f"{name} lends {most} connections, and there are {slots} slots",
        f"Up to {slots} requests run at once (max_workers x max_concurrent_per_router). Those that get no "
        "connection wait for one, or fail, and each keeps its slot meanwhile.",
        f"lower max_workers or max_concurrent_per_router until there are at most {most} slots, or raise {setting}",
    )


def _limits_of_living_pools() -> Iterator[tuple[str, int, str]]:
    for kind in _POOLS:
        for pool in _instances(getattr(sys.modules.get(kind.module), kind.class_name, None)):
            most = kind.most(pool)
            if most is not None:
                yield _name(pool), most, kind.setting


def _instances(wanted: type | None) -> list[Any]:
    # By type(), for isinstance() also asks the object for its class, and a lazy one would come to life.
    return [] if wanted is None else [found for found in gc.get_objects() if issubclass(type(found), wanted)]


def _name(pool: Any) -> str:
    """Return a name without a password: SQLAlchemy hides it, other pools have it in their text."""
    return str(pool) if type(pool).__module__.startswith("sqlalchemy.") else f"a {type(pool).__qualname__}"


def _most_of_engine(engine: Any) -> int | None:
    pool = engine.pool
    if not isinstance(pool, sys.modules["sqlalchemy.pool"].QueuePool):
        return None
    size, overflow = pool.size(), pool._max_overflow
    return size + overflow if size > 0 and overflow >= 0 else None


_POOLS = (
    _Pool("sqlalchemy.engine", "Engine", _most_of_engine, "its pool_size and max_overflow"),
    _Pool("psycopg_pool", "ConnectionPool", lambda pool: pool.max_size or None, "its max_size"),
    _Pool("psycopg2.pool", "AbstractConnectionPool", lambda pool: pool.maxconn, "its maxconn"),
)


def _limits_of_django() -> Iterator[tuple[str, int, str]]:
    """Yield the pools that Django's settings ask for; the pools themselves are made at the first query."""
    for name, database in _django_databases():
        wanted = database.get("OPTIONS", {}).get("pool")
        if wanted:
            sizes = {} if wanted is True else wanted
            # The defaults are psycopg_pool's: at least four, and at most as many as at least.
            yield name, sizes.get("max_size") or sizes.get("min_size", 4), 'OPTIONS["pool"]["max_size"]'


def connections_for_each_request() -> list[Finding]:
    """Return a hint for each of Django's databases that it connects to anew in every request."""
    return [
        Finding(
            "hint",
            f"{name} is connected to anew in every request",
            "Its CONN_MAX_AGE is 0. The slots here live long, and each keeps its connection if it may.",
            "set CONN_MAX_AGE, if the database allows as many connections as there are slots",
        )
        for name, database in _django_databases()
        if database.get("CONN_MAX_AGE", 0) == 0 and not database.get("OPTIONS", {}).get("pool")
        if not database.get("ENGINE", "").endswith((".sqlite3", ".dummy", ".spatialite"))
    ]


def _django_databases() -> Iterator[tuple[str, dict[str, Any]]]:
    settings = getattr(sys.modules.get("django.conf"), "settings", None)
    if settings is not None and settings.configured:
        for alias, database in settings.DATABASES.items():
            yield f"Django's database {alias!r}", database
