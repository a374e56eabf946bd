"""An abort can occur at any line of a slot's cycle; all guarantees hold afterwards.

The watchdog's signal handler is called at each line in turn, as Python would call it, with a deadline that has passed.
In one series it is called once: it either aborts the application or has no effect. In the other series it is called
again at every following line, as while a handler goes on computing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from gevent import getcurrent, socket

from intralb_gevent import LoadBalancer, Options, SessionSource, WSGIServer, current_session, extend_deadline
from intralb_gevent.aborts.slotgreenlet import SlotGreenlet
from intralb_gevent.http import responsehead
from intralb_gevent.hub.forks import FORKS
from intralb_gevent.pool.channel import ResponseCut

ANSWER = b"answer of session "
OPTIONS: dict[str, Any] = {"max_workers": 1, "max_concurrent_per_router": 1, "request_timeout_seconds": 20}


class Source(SessionSource):
    """A session source that tracks which sessions (numbers) are open, and fails if a closed session is used."""

    def __init__(self) -> None:
        self.opened = 0
        self.open_now: set[int] = set()
        self.aborted: set[int] = set()

    def open(self, worker_id: int) -> int:
        self.opened += 1
        session = self.opened
        self.open_now.add(session)
        return session

    def check(self, session: int) -> bool:
        return session in self.open_now

    def reset(self, session: int) -> None:
        assert session in self.open_now

    def close(self, session: int) -> None:
        self.open_now.remove(session)


def use(session: int) -> bytes:
    text = str(session)
    return text.encode()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Act like a typical handler: get the session, extend the deadline, respond in parts, clean up."""
    extend_deadline(1)
    try:
        session = current_session()
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(ANSWER)
        yield use(session)
        yield use(current_session())
    finally:
        environ["test.ended"] = True


class SignalAtEachLine:
    """A trace function that calls the watchdog's signal handler at the line with a given number, only in slots."""

    def __init__(self, balancer: LoadBalancer, at: int, again: bool) -> None:
        self.balancer = balancer
        self.at = at
        self.again = again
        self.lines = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        greenlet = getcurrent()
        if not isinstance(greenlet, SlotGreenlet) or frame.f_code is SignalAtEachLine._arrive.__code__:
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at or (self.again and self.lines > self.at):
                self._arrive(greenlet, frame)
        return self

    def _arrive(self, greenlet: SlotGreenlet, frame: FrameType) -> None:
        watchdog, slot = self.balancer.intake.context.runtime.watchdog, greenlet.intralb_slot
        assert watchdog is not None
        if slot is None:
            # Skip this greenlet: it is about to end, because the slot has replaced it with a new one.
            return
        if slot.job is not None:
            slot.job.deadline.at = 0.0
        watchdog.end_if_late(slot, frame)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def balancer(source: Source) -> Iterator[LoadBalancer]:
    balancer = LoadBalancer(application, Options(**OPTIONS, db_init_func=source))
    yield balancer
    balancer.drain(1)
    assert source.open_now == set()


def through_an_outer_server(balancer: LoadBalancer) -> bytes:
    """Make a request; return the status code, and the body or the part of it that arrived before the cut."""
    heads: list[str] = []
    body = b""

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        heads.append(status)

    try:
        for part in balancer({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, start_response):
            body += part
    except ResponseCut:
        body += b" cut"
    return f"{heads[-1][:3]} ".encode() + body


@pytest.fixture
def over_a_connection(
    balancer: LoadBalancer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[LoadBalancer], bytes]]:
    # Pretend that the process has forked: the server then also shuts connections down before it closes them.
    monkeypatch.setattr(FORKS, "made", True)
    server = WSGIServer(("127.0.0.1", 0), balancer)
    server.start()

    def ask(balancer: LoadBalancer) -> bytes:
        # Discard the cached date, so that Python code formats it again.
        responsehead._THIS_SECOND.second = -1
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
            data = bytearray()
            with contextlib.suppress(ConnectionResetError):
                # The connection is reset if the response is cut.
                while part := client.recv(65536):
                    data += part
        head, _, body = data.partition(b"\r\n\r\n")
        return bytes(head[9:13] + body)

    yield ask
    server.stop(1)


@pytest.fixture(params=["an outer server", "a connection"])
def ask(request: pytest.FixtureRequest) -> Callable[[LoadBalancer], bytes]:
    if request.param == "an outer server":
        return through_an_outer_server
    over: Callable[[LoadBalancer], bytes] = request.getfixturevalue("over_a_connection")
    return over


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
def test_promises_hold_wherever_an_abort_arrives(balancer, source, ask, again: bool) -> None:
    whole = b"200 " + ANSWER
    assert ask(balancer).startswith(whole)
    cut, at, last = 0, 0, False
    while not last:
        at += 1
        tracer = SignalAtEachLine(balancer, at, again)
        before, timed_out = source.opened, balancer.snapshot().outcomes["timed_out"]
        sys.settrace(tracer)
        try:
            answered = ask(balancer)
        finally:
            sys.settrace(None)
        last = tracer.lines < at
        was_cut = balancer.snapshot().outcomes["timed_out"] - timed_out
        cut += was_cut
        # There is exactly one response: a complete one, an error instead of it, or one that was cut.
        if not was_cut:
            assert answered in (whole + b"%d%d" % (before, before), whole + b"%d%d" % (before + 1, before + 1)) or (
                answered.startswith(b"503 ") and at < 30
            ), at
        else:
            assert answered.startswith((b"504 ", b"200 ")), (at, answered)
        # Each job has one outcome, no job is left in the pool, and the only slot still exists.
        snapshot = balancer.snapshot()
        assert snapshot.submitted == snapshot.ended, at
        assert (snapshot.queued, snapshot.running, snapshot.outcomes["failed"]) == (0, 0, 0), at
        assert [worker.slots for worker in snapshot.workers] == [1], at
        # No session of an aborted request is used again, and no session is lost.
        after = ask(balancer)
        assert after.startswith(whole), at
        assert len(source.open_now) == 1, at
        if was_cut:
            assert after != whole + b"%d%d" % (before, before), at
    # Most lines belong to this package, where no abort is allowed; some aborts were raised in the application.
    assert cut >= 8
    assert at > 60
