"""The agent check is answered with this server's weight, and with `drain` from the first signal of a shutdown on."""

from __future__ import annotations

import json
import signal
import socket as plain
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent import WSGIServer
from intralb_gevent.observe.agent import AgentServer
from intralb_gevent.policy.saturation import Mean

PATIENCE = 10.0


@pytest.fixture
def opened() -> Event:
    return Event()


@pytest.fixture
def server(serve: Callable[..., WSGIServer], opened: Event) -> WSGIServer:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        opened.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    return serve(application, max_concurrent_per_router=1, queue_size=1, max_workers=1, limiter="fixed")


@pytest.fixture
def agent(server: WSGIServer) -> Iterator[AgentServer]:
    with AgentServer(("127.0.0.1", 0), server.balancer) as agent:
        agent.start()
        yield agent


def ask(agent: AgentServer, first: bytes = b"") -> bytes:
    """Ask as HAProxy does: perhaps send something first, then read until the connection ends."""
    with socket.create_connection(("127.0.0.1", agent.server_port), timeout=PATIENCE) as client:
        if first:
            client.sendall(first)
        answer = b""
        while part := client.recv(100):
            answer += part
    return answer


@pytest.mark.parametrize("first", [b"", b"one\n", b"x" * 10_000], ids=["nothing", "agent-send", "junk"])
def test_an_idle_server_gets_its_whole_share(agent: AgentServer, first: bytes) -> None:
    assert ask(agent, first) == b"ready 100%\n"
    assert not agent.connections


def test_a_saturated_server_gets_less(
    monkeypatch: pytest.MonkeyPatch,
    server: WSGIServer,
    agent: AgentServer,
    opened: Event,
    eventually: Callable[[Callable[[], Any]], Any],
) -> None:
    monkeypatch.setattr(Mean, "AGE_SECONDS", 0.05)
    clients = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(2)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: ask(agent) == b"ready 35%\n")
    opened.set()
    eventually(lambda: ask(agent) == b"ready 100%\n")
    for client in clients:
        client.close()


def test_a_client_that_never_reads_or_leaves_at_once_costs_nothing(agent: AgentServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", agent.server_port)) for _ in range(50)]
    for client in silent[:25]:
        client.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    assert ask(agent) == b"ready 100%\n"
    assert not agent.connections
    for client in silent:
        client.close()


def test_a_shutdown_is_reported_from_its_first_signal_on(serve_app: Callable[..., Any]) -> None:
    process = serve_app(flags=("--agent-bind", "127.0.0.1:0", "--drain-delay-seconds", "30"))
    port = json.loads(process.ready_file.read_text())["agent"]["port"]

    def answer() -> bytes:
        with plain.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            return client.recv(100)

    assert answer().startswith(b"ready ")
    process.signal(signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while (text := answer()) != b"drain\n":
        assert text.startswith(b"ready ")
        assert time.monotonic() < end
    # During the drain delay, requests are answered as before.
    assert process.get("/") == 200
    process.signal(signal.SIGTERM)
    assert process.ended() == 0
