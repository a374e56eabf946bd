"""Run an application in front of the balancer, such as middleware that rejects requests before they need a slot.

The application runs in one greenlet per request and occupies no slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import getcurrent

from ..aborts.slotgreenlet import current_slot
from ..errors import ClientDisconnected, RequestBodyError, UpgradesFull
from ..naming import type_name
from ..policy.cannedresponses import FAILED, TOO_MANY_UPGRADED
from ..pool.channel import ResponseCut
from ..pool.exchange import Application, Exchange
from ..pool.job import shown
from ..pool.logfields import of_request, request_fields
from ..pool.slotlog import tell
from .response import Response

if TYPE_CHECKING:
    from ..pool.balancer import LoadBalancer

__all__ = ["MiddlewareEntry"]


class _Greenlet:
    """The runner of the middleware for one request; the balancer behind the middleware counts and aborts the job."""

    yield_requested = False

    def __init__(self, balancer: LoadBalancer, exchange: Exchange) -> None:
        self._balancer = balancer
        self._exchange = exchange
        self._greenlet: Any = getcurrent()

    def yield_to_hub(self) -> None:
        """Do nothing: the watchdog observes only slots."""

    def begin_stream(self) -> None:
        """Do nothing: the balancer behind the middleware counts its own streams, and applies deadlines."""

    def stream_is_whole(self) -> None:
        """Do nothing: no response is held back in front of the balancer."""

    def wait_for_client(self, wait: Callable[[float], bool]) -> None:
        """Wait without a limit: the connection itself cuts a client that reads too slowly."""
        wait(math.inf)

    def begin_upgrade(self, take: Callable[[], object] | None = None) -> None:
        """Count a connection that the middleware takes over; the balancer counts those that slots take over."""
        if current_slot() is None:
            self._balancer.intake.upgrades.enter(self, take)
        elif take is not None:
            take()

    def shut_down_upgrade(self) -> None:
        """End the connection, so that the application sees the end of its input. Never waits."""
        if self._exchange.upgrade is not None:
            self._exchange.upgrade.shut_down()

    def isolate_upgrade(self) -> None:
        """In a child process that a handler has forked, close the inherited copy of the socket."""
        if self._exchange.upgrade is not None:
            self._exchange.upgrade.isolate()

    def kill_upgrade(self) -> None:
        """Kill the application's greenlet. Never waits."""
        self._greenlet.kill(block=False)

    def ended(self) -> None:
        """Report to the balancer that the middleware has ended."""
        self._balancer.intake.upgrades.leave(self)


class MiddlewareEntry:
    """A WSGI application in front of the balancer, which calls the balancer or responds without the balancer."""

    def __init__(self, application: Application, balancer: LoadBalancer) -> None:
        self.application = application
        self.balancer = balancer

    def __repr__(self) -> str:
        return f"<Front {self.application!r}>"

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> None:
        """Start a greenlet that answers the request. Never waits."""
        gevent.spawn(self._run, environ, exchange)

    def _run(self, environ: dict[str, Any], exchange: Exchange) -> None:
        runner = _Greenlet(self.balancer, exchange)
        if isinstance(exchange, Response):
            environ["wsgi.early_hints"] = exchange.early_hints
        try:
            exchange.run(self.application, environ, runner)
        except ClientDisconnected:
            pass
        except RequestBodyError as error:
            exchange.fail(error.answer or FAILED)
        except UpgradesFull:
            exchange.fail(TOO_MANY_UPGRADED)
        except ResponseCut:
            exchange.fail(FAILED)
        except BaseException as error:
            # Respond before logging: a log handler may block or fail.
            exchange.fail(FAILED)
            if exchange.upgrade is not None and exchange.upgrade.is_end(error):
                return
            method, path = environ.get("REQUEST_METHOD"), shown(environ.get("PATH_INFO", ""))
            told = (method, path, type_name(error), of_request(environ))
            tell("%s %s failed in front of the balancer: %s%s", *told, exc_info=error, fields=request_fields(environ))
        finally:
            runner.ended()
