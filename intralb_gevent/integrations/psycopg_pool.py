"""Keep psycopg_pool from losing a connection when a request that waits for a connection is aborted.

From version 3.3 on, a client of the pool stays in the pool's queue if its wait is interrupted by an exception that is
not an `Exception`. The pool then assigns a connection to this client, and the connection is never returned. In earlier
versions, every exception removes the client from the queue.
"""

from __future__ import annotations

from typing import Any

import psycopg_pool.pool

__all__ = ["protect"]


def protect() -> None:
    """Make psycopg_pool remove a client from its queue after any exception that interrupts the client's wait.

    psycopg_pool's own asyncio pool removes a cancelled client in this way: it adds `CancelledError` to
    `CLIENT_EXCEPTIONS`.
    """
    module: Any = psycopg_pool.pool
    if hasattr(module, "CLIENT_EXCEPTIONS"):
        module.CLIENT_EXCEPTIONS = BaseException
