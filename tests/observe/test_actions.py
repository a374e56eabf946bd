"""Ending a request on the status page: who may, and what follows."""

import pytest
from gevent import socket
from gevent.event import Event

from intralb_gevent.errors import RequestKilled
from intralb_gevent.observe.admin import AdminServer
from intralb_gevent.observe.feed import Feed
from intralb_gevent.observe.requests import key_of

PATIENCE = 10.0
TOKEN = "the token"


@pytest.fixture
def seen() -> list:
    return []


@pytest.fixture
def server(serve, seen):
    def application(environ, start_response):
        try:
            Event().wait()
        except RequestKilled as signal:
            seen.append(str(signal))
            raise

    def on_ended(environ, outcome, reason, stack):
        seen.append((environ["PATH_INFO"], outcome, reason))

    return serve(application, on_ended=on_ended)


@pytest.fixture
def admin(server, monkeypatch):
    monkeypatch.setattr(Feed, "PERIOD_SECONDS", 0.1)
    with AdminServer(("127.0.0.1", 0), server.balancer) as admin:
        admin.pages.allow_actions(TOKEN)
        admin.start()
        yield admin


@pytest.fixture
def client(server, eventually):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE) as client:
        client.sendall(b"GET /export HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        eventually(lambda: server.balancer.snapshot().running)
        yield client


def job_of(server):
    (slot,) = (slot for slot in server.balancer.intake.lanes[0].pool.slots if slot.job is not None)
    return slot.job


def end(admin, key: str, method: str = "POST", token: str = TOKEN, head: str = "") -> str:
    host = f"127.0.0.1:{admin.server_port}"
    with socket.create_connection(("127.0.0.1", admin.server_port), timeout=PATIENCE) as operator:
        lines = f"{method} /end?request={key} HTTP/1.0\r\nHost: {host}\r\nX-Intralb-Token: {token}\r\n{head}\r\n"
        operator.sendall(lines.encode())
        return b"".join(iter(lambda: operator.recv(65536), b"")).decode()


def test_a_request_that_an_operator_ends_is_answered_aborted_and_reported(server, admin, client, seen, eventually):
    assert "The request was ended." in end(admin, key_of(job_of(server)))
    answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    assert answer.startswith("HTTP/1.1 503")
    assert "X-Intralb-Reason: ended" in answer
    eventually(lambda: len(seen) == 2)
    assert set(seen) == {"an operator has ended the request", ("/export", "killed", "operator")}
    assert server.balancer.snapshot().outcomes["killed"] == 1
    assert server.balancer.drain(0) == 0


@pytest.mark.parametrize(
    "how",
    [
        {"method": "GET"},
        {"token": "another"},
        {"token": ""},
        {"head": "Origin: https://evil.example\r\n"},
        {"head": "Sec-Fetch-Site: cross-site\r\n"},
        {"head": "Sec-Fetch-Site: same-site\r\n"},
    ],
)
def test_only_a_post_of_the_page_with_the_token_ends_a_request(server, admin, client, how):
    answer = end(admin, key_of(job_of(server)), **how)
    assert answer.split()[1] in ("403", "405")
    assert server.balancer.snapshot().running == 1


def test_a_request_that_has_ended_already_cannot_be_ended(server, admin):
    assert "404" in end(admin, "1-1")
