"""The WSGI application that closed loops ask: a path says what a request costs, `/cpu/20` or `/db/50` milliseconds.

`/flood/20` is `/cpu/20` by another path, which may have another class.

Decides what that is: time of the processor, or a wait with one of ten connections. It must not know which server asks.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..open_loop.applications import CONNECTIONS, compute

__all__ = ["ANSWER", "application"]

ANSWER: Final = b"ok\n"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Do the work that the path names, then answer three bytes."""
    _, kind, milliseconds = environ["PATH_INFO"].split("/")
    if kind in ("cpu", "flood"):
        compute(float(milliseconds) / 1000)
    else:
        with _connections():
            time.sleep(float(milliseconds) / 1000)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(ANSWER)))])
    return [ANSWER]


@functools.cache
def _connections() -> threading.Semaphore:
    # At the first request, for not every server has patched `threading` when it imports the application.
    return threading.BoundedSemaphore(CONNECTIONS)
