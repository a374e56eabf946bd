"""Find file locks that wait in the kernel, which blocks the whole process.

Packages such as filelock, portalocker and fasteners are harmless: they retry without blocking, and sleep between the
attempts, so that other requests run under gevent.
"""

from __future__ import annotations

from .appcode import AppFunction, functions_that
from .findings import Finding, some

__all__ = ["blocking_file_locks"]

_LOCKS = (("fcntl", "flock"), ("fcntl", "lockf"), ("os", "lockf"))
_NO_WAIT = {"LOCK_NB", "F_TLOCK", "F_TEST"}
_ASKS = {"LOCK_EX", "LOCK_SH", "F_LOCK"}
_GIVES_BACK = {"LOCK_UN", "F_ULOCK"}


def blocking_file_locks() -> list[Finding]:
    """Return a hint for the application's functions that acquire a file lock and may wait for it."""
    names = functions_that(_waits_for_lock)
    if not names:
        return []
    return [
        Finding(
            "hint",
            f"{some(names)} wait{'s' if len(names) == 1 else ''} for a file lock in the kernel",
            "If a request that holds the lock waits for something else, a second request for the lock blocks the whole "
            "process. The first request then cannot release the lock.",
            "acquire the lock with LOCK_NB in a loop that sleeps between attempts, or use the package filelock",
        )
    ]


def _waits_for_lock(function: AppFunction) -> bool:
    names = function.names
    only_gives_back = names & _GIVES_BACK and not names & _ASKS
    if names & _NO_WAIT or only_gives_back:
        return False
    return any(function.refers_to(module, name) for module, name in _LOCKS)
