"""Tests that what an aborted handler held is freed at once, although it was aborted while it handled an exception."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from intralb_gevent.framevariables import variables

ABORTED_WITHOUT_COLLECTIONS = """
from gevent import monkey; monkey.patch_all()

import gc, sys, time, weakref
from concurrent.futures import Future
import gevent
from intralb_gevent import LoadBalancer, Options

class Connection:
    pass

held = []

def recover(*things):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        pass

def connect():
    connection = Connection()
    held.append(weakref.ref(connection))
    return connection

HANDLER

def app(environ, start_response):
    return handler()

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


HANDLING = """
def handler():
    connection = connect()
    try:
        raise ValueError("the connection is lost")
    except ValueError as error:
        recover()
"""

COLLECTING = """
def handler():
    connection, errors = connect(), []
    try:
        raise ValueError("the connection is lost")
    except ValueError as error:
        errors.append(error)
    again = Recovery()
    again.recover(errors)

class Recovery:
    def recover(self, errors):
        recover()
"""

WAITING_FOR_A_QUEUE = """
from queue import Queue

def handler():
    connection, errors, queue = connect(), {}, Queue()
    try:
        raise ValueError("the connection is lost")
    except ValueError as error:
        errors["first"] = error
    queue.get(timeout=10)
"""

WITH_A_FUTURE = """
def handler():
    connection, future, again = connect(), Future(), recover
    try:
        raise ValueError("the connection is lost")
    except ValueError as error:
        future.set_exception(error)
    again()
"""

WITH_EXC_INFO = """
def handler():
    connection, again = connect(), recover
    try:
        raise ValueError("the connection is lost")
    except ValueError:
        information = sys.exc_info()
    again()
"""

WITH_A_CLOSURE = """
def handler():
    connection, last, again = connect(), None, recover
    def told():
        return last
    try:
        raise ValueError("the connection is lost")
    except ValueError as error:
        last = error
    again(told)
"""

IN_A_CALL_THAT_RETURNED = """
def release():
    # An abort waits for the end of this function, while the watchdog looks at its variables.
    connection, end, now = connect(), time.monotonic() + 0.3, time.monotonic
    try:
        raise ValueError("the connection is lost")
    except ValueError:
        information = sys.exc_info()
    try:
        while now() < end:
            [2, 1].sort(key=slow)
        return information
    finally:
        information = None

def slow(value):
    for number in range(1000):
        value += 0
    return value

def handler():
    information = release()
    recover()
"""

IN_A_GENERATOR = """
def rows():
    connection, last = connect(), None
    try:
        raise ValueError("the connection is lost")
    except ValueError as error:
        last = error
    recover()
    yield b"row"

def handler():
    return list(rows())
"""

IN_A_COROUTINE = """
async def rows():
    connection, last = connect(), None
    try:
        raise ValueError("the connection is lost")
    except ValueError as error:
        last = error
    recover()

def handler():
    rows().send(None)
"""

WITH_ITS_VARIABLES = """
def handler():
    connection, again = connect(), recover
    known = locals()
    again(known)
"""


@pytest.mark.parametrize(
    "handler",
    [
        HANDLING,
        COLLECTING,
        WAITING_FOR_A_QUEUE,
        WITH_A_FUTURE,
        WITH_EXC_INFO,
        WITH_A_CLOSURE,
        IN_A_CALL_THAT_RETURNED,
        IN_A_GENERATOR,
        IN_A_COROUTINE,
        WITH_ITS_VARIABLES,
    ],
)
def test_an_exception_in_a_handler_keeps_nothing_alive(run_python: Callable[..., Any], handler: str) -> None:
    """A database connection that is kept alive would keep its locks."""
    program = run_python("-c", ABORTED_WITHOUT_COLLECTIONS.replace("HANDLER", handler))
    program.until(lambda: program.process.poll() is not None)
    assert program.printed.split("\n")[:2] == ["504 Gateway Timeout", "freed"], program.said


KEPT_FAILURE = """
def attempt():
    connection = connect()
    raise ValueError("the connection is lost")

kept = []

def handler():
    failures = []
    try:
        attempt()
    except ValueError as error:
        failures.append(error)
    try:
        RAISE
    except Exception as error:
        kept.append(error)
        raise
"""


@pytest.mark.parametrize(
    "statement", ['raise LookupError("no attempt is left") from failures[0]', 'raise ExceptionGroup("all", failures)']
)
def test_an_exception_that_the_application_keeps_holds_no_variables(
    run_python: Callable[..., Any], statement: str
) -> None:
    handler = KEPT_FAILURE.replace("RAISE", statement)
    program = run_python("-c", ABORTED_WITHOUT_COLLECTIONS.replace("HANDLER", handler))
    program.until(lambda: program.process.poll() is not None)
    assert program.printed.split("\n")[:2] == ["500 Internal Server Error", "freed"], program.said


IN_A_NAMESPACE = """
class Namespace(dict):
    def __contains__(self, name):
        print("called by the watchdog")
        return super().__contains__(name)

def handler():
    connect()
    exec("recover()", {}, Namespace(recover=recover))
"""


def test_looking_calls_no_method_of_a_namespace(run_python: Callable[..., Any]) -> None:
    """The watchdog's signal handler may interrupt such a method halfway."""
    program = run_python("-c", ABORTED_WITHOUT_COLLECTIONS.replace("HANDLER", IN_A_NAMESPACE))
    program.until(lambda: program.process.poll() is not None)
    assert program.printed.split("\n")[:2] == ["504 Gateway Timeout", "freed"], program.said


def test_looking_leaves_what_the_application_has_got_from_locals() -> None:
    def handler() -> dict[str, Any]:
        name = "kept"
        failed = ValueError(name)
        known = locals()
        assert variables(sys._getframe())["failed"] is failed
        gevent.sleep(0)
        return known

    known = handler()
    assert (known["name"], str(known["failed"])) == ("kept", "kept")


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="exec() adds nothing to the variables of a function")
def test_looking_leaves_what_the_application_has_added_to_its_variables() -> None:
    exec("added = ValueError()")
    assert "added" in variables(sys._getframe())
    assert "added" in locals()


ABORTED_IN_A_DEBUGGER = """
from gevent import monkey; monkey.patch_all()

import sys, time
from intralb_gevent import LoadBalancer, Options

class Connection:
    def fail(self):
        raise OSError

def trace(frame, event, argument):
    if frame.f_code is not handler.__code__:
        return None
    if event == "exception":
        end = time.monotonic() + 0.03
        while time.monotonic() < end:
            pass
    return trace

def handler():
    connection = Connection()
    try:
        raise ValueError("the first failure")
    except ValueError as error:
        first = error
    try:
        while True:
            try:
                connection.fail()
            except OSError:
                pass
    finally:
        print(first)

def app(environ, start_response):
    sys.settrace(trace)
    try:
        handler()
    finally:
        sys.settrace(None)

balancer = LoadBalancer(app, Options(request_timeout_seconds=0.1))
list(balancer({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda status, *more: None))
"""


def test_a_debugged_handler_keeps_its_variables_after_an_abort(run_python: Callable[..., Any]) -> None:
    """Its clean-up needs them."""
    program = run_python("-c", ABORTED_IN_A_DEBUGGER)
    program.until(lambda: program.process.poll() is not None)
    assert program.printed == "the first failure\n", program.said
