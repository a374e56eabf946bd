"""Makes psycopg2 wait with gevent, as the package psycogreen does."""

from __future__ import annotations

from typing import Any

from gevent.socket import wait_read, wait_write
from psycopg2 import OperationalError, extensions

__all__ = ["patch_psycopg"]


def patch_psycopg() -> None:
    extensions.set_wait_callback(wait)


def wait(connection: Any, timeout: float | None = None) -> None:
    while (state := connection.poll()) != extensions.POLL_OK:
        if state == extensions.POLL_READ:
            wait_read(connection.fileno(), timeout=timeout)
        elif state == extensions.POLL_WRITE:
            wait_write(connection.fileno(), timeout=timeout)
        else:
            raise OperationalError(f"poll() returned {state}")
