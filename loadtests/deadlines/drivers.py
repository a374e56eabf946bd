"""Handlers that wait for another server through an installed driver. They leave no statement running on that server."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from .applications import ADDRESS_VARIABLE, LONG_SECONDS, handler

with contextlib.suppress(ImportError):
    import requests
with contextlib.suppress(ImportError):
    import psycopg
with contextlib.suppress(ImportError):
    import pymysql

_CANCEL_SECONDS: Final = 1.0
_MARIADB_PORT: Final = 3306


@handler
def get() -> None:
    """Send a request to a server that accepts connections and never responds."""
    requests.get(f"http://{os.environ[ADDRESS_VARIABLE]}/")


@handler
def select_postgresql() -> None:
    """Connect to PostgreSQL; run a statement that sleeps on the server."""
    connection = psycopg.connect(os.environ[ADDRESS_VARIABLE])
    try:
        connection.execute("select pg_sleep(%s)", [LONG_SECONDS])
    finally:
        # Closing the connection would not end the statement.
        connection.cancel_safe(timeout=_CANCEL_SECONDS)
        connection.close()


def _connect_mariadb() -> Any:
    url = urlsplit(os.environ[ADDRESS_VARIABLE])
    user, password = unquote(url.username or ""), unquote(url.password or "")
    port = url.port or _MARIADB_PORT
    # Disable TLS: otherwise PyMySQL reads all system certificates for each connection, which takes 20 ms in C.
    return pymysql.connect(host=url.hostname, port=port, user=user, password=password, ssl_disabled=True)


@handler
def select_mariadb() -> None:
    """Connect to MariaDB or MySQL; run a statement that sleeps on the server."""
    connection = _connect_mariadb()
    try:
        with connection.cursor() as cursor:
            cursor.execute("select sleep(%s)", [LONG_SECONDS])
    finally:
        # Closing the connection would not end the statement.
        with _connect_mariadb() as other:
            other.kill(connection.thread_id())
        connection.close()
