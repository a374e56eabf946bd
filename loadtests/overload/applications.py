"""The WSGI application that every server runs under load. Its handlers query a database or are CPU-bound.

The database has ten connections. A CPU-bound handler uses a fixed processor time, not a fixed number of operations: the
same operations took from 4.5 to 9 ms on a machine with shared cores.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

ANSWER: Final = b"ok\n"
CONNECTIONS: Final = 10
"""Number of simulated database connections."""
COMPUTING_SECONDS: Final = 0.005
"""Processor time of a `/cpu` request, in seconds."""
SHORT_QUERIES: Final = 20
"""Number of short queries of an `/orm` request."""
SHORT_QUERY_SECONDS: Final = 0.001
"""Duration of a short query, and processor time after it, in seconds."""
STALL_VARIABLE: Final = "OVERLOAD_STALL"
"""Name of the environment variable for the stall file: the database does not respond while that file exists."""
HOLD: Final = "/hold"
"""Path of the handler that holds its slot for `_HOLD_SECONDS`."""
_HOLD_SECONDS: Final = 300.0
PIN: Final = "/pin"
"""Path of the handler that holds its slot and one database connection for `PIN_SECONDS`."""
PIN_SECONDS: Final = 12.0
QUERY_SECONDS: Final = {"/db": 0.050, "/bulk": 0.050, "/short": 0.005, "/long": 0.300, PIN: PIN_SECONDS}
"""Seconds for which a request holds a database connection, by path."""
_STALL_LOOK_SECONDS: Final = 0.005
_ROUNDS: Final = 200
"""Loop iterations between two reads of the clock; they take a few microseconds."""

_stall: Final = os.environ.get(STALL_VARIABLE, "")
_StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def application(environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
    """Do the work that the path selects, then return three bytes."""
    work = _work(environ["PATH_INFO"])
    if work is None:
        start_response("404 Not Found", [("Content-Length", "0")])
        return []
    work()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(ANSWER)))])
    return [ANSWER]


def _work(path: str) -> Callable[[], object] | None:
    """Return the work for a path: a named path, or a kind and its milliseconds, such as `/cpu/20` or `/db/50`."""
    kind, _, milliseconds = path[1:].partition("/")
    if milliseconds and kind in _KINDS:
        return functools.partial(_KINDS[kind], float(milliseconds) / 1000)
    return _WORK.get(path)


def compute(seconds: float) -> int:
    """Run Python code for `seconds` of processor time, without yielding."""
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


def _queries() -> None:
    for _ in range(SHORT_QUERIES):
        time.sleep(SHORT_QUERY_SECONDS)
        compute(SHORT_QUERY_SECONDS)


@functools.cache
def _connections() -> threading.Semaphore:
    # Create it at the first request: some servers patch `threading` only after they import the application.
    return threading.BoundedSemaphore(CONNECTIONS)


_WORK: Final[dict[str, Callable[[], object]]] = {
    **{path: functools.partial(_query, seconds) for path, seconds in QUERY_SECONDS.items()},
    "/wait": lambda: time.sleep(0.050),
    "/cpu": lambda: compute(COMPUTING_SECONDS),
    "/orm": _queries,
    HOLD: lambda: time.sleep(_HOLD_SECONDS),
}
_KINDS: Final[dict[str, Callable[[float], object]]] = {"cpu": compute, "flood": compute, "db": _query}
"""`flood` is `cpu` under another path, so that it can have another priority."""
