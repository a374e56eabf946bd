"""The bundled sample application: legacy WSGI code as our users have it, to try the balancer on.

Decides which database file the ready-made application uses and when it is created. Nothing in this package
imports gevent or the rest of ours: it is written for threads, and monkey-patching does what it does to any
such code.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .routes import Application
from .store import default_path, open_connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["application", "make_application", "open_session"]

_one_at_a_time = threading.Lock()


def make_application(path: str) -> WSGIApplication:
    """Return the sample application on the SQLite file `path`, which is created when it is missing.

    Raises `sqlite3.DatabaseError` when the file cannot be created or is not a database.
    """
    open_connection(path).close()
    return Application(path)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the application on the file that INTRALB_DEMO_DATABASE names; created on the first request.

    Without that variable the file is one of this user's in the directory for temporary files.
    """
    with _one_at_a_time:
        made = _made(default_path())
    return made(environ, start_response)


def open_session(worker_id: int) -> sqlite3.Connection:
    """Open a session for one slot, on the same file as `application`: meant for `db_init_func`.

    Rows can be read by column name. The worker's id makes no difference to SQLite, so it is not used.
    """
    return open_connection(default_path())


@functools.cache
def _made(path: str) -> WSGIApplication:
    return make_application(path)
