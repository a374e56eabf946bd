"""The WSGI application that is put under load: waits at ten database connections, and Python work; the same for all.

Decides what a request costs: what is to take a time of the processor takes that time, not an amount of work, for the
same work was seen to take from 4.5 to 9 ms on a machine whose cores are shared with others'. It must not know which
server asks.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

__all__ = [
    "ANSWER",
    "COMPUTING_SECONDS",
    "CONNECTIONS",
    "HOLD",
    "PIN",
    "PIN_SECONDS",
    "QUERY_SECONDS",
    "STALL_VARIABLE",
    "application",
    "compute",
]

ANSWER: Final = b"ok\n"
CONNECTIONS: Final = 10
"""How many database connections there are."""
COMPUTING_SECONDS: Final = 0.005
"""How much time of the processor a request for `/cpu` takes."""
STALL_VARIABLE: Final = "OVERLOAD_STALL"
"""The environment variable that names a file: while it is there, the database does not answer."""
HOLD: Final = "/hold"
"""The path of a request that keeps its slot for `_HOLD_SECONDS`."""
_HOLD_SECONDS: Final = 300.0
PIN: Final = "/pin"
"""The path of a request that keeps its slot and one of the connections for `PIN_SECONDS`."""
PIN_SECONDS: Final = 12.0
QUERY_SECONDS: Final = {"/db": 0.050, "/bulk": 0.050, "/short": 0.005, "/long": 0.300, PIN: PIN_SECONDS}
"""By the paths that need one of the connections: for how long they need it."""
_STALL_LOOK_SECONDS: Final = 0.005
_ROUNDS: Final = 200
"""How much is computed between two looks at the clock: some microseconds."""

_stall: Final = os.environ.get(STALL_VARIABLE, "")
_StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def application(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
    """Do the work that the path names, then answer three bytes."""
    work = _WORK.get(environ["PATH_INFO"])
    if work is None:
        start_response("404 Not Found", [("Content-Length", "0")])
        return []
    work()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(ANSWER)))])
    return [ANSWER]


def compute(seconds: float) -> int:
    """Work in Python for so long, counted in time of the processor, without waiting for anything."""
    total = 0
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        for number in range(_ROUNDS):
            total = (total * 31 + number) % 65537
    return total


def _query(seconds: float) -> None:
    with _connections():
        while os.path.exists(_stall):
            time.sleep(_STALL_LOOK_SECONDS)
        time.sleep(seconds)


@functools.cache
def _connections() -> threading.Semaphore:
    # At the first request, for not every server has patched `threading` when it imports the application.
    return threading.BoundedSemaphore(CONNECTIONS)


_WORK: Final[dict[str, Callable[[], object]]] = {
    **{path: functools.partial(_query, seconds) for path, seconds in QUERY_SECONDS.items()},
    "/wait": lambda: time.sleep(0.050),
    "/cpu": lambda: compute(COMPUTING_SECONDS),
    HOLD: lambda: time.sleep(_HOLD_SECONDS),
}
