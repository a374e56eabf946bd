"""A sample application for several tenants; the tenant is in a thread-local, and selects the schema to use.

The first call in a request sets the tenant, because pages can contain pages; the end of a page clears the tenant.
A thread whose connection has been closed opens a new connection.
"""

import os
import threading
import time
from typing import Any

import psycopg2

from .waits import patch_psycopg
from .web import LONG, Page, Request, site, stage

ADDRESS, RUN, SLOW = os.environ["LEGACY_POSTGRESQL"], os.environ["LEGACY_RUN"], os.environ["LEGACY_SLOW"]

patch_psycopg()
_local = threading.local()


def connection() -> Any:
    if getattr(_local, "connection", None) is None or _local.connection.closed:
        _local.connection = psycopg2.connect(ADDRESS, application_name=RUN)
        _local.connection.autocommit = True
        _local.schema = None
    return _local.connection


def rows(statement: str, *parameters: object) -> Any:
    with connection().cursor() as cursor:
        if _local.schema != _local.tenant:
            cursor.execute(f"set search_path to {_local.tenant}")
            _local.schema = _local.tenant
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else ()


def wait() -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        rows(f"select pg_sleep({SLOW})")


def for_tenant(page: Page) -> Page:
    def with_tenant(request: Request) -> dict[str, Any]:
        if getattr(_local, "tenant", None) is None:
            _local.tenant = f"{RUN}_{request.host.partition('.')[0]}"
        try:
            answer = page(request)
        except Exception:
            _local.tenant = None
            raise
        _local.tenant = None
        return answer

    return with_tenant


def look(request: Request) -> dict[str, Any]:
    stage(request, "connect", wait)
    number, owner = rows("select %s, owner from settings", request.number)[0]
    stage(request, "look", wait)
    return {"numbers": [number], "owners": [owner, rows("select owner from settings")[0][0]]}


def pay(request: Request) -> dict[str, Any]:
    answer = look(request)
    stage(request, "half", wait)
    rows("insert into visit values (%s)", request.number)
    stage(request, "commit", wait)
    return answer


application = site(look=for_tenant(look), pay=for_tenant(pay))
