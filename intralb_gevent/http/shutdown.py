"""The way down: what happens between the first signal and the end of the process.

Decides the order of the steps and the one deadline they share. It must not know connections or jobs: the servers and
their balancers take the steps.
"""

from __future__ import annotations

import signal
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from ..errors import OptionError
from ..kinds import seconds

if TYPE_CHECKING:
    from .server import WSGIServer

__all__ = ["Shutdown", "graceful_shutdown"]


class Shutdown:
    """The shutdown of one or more servers, begun by the first signal and forced by the second."""

    def __init__(self, servers: tuple[WSGIServer, ...], timeout: float | None = None) -> None:
        options = servers[0].balancer.options
        self._servers = servers
        self._timeout = options.graceful_timeout_seconds if timeout is None else timeout
        self._delay = options.drain_delay_seconds
        self._steps: gevent.Greenlet[..., None] | None = None
        self._over = Event()
        self.cut = 0
        """How many requests were ended before their time."""

    def __repr__(self) -> str:
        state = "over" if self._over.is_set() else "begun" if self.begun else "not begun"
        return f"<Shutdown {state}, {self.cut} cut>"

    @property
    def begun(self) -> bool:
        """Whether it has been asked for."""
        return self._steps is not None

    def request(self) -> None:
        """Begin; asked for again, give running requests no more time."""
        delay, timeout = (0.0, 0.0) if self.begun else (self._delay, self._timeout)
        if self._steps is not None:
            self._steps.kill()
        self._steps = gevent.spawn(self._descend, delay, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; say whether it is."""
        return bool(self._over.wait(timeout))

    def _descend(self, delay: float, timeout: float) -> None:
        deadline = monotonic() + delay + timeout
        for server in self._servers:
            server.balancer.condition = "draining"
        gevent.sleep(delay)
        finishing = [gevent.spawn(server.finish, deadline) for server in self._servers]
        try:
            gevent.joinall(finishing, raise_error=True)
        finally:
            gevent.killall(finishing)
        self.cut += sum(greenlet.get() for greenlet in finishing)
        self._over.set()


def graceful_shutdown(server: WSGIServer, *more: WSGIServer, timeout: float | None = None) -> Shutdown:
    """Let SIGTERM and SIGINT end the servers without losing a request; a second signal ends them at once.

    Readiness fails at once; after `drain_delay_seconds` the listeners close, idle connections close, and running
    requests have `timeout` seconds (default `graceful_timeout_seconds`) before they are cut. `serve_forever` then
    returns, or exits with code 1 if something was cut. Call it in the main thread, before `serve_forever`.

    Raises `OptionError` when `timeout` is no number of seconds, 0 or more, or a server is not one of ours.
    """
    for each in (server, *more):
        _require_ours(each)
    if timeout is not None:
        # Not when the signal comes: then it would be too late to say so.
        timeout = seconds(positive=False).check("timeout", timeout)
    shutdown = Shutdown((server, *more), timeout)
    for each in (server, *more):
        each.shutdown = shutdown
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, shutdown.request)
    return shutdown


def _require_ours(server: Any) -> None:
    if not hasattr(server, "finish"):
        raise OptionError(
            f"server: {server!r} is not allowed; it must be an intralb_gevent.WSGIServer "
            "(and a number of seconds is given as timeout=10)"
        )
