"""How much a client may send and how long it may take, each with the answer to one that goes too far.

Decides the bounds; it must not know who checks them.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BODY_BYTES",
    "BODY_SECONDS",
    "HEADER_BYTES",
    "HEADER_COUNT",
    "HEADER_SECONDS",
    "IN_MEMORY_BYTES",
    "PIPELINED_REQUESTS",
    "RECEIVE_BYTES",
    "TARGET_BYTES",
    "UNSENT_BYTES",
    "WRITE_STALL_SECONDS",
]

TARGET_BYTES: Final = 8190
"""Of the request target; beyond it 414. Apache's LimitRequestLine."""

HEADER_BYTES: Final = 32 * 1024
"""Of all header fields of a request together; beyond it 431."""

HEADER_COUNT: Final = 100
"""Header fields of a request; beyond it 431. Apache's LimitRequestFields and gunicorn's limit_request_fields."""

BODY_BYTES: Final = 1024**3
"""Of a request's body; beyond it 413."""

IN_MEMORY_BYTES: Final = 64 * 1024
"""Of a request's body that is kept in memory; a larger one goes to a temporary file."""

HEADER_SECONDS: Final = 20.0
"""For the head of a request, from its first byte (of a new connection: from its acceptance); then 408."""

BODY_SECONDS: Final = 30.0
"""Without a byte of the body; then 408."""

WRITE_STALL_SECONDS: Final = 60.0
"""Without a byte of a waiting response taken by the client; then the connection is cut."""

UNSENT_BYTES: Final = 256 * 1024
"""Of a response that the client has not taken; beyond it the slot that writes has to wait."""

RECEIVE_BYTES: Final = 64 * 1024
"""Read from a socket at a time."""

PIPELINED_REQUESTS: Final = 16
"""Requests that may wait behind the one being answered before a connection is read no further."""
