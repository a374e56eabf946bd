"""A handler that waits for PostgreSQL, with psycopg 3.

Decides what it asks, and that it leaves no statement running on the server. It must not know of deadlines.
"""

from __future__ import annotations

import os

import psycopg

from . import ADDRESS_VARIABLE, LONG_SECONDS, handler

__all__ = ["select"]

_CANCEL_SECONDS = 1.0


@handler
def select() -> None:
    """Connect, and let the server sleep."""
    connection = psycopg.connect(os.environ[ADDRESS_VARIABLE])
    try:
        connection.execute("select pg_sleep(%s)", [LONG_SECONDS])
    finally:
        # Closing the connection would not end the statement.
        connection.cancel_safe(timeout=_CANCEL_SECONDS)
        connection.close()
