"""Keep psycopg_pool from losing a connection when a request is aborted while it waits for a connection.

From version 3.3 on, a client of the pool stays in the pool's queue if its wait is interrupted by an exception that is
not an `Exception`. The pool then assigns a connection to this client, and the connection is never returned. In earlier
versions, every exception removes the client from the queue.
"""

from __future__ import annotations

from typing import Any

import psycopg_pool.pool

__all__ = ["protect"]


def protect() -> None:
    """Remove a client from a pool's queue after any exception that ends its wait.

    psycopg_pool's asyncio pool uses the same constant for the same purpose, with `CancelledError`.
    """
    module: Any = psycopg_pool.pool
    if hasattr(module, "CLIENT_EXCEPTIONS"):
        module.CLIENT_EXCEPTIONS = BaseException
