"""The bundled sample application: typical legacy WSGI code for trying out the balancer.

This package imports neither gevent nor other modules of intralb_gevent. The application is written for threads;
monkey-patching makes its sleeps and locks cooperative, as in any other threaded application.
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
    """Return the sample application, which stores its notes in the SQLite file `path`; create the file if necessary.

    Raises `sqlite3.DatabaseError` if the file cannot be created or is not a database.
    """
    open_connection(path).close()
    return Application(path)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Run the sample application, with the database file that the environment variable INTRALB_DEMO_DATABASE names.

    Without this variable, each user has a database file in the directory for temporary files. The file is created at
    the first request.
    """
    with _one_at_a_time:
        made = _made(default_path())
    return made(environ, start_response)


def open_session(worker_id: int) -> sqlite3.Connection:
    """Return a session for one slot: a connection to the database file of `application`; meant for `db_init_func`.

    Rows can be read by column name. The worker's id is not used.
    """
    return open_connection(default_path())


@functools.cache
def _made(path: str) -> WSGIApplication:
    return make_application(path)
