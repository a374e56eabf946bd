"""Tests of the balancer as a WSGI callable: which errors the application and the outer server receive, and when."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import ClientDisconnected, LoadBalancer
from intralb_gevent.pool.channel import HIGH_WATER, ResponseCut

TEXT = [("Content-Type", "text/plain")]
ONE_SLOT = {"max_workers": 1, "max_concurrent_per_router": 1}


class Outer:
    """A fake outer server that handles one request."""

    def __init__(self, refuse: Callable[[str], object] = lambda status: None, body: Any = None) -> None:
        self.refuse = refuse
        self.heads: list[tuple[str, list[tuple[str, str]], Any]] = []
        self.environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.input": body}

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.refuse(status)
        self.heads.append((status, headers, exc_info))

    def ask(self, balancer: LoadBalancer) -> Any:
        return balancer(self.environ, self.start_response)

    @property
    def statuses(self) -> list[str]:
        return [status for status, _, _ in self.heads]


def refusing(status: str) -> None:
    if status == "200 Bad":
        raise LookupError("a bad status")


class Broken:
    """A `wsgi.input` whose client has sent invalid data."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int = -1) -> bytes:
        raise self.error


def test_a_list_stays_a_list_for_servers_that_want_its_length(balance) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [b"hello"]

    outer = Outer()
    assert outer.ask(balance(application)) == [b"hello"]


def test_an_answer_of_ours_to_head_has_no_body(balance) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        raise ValueError("on purpose")

    outer = Outer()
    outer.environ["REQUEST_METHOD"] = "HEAD"
    assert list(outer.ask(balance(application))) == []
    assert outer.statuses == ["500 Internal Server Error"]


def test_a_stream_is_not_delayed(balance) -> None:
    more = Event()

    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"a"
        more.wait()
        yield b"b"

    outer = Outer()
    parts = iter(outer.ask(balance(application)))
    assert next(parts) == b"a"
    more.set()
    assert next(parts) == b"b"
    assert next(parts, None) is None


def test_what_the_outer_server_has_against_a_status_is_raised_in_the_application(balance) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        with pytest.raises(LookupError):
            start_response("200 Bad", TEXT)
        start_response("500 Seen", TEXT)
        return [b""]

    outer = Outer(refusing)
    outer.ask(balance(application))
    assert outer.statuses == ["500 Seen"]


def test_one_that_the_application_lets_pass_reaches_the_outer_server_and_frees_the_slot(balance, eventually) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 Bad", TEXT)
        return [b"x" * HIGH_WATER] * 3

    outer, balancer = Outer(refusing), balance(application, **ONE_SLOT)
    with pytest.raises(LookupError):
        outer.ask(balancer)
    eventually(lambda: balancer.snapshot().outcomes["failed"] == 1)


def test_a_refused_answer_of_ours_reaches_the_outer_server(balance) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        raise ValueError("on purpose")

    def refuse(status: str) -> None:
        raise LookupError("takes nothing")

    with pytest.raises(LookupError):
        Outer(refuse).ask(balance(application))


@pytest.mark.parametrize("begun", [False, True])
def test_an_error_of_the_outer_input_is_the_clients(balance, eventually, caplog, begun: bool) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        if begun:
            yield b"begun"
        yield environ["wsgi.input"].read()

    balancer, error = balance(application), OSError("a bad chunk")
    with pytest.raises(OSError, match="a bad chunk") as caught:
        list(Outer(body=Broken(error)).ask(balancer))
    assert caught.value is error
    eventually(lambda: balancer.snapshot().outcomes["disconnected"] == 1)
    assert balancer.snapshot().outcomes["failed"] == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_application_may_answer_such_an_error_itself(balance) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError:
            start_response("400 Bad Request", TEXT)
        return [b"sorry"]

    outer, balancer = Outer(body=Broken(OSError())), balance(application)
    assert outer.ask(balancer) == [b"sorry"]
    assert balancer.snapshot().outcomes["completed"] == 1


@pytest.mark.parametrize("error", [TypeError("no number"), ValueError("negative")])
def test_a_wrong_call_of_the_input_is_a_failure(balance, eventually, caplog, error: Exception) -> None:
    def application(environ: Any, start_response: Any) -> None:
        environ["wsgi.input"].read()

    balancer = balance(application)
    with pytest.raises(type(error)):
        Outer(body=Broken(error)).ask(balancer)
    eventually(lambda: balancer.snapshot().outcomes["failed"] == 1)
    assert "GET / failed" in caplog.text


def test_an_error_of_the_applications_own_is_answered_as_ever(balance) -> None:
    def application(environ: Any, start_response: Any) -> None:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            raise KeyError from error

    outer = Outer(body=Broken(OSError()))
    outer.ask(balance(application))
    assert outer.statuses == ["500 Internal Server Error"]


@pytest.mark.parametrize("how", ["yields", "writes"])
def test_an_application_that_waits_for_the_outer_server_is_ended_when_that_closes(balance, eventually, how) -> None:
    ended: list[str] = []

    def yielding(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        try:
            while True:
                yield b"x" * HIGH_WATER
        finally:
            ended.append("closed")

    def writing(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        try:
            while True:
                write(b"x" * HIGH_WATER)
        except ClientDisconnected:
            ended.append("disconnected")
            raise

    balancer = balance(yielding if how == "yields" else writing, **ONE_SLOT)
    response = Outer().ask(balancer)
    next(response)
    gevent.sleep(0)
    response.close()
    eventually(lambda: ended)
    eventually(lambda: balancer.snapshot().running == 0)
    assert balancer.snapshot().outcomes["disconnected"] == 1
    assert ended == ["closed" if how == "yields" else "disconnected"]


def test_one_that_waits_for_something_else_is_ended_if_that_is_wanted(balance, eventually) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"a"
        Event().wait()

    balancer = balance(application, cancel_on_disconnect=True, **ONE_SLOT)
    response = Outer().ask(balancer)
    assert next(response) == b"a"
    response.close()
    eventually(lambda: balancer.snapshot().running == 0)
    assert balancer.snapshot().outcomes["disconnected"] == 1


def test_a_response_that_was_started_and_not_begun_is_replaced_with_exc_info(balance) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        Event().wait()
        yield b""

    outer = Outer()
    outer.ask(balance(application, request_timeout_seconds=0.1))
    assert outer.statuses == ["200 OK", "504 Gateway Timeout"]
    kind, error, _ = outer.heads[-1][2]
    assert kind is type(error) is ResponseCut


def test_no_abort_lands_in_a_call_of_the_outer_server(balance) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", TEXT)
        Event().wait()
        return []

    ended: list[str] = []

    def compute(status: str) -> None:
        if status == "200 OK":
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass
        ended.append(status)

    outer = Outer(compute)
    outer.ask(balance(application, request_timeout_seconds=0.05))
    assert ended == outer.statuses == ["200 OK", "504 Gateway Timeout"]


def test_the_application_may_replace_it_too_until_a_part_was_sent(balance) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        error = KeyError("seen")
        start_response("500 Replaced", TEXT, (KeyError, error, None))
        yield b"a"
        with pytest.raises(KeyError, match="seen"):
            start_response("500 Too Late", TEXT, (KeyError, error, None))
        yield b"b"

    outer = Outer()
    assert list(outer.ask(balance(application))) == [b"a", b"b"]
    assert outer.statuses == ["200 OK", "500 Replaced"]


@pytest.mark.parametrize("part", ["text", 5, None])
def test_a_part_that_is_no_bytes_is_a_failure_that_names_it(balance, caplog, part: Any) -> None:
    def application(environ: Any, start_response: Any) -> list[Any]:
        start_response("200 OK", TEXT)
        return [part]

    outer = Outer()
    outer.ask(balance(application))
    assert outer.statuses == ["200 OK", "500 Internal Server Error"]
    assert f"a part of the body is {type(part).__name__}; it must be bytes" in caplog.text


@pytest.mark.usefixtures("no_collection")
def test_nothing_is_left_to_the_garbage_collector(balance, eventually) -> None:
    class Kept:
        pass

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [b""]

    balancer = balance(application)
    kept = Kept()
    seen = weakref.ref(kept)
    outer = Outer()
    outer.environ["kept"] = kept
    outer.ask(balancer)
    del kept, outer
    eventually(lambda: seen() is None)
