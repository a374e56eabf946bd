"""An application in front of the balancer, such as middleware that refuses before a slot is taken.

Decides how it is run: in a greenlet for each request, which holds no slot; the balancer inside it does the rest. It
must not know connections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
from gevent import getcurrent

from ..errors import ClientDisconnected, RequestBodyError, UpgradesFull
from ..naming import type_name
from ..policy.answers import FAILED, TOO_MANY_UPGRADED
from ..pool.bridge import ResponseCut
from ..pool.exchange import Application, Exchange
from ..pool.job import shown
from ..pool.slotlog import tell
from .response import Response

if TYPE_CHECKING:
    from ..pool.balancer import LoadBalancer

__all__ = ["Front"]


class _Greenlet:
    """Runs the front; what is counted and ended is the job of the balancer within."""

    turn_wanted = False

    def __init__(self, balancer: LoadBalancer, exchange: Exchange) -> None:
        self._balancer = balancer
        self._exchange = exchange
        self._greenlet: Any = getcurrent()

    def take_turn(self) -> None:
        """Do nothing: nobody watches a greenlet that is no slot."""

    def begin_stream(self) -> None:
        """Do nothing: the balancer within counts its streams, and has deadlines."""

    def stream_is_whole(self) -> None:
        """Do nothing: no response is kept back here."""

    def wait_for_client(self, wait: Callable[[float], bool]) -> None:
        """Wait: the connection itself cuts a client that takes nothing."""
        wait(math.inf)

    def begin_upgrade(self) -> None:
        """Count the connection that the front takes over; what a slot takes over the balancer counts."""
        if getattr(getcurrent(), "intralb_slot", None) is None:
            self._balancer.upgrades.enter(self)

    def shut_down_upgrade(self) -> None:
        """End the connection, so that the application sees its end; never waits."""
        if self._exchange.upgrade is not None:
            self._exchange.upgrade.shut_down()

    def isolate_upgrade(self) -> None:
        """Close the copy of the socket in a process that a handler has forked."""
        if self._exchange.upgrade is not None:
            self._exchange.upgrade.isolate()

    def kill_upgrade(self) -> None:
        """End the application where it waits; never waits."""
        self._greenlet.kill(block=False)

    def ended(self) -> None:
        """The front has ended."""
        self._balancer.upgrade_ended(self)


class Front:
    """Runs a WSGI application that calls the balancer within, or answers by itself."""

    def __init__(self, application: Application, balancer: LoadBalancer) -> None:
        self.application = application
        self.balancer = balancer

    def __repr__(self) -> str:
        return f"<Front {self.application!r}>"

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> None:
        """Have a request answered; never waits."""
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
            # First of all: logging may wait, or fail too.
            exchange.fail(FAILED)
            if exchange.upgrade is not None and exchange.upgrade.is_end(error):
                return
            method, path = environ.get("REQUEST_METHOD"), shown(environ.get("PATH_INFO", ""))
            tell("%s %s failed in front of the balancer: %s", method, path, type_name(error), exc_info=error)
        finally:
            runner.ended()
