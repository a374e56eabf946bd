"""Objects that belong to a request are freed in its greenlet, where finalizers can wait until its deadline."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.socket import socketpair

ONE_SLOT: dict[str, Any] = {"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 0.1}
FAILS_IN_TIME = ONE_SLOT | {"request_timeout_seconds": 0.5}
"""Options with which a handler that fails at once has failed before its deadline, on a busy machine, too."""
VARIABLE: contextvars.ContextVar[object] = contextvars.ContextVar("VARIABLE")


@pytest.fixture(autouse=True)
def nothing_logged(caplog) -> None:
    """Disable logging of errors, because pytest keeps log records, with tracebacks and all local variables."""
    caplog.set_level(logging.CRITICAL, "intralb_gevent")


class Resource:
    """An object whose finalizer waits, as if it sent a last message to a server."""

    def __init__(self, freed: list[str]) -> None:
        self.freed = freed

    def __del__(self) -> None:
        try:
            gevent.sleep(0.001)
            self.freed.append("waited")
        except BaseException as error:
            self.freed.append(repr(error))


def waits() -> None:
    Event().wait()


def computes() -> None:
    while True:
        pass


def is_killed() -> None:
    gevent.spawn(gevent.getcurrent().throw)
    Event().wait()


def has_a_timeout() -> None:
    with gevent.Timeout(0.01):
        Event().wait()


def has_a_socket_timeout() -> None:
    near, far = socketpair()
    near.settimeout(0.01)
    try:
        near.recv(1)
    finally:
        near.close()
        far.close()


def fails_while_it_is_aborted() -> None:
    try:
        Event().wait()
    finally:
        raise KeyError


def is_aborted_while_it_handles_an_error() -> None:
    try:
        raise KeyError
    except KeyError:
        Event().wait()


def fails() -> None:
    raise ValueError


ENDINGS = [
    *(waits, computes, is_killed, has_a_timeout, has_a_socket_timeout, fails),
    *(fails_while_it_is_aborted, is_aborted_while_it_handles_an_error),
]


def swallowing(ending: Callable[[], None]) -> Callable[[object], None]:
    def end(resource: object) -> None:
        try:
            ending()
        except BaseException as error:
            str(error)

    return end


def answering(function: Callable[[dict[str, Any]], object]) -> Callable[..., list[bytes]]:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/":
            function(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    return application


@pytest.mark.parametrize("ending", ENDINGS)
def test_variables_of_a_handler_are_freed_where_it_ran(balance, ask, eventually, no_collection, ending) -> None:
    freed: list[str] = []

    def handle(environ: dict[str, Any]) -> None:
        resource = Resource(freed)
        ending()
        assert resource

    balancer = balance(answering(handle), **ONE_SLOT)
    assert ask(balancer, "/").status[0] == "5"
    assert eventually(lambda: freed) == ["waited"]
    eventually(lambda: ask(balancer, "/next").status == "200 OK")


@pytest.mark.parametrize("ending", [waits, computes])
@pytest.mark.parametrize("after", [lambda: None, waits], ids=["ends", "waits again"])
def test_so_are_those_of_a_function_that_swallows_the_abort(
    balance, ask, eventually, no_collection, ending, after
) -> None:
    freed: list[str] = []

    def handle(environ: dict[str, Any]) -> None:
        swallowing(ending)(Resource(freed))
        after()

    balancer = balance(answering(handle), cleanup_seconds=0.05, **ONE_SLOT)
    assert ask(balancer, "/").status == "504 Gateway Timeout"
    assert eventually(lambda: freed) == ["waited"]


def test_values_of_context_variables_are_freed_there(balance, ask, eventually) -> None:
    freed: list[str] = []
    balancer = balance(answering(lambda environ: VARIABLE.set(Resource(freed))), **ONE_SLOT)
    assert ask(balancer, "/").status == "200 OK"
    assert eventually(lambda: freed) == ["waited"]
    eventually(lambda: ask(balancer, "/next").status == "200 OK")


def test_spawn_tree_locals_of_an_aborted_request_are_freed_there(balance, ask, eventually) -> None:
    freed: list[str] = []

    def handle(environ: dict[str, Any]) -> None:
        current: Any = gevent.getcurrent()
        current.spawn_tree_locals["resource"] = Resource(freed)
        current.resource = Resource(freed)
        waits()

    balancer = balance(answering(handle), **ONE_SLOT)
    assert ask(balancer, "/").status == "504 Gateway Timeout"
    eventually(lambda: len(freed) == 2)
    assert freed == ["waited", "waited"]


# Over real connections.

APP = """
import threading, time
LOCK, FREED = threading.RLock(), []

class Resource:
    def __del__(self):
        try:
            time.sleep(0.01)
            FREED.append("waited")
        except BaseException as error:
            FREED.append(repr(error))

def rows():
    with LOCK:
        while True:
            yield 1

def slow():
    try:
        yield
    finally:
        time.sleep(1000)

def fail():
    generator = slow()
    next(generator)
    raise ValueError

def hold():
    lines = rows()
    for line in lines:
        time.sleep(0.05)

def lock():
    if LOCK.acquire(timeout=0.2):
        LOCK.release()
        return "free"
    return "held"

def app(environ, start_response):
    path, said = environ["PATH_INFO"], ""
    if path == "/environ":
        environ["app.resource"] = Resource()
    elif path == "/environ-wait":
        environ["app.resource"] = Resource()
        time.sleep(0.02)
    elif path == "/environ-abort":
        environ["app.resource"] = Resource()
        time.sleep(100)
    elif path == "/freed":
        said = " ".join(FREED)
    elif path in ("/fail", "/hold", "/lock"):
        said = globals()[path[1:]]()
    start_response("200 OK", [])
    return [str(said).encode()]
"""
FLAGS = ("--request-timeout-seconds", "0.3", "--cleanup-seconds", "0.1", "--max-workers", "1")


def test_a_lock_that_a_generator_holds_is_free_after_an_abort(serve_program) -> None:
    served = serve_program(APP, *FLAGS)
    assert served.get("/hold").status == 504
    assert served.get("/lock") == (200, "free")


@pytest.mark.parametrize("path", ["/environ", "/environ-wait", "/environ-abort"])
def test_what_a_handler_has_put_into_its_environ_is_freed_where_it_ran(serve_program, path) -> None:
    served = serve_program(APP, *FLAGS)
    served.get(path)
    served.wait_until(lambda: served.get("/freed").body)
    assert served.get("/freed").body == "waited"


def test_finalizers_that_never_end_take_no_slot_for_good(serve_program) -> None:
    served = serve_program(APP, *FLAGS, "--max-concurrent-per-router", "2")
    for _ in range(2):
        assert served.get("/fail").status == 500
    served.wait_until(lambda: served.get("/").status == 200)


@pytest.fixture
def endless() -> Callable[[], Iterator[None]]:
    def wait() -> Iterator[None]:
        try:
            yield
        finally:
            Event().wait()

    return wait


@pytest.mark.usefixtures("python_reports_errors_of_finalizers")
def test_a_slot_whose_finalizers_are_too_many_to_be_ended_is_given_up(balance, ask, eventually, endless) -> None:
    def handle(environ: dict[str, Any]) -> None:
        generators = [endless() for _ in range(20)]
        for generator in generators:
            next(generator)
        raise ValueError

    balancer = balance(answering(handle), cleanup_seconds=0.01, **FAILS_IN_TIME)
    assert ask(balancer, "/").status == "500 Internal Server Error"
    eventually(lambda: balancer.snapshot().given_up == 1)
    assert balancer.snapshot().outcomes["failed"] == 1
    eventually(lambda: ask(balancer, "/next").status == "200 OK")


@pytest.mark.usefixtures("python_reports_errors_of_finalizers")
def test_a_finalizer_that_computes_is_ended_too(balance, ask, eventually) -> None:
    def spin() -> Iterator[None]:
        try:
            yield
        finally:
            computes()

    def handle(environ: dict[str, Any]) -> None:
        generator = spin()
        next(generator)
        raise ValueError

    balancer = balance(answering(handle), cleanup_seconds=0.01, **FAILS_IN_TIME)
    assert ask(balancer, "/").status == "500 Internal Server Error"
    eventually(lambda: ask(balancer, "/next").status == "200 OK")
