"""What probes and programs may ask of a running balancer, on a listener of its own.

Decides the paths and what they say. It must not change anything, and its requests take no slot: a probe does not wait
behind traffic. The listener is for operators; bind it where clients cannot reach it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from weakref import WeakSet

from gevent import pywsgi

from ..pool.forks import FORKS, close_copy
from .snapshot import Snapshot

__all__ = ["AdminServer"]


class Observed(Protocol):
    """What can be looked at: a balancer."""

    def snapshot(self) -> Snapshot:
        """Return one frozen picture of the whole."""


class AdminServer(pywsgi.WSGIServer):
    """Answers `/live` (200 while the loop turns), `/ready` (200, or 503 from the first signal on) and `/snapshot`.

    `/snapshot` is JSON with the fields of `observe.snapshot.Snapshot`. Give it the listener of a `gevent.pywsgi`
    server and a balancer; start and stop it like any server of gevent.
    """

    def __init__(self, listener: Any, balancer: Observed) -> None:
        super().__init__(listener, self._answer, log=None)
        self._balancer = balancer
        self._accepted: WeakSet[Any] = WeakSet()

    def start(self) -> None:
        """Bind if need be, and accept connections."""
        super().start()
        FORKS.serving.add(self)

    def close(self) -> None:
        """Stop accepting, and close the listener."""
        super().close()
        FORKS.serving.discard(self)

    def do_handle(self, *args: Any) -> None:
        """Answer the requests of an accepted connection."""
        self._accepted.add(args[0])
        super().do_handle(*args)

    def isolate(self) -> None:
        """Close the copies of all sockets in a process that a handler has forked."""
        for sock in (self.socket, *self._accepted):
            close_copy(sock)

    def __repr__(self) -> str:
        return f"<AdminServer at {self.address} of {self._balancer!r}>"

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        pages = {"/live": self._live, "/ready": self._ready, "/snapshot": self._snapshot}
        page = pages.get(environ["PATH_INFO"], self._index)
        status, kind, text = page()
        body = text.encode()
        start_response(
            status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        )
        return [body]

    def _live(self) -> tuple[str, str, str]:
        return "200 OK", "text/plain", "live\n"

    def _ready(self) -> tuple[str, str, str]:
        condition = self._balancer.snapshot().condition
        status = "200 OK" if condition == "serving" else "503 Service Unavailable"
        return status, "text/plain", f"{condition}\n"

    def _snapshot(self) -> tuple[str, str, str]:
        return "200 OK", "application/json", json.dumps(self._balancer.snapshot().as_dict(), indent=1) + "\n"

    def _index(self) -> tuple[str, str, str]:
        return "404 Not Found", "text/plain", "There are /live, /ready and /snapshot.\n"
