"""What the log says of an application's exception, and that writing it stops no other request."""

from __future__ import annotations

import pathlib
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]

APP = """
import sys, time

class EndlessRepr(Exception):
    def __repr__(self):
        while True:
            pass

class EndlessStr(Exception):
    def __str__(self):
        while True:
            pass

class StubbornStr(Exception):
    def __str__(self):
        for attempt in range(3):
            try:
                while True:
                    pass
            except BaseException:
                pass
        return "given up"

class EndlessBool(ValueError):
    def __bool__(self):
        while True:
            pass
    __len__ = __eq__ = __bool__
    __hash__ = ValueError.__hash__

class ExitingStr(Exception):
    def __str__(self):
        sys.exit("from __str__")

def long_message():
    raise ValueError("a" * 50_000_000)

def chain():
    try:
        raise EndlessStr
    except EndlessStr as error:
        raise EndlessRepr("caught") from error

def notes():
    error = ValueError("noted")
    error.__notes__ = [EndlessStr()]
    raise error

def many():
    error = None
    for _ in range(40):
        following = EndlessStr()
        following.__cause__ = error
        error = following
    raise error

def raising(error):
    def handler():
        raise error()
    return handler

def end():
    # A new type each time, as equal failures are only counted.
    raise type(f"End{time.monotonic_ns()}", (ValueError,), {})

def header():
    return [("X-Object", EndlessRepr())]

class Status:
    __repr__ = EndlessRepr.__repr__

def classify(environ):
    if environ["PATH_INFO"] == "/classified":
        raise EndlessRepr("no such class")

HANDLERS = {
    "endless-repr": raising(EndlessRepr), "endless-str": raising(EndlessStr), "stubborn-str": raising(StubbornStr),
    "exiting-str": raising(ExitingStr), "argument": raising(lambda: ValueError(EndlessStr())),
    "endless-bool": raising(EndlessBool), "long": long_message, "chain": chain, "notes": notes, "many": many,
    "header": header, "end": end,
}

def app(environ, start_response):
    handler = HANDLERS.get(environ["PATH_INFO"][1:], list)
    headers = handler()
    start_response("200 OK", headers)
    return [b"ok"]
"""

TYPES = {
    "endless-repr": "myapp.EndlessRepr",
    "endless-str": "myapp.EndlessStr",
    "stubborn-str": "myapp.StubbornStr",
    "exiting-str": "myapp.ExitingStr",
    "argument": "ValueError",
    "endless-bool": "myapp.EndlessBool",
    "long": "ValueError",
    "chain": "myapp.EndlessRepr",
    "notes": "ValueError",
    "many": "myapp.EndlessStr",
    "header": "TypeError",
}


@pytest.fixture(scope="module")
def served(serve_program):
    return serve_program(APP, "--priority-func", "myapp:classify")


def failure(served, path: str) -> str:
    """Return the record of a request that fails."""
    before, record = len(served.said), f"GET {path} failed: "
    assert served.get(path).status == 500
    # The record follows the answer, and others may stand around it. A long one is written in several pieces, so it is
    # whole only once another one has begun.
    served.wait_until(lambda: record in served.said[before:])
    assert served.get("/end").status == 500
    served.wait_until(lambda: "\nGET /end failed: " in served.said[before:].partition(record)[2])
    return record + served.said[before:].partition(record)[2].partition("\nGET ")[0]


@pytest.mark.parametrize("kind", TYPES)
def test_others_are_served_while_it_is_written(served, kind: str) -> None:
    failing = threading.Thread(target=served.get, args=(f"/{kind}",))
    failing.start()
    slowest = 0.0
    while failing.is_alive():
        began = time.monotonic()
        assert served.get("/").status == 200
        slowest = max(slowest, time.monotonic() - began)
    for _ in range(3):
        began = time.monotonic()
        assert served.get("/").status == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 3


@pytest.mark.parametrize("kind", TYPES)
def test_it_is_named_with_its_type_and_its_traceback(served, kind: str) -> None:
    said = failure(served, f"/{kind}")
    lines = said.splitlines()
    assert lines[0] == f"GET /{kind} failed: {TYPES[kind]}"
    assert "Traceback (most recent call last):" in said
    assert 'myapp.py", line' in said or kind == "header"
    assert any(line.startswith(TYPES[kind]) for line in lines), said


def test_a_long_message_is_logged_once_and_shortened(served) -> None:
    said = failure(served, "/long")
    assert "characters left out" in said
    assert 10_000 < len(said) < 30_000


def test_a_function_of_the_options_that_fails_is_named_with_its_message(served) -> None:
    before = len(served.said)
    assert served.get("/classified").status == 200
    failed = "priority_func: myapp.classify failed with myapp.EndlessRepr: no such class; "
    served.wait_until(lambda: failed in served.said[before:])


def test_a_message_that_takes_too_long_is_left_out(served) -> None:
    assert "myapp.EndlessStr: <no message: its str() took too long>" in failure(served, "/endless-str")


def test_the_messages_of_the_others_in_the_chain_are_there(served) -> None:
    said = failure(served, "/chain")
    assert "The above exception was the direct cause of the following exception" in said
    assert "myapp.EndlessRepr: caught" in said
