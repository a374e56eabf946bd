"""Find functions that wait for multiprocessing's locks, queues, events and pools, which gevent does not patch.

Only the application's author knows whether a function runs in a request or in a separate process.
"""

from __future__ import annotations

from typing import Any, Final

from .appcode import AppFunction, functions_that
from .findings import Finding, some

__all__ = ["process_locks", "process_pools"]

_LOCKS: Final = {"SemLock", "Condition"}

_WAITS: Final = {"Queue": "get", "JoinableQueue": "get", "SimpleQueue": "get", "Event": "wait"}
"""Methods that wait, by class name; multiprocessing's functions that create the objects have the same names."""

_HOW_LONG: Final = {"block", "timeout"}


def process_locks() -> list[Finding]:
    """Return a hint for the application's functions that wait for a lock, a queue or an event."""
    names = functions_that(_waits)
    if not names:
        return []
    return [
        Finding(
            "hint",
            f"{some(names)} wait{'s' if len(names) == 1 else ''} for a lock, a queue or an event of multiprocessing",
            "gevent does not patch multiprocessing. A request that waits for one of these objects blocks the whole "
            "process until the request's deadline, and so also blocks the request that could end the wait.",
            "between requests, use threading and queue; between processes, call acquire(False) in a loop that sleeps "
            "between attempts, and read queues with get(timeout=...)",
        )
    ]


def process_pools() -> list[Finding]:
    """Return a hint for the application's functions that use a pool of processes."""
    names = functions_that(_uses_pool)
    if not names:
        return []
    return [
        Finding(
            "hint",
            f"{some(names)} use{'s' if len(names) == 1 else ''} multiprocessing.Pool",
            "gevent does not patch the way in which multiprocessing.Pool waits for results. If a request uses a pool, "
            "the whole process blocks, and no deadline ends the wait.",
            "use concurrent.futures.ProcessPoolExecutor",
        )
    ]


def _waits(function: AppFunction) -> bool:
    kinds = {kind for found in function.globals for kind in _kinds(found)}
    if kinds & _LOCKS and not _does_not_wait(function):
        return True
    methods = {_WAITS[name] for name in _WAITS if name in kinds or function.refers_to("multiprocessing", name)}
    if function.names.isdisjoint(methods):
        return False
    return "wait" in function.names & methods or not (_does_not_wait(function) or _keywords(function) & _HOW_LONG)


def _uses_pool(function: AppFunction) -> bool:
    found = any("Pool" in kinds and "ThreadPool" not in kinds for kinds in map(_kinds, function.globals))
    return found or function.refers_to("multiprocessing", "Pool")


def _kinds(found: Any) -> set[str]:
    """Return the names of multiprocessing's classes that `found` is an instance of."""
    return {kind.__name__ for kind in type(found).__mro__ if kind.__module__.startswith("multiprocessing.")}


def _does_not_wait(function: AppFunction) -> bool:
    """Return True if the function seems to call `acquire(False)` or `get(False)`."""
    return any(constant is False for code in function.codes for constant in code.co_consts)


def _keywords(function: AppFunction) -> set[Any]:
    """Return the names of arguments that the function passes by keyword; the result may contain other strings."""
    constants = (constant for code in function.codes for constant in code.co_consts if isinstance(constant, tuple))
    return {name for names in constants for name in names}
