"""Tests of ordinary Django views while an async view waits: asyncio's loop runs in the same native thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

PROJECT = """
import asyncio, os, time
from django.conf import settings

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="for tests",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "orders.db", "CONN_MAX_AGE": 60}},
)

from asgiref.sync import sync_to_async
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import HttpResponse
from django.urls import path

app = get_wsgi_application()

def execute(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()

execute("create table orders (number integer)")

def count(request):
    return HttpResponse(execute("select count(*) from orders")[0][0])

@transaction.atomic
def order(request):
    execute("insert into orders values (1)")
    open("ordering", "w").close()
    while "until_waiting" in request.GET and not os.path.exists("waiting"):
        time.sleep(0.01)
    return HttpResponse("ordered")

async def wait(request):
    open("waiting", "w").close()
    while not os.path.exists("waited"):
        await asyncio.sleep(0.01)
    return HttpResponse("waited")

async def unsafe(request):
    return count(request)

async def safe(request):
    return await sync_to_async(count)(request)

urlpatterns = [path(view.__name__, view) for view in (count, order, wait, unsafe, safe)]
"""


@pytest.fixture
def project(serve_program):
    return serve_program(PROJECT)


@contextmanager
def an_async_view_waits(project) -> Iterator[None]:
    client = Thread(target=project.get, args=("/wait",))
    client.start()
    try:
        project.wait_until((project.directory / "waiting").exists)
        yield
    finally:
        (project.directory / "waited").touch()
        client.join()


def test_views_use_the_database_while_an_async_view_of_another_request_waits(project) -> None:
    assert project.get("/order").status == 200
    with an_async_view_waits(project):
        assert project.get("/order").status == 200
        assert project.get("/count").body == "2"


def test_a_transaction_is_committed_although_an_async_view_has_begun_meanwhile(project) -> None:
    answers = []
    ordering = Thread(target=lambda: answers.append(project.get("/order?until_waiting=yes")))
    ordering.start()
    project.wait_until((project.directory / "ordering").exists)
    with an_async_view_waits(project):
        ordering.join()
        assert [answer.status for answer in answers] == [200]
        assert project.get("/count").body == "1"


def test_the_coroutine_of_an_async_view_itself_may_not_wait_for_the_database(project) -> None:
    assert project.get("/unsafe").status == 500
    assert project.get("/safe").body == "0"
