"""An application in front of the balancer, such as middleware that refuses before a slot is taken.

Decides how it is run: in a greenlet for each request, which holds no slot; the balancer inside it does the rest. It
must not know connections.
"""

from __future__ import annotations

import logging
from typing import Any

import gevent

from ..errors import ClientDisconnected
from ..policy.answers import FAILED
from ..pool.bridge import ResponseCut
from ..pool.exchange import Application, Exchange

__all__ = ["Front"]

logger = logging.getLogger("intralb_gevent")


class _Greenlet:
    """Runs the front; what is counted and ended is the job of the balancer within."""

    turn_wanted = False

    def take_turn(self) -> None:
        """Do nothing: nobody watches a greenlet that is no slot."""

    def begin_stream(self) -> None:
        """Do nothing: the balancer within counts its streams."""


class Front:
    """Runs a WSGI application that calls the balancer within, or answers by itself."""

    def __init__(self, application: Application) -> None:
        self.application = application

    def __repr__(self) -> str:
        return f"<Front {self.application!r}>"

    def submit(self, environ: dict[str, Any], exchange: Exchange) -> None:
        """Have a request answered; never waits."""
        gevent.spawn(self._run, environ, exchange)

    def _run(self, environ: dict[str, Any], exchange: Exchange) -> None:
        try:
            exchange.run(self.application, environ, _Greenlet())
        except ClientDisconnected:
            pass
        except ResponseCut:
            exchange.fail(FAILED)
        except BaseException as error:
            # First of all: logging may wait, or fail too.
            exchange.fail(FAILED)
            logger.error(
                "%s %s failed in front of the balancer: %r",
                environ.get("REQUEST_METHOD"),
                environ.get("PATH_INFO"),
                error,
                exc_info=error,
            )
