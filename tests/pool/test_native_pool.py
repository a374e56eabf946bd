"""The log reports a full pool of native threads, but not a pool that is only busy."""

from __future__ import annotations

import socket
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.event import Event
from gevent.threadpool import ThreadPool

native_sleep = monkey.get_original("time", "sleep")
FULL = "threads of gevent's native pool have been busy"


@pytest.fixture(autouse=True)
def small_pool(monkeypatch):
    """Give the hub a separate native pool of two threads, so that other tests are not affected."""
    hub = gevent.get_hub()
    pool = ThreadPool(2, hub=hub)
    monkeypatch.setattr(hub, "_threadpool", pool)
    yield pool
    pool.join()
    pool.kill()


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    threadpool = gevent.get_hub().threadpool
    if environ["PATH_INFO"] == "/blocks":
        threadpool.apply(native_sleep, (float(environ["seconds"]),))
    else:
        threadpool.apply(socket.getaddrinfo, ("localhost", 80))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def ask_at_once(balancer, ask, *requests: tuple[str, float]) -> list[gevent.Greenlet]:
    return [gevent.spawn(ask, balancer, path, seconds=str(seconds)) for path, seconds in requests]


def test_a_full_pool_is_named_with_what_runs_there_and_the_remedy(balance, ask, caplog, eventually) -> None:
    balancer = balance(application, request_timeout_seconds=0.2)
    blocked = ask_at_once(balancer, ask, ("/blocks", 2.0), ("/blocks", 2.0))
    eventually(lambda: len(gevent.get_hub().threadpool) == 2)
    waiting = ask_at_once(balancer, ask, ("/looks-up", 0), ("/looks-up", 0), ("/looks-up", 0))
    eventually(lambda: FULL in caplog.text)
    (said,) = [text for record in caplog.records if (text := record.getMessage()).startswith("all ")]
    assert said.startswith("all 2 threads of gevent's native pool have been busy for 1.")
    assert "Its threads run time.sleep (2 times)." in said
    assert "a separate gevent.threadpool.ThreadPool" in said
    assert {greenlet.get().status for greenlet in (*blocked, *waiting)} == {"504 Gateway Timeout"}


def test_it_is_said_once_a_minute(balance, ask, caplog, eventually, monkeypatch) -> None:
    monkeypatch.setattr("intralb_gevent.hub.nativepool.FULL_SECONDS", 0.1)
    balancer = balance(application)
    for _ in range(2):
        for greenlet in ask_at_once(balancer, ask, *[("/blocks", 0.3)] * 3):
            greenlet.join()
    assert caplog.text.count(FULL) == 1


def test_a_pool_that_is_busy_while_nothing_waits_is_left_alone(balance, ask, caplog, monkeypatch) -> None:
    monkeypatch.setattr("intralb_gevent.hub.nativepool.FULL_SECONDS", 0.1)
    balancer = balance(application)
    for greenlet in ask_at_once(balancer, ask, ("/blocks", 0.6), ("/blocks", 0.6)):
        greenlet.join()
    assert FULL not in caplog.text


def test_no_pool_is_made_to_look_at_it(balance, ask, monkeypatch) -> None:
    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "_threadpool", None)
    ticked = Event()
    balancer = balance(lambda environ, start_response: [start_response("204 No Content", []), b""][1:])
    assert ask(balancer).status == "204 No Content"
    ticked.wait(0.3)
    assert hub._threadpool is None
