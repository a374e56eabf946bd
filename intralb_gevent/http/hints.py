"""Implement `environ["wsgi.early_hints"]`, which sends header fields before the response is ready (103, RFC 8297).

The function finds the response through the current greenlet. So all environs share one function, and a request without
early hints costs nothing more.
"""

from __future__ import annotations

from typing import Any

from ..aborts.slotgreenlet import current_slot
from .response import Response

__all__ = ["early_hints"]


def early_hints(headers: Any) -> None:
    """Send header fields, a list of (name, value), ahead of the response. Call this in the handler's greenlet.

    Nothing is sent to an HTTP/1.0 client. Raises ValueError or TypeError for fields that may not be sent. Raises
    RuntimeError after the response has begun or in another greenlet, and `ClientDisconnected` after the client has
    disconnected.
    """
    slot = current_slot()
    exchange = None if slot is None or slot.job is None else slot.job.exchange
    if not isinstance(exchange, Response):
        raise RuntimeError("wsgi.early_hints was called in a greenlet that runs no request; call it in the handler")
    exchange.early_hints(headers)
