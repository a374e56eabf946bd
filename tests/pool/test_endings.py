"""`on_ended` is called for each request that was ended early, with the stack of the request's handler."""

from __future__ import annotations

from typing import Any, NamedTuple

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import OptionError, Options, Route


class Reported(NamedTuple):
    path: str
    outcome: str
    reason: str
    stack: Any

    @property
    def place(self) -> str:
        """The source line of the handler's innermost frame in this file."""
        return next(frame.line for frame in reversed(self.stack) if frame.filename == __file__)


class Monitor:
    def __init__(self) -> None:
        self.reported: list[Reported] = []

    def __call__(self, environ: dict[str, Any], outcome: str, reason: str, stack: Any) -> None:
        self.reported.append(Reported(environ["PATH_INFO"], outcome, reason, stack))


@pytest.fixture
def monitor() -> Monitor:
    return Monitor()


def waits(environ: dict[str, Any]) -> None:
    gevent.sleep(30)  # waits here


def computes(environ: dict[str, Any]) -> None:
    while True:
        environ["computes"] = True  # computes here


def swallows(environ: dict[str, Any]) -> None:
    while not environ.get("let go"):
        try:
            gevent.sleep(30)
        except BaseException:
            continue


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    {"/waits": waits, "/computes": computes, "/swallows": swallows, "/ok": len}[environ["PATH_INFO"]](environ)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


@pytest.mark.parametrize(("path", "line"), [("/waits", "# waits here"), ("/computes", "# computes here")])
def test_a_request_that_is_timed_out_is_reported_with_its_stack(
    balance, ask, monitor, eventually, path: str, line: str
) -> None:
    balancer = balance(application, request_timeout_seconds=0.2, on_ended=monitor)
    assert ask(balancer, path).status == "504 Gateway Timeout"
    eventually(lambda: monitor.reported)
    (reported,) = monitor.reported
    assert reported[:3] == (path, "timed_out", "deadline")
    assert line in reported.place or "while True:" in reported.place
    assert "intralb_gevent/pool" not in "".join(reported.stack.format())


def test_a_request_that_ends_by_itself_is_not_reported(balance, ask, monitor, eventually) -> None:
    balancer = balance(application, request_timeout_seconds=0.2, on_ended=monitor)
    assert ask(balancer, "/ok").status == "200 OK"
    assert ask(balancer, "/no-such-handler").status == "500 Internal Server Error"
    assert ask(balancer, "/waits").status == "504 Gateway Timeout"
    eventually(lambda: monitor.reported)
    assert [each.path for each in monitor.reported] == ["/waits"]


def test_a_request_whose_time_was_over_before_it_ran_has_no_stack(balance, asking, monitor, eventually) -> None:
    routes = [Route("/ok", request_timeout_seconds=0.1)]
    balancer = balance(application, routes=routes, max_workers=1, max_concurrent_per_router=1, on_ended=monitor)
    asking(balancer, "/waits", "/ok")
    eventually(lambda: monitor.reported)
    assert monitor.reported == [("/ok", "expired", "deadline", None)]


def test_requests_cut_by_a_shutdown_are_reported_before_it_is_over(balance, asking, monitor) -> None:
    balancer = balance(application, on_ended=monitor)
    asking(balancer, "/waits", "/waits")
    assert balancer.drain(0) == 2
    assert [reported[:3] for reported in monitor.reported] == [("/waits", "killed", "shutdown")] * 2
    assert "# waits here" in monitor.reported[0].place


def test_a_client_that_leaves_is_reported(serve, monitor, eventually) -> None:
    server = serve(application, cancel_on_disconnect=True, on_ended=monitor)
    with gevent.socket.create_connection(server.address) as client:
        client.sendall(b"GET /waits HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: server.balancer.snapshot().running)
    eventually(lambda: monitor.reported)
    (reported,) = monitor.reported
    assert reported[:3] == ("/waits", "disconnected", "client_left")
    assert "# waits here" in reported.place


def test_a_slot_that_is_given_up_is_reported_too(balance, ask, monitor, eventually) -> None:
    balancer = balance(application, request_timeout_seconds=0.1, cleanup_seconds=0.02, on_ended=monitor)
    assert ask(balancer, "/swallows").status == "504 Gateway Timeout"
    eventually(lambda: len(monitor.reported) == 2)
    assert [reported[1:3] for reported in monitor.reported] == [
        ("timed_out", "deadline"),
        ("given_up", "swallowed_aborts"),
    ]
    assert "gevent.sleep(30)" in monitor.reported[1].place


def test_one_that_waits_holds_up_no_request_and_the_calls_are_in_order(balance, ask, eventually) -> None:
    called: list[str] = []

    def slow(environ: dict[str, Any], outcome: str, reason: str, stack: Any) -> None:
        number = environ["number"]
        gevent.sleep(0.05 if number == "1" else 0)
        called.append(number)

    balancer = balance(application, request_timeout_seconds=0.05, on_ended=slow)
    for number in "123":
        ask(balancer, "/waits", number=number)
    eventually(lambda: len(called) == 3)
    assert called == ["1", "2", "3"]


def test_one_that_fails_is_logged_and_the_next_is_reported(balance, ask, caplog, eventually) -> None:
    called: list[str] = []

    def failing(environ: dict[str, Any], outcome: str, reason: str, stack: Any) -> None:
        called.append(outcome)
        raise ConnectionError("no monitoring today")

    balancer = balance(application, request_timeout_seconds=0.05, on_ended=failing)
    ask(balancer, "/waits")
    ask(balancer, "/waits")
    eventually(lambda: caplog.text.count("ConnectionError: no monitoring today") == 2)
    assert "on_ended failed for GET /waits" in caplog.text
    assert called == ["timed_out", "timed_out"]


@pytest.mark.parametrize("endless", [waits, computes])
def test_one_that_never_returns_is_ended(balance, ask, caplog, eventually, monkeypatch, endless) -> None:
    monkeypatch.setattr("intralb_gevent.pool.endings.CALL_SECONDS", 0.3)
    monkeypatch.setattr("intralb_gevent.pool.endings.COMPUTE_SECONDS", 0.2)
    called: list[str] = []

    def never(environ: dict[str, Any], outcome: str, reason: str, stack: Any) -> None:
        called.append(outcome)
        if len(called) == 1:
            endless(environ)

    balancer = balance(application, request_timeout_seconds=0.05, on_ended=never)
    ask(balancer, "/waits")
    ask(balancer, "/waits")
    eventually(lambda: len(called) == 2)
    assert "on_ended failed for GET /waits" in caplog.text


def test_one_that_ignores_its_end_is_left_behind(balance, ask, caplog, eventually, monkeypatch) -> None:
    monkeypatch.setattr("intralb_gevent.pool.endings.CALL_SECONDS", 0.1)
    monkeypatch.setattr("intralb_gevent.pool.endings._GRACE_SECONDS", 0.1)
    called: list[str] = []

    def uncancellable(environ: dict[str, Any], outcome: str, reason: str, stack: Any) -> None:
        called.append(outcome)
        if len(called) == 1:
            swallows(environ)

    balancer = balance(application, request_timeout_seconds=0.05, on_ended=uncancellable)
    environ = ask(balancer, "/waits") and ask(balancer, "/waits")
    assert environ.status == "504 Gateway Timeout"
    eventually(lambda: len(called) == 2)
    assert "GET /waits, and swallows its timeout; the server goes on without it" in caplog.text


def test_what_it_cannot_keep_up_with_is_counted(balance, asking, caplog, eventually, monkeypatch) -> None:
    monkeypatch.setattr("intralb_gevent.pool.endings.Endings.LIMIT", 3)
    gate, began = Event(), Event()
    called: list[str] = []

    def held(environ: dict[str, Any], outcome: str, reason: str, stack: Any) -> None:
        began.set()
        gate.wait()
        called.append(outcome)

    balancer = balance(application, request_timeout_seconds=0.05, on_ended=held)
    asking(balancer, "/waits")
    began.wait()
    asking(balancer, *["/waits"] * 8)
    eventually(lambda: balancer.snapshot().endings_dropped == 5)
    gate.set()
    eventually(lambda: len(called) == 4)
    assert caplog.text.count("on_ended cannot keep up: 3 calls wait") == 1


def test_it_must_be_callable() -> None:
    with pytest.raises(OptionError, match="on_ended: 'statsd' is not allowed; it must be a callable"):
        Options(on_ended="statsd")  # type: ignore[arg-type]
