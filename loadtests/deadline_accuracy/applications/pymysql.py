"""A handler that waits for MariaDB or MySQL, with PyMySQL.

Decides what it asks, and that it leaves no statement running on the server. It must not know of deadlines.
"""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pymysql

from . import ADDRESS_VARIABLE, LONG_SECONDS, handler

__all__ = ["select"]

_PORT: Final = 3306


def _connect() -> Any:
    url = urlsplit(os.environ[ADDRESS_VARIABLE])
    user, password = unquote(url.username or ""), unquote(url.password or "")
    # By default it reads all certificates of the system for each connection: 20 ms, in C.
    return pymysql.connect(host=url.hostname, port=url.port or _PORT, user=user, password=password, ssl_disabled=True)


@handler
def select() -> None:
    """Connect, and let the server sleep."""
    connection = _connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("select sleep(%s)", [LONG_SECONDS])
    finally:
        # Closing the connection would not end the statement.
        with _connect() as other:
            other.kill(connection.thread_id())
        connection.close()
