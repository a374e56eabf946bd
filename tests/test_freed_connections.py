"""Tests that what an aborted handler held is freed at once, although it was aborted while it handled an exception."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gevent

from intralb_gevent.framevariables import variables

ABORTED_WITHOUT_COLLECTIONS = """
from gevent import monkey; monkey.patch_all()

import gc, time, weakref
import gevent
from intralb_gevent import LoadBalancer, Options

class Connection:
    pass

held = []

def recover():
    end = time.monotonic() + 10
    while time.monotonic() < end:
        pass

def app(environ, start_response):
    connection = Connection()
    held.append(weakref.ref(connection))
    try:
        raise ValueError("the connection is lost")
    except ValueError as error:
        recover()

gc.collect()
gc.set_threshold(0)
balancer = LoadBalancer(app, Options(request_timeout_seconds=0.1))
response = balancer({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda status, *more: print(status))
getattr(response, "close", list)()
with gevent.Timeout(5, False):
    while held[0]() is not None:
        gevent.sleep(0.01)
print("freed" if held[0]() is None else "kept")
"""


def test_an_exception_that_was_being_handled_keeps_nothing_alive(run_python: Callable[..., Any]) -> None:
    """A database connection that is kept alive would keep its locks."""
    program = run_python("-c", ABORTED_WITHOUT_COLLECTIONS)
    program.until(lambda: program.process.poll() is not None)
    assert program.printed.split("\n")[:2] == ["504 Gateway Timeout", "freed"], program.said


def test_looking_leaves_other_variables_where_the_application_has_called_locals() -> None:
    def handler() -> dict[str, Any]:
        name = "kept"
        known = locals()
        failed = ValueError(name)
        assert variables(sys._getframe())["failed"] is failed
        gevent.sleep(0)
        return known

    assert handler()["name"] == "kept"
