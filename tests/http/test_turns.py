"""Responses from one loop iteration are sent together at its end, unless that would delay one of them for long."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

TEXT = [("Content-Type", "text/plain")]
REQUEST = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
QUICK, COMPUTING = 0.0, 0.005


def compute(until: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Block the hub until the condition holds, but at most for `seconds`; return True if the condition holds."""
    end = time.monotonic() + seconds
    while not (reached := until()) and time.monotonic() < end:
        pass
    return reached


class Pairs:
    """Sends two requests at the same time; the second handler checks whether the first response has arrived."""

    def __init__(self, serve: Callable[..., Any], connect: Callable[..., Any], **options: Any) -> None:
        server = serve(self._application, **options)
        self._clients = {str(number): connect(server) for number in range(2)}
        self._began: list[str] = []
        self._work: Callable[[Callable[[], bool]], bool] = lambda is_there: is_there()
        self._seen = False

    def _application(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        name = environ["PATH_INFO"][1:]
        start_response("200 OK", [*TEXT, ("Content-Length", "5")])
        if name in self._clients:
            self._began.append(name)
            if len(self._began) == 2:
                other = self._clients[self._began[0]].socket.fileno()
                self._seen = self._work(lambda: bool(select.select([other], [], [], 0)[0]))
        else:
            compute(lambda: False, float(name))
        return [b"hello"]

    def usually_take(self, seconds: float) -> Pairs:
        for _ in range(30):
            assert self._clients["0"].get(f"/{seconds}").body == b"hello"
        return self

    def ask(self, work: Callable[[Callable[[], bool]], bool] = lambda is_there: is_there()) -> bool:
        """Return True if the first response has arrived before the second handler has finished its work."""
        self._began.clear()
        self._work = work
        for name, client in self._clients.items():
            client.send(REQUEST.replace("/", f"/{name}", 1))
        assert [client.reply().body for client in self._clients.values()] == [b"hello"] * 2
        return self._seen


@pytest.fixture
def pairs(serve, connect) -> Callable[..., Pairs]:
    return lambda **options: Pairs(serve, connect, **options)


def test_they_are_sent_together(pairs) -> None:
    asking = pairs().usually_take(QUICK)
    assert not all(asking.ask() for _ in range(50))


def test_one_does_not_wait_for_what_usually_computes(pairs) -> None:
    asking = pairs().usually_take(COMPUTING)
    # Repeat this only five times, because these requests are quick, and lower the mean run time.
    assert all(asking.ask() for _ in range(5))


def test_nor_for_what_unexpectedly_does(pairs) -> None:
    asking = pairs().usually_take(QUICK)
    assert all(asking.ask(compute) for _ in range(5))


def test_nor_where_nobody_watches(pairs) -> None:
    asking = pairs(interrupt_signal=None).usually_take(QUICK)
    assert all(asking.ask() for _ in range(20))


@pytest.mark.parametrize("headers", [TEXT, [*TEXT, ("Content-Length", "10")]], ids=["chunked", "length"])
def test_a_part_is_sent_before_the_next_is_computed(serve, connect, headers: list[tuple[str, str]]) -> None:
    seen: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", headers)
        yield b"first"
        seen.append(bool(select.select([client.socket.fileno()], [], [], 0)[0]))
        yield b" next"

    client = connect(serve(application))
    for _ in range(20):
        assert client.get().body == b"first next"
    assert seen == [True] * 20


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_connection_is_closed_only_behind_it(serve, connect, version: str) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [b"hello"]

    server = serve(application)
    for _ in range(20):
        clients = [connect(server) for _ in range(3)]
        for client in clients:
            client.send(f"GET / HTTP/{version}\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert [client.rest()[-5:] for client in clients] == [b"hello"] * 3
