"""A Django project without any special settings, for test_protection.py; `intralb-gevent serve` runs it."""

from __future__ import annotations

import json
import os
import time
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

NAME = os.environ["APPLICATION_NAME"]
TABLE = os.environ["TABLE"]
url = urlsplit(os.environ["DATABASE"])

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="for tests",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path.lstrip("/"),
            "USER": url.username,
            "PASSWORD": url.password or "",
            "HOST": url.hostname,
            "PORT": url.port,
            "CONN_MAX_AGE": 60,
            "OPTIONS": {"application_name": NAME},
        }
    },
)


def execute(statement: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def wait(request: HttpRequest) -> None:
    if request.GET["where"] == "python":
        time.sleep(30)
    else:
        execute("select pg_sleep(30)")


def atomic(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        execute(f"update {TABLE} set number = number + 1")
        wait(request)
    return HttpResponse()


def manual(request: HttpRequest) -> HttpResponse:
    transaction.set_autocommit(False)
    try:
        execute(f"update {TABLE} set number = number + 1")
        wait(request)
        transaction.commit()
    except Exception:
        transaction.rollback()
        raise
    transaction.set_autocommit(True)
    return HttpResponse()


def advisory(request: HttpRequest) -> HttpResponse:
    execute(f"select pg_advisory_lock(hashtext('{NAME}'))")
    wait(request)
    execute(f"select pg_advisory_unlock(hashtext('{NAME}'))")
    return HttpResponse()


def tenant(request: HttpRequest) -> HttpResponse:
    execute("set search_path = another_tenant")
    wait(request)
    execute("set search_path = public")
    return HttpResponse()


def leave_open(request: HttpRequest) -> HttpResponse:
    transaction.atomic().__enter__()
    execute(f"update {TABLE} set number = number + 1")
    return HttpResponse()


def state(request: HttpRequest) -> HttpResponse:
    [(number,)] = execute(f"select number from {TABLE}")
    [(search_path,)] = execute("show search_path")
    seen = [number, search_path, connection.get_autocommit(), connection.in_atomic_block]
    return HttpResponse(json.dumps(seen))


def pid(request: HttpRequest) -> HttpResponse:
    return HttpResponse(execute("select pg_backend_pid()")[0][0])


urlpatterns = [path(view.__name__, view) for view in (atomic, manual, advisory, tenant, leave_open, state, pid)]
app = get_wsgi_application()


class Session:
    """The session that the project's `db_init_func` opens."""

    def __init__(self, worker_id: int) -> None:
        pass
