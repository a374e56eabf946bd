"""`environ["wsgi.early_hints"]`: what a response will refer to, sent before it is there (103, RFC 8297).

Decides which response is meant: that of the request that the present greenlet runs. So the environ of each request has
the same function, and a request that gives no hints pays nothing for it.
"""

from __future__ import annotations

from typing import Any

from gevent import getcurrent

from .response import Response

__all__ = ["early_hints"]


def early_hints(headers: Any) -> None:
    """Send header fields, a list of (name, value), ahead of the response; call it in the greenlet of the handler.

    Nothing is sent to HTTP/1.0. Raises ValueError or TypeError for fields that may not be sent, RuntimeError once the
    response has begun and in other greenlets, and `ClientDisconnected` where nobody is there to read them.
    """
    job = getattr(getattr(getcurrent(), "intralb_slot", None), "job", None)
    exchange = None if job is None else job.exchange
    if not isinstance(exchange, Response):
        raise RuntimeError("wsgi.early_hints was called in a greenlet that runs no request; call it in the handler")
    exchange.early_hints(headers)
