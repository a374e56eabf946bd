"""Find resources whose number multiplies with the number of processes, such as database connections."""

from __future__ import annotations

from typing import Final

from ...config.options import Options
from .findings import Finding
from .pools import limits_of_pools

__all__ = ["SESSIONS_REMEDY", "multiplied", "sessions_of_all"]

SESSIONS_REMEDY: Final = (
    "allow that many on the database server, or reduce processes, max_workers or max_concurrent_per_router"
)


def sessions_of_all(options: Options, processes: int) -> str:
    """Describe the maximum number of database sessions of all processes together."""
    slots = options.max_workers * options.max_concurrent_per_router
    multiplication = (
        f"{processes} processes x {options.max_workers} workers x {options.max_concurrent_per_router} slots"
    )
    return f"up to {processes * slots} database sessions, as there are {multiplication}"


def multiplied(options: Options, processes: int) -> list[Finding]:
    """Return hints about database sessions and connection pools that multiply with the number of processes."""
    if processes == 1:
        return []
    found = [_pool(name, most, processes) for name, most, _ in dict.fromkeys(limits_of_pools())]
    if options.db_init_func is not None:
        detail = "Every process has its own workers, and every slot its own session."
        found.append(Finding("hint", sessions_of_all(options, processes), detail, SESSIONS_REMEDY))
    return found


def _pool(name: str, most: int, processes: int) -> Finding:
    return Finding(
        "hint",
        f"{name} lends up to {most} connections in each of {processes} processes, {most * processes} in all",
        "Every process has its own pool.",
        "allow that many on the database server, or make the pool smaller",
    )
