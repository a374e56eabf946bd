"""Find connection pools smaller than the number of slots, and connections that are reopened for every request.

This check does not open or use a connection.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .findings import Finding

__all__ = ["connections_for_each_request", "limits_of_pools", "short_pools"]


@dataclass(frozen=True)
class _Pool:
    """A class of connection pools, and the way to find a pool's limit."""

    module: str
    class_name: str
    most: Callable[[Any], int | None]
    """Function that returns the maximum number of connections that a pool lends; None means no limit."""
    setting: str
    """Name of the setting, in the pool's library, that raises the maximum number of connections."""


def short_pools(slots: int, sized: bool) -> list[Finding]:
    """Return a finding for each pool that lends fewer connections than there are slots.

    The finding is a warning if the user has set the number of slots. For the default number, the finding is a hint:
    most applications have fewer connections than slots, and only applications with many simultaneous slow queries
    suffer.
    """
    limits = limits_of_pools()
    # Several objects may share one pool, and so cause the same finding; report the finding once.
    return list(dict.fromkeys(_finding(*limit, slots, sized) for limit in limits if limit[1] < slots))


def flags_for(slots: int) -> str:
    """Return the flags that set this number of slots in each process."""
    workers = -(-slots // 100)
    return f"--max-workers {workers} --max-concurrent-per-router {slots // workers}"


def limits_of_pools() -> list[tuple[str, int, str]]:
    """Return name, size and setting of each connection pool in this process."""
    return [*_limits_of_living_pools(), *_limits_of_django()]


def _finding(name: str, most: int, setting: str, slots: int, sized: bool) -> Finding:
    return Finding(
        "warning" if sized else "hint",
        f"{name} lends {most} connections, and there are {slots} slots",
        f"Up to {slots} requests run at once (max_workers x max_concurrent_per_router). A request that gets no "
        "connection fails, or waits for a connection while it occupies its slot.",
        f"serve with {flags_for(most)}, so that there are at most {most} slots, or raise {setting}",
    )


def _limits_of_living_pools() -> Iterator[tuple[str, int, str]]:
    for kind in _POOLS:
        for pool in _instances(getattr(sys.modules.get(kind.module), kind.class_name, None)):
            most = kind.most(pool)
            if most is not None:
                yield _name(pool), most, kind.setting


def _instances(wanted: type | None) -> list[Any]:
    # Use type(), because isinstance() reads `__class__`, which would evaluate a lazy object.
    return [] if wanted is None else [found for found in gc.get_objects() if issubclass(type(found), wanted)]


def _name(pool: Any) -> str:
    """Return a pool's name without passwords; of SQLAlchemy's objects, only the `str()` hides passwords."""
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
    """Yield the limits of the pools that Django's settings request; Django creates these pools at the first query."""
    for name, database in _django_databases():
        wanted = database.get("OPTIONS", {}).get("pool")
        if wanted:
            sizes = {} if wanted is True else wanted
            # By psycopg_pool's defaults, min_size is 4, and max_size equals min_size.
            yield name, sizes.get("max_size") or sizes.get("min_size", 4), 'OPTIONS["pool"]["max_size"]'


def connections_for_each_request(slots: int) -> list[Finding]:
    """Return a hint for each of Django's databases to which every request opens a new connection."""
    return [
        Finding(
            "hint",
            f"every request opens a new connection to {name}",
            "The CONN_MAX_AGE of this database is 0. With a higher CONN_MAX_AGE, each slot would reuse its connection "
            "for the next request.",
            f"set CONN_MAX_AGE to 60 in DATABASES, if the database allows a connection for each of {slots} slots; for "
            f"50 connections, serve with {flags_for(50)}",
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
