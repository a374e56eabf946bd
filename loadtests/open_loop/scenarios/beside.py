"""What happens beside the requests of a scenario: a stalled database, a pinned job, a look at the workers.

Decides when. It must not know what the requests are.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import select
import time
from collections.abc import Callable, Iterator
from typing import Final

from ...side_by_side import BenchmarkError
from ..applications import PIN
from ..holding import held
from .observed import Span, Workers

__all__ = ["Beside", "nothing", "pinning", "stalling", "watching"]

Beside = Callable[[float], list[Workers]]
"""Called with the instant of the beginning, by the system's monotonic clock; returns what it saw of the workers."""
_LOOK_SECONDS: Final = 0.05
_SHORT_OF_THE_END: Final = 0.5
"""A job that is pinned for a phase may end by so much earlier, for it begins somewhat later than it is asked to."""
_TIMEOUT_SECONDS: Final = 5.0


def nothing(began: float) -> list[Workers]:
    """Do nothing."""
    return []


def stalling(span: Span, file: pathlib.Path) -> Beside:
    """Return what stalls the application's database in this time."""

    def beside(began: float) -> list[Workers]:
        _wait_until(began + span.begin)
        file.touch()
        try:
            _wait_until(began + span.end)
        finally:
            file.unlink()
        return []

    return beside


def pinning(span: Span, port: int) -> Beside:
    """Return what pins a job in this time. It raises `BenchmarkError` if the job ends early."""

    def beside(began: float) -> list[Workers]:
        _wait_until(began + span.begin)
        with held(PIN, port) as holder:
            left = began + span.end - _SHORT_OF_THE_END - time.monotonic()
            if select.select((holder,), (), (), max(0.0, left))[0]:
                raise BenchmarkError(f"the pinned job ended early: {holder.recv(100)!r}")
        return []

    return beside


def watching(end: float, admin_port: int) -> Beside:
    """Return what asks the server for its workers until this time, many times a second."""

    def beside(began: float) -> list[Workers]:
        seen = []
        with _admin(admin_port) as admin:
            while (at := time.monotonic() - began) < end:
                seen.append(Workers(round(at, 3), _workers(admin)))
                time.sleep(_LOOK_SECONDS)
        return seen

    return beside


@contextlib.contextmanager
def _admin(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        yield connection
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BenchmarkError(f"the server does not tell of its workers: {error!r}") from None
    finally:
        connection.close()


def _workers(admin: http.client.HTTPConnection) -> int:
    admin.request("GET", "/snapshot")
    with admin.getresponse() as response:
        workers = json.load(response)["workers"]
    return sum(not worker["retiring"] for worker in workers)


def _wait_until(instant: float) -> None:
    time.sleep(max(0.0, instant - time.monotonic()))
