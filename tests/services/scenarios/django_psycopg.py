"""Storm scenario for Django with psycopg 3: a query, a pause, an insert, and its commit by an atomic block."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import gevent
from django.conf import settings
from django.core.signals import request_finished, request_started
from django.db import transaction

from intralb_gevent import SessionSource
from intralb_gevent.integrations.django import DjangoSessions

from .postgres import ADDRESS, clean, connections, prepare, table, verify
from .psycopg import sending

__all__ = ["PLACES", "clean", "connections", "identity", "linger", "prepare", "sending", "source", "verify", "work"]
URL = urlsplit(ADDRESS)
INSERT = ""
# Leave out "send": the driver hardly ever waits while sending. Leave out "commit": commits are in
# `Atomic.__exit__`, where no abort is raised for a second.
PLACES = {"connect", "receive", "between"}


def source(run: str) -> SessionSource:
    global INSERT
    INSERT = f"insert into {table(run)} values (%s)"
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": URL.path.lstrip("/"),
        "USER": URL.username,
        "PASSWORD": URL.password or "",
        "HOST": URL.hostname,
        "PORT": URL.port or 5432,
        "CONN_MAX_AGE": None,
        "OPTIONS": {"application_name": run},
    }
    settings.configure(DATABASES={"default": database})
    return DjangoSessions()


def identity(session: Any) -> object:
    # Before the first statement, it is possible that no connection is open yet.
    return session["default"].connection or session


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    request_started.send(None)
    with stage("connect"):
        session["default"].ensure_connection()
    answer = _ask_and_insert(session, question, stage)
    request_finished.send(None)
    return answer


def _ask_and_insert(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    with transaction.atomic(), session["default"].cursor() as cursor:
        with stage("statement"):
            cursor.execute("select %s::int, length(%s)", (question.number, question.payload))
        answer: tuple[int, int] = cursor.fetchone()
        gevent.sleep(0.001)
        with stage("statement"):
            cursor.execute(INSERT, (question.number,))
        # After this line, the request is committing.
        stage.place = "commit"
    return answer


def linger(session: Any) -> None:
    with transaction.atomic(), session["default"].cursor() as cursor:
        cursor.execute("select pg_sleep(30)")
