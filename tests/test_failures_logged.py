"""Tests of the log record for an application's exception, which is written without blocking other requests."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import threading
import time
import unicodedata

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
    if environ["PATH_INFO"] == "/forged-class":
        raise ValueError(FORGED)
    if environ["PATH_INFO"] == "/classified":
        raise EndlessRepr("no such class")

FORGED = [f"{end}GET /admin 200 completed forged" for end in ("\\n", "\\r", "\\x0b", "\\x85", "\\u2028", "\\r\\n")]
FORGED = "".join(FORGED) + '\\n{"path": "/faked"}\\n\\x1b[2K\\x9b31m'

class Forging(Exception):
    pass

def forge():
    error = SyntaxError(FORGED, (FORGED, 1, 1, FORGED))
    error.__notes__ = [FORGED]
    try:
        raise error
    except SyntaxError as error:
        raise Forging(FORGED)

def forge_unprintable():
    try:
        raise EndlessStr
    except EndlessStr:
        raise Forging(FORGED)

def forge_type():
    raise type(FORGED, (Exception,), {"__module__": FORGED})

HANDLERS = {
    "forged-type": forge_type, "forged": forge, "forged-unprintable": forge_unprintable,
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
    """Return the log record of a request that fails."""
    before, record = len(served.said), f"GET {path} failed: "
    assert served.get(path).status == 500
    # The server logs the record after the response, and other records can precede or follow it. A long record is
    # written in pieces, so it is complete only once the next record has begun.
    served.wait_until(lambda: record in served.said[before:])
    assert served.get("/end").status == 500
    served.wait_until(lambda: re.search('[" ]GET /end failed: ', served.said[before:].partition(record)[2]))
    return record + re.split(r"\n\d{4}-|\n\{", served.said[before:].partition(record)[2])[0]


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
    assert re.fullmatch(rf"GET /{kind} failed: {re.escape(TYPES[kind])} \(request \w+\)", lines[0])
    assert "Traceback (most recent call last):" in said
    assert 'myapp.py", line' in said or kind == "header"
    assert any(line.startswith(f"  | {TYPES[kind]}") for line in lines), said


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_text_of_an_exception_looks_like_no_other_line(serve_program, log_format: str) -> None:
    served = serve_program(APP, "--priority-func", "myapp:classify", "--enable-logging", "--log-format", log_format)
    for path in ("/forged", "/forged-unprintable", "/forged-type"):
        said = failure(served, path)
        assert said.count("GET /admin 200 completed forged") >= 6
    assert served.get("/forged-class").status == 200
    served.wait_until(lambda: "priority_func: myapp.classify failed" in served.said)
    assert not [character for character in served.said if unicodedata.category(character) == "Cc" and character != "\n"]
    for line in served.said.splitlines():
        assert not line.startswith("GET /admin")
        with contextlib.suppress(ValueError):
            assert json.loads(line).get("path") != "/faked"


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
